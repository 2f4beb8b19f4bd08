"""ipc: deconvolve the capacitive coupling between pixels."""

from collections import namedtuple

from gpucoron.backends.operations.ipc.definition import deconvolve_coupling
from gpucoron.parameters import SPACEKLIP_CLASS
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped

__all__ = ["ReferenceEdges", "deconvolve_coupling", "reference_edges", "run"]

STEP = Step(
    name="ipc",
    title="deconvolve the coupling between pixels",
    jwst_class="IPCStep",
    references=("ipc",),
    profiles=dict.fromkeys(("spaceklip", SPACEKLIP_CLASS), Preset({"skip": True}, instruments=("MIRI",))),
    keywords={"skip_ipc": "skip"},
)

#: Reference rows and columns at the four edges of a subarray.
ReferenceEdges = namedtuple("ReferenceEdges", "bottom top left right")


def reference_edges(facts):
    """Count the rows and columns of reference pixels at the edges of an exposure's subarray.

    A near-infrared detector has four on each side of 2048 x 2048 pixels, MIRI four columns on the left and the right
    of 1032.
    """
    x, y = facts.xstart - 1, facts.ystart - 1
    if facts.instrument == "MIRI":
        return ReferenceEdges(0, 0, max(0, 4 - x), max(0, x + facts.xsize - 1028))
    return ReferenceEdges(
        max(0, 4 - y),
        max(0, y + facts.ysize - 2044),
        max(0, 4 - x),
        max(0, x + facts.xsize - 2044),
    )


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    reference = references["ipc"]
    if reference is None:
        return skipped("there is no ipc reference")
    facts, kernel = exposure.facts, reference.data
    ny, nx = exposure.data.shape[2:]
    if kernel.ndim == 4 and kernel.shape[2:] != (ny, nx):
        y, x = facts.ystart - 1, facts.xstart - 1
        kernel = kernel[:, :, y : y + ny, x : x + nx]
    backend.deconvolve_coupling(exposure.data, kernel, reference_edges(facts))
    return Outcome()
