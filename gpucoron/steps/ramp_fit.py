"""ramp_fit: fit count rates and their variances to the ramps."""

import logging
from typing import Any

from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.flags import find_lost_groups
from gpucoron.backends.operations.ramp_fit import RampFitSettings
from gpucoron.backends.results import SegmentFit, Slopes
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.parameters import OWN_THREADS, P
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.dark_line import add_dark_error
from gpucoron.steps.declaration import Extra, Outcome, Preset, Step, skipped
from gpucoron.steps.likelihood import fit_exposure as fit_exposure_by_likelihood
from gpucoron.steps.likelihood import fit_likelihood
from gpucoron.steps.noise_error import add_noise_error
from gpucoron.steps.optional_fit import count_segments, fit_prepared
from gpucoron.steps.values import Number, Switch

__all__ = [
    "count_segments", "find_usable_groups", "fit", "fit_likelihood", "fit_segments", "run", "select_groups",
    "suppress_single_groups",
]  # fmt: skip

log = logging.getLogger(__name__)


def _optional_products(exposure, settings):
    """List the products of ``save_opt``: the segments of the fit, or the chi-square of LIKELY.

    As in jwst, they are named after the exposure even if the other products have another name.
    """
    if not settings.save_opt:
        return []
    kinds = {
        "likely_chisq": ("image", exposure.likelihood_chisq),
        "fitopt": ("optional fit", exposure.optional_fit),
    }
    return [
        Extra(kind, what, suffix=suffix, stem=settings.opt_name or exposure.name)
        for suffix, (kind, what) in kinds.items()
        if what is not None and (suffix == "fitopt" or settings.algorithm == "LIKELY")
    ]


STEP = Step(
    name="ramp_fit",
    title="fit the ramps",
    jwst_class="RampFitStep",
    references=("readnoise", "gain"),
    parameters=(
        P("algorithm", "option", "OLS_C", "algorithm of the fit", options=("OLS_C", "LIKELY")),
        P("int_name", "string", "", "accepted and not used", names=True, unused="jwst 3.0 does not read it either"),
        P("save_opt", "boolean", False, "save the optional product"),
        P("opt_name", "string", "", "name of the optional product", names=True),
        P("suppress_one_group", "boolean", True, "reject ramps with a single good group"),
        P("firstgroup", "integer", None, "ignore groups before this one, counted from 0"),
        P("lastgroup", "integer", None, "ignore groups after this one, counted from 0"),
        P("maximum_cores", "string", "1", "accepted and not used", unused=OWN_THREADS),
        P("save_calibrated_ramp", "boolean", False, "same as the parameter of the run", ours=True),
        P("convert_average_dark", "boolean", False, "convert the average dark current to DN/s first", ours=True),
        P(
            "max_diffs_one_sided",
            "integer",
            0,
            "LIKELY: reject only upward jumps if a ramp has at most this number of differences; 0: both directions",
            minimum=0,
            ours=True,
            maximum=65535,
        ),
        P(
            "jump_rules",
            "option",
            "stcal",
            "LIKELY: rules of its search for jumps: those of stcal, or corrected as in experimental_jumpramp",
            options=("stcal", "sound"),
            ours=True,
        ),
    ),
    profiles={
        "spaceklip": Preset({"suppress_one_group": False}),
        "recommended": Preset({"algorithm": "LIKELY", "jump_rules": "sound"}, instruments=("MIRI",)),
    },
    keywords={"suppress_one_group": "suppress_one_group", "maximum_cores": "maximum_cores"},
    leaves="slopes",
    saves={"rate": "0_{}", "rateints": "1_{}"},
    extras=_optional_products,
    fits=True,
    for_run=("save_calibrated_ramp",),
)

#: minimum number of groups for LIKELY, which also looks for jumps
FEWEST_LIKELY_GROUPS = 4


