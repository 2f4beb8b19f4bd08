"""dq_init: initialise the data-quality flags from the mask reference."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpucoron.dq import DO_NOT_USE
from gpucoron.parameters import P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped

STEP = Step(
    name="dq_init",
    title="initialise the data-quality flags from the mask reference",
    jwst_class="DQInitStep",
    references=("mask",),
    parameters=(P("user_supplied_dq", "flags", None, "FITS file with further flags for every pixel", reads=("FITS",)),),
)


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32", in_place=True),
    mask=Array(IMAGE, "uint32"),
)
def initialize_flags(
    groupdq: NDArray[Any], pixeldq: NDArray[Any], mask: ArrayLike, *, backend: BackendLike = None
) -> None:
    """Add a mask to the pixel flags, and its DO_NOT_USE to every group, in place.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    mask : (ny, nx) uint32
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``do_dqinit``.
    """
    pixeldq |= mask
    backend.add_flags(groupdq, (mask & DO_NOT_USE).astype(groupdq.dtype))


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    ``parameters.user_supplied_dq`` is None or the image itself: (ny, nx), any integer dtype. The caller reads the file
    and cuts it to the subarray.
    """
    reference = references["mask"]
    if reference is None:
        return skipped("there is no mask reference")
    mask = reference.dq
    user_dq = parameters.user_supplied_dq
    if user_dq is not None:
        if user_dq.shape != mask.shape:
            msg = f"user_supplied_dq must be an image of shape {mask.shape}, not {user_dq.shape}"
            raise ValueError(msg)
        mask = mask | backend.to_device(user_dq.astype(mask.dtype))
    initialize_flags(exposure.groupdq, exposure.pixeldq, mask, backend=backend)
    return Outcome()
