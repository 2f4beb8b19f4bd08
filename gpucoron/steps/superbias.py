"""superbias: subtract the detector's bias structure from every group."""

from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped

STEP = Step(
    name="superbias",
    title="subtract the superbias (near infrared)",
    jwst_class="SuperBiasStep",
    references=("superbias",),
)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    bias=Array(IMAGE, unit="DN"),
    zeroframe=Array(CUBE, unit="DN", in_place=True),
)
def subtract_superbias(
    data: NDArray[Any], bias: ArrayLike, zeroframe: NDArray[Any] | None = None, *, backend: BackendLike = None
) -> None:
    """Subtract a bias image, in place. NaN in the image counts as zero.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    bias : (ny, nx) float32, DN
    zeroframe : (nints, ny, nx) float32 or None, DN
        Zeros mark bad data and stay zero.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``bias_sub``.
    """
    ny, nx = bias.shape
    backend.subtract_frames(data.reshape(-1, 1, ny, nx), bias[None])
    if zeroframe is not None:
        bad = zeroframe == 0
        backend.subtract_frames(zeroframe[:, None], bias[None])
        backend.xp.copyto(zeroframe, zeroframe.dtype.type(0), where=bad)


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    reference = references["superbias"]
    if reference is None:
        return skipped("there is no superbias reference")
    zeroframe = exposure.zeroframe if exposure.facts.zero_frame else None
    subtract_superbias(exposure.data, reference.data, zeroframe, backend=backend)
    exposure.pixeldq |= reference.dq
    return Outcome()
