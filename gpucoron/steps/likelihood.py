"""Fits by likelihood, for the algorithm LIKELY of ramp_fit and for experimental_jumpramp."""

import logging
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.likelihood import LikelihoodRampSettings, LikelihoodSettings
from gpucoron.backends.results import LikelihoodFit, Slopes
from gpucoron.backends.statistics import median_of_last
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, Images, on_arrays
from gpucoron.steps.values import Choice, Having, Kind, Number, Switch, check_numbers, kinds_of

log = logging.getLogger(__name__)

DEFAULTS = LikelihoodRampSettings()


def _check_read_times(read_times):
    if isinstance(read_times, str):
        raise TypeError(read_times)
    for times in read_times:
        check_numbers(np.atleast_1d(times))


_READ_TIMES = Kind("for each resultant its time, or those of its reads, in s", _check_read_times)


@on_arrays(
    diffs=Array("ndiffs ...", "float", unit="e-/s"),
    sig=Array("...", "float", unit="e-"),
    diffs2use=Array("ndiffs ...", "bool"),
    read_times=_READ_TIMES,
    reject_jumps=Switch(),
    threshold_oneomit=Number(minimum=0),
    threshold_twoomit=Number(minimum=0),
    max_diffs_one_sided=Number(whole=True, minimum=0),
)
def fit_likelihood(
    diffs: ArrayLike,
    read_times: Any,
    sig: ArrayLike,
    *,
    diffs2use: ArrayLike | None = None,
    reject_jumps: bool = True,
    threshold_oneomit: float = 20.25,
    threshold_twoomit: float = 23.8,
    max_diffs_one_sided: int = 0,
    backend: BackendLike = None,
) -> LikelihoodFit:
    """Reject jumps by likelihood, and fit the remaining differences of each ramp with optimal weights.

    A ramp is given as the differences d of its resultants (groups), divided by their separations in time. Their
    covariance C is tridiagonal: photon noise of a rate, and read noise, which adjacent differences share. The rate a
    minimises ``chisq = (d - a)^T C^-1 (d - a)``. A difference is rejected if chi-square drops by more than a threshold
    without it; around a resultant of several reads, two adjacent differences are rejected together. C is computed for
    the median difference during rejection, and for the rate without jumps in the fit.

    Parameters
    ----------
    diffs : (nresultants - 1, ...) float, e-/s
        Differences of resultants, divided by the differences of their mean times.
    read_times : sequence
        For each resultant its time, or the times of its reads, s.
    sig : (...) float, e-
        Noise of a single read.
    diffs2use : (nresultants - 1, ...) bool or uint8, optional
        Not 0 for good differences; not changed.
    reject_jumps : bool
        If false, no jumps are rejected, and C is computed for the mean of the good differences.
    threshold_oneomit, threshold_twoomit : float
        Drops of chi-square for one and for two differences; the defaults correspond to 4.5 sigma.
    max_diffs_one_sided : int
        Reject only upward jumps in ramps with at most this number of usable differences; 0 rejects jumps in both
        directions, as in spaceKLIP and stcal.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    LikelihoodFit
        ``countrate``, ``uncert`` (e-/s), ``chisq``, ``var_poisson``, ``var_rdnoise`` ((e-/s)^2), (...) float64, and
        ``diffs2use``, (nresultants - 1, ...) uint8. All floats are NaN if no difference is good, or one is NaN.

    Notes
    -----
    Source: Brandt 2024, PASP 136, 045004 and 045005. Cases that depend on rounding are as in spaceKLIP 2.2.

    Examples
    --------
    >>> diffs = np.array([[20.0], [21.0], [400.0], [19.0], [20.0], [20.0]])
    >>> fit = fit_likelihood(diffs, 2.0 * np.arange(1, 8), np.array([5.0]))
    >>> fit.diffs2use[:, 0].tolist(), round(float(fit.countrate[0]), 2)
    ([1, 1, 0, 1, 1, 1], 19.98)
    """
    if diffs.ndim < 2 or len(read_times) != diffs.shape[0] + 1:
        msg = f"diffs of {len(read_times)} resultants must be ({len(read_times) - 1}, ...), not of shape {diffs.shape}"
        raise ValueError(msg)
    thresholds = threshold_oneomit, threshold_twoomit
    settings = LikelihoodSettings(reject_jumps, *thresholds, max_diffs_one_sided=max_diffs_one_sided)
    return backend.fit_likelihood(diffs, read_times, sig, diffs2use, settings=settings)


