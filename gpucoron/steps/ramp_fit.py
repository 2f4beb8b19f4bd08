"""ramp_fit: count rates and their variances from the slopes of the ramps."""

import logging

from gpucoron.backends.operations.ramp_fit import RampFitSettings
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.parameters import OWN_THREADS, P
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, on_arrays
from gpucoron.steps.dark_line import add_dark_error
from gpucoron.steps.declaration import Extra, Outcome, Preset, Step, skipped
from gpucoron.steps.likelihood import fit_exposure as fit_exposure_by_likelihood
from gpucoron.steps.likelihood import fit_likelihood
from gpucoron.steps.values import Number, Switch

__all__ = ["find_usable_groups", "fit", "fit_likelihood", "run", "select_groups", "suppress_single_groups"]

log = logging.getLogger(__name__)


def _optional_products(exposure, settings):
    """List what ``save_opt`` asks for: jwst's product of the segmented fit, or the chi-square of LIKELY.

    As in jwst, they are named after the exposure also where the products have another name.
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
        if what is not None
    ]


STEP = Step(
    name="ramp_fit",
    title="fit the ramps",
    jwst_class="RampFitStep",
    references=("readnoise", "gain"),
    parameters=(
        P("algorithm", "option", "OLS_C", "how ramps are fitted", options=("OLS_C", "LIKELY")),
        P("int_name", "string", "", "name of the rateints file", names=True),
        P("save_opt", "boolean", False, "save the optional product"),
        P("opt_name", "string", "", "name of the optional product", names=True),
        P("suppress_one_group", "boolean", True, "no rate from a ramp with a single good group"),
        P("firstgroup", "integer", None, "ignore groups before this one, from 0"),
        P("lastgroup", "integer", None, "ignore groups after this one, from 0"),
        P("maximum_cores", "string", "1", "accepted and not used", unused=OWN_THREADS),
        P("save_calibrated_ramp", "boolean", False, "the same as the run's parameter", ours=True),
        P("convert_average_dark", "boolean", False, "turn the average dark current into DN/s first", ours=True),
        P(
            "max_diffs_one_sided",
            "integer",
            0,
            "LIKELY: where so few differences are left, jumps are only upward; 0: either way",
            minimum=0,
            ours=True,
            maximum=65535,
        ),
    ),
    helpers=("optional_fit",),
    borrows="jwst.ramp_fitting.ramp_fit_step",
    profiles={"spaceklip": Preset({"suppress_one_group": False})},
    keywords={"suppress_one_group": "suppress_one_group", "maximum_cores": "maximum_cores"},
    leaves="slopes",
    saves={"rate": "0_{}", "rateints": "1_{}"},
    extras=_optional_products,
    fits=True,
    for_run=("save_calibrated_ramp",),
)

#: LIKELY looks for jumps as well, and needs this many groups for it.
FEWEST_LIKELY_GROUPS = 4


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    group_time=Number("s", positive=True),
    frame_time=Number("s", positive=True),
    dark_current=Array(IMAGE, unit="DN/s"),
    zeroframe=Array(CUBE, unit="DN"),
    nframes=Number(whole=True, minimum=1),
    groupgap=Number(whole=True, minimum=0),
    suppress_one_group=Switch(),
    drop_flagged_groups=Switch(),
)
def fit(
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    group_time,
    *,
    frame_time=None,
    nframes=1,
    groupgap=0,
    dark_current=None,
    zeroframe=None,
    suppress_one_group=True,
    drop_flagged_groups=False,
    backend=None,
):
    """Fit every ramp by segments of optimally weighted least squares, and combine the integrations.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Edited in place by ``suppress_one_group`` and ``drop_flagged_groups``.
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
        Where it is NaN or not positive, the products get NO_GAIN_VALUE and DO_NOT_USE.
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file; not changed.
    group_time : float, s
    frame_time : float, s, optional
        Matters for ramps with a single good group; by default ``group_time / (nframes + groupgap)``.
    nframes, groupgap : int
        Frames averaged into a group, and frames dropped between groups.
    dark_current : (ny, nx) float32, optional
        Average dark current, DN/s, for the Poisson variance.
    zeroframe : (nints, ny, nx) float32, optional
        First frame, DN, for ramps without a good group; 0 where there is none.
    suppress_one_group : bool
        Set DO_NOT_USE in all groups of a ramp with a single good group, unless the exposure has one group only.
    drop_flagged_groups : bool
        Leave out leading groups, and the last one, that are DO_NOT_USE everywhere: MIRI's rule.
    backend : str or Backend, optional
        Where to work; by default where the arrays are.

    Returns
    -------
    rate, rateints : Slopes
        Images ``(ny, nx)`` and cubes ``(nints, ny, nx)``, DN/s and (DN/s)^2. A pixel or ramp without a rate is NaN,
        with variances of 0 and DO_NOT_USE. Both are None where no group is usable or all ramps saturate at once; the
        log says which.

    Notes
    -----
    Source: stcal 1.20, ``OLS_C`` (Robberto 2008, JWST-STScI-0001490; Fixsen et al. 2000, PASP 112, 1350).

    Examples
    --------
    >>> rate, rateints = fit(data, groupdq, pixeldq, gain, readnoise, group_time=4.28)  # doctest: +SKIP
    """
    if frame_time is None:
        frame_time = group_time / (nframes + groupgap)
    ngroups = data.shape[1]
    # Flags of before the edits: they count for the read noise where charge migration took groups.
    has_loss = any(bool((flags & CHARGELOSS).any()) for flags in groupdq)
    original_groupdq = backend.copy(groupdq) if has_loss else None
    suppress_one_group = bool(suppress_one_group) and ngroups > 1
    if suppress_one_group:
        suppress_single_groups(groupdq, backend=backend)
    if drop_flagged_groups and ngroups > 1:
        usable = find_usable_groups(groupdq, backend=backend)
        if usable is None:
            return None, None
        # views: the backends take ramps that are cut along the groups
        data, groupdq = data[:, usable], groupdq[:, usable]
        if has_loss:
            original_groupdq = original_groupdq[:, usable]
    if bool((groupdq[:, 0] & SATURATED != 0).all()):
        log.warning("every ramp is saturated from its first group on: there is nothing to fit")
        return None, None
    settings = RampFitSettings(group_time, frame_time, nframes, groupgap, suppress_one_group)
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq
    return backend.fit_ramps(*ramps, settings=settings)


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    firstgroup=Number(whole=True),
    lastgroup=Number(whole=True),
)
def select_groups(groupdq, firstgroup=None, lastgroup=None, *, backend=None):
    """Set DO_NOT_USE before ``firstgroup`` and after ``lastgroup``, in place.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    firstgroup, lastgroup : int or None
        Counted from 0; both are used themselves. A selection that leaves fewer than two groups is ignored, with a
        warning.
    backend : str or Backend, optional
        Where to work; by default where the arrays are.

    Notes
    -----
    Source: jwst 3.0, ``set_groupdq``. A ``lastgroup`` beyond the last is as good as none, except that it is compared
    with ``firstgroup`` as it is.
    """
    ngroups = groupdq.shape[1]
    first = 0 if firstgroup is None else firstgroup
    last = ngroups - 1 if lastgroup is None else lastgroup
    if first < 0:
        log.warning("firstgroup %d is negative: 0 is taken", first)
        first = 0
    if last >= ngroups:
        log.warning("lastgroup %d is beyond the last of %d groups: %d is taken", last, ngroups, ngroups - 1)
    if first >= last:
        log.warning("firstgroup %d must be less than lastgroup %d: both are ignored", first, last)
        return
    groupdq[:, :first] |= groupdq.dtype.type(DO_NOT_USE)
    groupdq[:, last + 1 :] |= groupdq.dtype.type(DO_NOT_USE)


@on_arrays(groupdq=Array(RAMP, "uint8", in_place=True))
def suppress_single_groups(groupdq, *, backend=None):
    """Set DO_NOT_USE in all groups of ramps with one good group, in place; a group with only PERSISTENCE is good.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    backend : str or Backend, optional
        Where to work; by default where the arrays are.

    Notes
    -----
    Source: stcal 1.20, ``suppress_one_good_group_ramps``.
    """
    without_persistence = groupdq.dtype.type(0xFF & ~PERSISTENCE)
    for integration in range(groupdq.shape[0]):
        flags = groupdq[integration]
        single = ((flags & without_persistence) == 0).sum(axis=0) == 1
        flags |= single.astype(flags.dtype) * flags.dtype.type(DO_NOT_USE)


@on_arrays(groupdq=Array(RAMP, "uint8", in_place=True))
def find_usable_groups(groupdq, *, backend=None):
    """Find the groups that are left without those that MIRI's first and last frames spoil.

    Leading groups, and the last one, do not count where they are DO_NOT_USE in every pixel and integration. The
    group that becomes the first loses its JUMP_DET, in place, for there is none before it.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    backend : str or Backend, optional
        Where to work; by default where the arrays are.

    Returns
    -------
    slice or None
        None, with a message in the log, where fewer than two groups are left.

    Notes
    -----
    Source: stcal 1.20, ``discard_miri_groups``.
    """

    def is_lost(group):
        return bool((groupdq[:, group] & DO_NOT_USE != 0).all())

    first, end = 0, groupdq.shape[1]
    while first < end and is_lost(first):
        first += 1
        if first < end:
            groupdq[:, first] &= groupdq.dtype.type(0xFF & ~JUMP_DET)
    if first == end:
        log.error("all groups are DO_NOT_USE in all pixels: there is nothing to fit")
        return None
    if is_lost(end - 1):
        end -= 1
    if end - first < 2:
        log.warning("MIRI needs at least 2 usable groups per integration: there is nothing to fit")
        return None
    return slice(first, end)


def _leaves_chisq(exposure, parameters):
    """Tell whether the chi-square of LIKELY will be the optional product."""
    return parameters.algorithm == "LIKELY" and exposure.data.shape[1] >= FEWEST_LIKELY_GROUPS


def run(exposure, references, parameters, backend, *, optional_fit=None):
    """Run the step; see `gpucoron.steps`. Sets ``exposure.rate`` and ``exposure.rateints``.

    With ``algorithm`` LIKELY it also sets ``exposure.likelihood_chisq``, (ny, nx) float32, summed over integrations.
    ``optional_fit()`` makes jwst's optional product (``save_opt``) of the segmented fit, a model: it is left as
    ``exposure.optional_fit``.

    Notes
    -----
    Source: jwst 3.0, ``RampFitStep``. Where nothing can be fitted, both products are None and the step counts as
    skipped; jwst writes no status then.
    """
    if optional_fit is not None and parameters.save_opt and not _leaves_chisq(exposure, parameters):
        exposure.optional_fit = optional_fit()
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
        reason = f"LIKELY needs at least {FEWEST_LIKELY_GROUPS} groups, here are {ngroups}: OLS_C is used"
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
        # stcal adds e-/s to DN/s
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
        )
    else:
        products = fit(
            exposure.data,
            exposure.groupdq,
            exposure.pixeldq,
            gain,
            readnoise,
            facts.group_time,
            frame_time=facts.frame_time,
            nframes=facts.nframes or 1,
            groupgap=facts.groupgap or 0,
            dark_current=dark_current,
            zeroframe=exposure.zeroframe,
            suppress_one_group=parameters.suppress_one_group,
            drop_flagged_groups=facts.is_miri,
            backend=backend,
        )
    exposure.rate, exposure.rateints = products
    if exposure.rate is None:
        return skipped("there is nothing to fit: no usable groups, or all ramps saturated", **meta)
    add_dark_error(exposure, xp=backend.xp)
    return Outcome(reason=reason, meta=meta)
