"""The drift between groups before and after refpix with pseudo-reference pixels: the picture and its numbers.

python docs/pictures/refpix.py [folder]
"""

import numpy as np
from _shared import QUIET, main
from matplotlib.figure import Figure

from gpucoron.backends import get_backend
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import Effects, Scene, simulate
from gpucoron.steps import refpix

BACKEND = get_backend("cpu")
ROWS = {"nlower": 4, "nupper": 4, "nleft": 0, "nright": 0}
SIDES = {"nlower": 4, "nupper": 4, "nleft": 4, "nright": 4}


def observe(drift, *, seed=1, ngroups=6):
    """Simulate linear ramps of a coronagraph with a drifting pedestal: (simulation, ramps, their noise), DN.

    ``drift`` is the rms between groups, DN, in addition to the 1/f noise; the returned noise includes both.
    """
    effects = Effects(**QUIET, cosmic_rays=0)
    scene = Scene(halo=1e-5, companion_contrast=0.0)
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", ngroups, 1, seed=seed, scene=scene, effects=effects)
    pedestal = drift * np.random.default_rng(seed).standard_normal((*simulation.data.shape[:2], 1, 1))
    ramps = (simulation.data - np.float64(simulation.pixels.kind.bias) + pedestal).astype(np.float32)
    return simulation, ramps, simulation.truth.one_over_f + pedestal


def correct(simulation, ramps, edges):
    """Run the step on a copy of the ramps, with spaceKLIP's parameters and these rows and columns."""
    ny, nx = ramps.shape[2:]
    subarray, kind = simulation.subarray, simulation.pixels.kind
    facts = {"instrument": "NIRCAM", "noutputs": 1, "fastaxis": kind.fastaxis, "slowaxis": kind.slowaxis}
    facts |= {"xstart": subarray.xstart, "ystart": subarray.ystart, "xsize": nx, "ysize": ny}
    exposure = Exposure(data=ramps.copy(), pixeldq=np.zeros((ny, nx), np.uint32), facts=Facts(**facts))
    refpix.run(exposure, {}, refpix.STEP.settings(nrow_off=0, ncol_off=0, **edges), BACKEND)
    return exposure.data


def detrend(signal):
    """Subtract a straight line along the groups, axis 1: it contains the background and adds no scatter to rates."""
    t = np.arange(signal.shape[1]) - (signal.shape[1] - 1) / 2
    t = t.reshape(1, -1, *[1] * (signal.ndim - 2))
    signal = signal - signal.mean(axis=1, keepdims=True)
    return signal - t * (signal * t).sum(axis=1, keepdims=True) / (t * t).sum()


def measure(drift, edges, seeds=range(1, 7)):
    """Measure the noise common to groups, and to rows beyond that: rms before and after, DN."""
    squares = []
    for seed in seeds:
        simulation, ramps, noise = observe(drift, seed=seed)
        left = noise + (correct(simulation, ramps, edges) - ramps)
        pair = []
        for part in (noise, left):
            rows = detrend(part.mean(axis=3))
            groups = rows.mean(axis=2, keepdims=True)
            pair += [np.mean(groups**2), np.mean((rows - groups) ** 2)]
        squares.append(pair)
    return np.sqrt(np.mean(squares, axis=0))


def draw(path):
    simulation, ramps, noise = observe(3.0, ngroups=12)
    panels = {"before": noise}
    for name, edges in (("rows", ROWS), ("rows, then columns", SIDES)):
        panels[name] = noise + (correct(simulation, ramps, edges) - ramps)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, ramp), color in zip(panels.items(), ("black", "tab:orange", "tab:blue"), strict=True):
        rows = detrend(ramp.mean(axis=3))[0]
        left.plot(np.arange(1, len(rows) + 1), rows.mean(axis=1), "o-", color=color, label=name)
        right.plot(rows[5, :100], color=color, lw=1)
    left.set(xlabel="group", ylabel="noise common to a group, DN")
    right.set(xlabel="row of group 6", ylabel="mean noise of a row, DN")
    left.legend()
    figure.savefig(path, dpi=65)


def measure_all():
    """Print the numbers of the page."""
    for drift in (0.0, 2.0, 5.0):
        for name, edges in (("rows", ROWS), ("rows and columns", SIDES)):
            groups, rows, groups_left, rows_left = measure(drift, edges)
            print(
                f"drift {drift:g} DN, {name}: groups {groups:.2f} to {groups_left:.2f} DN, "
                f"rows about them {rows:.2f} to {rows_left:.2f} DN"
            )


if __name__ == "__main__":
    main(__file__, draw, measure_all)