def list_read_times(ngroups, nframes, frame_time, frames_apart):
    """List the read times of the frames of each group.

    Parameters
    ----------
    ngroups, nframes : int
    frame_time : float, s
    frames_apart : float
        Number of frames from the first frame of a group to that of the next.

    Returns
    -------
    list of (nframes,) float64, s
        The first frame is read at ``frame_time``.
    """
    return [(np.arange(1, nframes + 1) + group * frames_apart) * frame_time for group in range(ngroups)]


def split_first_read(read_times):
    """Separate the first read of the first group, which ZEROFRAME holds; None if the group has a single read."""
    first, *others = read_times
    return None if len(first) < 2 else [first[:1], first[1:], *others]


_SETTINGS = Having(
    "LikelihoodRampSettings", **kinds_of(LikelihoodRampSettings, rules=Choice("spaceklip", "stcal", "sound"))
)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    dark_current=Array(IMAGE, unit="DN/s"),
    zeroframe=Array(CUBE, unit="DN"),
    read_times=_READ_TIMES,
    settings=_SETTINGS,
)
def fit_integrations(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    read_times: Any,
    *,
    dark_current: ArrayLike | None = None,
    zeroframe: ArrayLike | None = None,
    settings: LikelihoodRampSettings = DEFAULTS,
    backend: BackendLike = None,
) -> tuple[Slopes, NDArray[np.float32]]:
    """Fit ramps by likelihood.

    Parameters
    ----------
    data, groupdq, gain, readnoise, read_times, dark_current, zeroframe
        As for `gpucoron.backends.operations.likelihood.fit_likelihood_ramps`: JUMP_DET is set in ``groupdq``, in place.
    pixeldq : (ny, nx) uint32
    settings : LikelihoodRampSettings, optional
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    rateints : Slopes
        (nints, ny, nx).
    chisq : (nints, ny, nx) float32
    """
    n_resultants = data.shape[1] + (zeroframe is not None)
    if len(read_times) != n_resultants or n_resultants < 2:
        msg = f"read_times: {data.shape[1]} groups need {n_resultants} times, at least two, not {len(read_times)}"
        raise ValueError(msg)
    ramps = data, groupdq, gain, readnoise, read_times, dark_current, zeroframe
    fit = backend.fit_likelihood_ramps(*ramps, settings=settings)
    dq = summarise_flags(groupdq, pixeldq, backend)
    return Slopes(fit.countrate, dq, fit.var_poisson, fit.var_rdnoise, fit.uncert), fit.chisq


@on_arrays(groupdq=Array(RAMP, "uint8"), pixeldq=Array(IMAGE, "uint32"))
def summarise_flags(groupdq: ArrayLike, pixeldq: ArrayLike, backend: BackendLike = None) -> NDArray[np.uint32]:
    """Return the flags of each integration: those of the pixel, and those that follow from its groups.

    SATURATED and JUMP_DET are set if any group has them, DO_NOT_USE if no group is good.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (nints, ny, nx) uint32

    Notes
    -----
    Source: stcal 1.20, ``dq_compress_sect``.
    """
    xp = backend.xp
    dq = xp.empty((groupdq.shape[0], *pixeldq.shape), dtype=pixeldq.dtype)
    if xp is not np:
        # few operations on all groups
        for part in backend.batches(len(groupdq), 3 * math.prod(groupdq.shape[1:])):
            flags = groupdq[part]
            bad = ((flags & (SATURATED | DO_NOT_USE)) != 0).all(axis=1)
            kept = [((flags & each) != 0).any(axis=1) * dq.dtype.type(each) for each in (SATURATED, JUMP_DET)]
            dq[part] = pixeldq | kept[0] | kept[1] | bad
        return dq
    for integration, groups in enumerate(groupdq):
        some = np.zeros_like(groups[0])
        bad = np.ones(pixeldq.shape, dtype=bool)
        for flags in groups:
            some |= flags
            bad &= flags & (SATURATED | DO_NOT_USE) != 0
        dq[integration] = pixeldq | (some & (SATURATED | JUMP_DET)) | bad.astype(pixeldq.dtype)
    return dq


