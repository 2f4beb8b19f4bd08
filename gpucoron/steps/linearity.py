"""linearity: correct the detector's non-linear response with a polynomial per pixel."""

from gpucoron.backends.operations.linearity import LinearitySettings
from gpucoron.dq import NO_LIN_CORR, SATURATED
from gpucoron.steps.declaration import Outcome, Step, skipped

STEP = Step(
    name="linearity",
    title="correct the non-linear response",
    jwst_class="LinearityStep",
    references=("linearity",),
)


def prepare_coefficients(coeffs, dq, *, xp):
    """Make the coefficients benign (0, 1, 0, ...) where there is no usable correction; nothing is changed in place.

    Parameters
    ----------
    coeffs : (ncoeffs, ny, nx) float32
        Constant term first.
    dq : (ny, nx) uint32
        Of the reference; NO_LIN_CORR marks pixels without a correction.
    xp : module
        Namespace of the arrays.

    Returns
    -------
    coeffs : (ncoeffs, ny, nx) float32
        C-contiguous.
    flags : (ny, nx) uint32
        ``dq`` with NO_LIN_CORR where a coefficient is NaN or the linear term zero.

    Notes
    -----
    Source: stcal 1.20, ``prepare_coefficients``.
    """
    unusable = xp.isnan(coeffs).any(axis=0) | (coeffs[1] == 0)
    flags = dq | unusable.astype(dq.dtype) * dq.dtype.type(NO_LIN_CORR)
    unusable = (flags & NO_LIN_CORR) != 0
    benign = xp.zeros((coeffs.shape[0], 1, 1), dtype=coeffs.dtype)
    benign[1] = 1
    return xp.where(unusable, benign, coeffs), flags


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    With inverse coefficients in the reference and more than one frame in a group, reads are corrected one by one.

    Notes
    -----
    Source: jwst 3.0, ``linearity``, and stcal 1.20, ``linearity_correction``.
    """
    reference = references["linearity"]
    if reference is None:
        return skipped("there is no linearity reference")
    facts, xp = exposure.facts, backend.xp
    coeffs, flags = prepare_coefficients(reference.coeffs, reference.dq, xp=xp)
    exposure.pixeldq |= flags
    settings = LinearitySettings(facts.nframes or 1)
    inverse = getattr(reference, "inv_coeffs", None) if settings.nframes > 1 else None
    if inverse is not None:
        inverse, flags = prepare_coefficients(inverse, reference.dq, xp=xp)
        exposure.pixeldq |= flags
    backend.linearity(exposure.data, exposure.groupdq, coeffs, inverse, settings=settings)

    if exposure.zeroframe is not None and facts.zero_frame:
        # A zero means bad data: as if saturated it is left alone. The ZEROFRAME is one read, so the polynomial it is.
        bad = exposure.zeroframe == 0
        zeroframe = exposure.zeroframe[:, None]
        backend.linearity(zeroframe, bad[:, None].astype(exposure.groupdq.dtype) * SATURATED, coeffs)
    return Outcome()