_RAMPS = {
    "data": Array(RAMP, unit="DN"),
    "groupdq": Array(RAMP, "uint8", in_place=True),
    "pixeldq": Array(IMAGE, "uint32"),
    "gain": Array(IMAGE, unit="e-/DN"),
    "readnoise": Array(IMAGE, unit="DN"),
    "group_time": Number("s", positive=True),
    "frame_time": Number("s", positive=True),
    "dark_current": Array(IMAGE, unit="DN/s"),
    "zeroframe": Array(CUBE, unit="DN"),
    "nframes": Number(whole=True, minimum=1),
    "groupgap": Number(whole=True, minimum=0),
    "suppress_one_group": Switch(),
    "drop_flagged_groups": Switch(),
}


@on_arrays(**_RAMPS)
def fit(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    group_time: float,
    *,
    frame_time: float | None = None,
    nframes: int = 1,
    groupgap: int = 0,
    dark_current: ArrayLike | None = None,
    zeroframe: ArrayLike | None = None,
    suppress_one_group: bool = True,
    drop_flagged_groups: bool = False,
    backend: BackendLike = None,
) -> tuple[Slopes, Slopes] | tuple[None, None]:
    """Fit the segments of every ramp by optimally weighted least squares, and combine the integrations.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Changed in place by ``suppress_one_group`` and ``drop_flagged_groups``.
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
        If it is NaN or not positive, the products get NO_GAIN_VALUE and DO_NOT_USE.
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file; not changed.
    group_time : float, s
    frame_time : float, s, optional
        Used for ramps with a single good group; by default ``group_time / (nframes + groupgap)``.
    nframes, groupgap : int
        Numbers of frames averaged into a group, and dropped between groups.
    dark_current : (ny, nx) float32, optional
        Average dark current, DN/s, for the Poisson variance.
    zeroframe : (nints, ny, nx) float32, optional
        First frame, DN, for ramps without a good group; 0 marks missing values.
    suppress_one_group : bool
        Set DO_NOT_USE in all groups of a ramp with a single good group, unless the exposure has one group only.
    drop_flagged_groups : bool
        Ignore leading groups, and the last group, if they are DO_NOT_USE everywhere. This is the rule for MIRI.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    rate, rateints : Slopes
        Images ``(ny, nx)`` and cubes ``(nints, ny, nx)``, DN/s and (DN/s)^2. A pixel or ramp without a rate is NaN,
        with variances of 0 and DO_NOT_USE. Both are None if no group is usable or all ramps are saturated from the
        start; the log contains the reason.

    Notes
    -----
    Source: stcal 1.20, ``OLS_C`` (Robberto 2008, JWST-STScI-0001490; Fixsen et al. 2000, PASP 112, 1350).

    Examples
    --------
    >>> rate, rateints = fit(data, groupdq, pixeldq, gain, readnoise, group_time=4.28)  # doctest: +SKIP
    """
    times = group_time, frame_time, nframes, groupgap
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe
    prepared = _prepare(ramps, times, suppress_one_group, drop_flagged_groups, backend)
    return (None, None) if prepared is None else backend.fit_ramps(*prepared[0], settings=prepared[1])


@on_arrays(**_RAMPS, drop_frames=Number(whole=True, minimum=0))
def fit_segments(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    group_time: float,
    *,
    frame_time: float | None = None,
    nframes: int = 1,
    groupgap: int = 0,
    drop_frames: int = 0,
    dark_current: ArrayLike | None = None,
    zeroframe: ArrayLike | None = None,
    suppress_one_group: bool = True,
    drop_flagged_groups: bool = False,
    backend: BackendLike = None,
) -> tuple[Slopes, Slopes, SegmentFit] | tuple[None, None, None]:
    """Fit as `fit`, and also return the values of each segment (``save_opt``).

    Parameters
    ----------
    data, groupdq, pixeldq, gain, readnoise, group_time, frame_time, nframes, groupgap, dark_current, zeroframe
        As for `fit`; ``groupdq`` is changed in place.
    drop_frames : int
        Number of frames dropped before the first group, for the pedestal.
    suppress_one_group, drop_flagged_groups, backend
        As for `fit`.

    Returns
    -------
    rate, rateints : Slopes
        As for `fit`.
    segments : SegmentFit
        With as many segments and jumps as `gpucoron.steps.optional_fit.count_segments` finds.

    Notes
    -----
    Source: stcal 1.20, ``OLS_C`` with ``save_opt``.
    """
    times = group_time, frame_time, nframes, groupgap
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe
    prepared = _prepare(ramps, times, suppress_one_group, drop_flagged_groups, backend, drop_frames)
    return (None, None, None) if prepared is None else fit_prepared(*prepared, backend)


