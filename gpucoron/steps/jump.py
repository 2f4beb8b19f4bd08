"""jump: flag cosmic rays, the groups that they affect, snowballs and showers."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operation import settings_from
from gpucoron.backends.operations.jump import MINIMUM_GROUPS, JumpSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, NO_GAIN_VALUE
from gpucoron.facts import Facts
from gpucoron.parameters import OWN_THREADS, P
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped
from gpucoron.steps.showers import flag_showers
from gpucoron.steps.showers import settle as settle_showers
from gpucoron.steps.snowballs import flag_snowballs
from gpucoron.steps.snowballs import settle as settle_snowballs
from gpucoron.steps.values import Having, Number, Options, Switch, kinds_of


def _reach(settings, facts):
    """Return the reach: the neighbours of a jump, or the whole frame.

    Large events need the frame, clipping compares whole groups, and groups after jumps depend on the median gain.
    """
    n_compared = (facts.nints or 1) * (1 if settings.only_use_ints else facts.ngroups or 1)
    longest = max(settings.after_jump_flag_time1, settings.after_jump_flag_time2)
    flags_later_groups = longest >= (facts.group_time or 0)
    finds_events = settings.expand_large_events or settings.find_showers
    return None if finds_events or flags_later_groups or n_compared >= settings.minimum_sigclip_groups else 1


STEP = Step(
    name="jump",
    title="flag cosmic rays",
    jwst_class="JumpStep",
    references=("gain", "readnoise"),
    parameters=(
        P("rejection_threshold", "float", 4.0, "threshold for five or more groups", "sigma", minimum=0),
        P("three_group_rejection_threshold", "float", 6.0, "threshold for three groups", "sigma", minimum=0),
        P("four_group_rejection_threshold", "float", 5.0, "threshold for four groups", "sigma", minimum=0),
        P("maximum_cores", "string", "1", "accepted and not used", unused=OWN_THREADS),
        P("flag_4_neighbors", "boolean", True, "flag the four neighbours of a jump"),
        P("max_jump_to_flag_neighbors", "float", 1000, "do not flag neighbours of larger jumps", "sigma"),
        P("min_jump_to_flag_neighbors", "float", 10, "do not flag neighbours of smaller jumps", "sigma"),
        P("after_jump_flag_dn1", "float", 0, "flag groups after jumps above this", "DN"),
        P("after_jump_flag_time1", "float", 0, "time after a jump for which groups are flagged", "s", finite=True),
        P("after_jump_flag_dn2", "float", 0, "flag groups after jumps above this, second pair", "DN"),
        P("after_jump_flag_time2", "float", 0, "time after a jump for which groups are flagged", "s", finite=True),
        P("expand_large_events", "boolean", False, "find snowballs"),
        P("min_sat_area", "float", 1.0, "minimum area of a snowball's saturated core", "pixels"),
        P("min_jump_area", "float", 5.0, "minimum area of a large event", "pixels"),
        P("expand_factor", "float", 2.0, "factor by which a large event is expanded", minimum=0),
        P("use_ellipses", "boolean", False, "deprecated"),
        P("sat_required_snowball", "boolean", True, "a snowball must have a saturated core"),
        P("min_sat_radius_extend", "float", 2.5, "minimum core radius to extend", "pixels"),
        P("sat_expand", "integer", 2, "growth of a snowball's core", "pixels", minimum=0),
        P("edge_size", "integer", 25, "distance from the edge within which no core is required", "pixels"),
        P("mask_snowball_core_next_int", "boolean", True, "flag the core in the next integration"),
        P("snowball_time_masked_next_int", "integer", 4000, "time for which the core is flagged", "s"),
        P("find_showers", "boolean", False, "find showers (MIRI)"),
        P("max_shower_amplitude", "float", 4, "largest amplitude of a shower (jwst ignores it)", "DN/s"),
        P("extend_snr_threshold", "float", 1.2, "detection threshold of showers", "sigma"),
        P("extend_min_area", "integer", 90, "minimum area of a shower", "pixels"),
        P("extend_inner_radius", "float", 1, "inner radius of the smoothing ring", "pixels", minimum=0, maximum=256),
        P("extend_outer_radius", "float", 2.6, "width of the smoothing ring", "pixels", minimum=0.01, maximum=256),
        P("extend_ellipse_expand_ratio", "float", 1.1, "growth of the fitted ellipse", minimum=0),
        P(
            "time_masked_after_shower",
            "float",
            15,
            "time for which later groups are flagged",
            "s",
            finite=True,
        ),
        P("min_diffs_single_pass", "integer", 10, "number of differences above which one pass is enough"),
        P("max_extended_radius", "integer", 200, "largest radius of a large event", "pixels", minimum=0),
        P("apply_max_shower_amplitude", "boolean", False, "apply max_shower_amplitude, in DN/s", ours=True),
        P("minimum_groups", "integer", 3, "minimum number of groups for a detection (jwst always uses 3)"),
        P("apply_minimum_groups", "boolean", False, "apply minimum_groups if it is more than 3", ours=True),
        P("minimum_sigclip_groups", "integer", 100, "number of groups above which sigma clipping is used"),
        P("only_use_ints", "boolean", True, "clip over integrations, group by group"),
    ),
    profiles={
        "spaceklip": Preset(
            {
                "rejection_threshold": 4.0,
                "three_group_rejection_threshold": 4.0,
                "four_group_rejection_threshold": 4.0,
            }
        )
    },
    keywords={
        "skip_jump": "skip",
        "rejection_threshold": "rejection_threshold",
        "three_group_rejection_threshold": "three_group_rejection_threshold",
        "four_group_rejection_threshold": "four_group_rejection_threshold",
    },
    # showers: the median and the scatter of the differences of each group, and flags
    scratch_bytes=lambda settings, run_parameters: 12 if settings.find_showers else 0,
    reach=_reach,
)


#: more groups than any ramp has; kernels count with 32-bit integers
_MOST_GROUPS = 2**20

# Thresholds for the size of a jump may be negative or infinite; no jump exceeds NaN electrons.
_SETTINGS = kinds_of(
    JumpSettings,
    max_jump_to_flag_neighbors=Number("sigma"),
    min_jump_to_flag_neighbors=Number("sigma"),
    after_jump_flag_e1=Number("electrons", nan=True),
    after_jump_flag_e2=Number("electrons", nan=True),
    nframes=Number(whole=True, minimum=1),
)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    settings=Having("JumpSettings", **_SETTINGS),
    options=Options(_SETTINGS),
)
def flag_jumps(
    data: ArrayLike,
    groupdq: NDArray[Any],
    gain: ArrayLike,
    readnoise: ArrayLike,
    *,
    backend: BackendLike = None,
    settings: JumpSettings | None = None,
    **options: Any,
) -> int:
    """Flag jumps by the two-point difference method: set JUMP_DET in ``groupdq``, in place.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Groups with DO_NOT_USE or SATURATED are ignored.
    gain : (ny, nx) float32, e-/DN
        Pixels with a gain of NaN or zero get no jumps.
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    backend : str or Backend, optional
        The default is the device of the arrays.
    settings : JumpSettings, optional
    **options
        Fields of ``settings``, if that is not given: thresholds in sigma and in electrons, numbers of groups,
        ``nframes``; see `gpucoron.backends.operations.jump.JumpSettings`.

    Returns
    -------
    int
        The number of primary cosmic rays: groups with JUMP_DET before neighbours are flagged. It is -99 if fewer than
        three groups are usable, so that no jumps were searched for.

    Notes
    -----
    Source: stcal ``detect_jumps_data`` (Anderson & Gordon 2011, PASP 123, 1237).

    Examples
    --------
    >>> number = flag_jumps(data, groupdq, gain, readnoise, rejection_threshold=5.0, nframes=2)  # doctest: +SKIP
    """
    return backend.detect_jumps(data, groupdq, gain, readnoise, settings=settings, **options)


@on_arrays(pixeldq=Array(IMAGE, "uint32", in_place=True), gain=Array(IMAGE, unit="e-/DN"))
def flag_missing_gain(pixeldq: NDArray[Any], gain: ArrayLike, *, backend: BackendLike = None) -> None:
    """Set NO_GAIN_VALUE and DO_NOT_USE in ``pixeldq``, in place, for pixels with a NaN gain or one not above zero.

    Parameters
    ----------
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
    backend : str or Backend, optional
        The default is the device of the arrays.
    """
    missing = ~(gain > 0)
    pixeldq |= missing.astype(pixeldq.dtype) * pixeldq.dtype.type(NO_GAIN_VALUE | DO_NOT_USE)


@on_arrays(
    gain=Array("... ny nx", unit="e-/DN", on_host=True),
    counts=Number("DN"),
)
def electron_thresholds(gain: ArrayLike, *counts: float, backend: BackendLike = None) -> list[float]:
    """Convert thresholds from DN to electrons with the median gain, rounded to float32 as in jwst.

    Parameters
    ----------
    gain : (ny, nx) float32, e-/DN
    *counts : float, DN
    backend : str or Backend, optional
        Ignored: the median is computed on the host.

    Returns
    -------
    list of float
        Electrons; NaN if no pixel has a gain, so that no jump exceeds it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        median = np.float32(np.nanmedian(gain))
    return [float(np.float32(count) * median) for count in counts]


