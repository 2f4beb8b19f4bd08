"""firstframe: flag the first group of MIRI ramps.

jwst sets this flag in rscd now and skips the step by default; so does gpucoron.
"""

from typing import Any

from numpy.typing import NDArray

from gpucoron.dq import DO_NOT_USE, FLUX_ESTIMATED, SATURATED
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped, whole_frame
from gpucoron.steps.values import Switch

STEP = Step(
    name="firstframe",
    title="flag the first group (MIRI; deprecated in jwst)",
    jwst_class="FirstFrameStep",
    parameters=(P("bright_use_group1", "boolean", True, "keep group 1 if group 3 is saturated"),),
    skipped=True,
    reach=whole_frame,  # which groups are lost in every pixel decides on the fit
)


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32", in_place=True),
    bright_use_group1=Switch(),
)
def flag_first_group(
    groupdq: NDArray[Any], pixeldq: NDArray[Any], *, bright_use_group1: bool = True, backend: BackendLike = None
) -> None:
    """Set DO_NOT_USE in the first group, in place. Ramps need at least three groups.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    bright_use_group1 : bool
        Keep the first group if the third is saturated, and set FLUX_ESTIMATED in ``pixeldq``.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``firstframe_sub``.
    """
    if groupdq.shape[1] < 3:
        msg = f"groupdq: at least 3 groups are needed, not {groupdq.shape[1]}"
        raise ValueError(msg)
    if not bright_use_group1:
        groupdq[:, 0] |= DO_NOT_USE
        return
    bright = (groupdq[:, 2] & SATURATED) != 0
    groupdq[:, 0] |= (~bright).astype(groupdq.dtype) * DO_NOT_USE
    pixeldq |= bright.any(axis=0).astype(pixeldq.dtype) * FLUX_ESTIMATED


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    if not exposure.facts.detector.upper().startswith("MIR"):
        return skipped("it is for MIRI only")
    if exposure.data.shape[1] <= 3:
        return skipped("it needs more than 3 groups")
    options = {"bright_use_group1": parameters.bright_use_group1, "backend": backend}
    flag_first_group(exposure.groupdq, exposure.pixeldq, **options)
    return Outcome()
