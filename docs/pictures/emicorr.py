"""MIRI's interference in a difference of groups, before and after emicorr: the picture and the numbers of its page.

python docs/pictures/emicorr.py [folder]
"""

import numpy as np
from _shared import QUIET, draw_images, main

from gpucoron.simulate import Effects, simulate
from gpucoron.steps.emicorr import ReadTimes, apply_emicorr

STEADY = QUIET | {"cosmic_rays": 0, "reset": False, "rscd": False, "last_frame": False}


def observe(ngroups):
    """Simulate dark ramps with interference and correct them: before, after, and the same exposure without it."""
    arguments, shape = ("MIRI", "MASK1550", "FASTR1", ngroups, 2), (64, 288)
    disturbed, clean = (
        simulate(*arguments, shape=shape, scene=np.float32(0), effects=Effects(**STEADY, emi=emi)).data.astype(
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
    differences = [ramps[0, 1] - ramps[0, 0] for ramps in (disturbed, corrected)]
    panels = dict(zip(("group 2 minus group 1", "the same after emicorr"), differences, strict=True))
    draw_images(path, panels, "DN", figsize=(8, 4.6), rows=2, vmin=-30, vmax=30, cmap="viridis")


def measure_all():
    """Print the numbers of the page."""
    for ngroups in (3, 5, 10, 40):
        disturbed, corrected, clean = observe(ngroups)
        left = [(ramps - clean).std() for ramps in (disturbed, corrected)]
        noise = [np.diff(ramps, axis=1).std() for ramps in (disturbed, corrected, clean)]
        print(f"{ngroups} groups: rms {left[0]:.2f} -> {left[1]:.3f} DN; differences {noise} DN")


if __name__ == "__main__":
    main(__file__, draw, measure_all)
