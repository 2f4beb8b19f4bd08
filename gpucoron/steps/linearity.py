"""linearity: correct the detector's non-linear response with a polynomial per pixel."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.linearity import LinearitySettings
from gpucoron.dq import NO_LIN_CORR, SATURATED
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Step, skipped
from gpucoron.steps.values import Number, Switch

STEP = Step(
    name="linearity",
    title="correct the non-linear response",
    jwst_class="LinearityStep",
    references=("linearity",),
)


@on_arrays(coeffs=Array("ncoeffs ny nx"), dq=Array(IMAGE, "uint32"))
def prepare_coefficients(
    coeffs: ArrayLike, dq: ArrayLike = 0, *, backend: BackendLike = None
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Return coefficients with (0, 1, 0, ...) where there is no usable correction, as a new array.

    Parameters
    ----------
    coeffs : (ncoeffs, ny, nx) float32
        Constant term first.
    dq : (ny, nx) uint32, optional
        DQ of the reference; NO_LIN_CORR marks pixels without a correction.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    coeffs : (ncoeffs, ny, nx) float32
        C-contiguous.
    flags : (ny, nx) uint32
        ``dq`` with NO_LIN_CORR where a coefficient is NaN or the linear term is zero.

    Notes
    -----
    Source: stcal 1.20, ``prepare_coefficients``.
    """
    xp = backend.xp
    unusable = xp.isnan(coeffs).any(axis=0) | (coeffs[1] == 0)
    flags = dq | unusable.astype(dq.dtype) * dq.dtype.type(NO_LIN_CORR)
    unusable = (flags & NO_LIN_CORR) != 0
    benign = xp.zeros((coeffs.shape[0], 1, 1), dtype=coeffs.dtype)
    benign[1] = 1
    return xp.where(unusable, benign, coeffs), flags


@on_arrays(
    data=Array(RAMP, unit="DN", in_place="in_place"),
    groupdq=Array(RAMP, "uint8"),
    pixeldq=Array(IMAGE, "uint32", in_place="in_place"),
    coeffs=Array("ncoeffs ny nx"),
    dq=Array(IMAGE, "uint32"),
    inverse_coeffs=Array("n_inverse ny nx"),
    nframes=Number(whole=True, minimum=1),
    in_place=Switch(),
)
def correct_linearity(
    data: ArrayLike,
    groupdq: ArrayLike,
    pixeldq: ArrayLike,
    coeffs: ArrayLike,
    dq: ArrayLike = 0,
    *,
    inverse_coeffs: ArrayLike | None = None,
    nframes: int = 1,
    in_place: bool = False,
    backend: BackendLike = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Correct the non-linear response of every group that is not saturated.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Groups with SATURATED are not corrected.
    pixeldq : (ny, nx) uint32
    coeffs : (ncoeffs, ny, nx) float32
        Coefficients of the polynomial, constant term first. A pixel with a NaN, or with a linear coefficient of zero,
        is not corrected.
    dq : (ny, nx) uint32, optional
        DQ of the reference; NO_LIN_CORR marks pixels without a correction.
    inverse_coeffs : (ncoeffs, ny, nx) float32, optional
        Coefficients of the inverse polynomial. With ``nframes`` above 1, the reads of a group are corrected one by one.
    nframes : int
        Reads averaged into a group.
    in_place : bool
        Change ``data`` and ``pixeldq`` in place instead of copies.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    data : (nints, ngroups, ny, nx) float32, DN
    pixeldq : (ny, nx) uint32
        With the flags of the reference, and NO_LIN_CORR where nothing can be corrected.

    Notes
    -----
    Source: stcal 1.20, ``linearity_correction``; `gpucoron.backends.backend.Backend.linearity` describes the method.

    Examples
    --------
    >>> data = np.full((1, 2, 4, 4), 1000.0)
    >>> coeffs = np.array([0, 1, 1e-5]).reshape(3, 1, 1) * np.ones((3, 4, 4))
    >>> corrected, pixeldq = correct_linearity(data, 0, 0, coeffs, backend="cpu")
    >>> float(corrected[0, 0, 0, 0]), float(data[0, 0, 0, 0])
    (1010.0, 1000.0)
    """
    coeffs, flags = prepare_coefficients(coeffs, dq, backend=backend)
    pixeldq |= flags
    if nframes <= 1:
        inverse_coeffs = None
    if inverse_coeffs is not None:
        inverse_coeffs, flags = prepare_coefficients(inverse_coeffs, dq, backend=backend)
        pixeldq |= flags
    backend.linearity(data, groupdq, coeffs, inverse_coeffs, settings=LinearitySettings(nframes))
    return data, pixeldq


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    If the reference has inverse coefficients and a group more than one frame, reads are corrected one by one.

    Notes
    -----
    Source: jwst 3.0, ``linearity``, and stcal 1.20, ``linearity_correction``.
    """
    reference = references["linearity"]
    if reference is None:
        return skipped("there is no linearity reference")
    facts, pixeldq = exposure.facts, exposure.pixeldq
    coeffs_and_dq = reference.coeffs, reference.dq
    options = {"in_place": True, "backend": backend}
    correct_linearity(
        exposure.data,
        exposure.groupdq,
        pixeldq,
        *coeffs_and_dq,
        inverse_coeffs=reference.inv_coeffs,
        nframes=facts.nframes or 1,
        **options,
    )
    if exposure.zeroframe is not None and facts.zero_frame:
        # Zeros mark bad data: treat them as saturated. A single read needs no inverse coefficients.
        bad = (exposure.zeroframe == 0).astype(exposure.groupdq.dtype) * SATURATED
        correct_linearity(exposure.zeroframe[:, None], bad[:, None], pixeldq, *coeffs_and_dq, **options)
    return Outcome()
