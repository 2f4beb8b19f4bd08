"""saturation: flag saturated groups and the A/D floor, with their neighbours.

spaceKLIP's custom part, for the near infrared: growth without corners, and RC pixels that count as saturated.
"""

from gpucoron.backends.masks import grow_cross, grow_square
from gpucoron.backends.operation import settings_from
from gpucoron.backends.operations.saturation import SaturationSettings
from gpucoron.dq import AD_FLOOR, NO_SAT_CHECK, RC, SATURATED
from gpucoron.parameters import SPACEKLIP_CLASS, P
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped

STEP = Step(
    name="saturation",
    title="flag saturated groups and the A/D floor",
    jwst_class="SaturationStep",
    references=("saturation", "superbias"),
    parameters=(
        P("n_pix_grow_sat", "integer", 1, "how far saturation grows into its neighbours", "pixels"),
        P("use_readpatt", "boolean", True, "look for saturation hidden by averaged frames"),
        P("grow_diagonal", "boolean", True, "grow over corners too", ours=True),
        P("flag_rcsat", "boolean", False, "count RC pixels as saturated in all groups", ours=True),
    ),
    profiles=dict.fromkeys(("spaceklip", SPACEKLIP_CLASS), Preset({"grow_diagonal": False}, instruments=("NIRCAM",))),
    keywords={"n_pix_grow_sat": "n_pix_grow_sat", "grow_diagonal": "grow_diagonal", "flag_rcsat": "flag_rcsat"},
)

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


def flag_rc_pixels(groupdq, rc):
    """Set SATURATED in all groups of RC pixels, in place.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    rc : (ny, nx) bool
    """
    groupdq |= rc.astype(groupdq.dtype) * groupdq.dtype.type(SATURATED)


def blank_zeroframe(zeroframe, threshold, n_pix_grow_sat, *, grow_diagonal=True, rc=None):
    """Set the ZEROFRAME to zero, in place, where it is saturated, next to that, or at the A/D floor.

    Parameters
    ----------
    zeroframe : (nints, ny, nx) float32, DN
    threshold : (ny, nx) float32, DN
    n_pix_grow_sat : int
    grow_diagonal : bool
        Without it, growth goes up, down, left and right only, and starts from every pixel that is zero, those at the
        A/D floor among them.
    rc : (ny, nx) bool, optional
        Pixels that count as saturated.

    Notes
    -----
    Source: stcal 1.20, ``flag_saturated_pixels``; without ``grow_diagonal`` spaceKLIP 2.2, ``do_saturation``.
    """
    for plane in zeroframe:
        saturated, at_floor = plane >= threshold, plane <= 0
        if rc is not None:
            saturated |= rc
        if grow_diagonal:
            bad = grow_square(saturated, n_pix_grow_sat) | at_floor
        else:
            bad = grow_cross(saturated | at_floor, n_pix_grow_sat)
        plane[bad] = 0


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    Notes
    -----
    Source: jwst 3.0, ``saturation``, and stcal 1.20, ``flag_saturated_pixels``; spaceKLIP 2.2, ``do_saturation``, for
    ``flag_rcsat`` and for growth without ``grow_diagonal``. Like there, both are left out for MIRI.
    """
    reference = references["saturation"]
    if reference is None:
        return skipped("there is no saturation reference")
    facts, xp = exposure.facts, backend.xp
    superbias = references.get("superbias")
    threshold, checked, reference_dq = prepare_threshold(reference.data, reference.dq, xp=xp)
    grow_diagonal = parameters.grow_diagonal or facts.instrument == "MIRI"
    rc = None
    if parameters.flag_rcsat and facts.instrument != "MIRI":
        rc = (exposure.pixeldq & RC) != 0
        flag_rc_pixels(exposure.groupdq, rc)
    settings = settings_from(
        SaturationSettings,
        parameters,
        nframes=facts.nframes if parameters.use_readpatt else None,
        grow_diagonal=grow_diagonal,
    )
    bias = None if superbias is None else superbias.data
    backend.flag_saturation(exposure.data, exposure.groupdq, threshold, checked, bias, settings=settings)
    if exposure.zeroframe is not None and facts.zero_frame:
        blank_zeroframe(exposure.zeroframe, threshold, parameters.n_pix_grow_sat, grow_diagonal=grow_diagonal, rc=rc)
    exposure.pixeldq |= reference_dq
    flagged = _count_flagged(exposure.groupdq, xp)
    if rc is not None:
        flagged["RC pixels"] = int(rc.sum())
    return Outcome(flagged=flagged)


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