_PARAMETERS = Having(
    "the parameters of the step",
    minimum_groups=Number(whole=True),
    apply_minimum_groups=Switch(),
    **dict.fromkeys(("after_jump_flag_dn1", "after_jump_flag_dn2"), Number("DN")),
    **dict.fromkeys(("after_jump_flag_time1", "after_jump_flag_time2"), Number("s", finite=True)),
)
_FACTS = Having(
    "facts of the exposure",
    group_time=Number("s", positive=True),
    nframes=Number(whole=True, minimum=1, optional=True),
)


@on_arrays(
    gain=Array(IMAGE, unit="e-/DN"),
    parameters=_PARAMETERS,
    facts=_FACTS,
)
def settle(parameters: Any, facts: Facts, gain: ArrayLike, *, backend: BackendLike = None) -> JumpSettings:
    """Make the settings of the search from the parameters of the step.

    Parameters
    ----------
    parameters
        The parameters of the step, ``STEP.settings(...)``.
    facts : Facts
    gain : (ny, nx) float32, e-/DN
        Copied to the host only if groups after a jump are flagged.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    JumpSettings
    """
    least = parameters.minimum_groups if parameters.apply_minimum_groups else MINIMUM_GROUPS
    settings = settings_from(
        JumpSettings,
        parameters,
        minimum_groups=max(MINIMUM_GROUPS, least),
        after_jump_flag_n1=min(int(parameters.after_jump_flag_time1 // facts.group_time), _MOST_GROUPS),
        after_jump_flag_n2=min(int(parameters.after_jump_flag_time2 // facts.group_time), _MOST_GROUPS),
        nframes=facts.nframes,
    )
    if not settings.flags_later_groups:
        return settings
    thresholds = parameters.after_jump_flag_dn1, parameters.after_jump_flag_dn2
    e1, e2 = electron_thresholds(gain, *thresholds, backend=backend)
    return replace(settings, after_jump_flag_e1=e1, after_jump_flag_e2=e2)


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`.

    Notes
    -----
    Source: jwst 3.0, ``JumpStep``, and stcal 1.20, ``detect_jumps_data``. Two numbers are written to the metadata:
    cosmic rays per 1000 pixels and second, and large events per 10^6 pixels and second.
    """
    data, groupdq, facts = exposure.data, exposure.groupdq, exposure.facts
    nints, ngroups, ny, nx = data.shape
    if ngroups < MINIMUM_GROUPS:
        return skipped(f"{ngroups} groups per integration; jumps need at least {MINIMUM_GROUPS}", opened={})
    for name in ("gain", "readnoise"):
        if references[name] is None:
            return skipped(f"there is no {name} reference")

    gain, readnoise = references["gain"].data, references["readnoise"].data
    flag_missing_gain(exposure.pixeldq, gain, backend=backend)
    settings = settle(parameters, facts, gain, backend=backend)
    cosmic_rays = flag_jumps(data, groupdq, gain, readnoise, backend=backend, settings=settings)

    events, covered = 0, []
    if parameters.expand_large_events:
        options = {
            "settings": settle_snowballs(parameters, facts),
            "covered": covered if parameters.find_showers else None,
        }
        events = flag_snowballs(groupdq, backend=backend, **options)
    if parameters.find_showers:
        # as in jwst, only the number of showers is kept
        arrays = data, groupdq, exposure.pixeldq, gain, readnoise
        settings = settle_showers(parameters, facts, searched=cosmic_rays >= 0)
        events = flag_showers(*arrays, backend=backend, settings=settings, covered=covered)

    meta = {}
    counts = backend.count_flags(groupdq, in_samples=JUMP_DET, everywhere=DO_NOT_USE)
    # as in jwst, rates refer to the number of differences in which a jump could be found
    lost = np.count_nonzero(counts.everywhere)
    differences = nints * ngroups - lost - nints
    if differences >= 1:
        exposed = facts.group_time * differences * (ny * nx)
        meta["exposure.primary_cosmic_rays"] = 1e3 * cosmic_rays / exposed
        meta["exposure.extended_emission_events"] = 1e6 * events / exposed
    return Outcome(flagged={"jumps": counts.samples_with(JUMP_DET)}, meta=meta)