@on_arrays(rateints=Images(CUBE))
def combine_integrations(rateints: Slopes, backend: BackendLike = None) -> Slopes:
    """Average the integrations with optimal weights, without NaN.

    The photon noise of all integrations is that of their common rate. With the noise of their own rates, faint
    integrations would get more weight, and the average would be too low.

    Parameters
    ----------
    rateints : Slopes
        (nints, ny, nx).
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    Slopes
        (ny, nx). ``dq`` has the flags of all integrations, but DO_NOT_USE only if all integrations have it.

    Notes
    -----
    Source: stcal 1.20, ``compute_image_info`` of LIKELY: float32, in two iterations that start from the median rate.
    """
    if rateints.rate.shape[0] == 1:
        return Slopes(**{name: values[0].copy() for name, values in vars(rateints).items()})
    xp = backend.xp
    dq = rateints.dq[0]
    all_bad = rateints.dq[0] & DO_NOT_USE
    for flags in rateints.dq[1:]:
        dq = dq | flags
        all_bad = all_bad & flags
    dq = dq & dq.dtype.type(0xFFFFFFFF & ~DO_NOT_USE) | all_bad

    with np.errstate(all="ignore"):
        rate = median_of_last(xp.moveaxis(rateints.rate, 0, -1), xp=xp)
        for _ in range(2):
            ratio = rate / rateints.rate
            ratio = xp.where(xp.isfinite(ratio) & (ratio >= 0), ratio, ratio.dtype.type(0))
            var_poisson = rateints.var_poisson * ratio
            weight = 1 / (var_poisson + rateints.var_rnoise)
            weight /= xp.nansum(weight, axis=0)
            rate = _sum_known(rateints.rate * weight, xp)
        var_poisson = _sum_known(var_poisson * weight**2, xp)
        var_rnoise = _sum_known(rateints.var_rnoise * weight**2, xp)
        return Slopes(rate, dq, var_poisson, var_rnoise, xp.sqrt(var_poisson + var_rnoise))


def _sum_known(values, xp):
    """Sum over integrations without NaN; the sum is NaN if all are NaN."""
    return xp.where(xp.isnan(values).all(axis=0), values.dtype.type(np.nan), xp.nansum(values, axis=0))


_EXPOSURE = Having(
    "an exposure",
    *("data", "groupdq", "pixeldq", "zeroframe"),
    facts=Having(
        "facts of the exposure",
        nframes=Number(whole=True, minimum=1, optional=True),
        groupgap=Number(whole=True, minimum=0, optional=True),
    ),
)


@on_arrays(
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    dark_current=Array(IMAGE, unit="DN/s"),
    exposure=_EXPOSURE,
    max_diffs_one_sided=Number(whole=True, minimum=0),
    rules=Choice("stcal", "sound"),
)
def fit_exposure(
    exposure: Any,
    gain: ArrayLike,
    readnoise: ArrayLike,
    backend: BackendLike = None,
    *,
    dark_current: ArrayLike | None = None,
    max_diffs_one_sided: int = 0,
    rules: Literal["stcal", "sound"] = "stcal",
) -> tuple[Slopes, Slopes, NDArray[np.float32]]:
    """Fit an exposure as stcal's LIKELY does.

    Parameters
    ----------
    exposure : Exposure
        JUMP_DET is set in ``groupdq``. ``read_times`` of its facts, if any, replace the regular pattern.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise.
    backend : str or Backend, optional
        The default is the device of the arrays.
    dark_current : (ny, nx) float32, DN/s, optional
        Average dark current, for the Poisson variance.
    max_diffs_one_sided : int
        Reject only upward jumps in ramps with at most this number of usable differences; 0 rejects jumps in both
        directions, as in stcal.
    rules : {'stcal', 'sound'}
        Rules of the search for jumps. With those of stcal, the photon noise is that of the median of all differences,
        also saturated ones, which are zero: in a ramp that is saturated half of the time it is too small, and good
        differences are rejected. The sound rules are those of experimental_jumpramp.

    Returns
    -------
    rate, rateints : Slopes
        (ny, nx) and (nints, ny, nx). A ramp without two adjacent good groups is NaN, even without DO_NOT_USE.
    chisq : (ny, nx) float32
        The sum over the integrations.

    Notes
    -----
    Source: stcal 1.20, ``likely_ramp_fit``: groups with any flag are ignored, and so is ``suppress_one_group``.
    """
    facts, zeroframe = exposure.facts, exposure.zeroframe
    nframes = facts.nframes or 1
    frames_apart = nframes + (facts.groupgap or 0)
    # callers may pass facts of another class, which need no read_times
    read_times = getattr(facts, "read_times", None)
    if read_times is None:
        read_times = list_read_times(exposure.data.shape[1], nframes, facts.frame_time, frames_apart)
    if zeroframe is not None:
        split = split_first_read(read_times)
        if split is None:
            log.warning("ZEROFRAME is not used: groups are single frames, and ZEROFRAME is the first one")
            zeroframe = None
        else:
            read_times = split
    rateints, chisq = fit_integrations(
        exposure.data,
        exposure.groupdq,
        exposure.pixeldq,
        gain,
        readnoise,
        read_times,
        dark_current=dark_current,
        zeroframe=zeroframe,
        settings=LikelihoodRampSettings(rules=rules, max_diffs_one_sided=max_diffs_one_sided),
        backend=backend,
    )
    return combine_integrations(rateints, backend), rateints, chisq.sum(axis=0)
