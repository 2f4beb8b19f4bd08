"""lastframe: flag the last group of MIRI ramps, which the reset of neighbouring rows disturbs."""

from typing import Any

from numpy.typing import NDArray

from gpucoron.dq import DO_NOT_USE
from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped, whole_frame

STEP = Step(
    name="lastframe",
    title="flag the last group (MIRI)",
    jwst_class="LastFrameStep",
    reach=whole_frame,  # as in firstframe
)


@on_arrays(groupdq=Array(RAMP, "uint8", in_place=True))
def flag_last_group(groupdq: NDArray[Any], *, backend: BackendLike = None) -> None:
    """Set DO_NOT_USE in the last group, in place.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``lastframe_sub``.
    """
    groupdq[:, -1] |= DO_NOT_USE


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    if not exposure.facts.detector.startswith("MIR"):
        return skipped("it is for MIRI only")
    if exposure.data.shape[1] <= 2:
        return skipped("it needs more than 2 groups")
    flag_last_group(exposure.groupdq, backend=backend)
    return Outcome()
