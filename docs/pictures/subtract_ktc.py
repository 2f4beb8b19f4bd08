"""A ramp's first group before and after subtract_ktc, and the pedestal's error: picture and numbers of its page.

python docs/pictures/subtract_ktc.py [folder]
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gpucoron.simulate import Effects, simulate
from gpucoron.steps.subtract_ktc import fit_ktc

QUIET = {"superbias": False, "nonlinearity": False, "saturation": False, "ipc": False, "bad_pixels": False}


def observe(ngroups, **options):
    """Simulate linear ramps; return (simulation, arguments of fit_ktc)."""
    effects = Effects(**QUIET, cosmic_rays=0, one_over_f=0)
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", ngroups, 2, seed=1, effects=effects, **options)
    data = simulation.data.astype(np.float32) - simulation.pixels.kind.bias
    saturation = np.full(data.shape[2:], 4e4, np.float32)
    return simulation, (data, np.zeros(data.shape, np.uint8), saturation, simulation.group_time)


def draw(path):
    simulation, ramp = observe(10)
    pedestal, _ = fit_ktc(*ramp)
    first = ramp[0][0, 0]
    panels = {"first group": first, "first group, less its pedestal": first - pedestal[0]}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9), sharey=True, layout="constrained")
    for axis, (title, image) in zip(axes, panels.items(), strict=True):
        shown = axis.imshow(image, vmin=-80, vmax=400, cmap="viridis", origin="lower", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("column")
    axes[0].set_ylabel("row")
    figure.colorbar(shown, ax=axes, label="DN", shrink=0.85)
    figure.savefig(path, dpi=65)


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    draw(folder / "subtract_ktc.png")
    print(f"wrote {folder / 'subtract_ktc.png'}")
    for n in (2, 3, 5, 10, 20):
        simulation, ramp = observe(n, scene=np.float32(0))
        error = fit_ktc(*ramp)[0] - simulation.truth.ktc
        noise = (simulation.pixels.read_noise / simulation.pixels.gain).mean()
        expected = noise * np.sqrt((4 * n + 2) / (n * (n - 1)))
        kind = f"error {error.std():.2f} DN, expected {expected:.2f}"
        print(f"{n} groups: kTC {simulation.truth.ktc.std():.1f} DN, {kind}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "_generated")