def _prepare(ramps, times, suppress_one_group, drop_flagged_groups, backend, drop_frames=0):
    """Change the flags as `fit` says; return the arguments and settings of the operation.

    None if there is nothing to fit. ``times`` are the group and frame times and the numbers of frames averaged and
    dropped.
    """
    data, groupdq, *others = ramps
    group_time, frame_time, nframes, groupgap = times
    if frame_time is None:
        frame_time = group_time / (nframes + groupgap)
    ngroups = data.shape[1]
    # The read noise of ramps with CHARGELOSS depends on the flags before the changes below.
    counts = backend.count_flags(groupdq, in_samples=CHARGELOSS, everywhere=SATURATED)
    has_loss = counts.samples_with(CHARGELOSS) > 0
    original_groupdq = backend.copy(groupdq) if has_loss else None
    first = 0
    suppress_one_group = bool(suppress_one_group) and ngroups > 1
    if suppress_one_group:
        suppress_single_groups(groupdq, backend=backend)
    if drop_flagged_groups and ngroups > 1:
        usable = find_usable_groups(groupdq, backend=backend)
        if usable is None:
            return None
        # views: the backends accept ramps that are cut along the groups
        data, groupdq, first = data[:, usable], groupdq[:, usable], usable.start
        if has_loss:
            original_groupdq = original_groupdq[:, usable]
    if counts.everywhere[:, first].all():
        log.warning("every ramp is saturated from its first group on: there is nothing to fit")
        return None
    settings = RampFitSettings(group_time, frame_time, nframes, groupgap, suppress_one_group, drop_frames)
    return (data, groupdq, *others, original_groupdq), settings


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    firstgroup=Number(whole=True),
    lastgroup=Number(whole=True),
)
def select_groups(
    groupdq: NDArray[Any], firstgroup: int | None = None, lastgroup: int | None = None, *, backend: BackendLike = None
) -> None:
    """Set DO_NOT_USE before ``firstgroup`` and after ``lastgroup``, in place.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    firstgroup, lastgroup : int or None
        Indices from 0 of the first and the last group to use. A selection of fewer than two groups is ignored, with a
        warning.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``set_groupdq``. A ``lastgroup`` beyond the last group has no effect, except that it is compared
    with ``firstgroup``.
    """
    ngroups = groupdq.shape[1]
    first = 0 if firstgroup is None else firstgroup
    last = ngroups - 1 if lastgroup is None else lastgroup
    if first < 0:
        log.warning("firstgroup %d is negative: 0 is used", first)
        first = 0
    if last >= ngroups:
        log.warning("lastgroup %d is beyond the last of %d groups: %d is used", last, ngroups, ngroups - 1)
    if first >= last:
        log.warning("firstgroup %d must be less than lastgroup %d: both are ignored", first, last)
        return
    groupdq[:, :first] |= groupdq.dtype.type(DO_NOT_USE)
    groupdq[:, last + 1 :] |= groupdq.dtype.type(DO_NOT_USE)


@on_arrays(groupdq=Array(RAMP, "uint8", in_place=True))
def suppress_single_groups(groupdq: NDArray[Any], *, backend: BackendLike = None) -> None:
    """Set DO_NOT_USE in all groups of ramps with one good group, in place. Groups with only PERSISTENCE are good.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    Source: stcal 1.20, ``suppress_one_good_group_ramps``.
    """
    backend.suppress_single_groups(groupdq)


