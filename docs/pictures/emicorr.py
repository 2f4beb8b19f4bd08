"""MIRI's interference in a difference of groups, before and after emicorr: the picture and the numbers of its page.

python docs/pictures/emicorr.py [folder]
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gpucoron.simulate import Effects, simulate
from gpucoron.steps.emicorr import ReadTimes, apply_emicorr

QUIET = {"superbias": False, "nonlinearity": False, "saturation": False, "ipc": False, "bad_pixels": False}
QUIET |= {"cosmic_rays": 0, "reset": False, "rscd": False, "last_frame": False}


def observe(ngroups):
    """Simulate dark ramps with interference and correct them: before, after, and the same exposure without it."""
    arguments, shape = ("MIRI", "MASK1550", "FASTR1", ngroups, 2), (64, 288)
    disturbed, clean = (
        simulate(*arguments, shape=shape, scene=np.float32(0), effects=Effects(**QUIET, emi=emi)).data.astype(
            np.float32
        )
        for emi in (True, False)
    )
    wave = np.sin(2 * np.pi * (np.arange(64) + 0.5) / 64)
    corrected = disturbed.copy()
    times = ReadTimes(1, 82, shape[0] * 82 + (1024 - shape[0]) * 7)
    apply_emicorr(corrected, np.zeros(shape, np.uint32), [(390.625, wave)], times)
    return disturbed, corrected, clean


def draw(path):
    disturbed, corrected, _ = observe(10)
    panels = {"group 2 less group 1": disturbed, "the same after emicorr": corrected}
    figure, axes = plt.subplots(2, 1, figsize=(8, 4.6), sharex=True, layout="constrained")
    for axis, (title, ramps) in zip(axes, panels.items(), strict=True):
        image = ramps[0, 1] - ramps[0, 0]
        shown = axis.imshow(image, vmin=-30, vmax=30, cmap="viridis", origin="lower", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_ylabel("row")
    axes[1].set_xlabel("column")
    figure.colorbar(shown, ax=axes, label="DN", shrink=0.85)
    figure.savefig(path, dpi=65)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "emicorr.png")
    print(f"wrote {folder / 'emicorr.png'}")
    for ngroups in (3, 5, 10, 40):
        disturbed, corrected, clean = observe(ngroups)
        left = [(ramps - clean).std() for ramps in (disturbed, corrected)]
        noise = [np.diff(ramps, axis=1).std() for ramps in (disturbed, corrected, clean)]
        print(f"{ngroups} groups: rms {left[0]:.2f} -> {left[1]:.3f} DN; differences {noise} DN")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "_generated")
