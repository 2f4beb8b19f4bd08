"""saturation: flag saturated groups and the A/D floor, with their neighbours."""

from gpucoron.backends.masks import grow_square
from gpucoron.dq import AD_FLOOR, NO_SAT_CHECK, SATURATED
from gpucoron.steps import Outcome, skipped

#: A threshold that the 16-bit A/D converter cannot reach, DN.
UNREACHABLE = 65536.0


def prepare_threshold(threshold, dq, *, xp):
    """Raise the threshold out of reach where the reference knows none; nothing is changed in place.

    Parameters
    ----------
    threshold : (ny, nx) float32, DN
    dq : (ny, nx) uint32
        NO_SAT_CHECK marks pixels without a threshold; so does a NaN.
    xp : module
        Namespace of the arrays.

    Returns
    -------
    threshold : (ny, nx) float32
    checked : (ny, nx) bool
        False where there is no threshold.
    dq : (ny, nx) uint32
        With NO_SAT_CHECK where the threshold was NaN.
    """
    unknown = xp.isnan(threshold)
    checked = ~(unknown | ((dq & NO_SAT_CHECK) != 0))
    dq = dq | unknown.astype(dq.dtype) * dq.dtype.type(NO_SAT_CHECK)
    return xp.where(checked, threshold, threshold.dtype.type(UNREACHABLE)), checked, dq


def blank_zeroframe(zeroframe, threshold, n_pix_grow_sat):
    """Set the ZEROFRAME to zero, in place, where it is saturated, next to that, or at the A/D floor.

    Parameters
    ----------
    zeroframe : (nints, ny, nx) float32, DN
    threshold : (ny, nx) float32, DN
    n_pix_grow_sat : int
    """
    for plane in zeroframe:
        bad = grow_square(plane >= threshold, n_pix_grow_sat)
        bad |= plane <= 0
        plane[bad] = 0


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    Notes
    -----
    Source: jwst 3.0, ``saturation``, and stcal 1.20, ``flag_saturated_pixels``.
    """
    reference = references["saturation"]
    if reference is None:
        return skipped("there is no saturation reference")
    facts, xp = exposure.facts, backend.xp
    superbias = references.get("superbias")
    threshold, checked, reference_dq = prepare_threshold(reference.data, reference.dq, xp=xp)
    backend.flag_saturation(
        exposure.data,
        exposure.groupdq,
        threshold,
        checked,
        n_pix_grow_sat=parameters.n_pix_grow_sat,
        nframes=facts.nframes if parameters.use_readpatt else None,
        bias=None if superbias is None else superbias.data,
    )
    if exposure.zeroframe is not None and facts.zero_frame:
        blank_zeroframe(exposure.zeroframe, threshold, parameters.n_pix_grow_sat)
    exposure.pixeldq |= reference_dq
    return Outcome(flagged=_count_flagged(exposure.groupdq, xp))


def _count_flagged(groupdq, xp):
    """Count the pixels that are flagged in any group."""
    flags = xp.zeros(groupdq.shape[2:], dtype=groupdq.dtype)
    for integration in groupdq:
        for plane in integration:
            flags |= plane
    return {
        "saturated pixels": int(((flags & SATURATED) != 0).sum()),
        "A/D floor pixels": int(((flags & AD_FLOOR) != 0).sum()),
    }