@on_arrays(groupdq=Array(RAMP, "uint8", in_place=True))
def find_usable_groups(groupdq: NDArray[Any], *, backend: BackendLike = None) -> slice | None:
    """Find the usable groups of MIRI ramps, without those that the first and last frames affect.

    Leading groups, and the last group, are not usable if they are DO_NOT_USE in every pixel and integration. JUMP_DET
    of the first usable group is cleared, in place, because a jump needs a group before it.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    slice or None
        None, with a message in the log, if fewer than two groups are usable.

    Notes
    -----
    Source: stcal 1.20, ``discard_miri_groups``.
    """
    is_lost = find_lost_groups(backend, groupdq).all(axis=0)
    first, end = 0, groupdq.shape[1]
    while first < end and is_lost[first]:
        first += 1
        if first < end:
            groupdq[:, first] &= groupdq.dtype.type(0xFF & ~JUMP_DET)
    if first == end:
        log.error("all groups are DO_NOT_USE in all pixels: there is nothing to fit")
        return None
    if is_lost[end - 1]:
        end -= 1
    if end - first < 2:
        log.warning("MIRI needs at least 2 usable groups per integration: there is nothing to fit")
        return None
    return slice(first, end)


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`. Sets ``exposure.rate`` and ``exposure.rateints``.

    With ``algorithm`` LIKELY it also sets ``exposure.likelihood_chisq``, (ny, nx) float32, summed over integrations.
    With OLS_C and ``save_opt`` it sets ``exposure.optional_fit``, a SegmentFit.

    Notes
    -----
    Source: jwst 3.0, ``RampFitStep``. If nothing can be fitted, both products are None and the step is skipped; jwst
    writes no status in this case.
    """
    exposure.rate = exposure.rateints = None
    for name in ("gain", "readnoise"):
        if references[name] is None:
            return skipped(f"there is no {name} reference")
    facts = exposure.facts
    ngroups = exposure.data.shape[1]
    gain, readnoise = references["gain"].data, references["readnoise"].data
    reason = ""
    uses_likelihood = parameters.algorithm.upper() == "LIKELY"
    if uses_likelihood and ngroups < FEWEST_LIKELY_GROUPS:
        reason = f"LIKELY needs at least {FEWEST_LIKELY_GROUPS} groups, not {ngroups}: OLS_C is used"
        log.warning("%s", reason)
        uses_likelihood = False
    meta = {}
    gain_factor = references["gain"].facts.get("gain_factor")
    if gain_factor is not None:
        meta["exposure.gain_factor"] = gain_factor
    if parameters.firstgroup is not None or parameters.lastgroup is not None:
        select_groups(exposure.groupdq, parameters.firstgroup, parameters.lastgroup, backend=backend)
    dark_current = exposure.average_dark_current
    if dark_current is not None and parameters.convert_average_dark:
        # stcal adds a dark current in e-/s to rates in DN/s
        usable = gain > 0
        dark_current = backend.xp.where(usable, dark_current, 0) / backend.xp.where(usable, gain, 1)
    if uses_likelihood:
        *products, exposure.likelihood_chisq = fit_exposure_by_likelihood(
            exposure,
            gain,
            readnoise,
            backend,
            dark_current=dark_current,
            max_diffs_one_sided=parameters.max_diffs_one_sided,
            rules=parameters.jump_rules,
        )
    else:
        ramps = exposure.data, exposure.groupdq, exposure.pixeldq, gain, readnoise, facts.group_time
        options = {
            "frame_time": facts.frame_time, "nframes": facts.nframes or 1, "groupgap": facts.groupgap or 0,
            "dark_current": dark_current, "zeroframe": exposure.zeroframe,
            "suppress_one_group": parameters.suppress_one_group, "drop_flagged_groups": facts.is_miri,
        }  # fmt: skip
        if parameters.save_opt:
            options["drop_frames"] = facts.drop_frames1 or 0
            *products, exposure.optional_fit = fit_segments(*ramps, **options, backend=backend)
        else:
            products = fit(*ramps, **options, backend=backend)
    exposure.rate, exposure.rateints = products
    if exposure.rate is None:
        return skipped("there is nothing to fit: no usable groups, or all ramps saturated", **meta)
    add_dark_error(exposure, xp=backend.xp)
    add_noise_error(exposure, xp=backend.xp)
    return Outcome(reason=reason, meta=meta)
