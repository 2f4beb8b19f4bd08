"""group_scale: undo a wrong on-board division of averaged frames.

On board, the sum of NFRAMES frames is divided by FRMDIVSR, a power of two. If the two differ, groups are wrong by
their ratio.
"""

from typing import Any

from numpy.typing import NDArray

from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.values import Number

STEP = Step(
    name="group_scale",
    title="undo a wrong on-board division of averaged frames",
    jwst_class="GroupScaleStep",
)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    frame_divisor=Number(positive=True, whole=True),
    nframes=Number(positive=True, whole=True),
)
def scale_groups(data: NDArray[Any], frame_divisor: int, nframes: int, *, backend: BackendLike = None) -> None:
    """Multiply all groups by ``frame_divisor / nframes``, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    frame_divisor, nframes : int
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``group_scale``.
    """
    data *= float(frame_divisor) / nframes


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    nframes, frame_divisor = exposure.facts.nframes, exposure.facts.frame_divisor
    if nframes is None:
        return skipped("NFRAMES is not known")
    if frame_divisor is None:
        if nframes & (nframes - 1) == 0:
            return skipped(f"NFRAMES={nframes} is a power of two: nothing to correct")
        return skipped(f"NFRAMES={nframes} is not a power of two, but FRMDIVSR is not known")
    if nframes == frame_divisor:
        return skipped(f"NFRAMES and FRMDIVSR are both {nframes}: nothing to correct")
    scale_groups(exposure.data, frame_divisor, nframes, backend=backend)
    return Outcome()
