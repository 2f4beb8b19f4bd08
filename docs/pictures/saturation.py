"""Flags around saturated speckles, grown with diagonals and without: the picture and the numbers of its page.

python docs/pictures/saturation.py [folder]
"""

import numpy as np
from _shared import main
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from gpucoron.backends import get_backend
from gpucoron.dq import SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.simulate import Effects, Scene, simulate
from gpucoron.steps import saturation

BACKEND = get_backend("cpu")
SHAPE = (56, 56)
NGROUPS = 10
QUIET = {"superbias": False, "nonlinearity": False, "ipc": False, "bad_pixels": False}


def observe():
    """Simulate a bright star behind the mask with saturated speckles."""
    effects = Effects(**QUIET, cosmic_rays=0)
    scene = Scene(star=4e8, companion_contrast=0.0)
    return simulate("NIRCAM", "SUB320A335R", "RAPID", NGROUPS, 1, seed=1, scene=scene, effects=effects, shape=SHAPE)


def flag(simulation, *, grow_diagonal):
    """Run the step; return (nints, ngroups, ny, nx) bool, True for SATURATED."""
    data = simulation.data.astype(np.float32)
    exposure = Exposure(
        data=data,
        groupdq=np.zeros(data.shape, np.uint8),
        pixeldq=np.zeros(SHAPE, np.uint32),
        facts=Facts("NIRCAM", nframes=simulation.nframes),
    )
    # A little below the full well, as in the reference files, so that noise does not hide saturation.
    level = 0.98 * simulation.pixels.full_well + simulation.pixels.kind.bias
    reference = Reference(data=level.astype(np.float32), dq=np.zeros(SHAPE, np.uint32))
    parameters = saturation.STEP.settings(grow_diagonal=grow_diagonal)
    saturation.run(exposure, {"saturation": reference}, parameters, BACKEND)
    return exposure.groupdq & SATURATED != 0


def mark_true(simulation):
    """Mark the groups at the full well, in the shape of the ramps."""
    return simulation.truth.saturated_from[:, None] <= np.arange(NGROUPS)[:, None, None]


def draw(path):
    simulation = observe()
    true = mark_true(simulation)[0, -1]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, diagonal, title in ((axes[0], True, "diagonal growth"), (axes[1], False, "grow_diagonal=False")):
        flagged = flag(simulation, grow_diagonal=diagonal)[0, -1]
        kinds = np.where(true, 2, flagged)
        colors = ListedColormap(["white", "tab:orange", "black"])
        axis.imshow(kinds, vmin=0, vmax=2, cmap=colors, origin="lower", interpolation="nearest")
        axis.set_title(f"{title}: {np.count_nonzero(flagged & ~true)} neighbours", fontsize=10)
        axis.set_xlabel("column")
    axes[0].set_ylabel("row")
    figure.savefig(path, dpi=65)


def measure_all():
    """Print the numbers of the page."""
    simulation = observe()
    true = mark_true(simulation)
    print(f"at the full well: {np.count_nonzero(true)} groups, {np.count_nonzero(true[0, -1])} pixels in the last one")
    for diagonal in (True, False):
        flagged = flag(simulation, grow_diagonal=diagonal)
        missed = np.count_nonzero(true & ~flagged)
        lost = flagged & ~true
        print(
            f"grow_diagonal={diagonal}: {missed} missed, good groups lost {np.count_nonzero(lost)}, "
            f"in the last group {np.count_nonzero(lost[0, -1])}, pixels without any good group "
            f"{np.count_nonzero(flagged.all(axis=1))} (truth {np.count_nonzero(true.all(axis=1))})"
        )


if __name__ == "__main__":
    main(__file__, draw, measure_all)
