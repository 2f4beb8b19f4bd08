"""Ramp fitting by optimally weighted least squares of segments, equal to stcal's ``OLS_C``.

Most ramps have no flags, or only DO_NOT_USE in the same first groups. They consist of one segment, and all of them in a
tile are fitted together. Ramps with other flags, or values that are not finite, are gathered and fitted by segment:
see `segments`.
"""

import threading
from dataclasses import dataclass

import numpy as np

from gpucoron.backends.operations.ramp_fit.optional import TileProduct
from gpucoron.backends.operations.ramp_fit.segments import (
    Scratch,
    find_segments,
    fit_whole_ramps,
    median_rates,
    read_noise_variance,
    segment_slopes,
)
from gpucoron.backends.results import Slopes
from gpucoron.backends.tiles import for_each_tile
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, NO_GAIN_VALUE, PERSISTENCE, SATURATED

#: larger variances are written as 0, as in stcal, (DN/s)^2
LARGE_VARIANCE = 1e6

_INVALID = DO_NOT_USE | SATURATED


@dataclass(frozen=True)
class Times:
    """Times in seconds. stcal rounds them to float32 and continues in float64."""

    group: float
    frame: float
    one_group: float

    @classmethod
    def of(cls, settings):
        """Return the times of RampFitSettings."""
        frame = float(np.float32(settings.frame_time))
        # Effective time of a single first group.
        return cls(float(np.float32(settings.group_time)), frame, (settings.nframes + 1.0) * frame / 2.0)


@dataclass(frozen=True)
class _Pixels:
    """The pixels of a tile, (npixels,) each: float64 except the flags."""

    dq: np.ndarray
    gain: np.ndarray
    read_noise: np.ndarray
    dark: np.ndarray


@dataclass(frozen=True)
class _Gathered:
    """The ramps of a tile that need segments, as columns.

    ``which`` is the index among the tile's ramps (integration by integration), ``pixel`` the pixel; ``samples`` is
    float64 (ngroups, nramps), NaN where saturated; ``single_group_time`` is the time of a segment of one group.
    """

    which: np.ndarray
    pixel: np.ndarray
    samples: np.ndarray
    groupdq: np.ndarray
    single_group_time: np.ndarray
    has_own_time: np.ndarray
    is_zeroframe: np.ndarray


class _RampSums:
    """Sums over the segments of each ramp of a tile, (nints, npixels) float64."""

    def __init__(self, shape):
        self.inverse_read = np.zeros(shape)
        self.inverse_poisson = np.zeros(shape)
        self.inverse_total = np.zeros(shape)
        self.slope = np.zeros(shape)


def fit_ramps(
    device,
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    dark_current=None,
    zeroframe=None,
    original_groupdq=None,
    *,
    settings,
):
    """Fit every ramp by optimally weighted least squares of its segments (``OLS_C``).

    Neither ``data`` nor the flags are changed. Both may be views of some groups.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    dark_current : (ny, nx) float32 or None
        Average dark current, DN/s, for the Poisson variance.
    zeroframe : (nints, ny, nx) float32 or None
        Replaces the first group of ramps without good groups, where it is not 0.
    original_groupdq : (nints, ngroups, ny, nx) uint8 or None
        Flags for the read-noise variance if groups were flagged for charge migration.
    settings : RampFitSettings

    Returns
    -------
    rate, rateints : Slopes

    Notes
    -----
    Source: stcal 1.20, ``OLS_C`` (Robberto 2008, JWST-STScI-0001490; Fixsen et al. 2000, PASP 112, 1350). All float64
    operations have the order of stcal's C source, so the results are bit-identical on the same machine.
    """
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq
    return _fit(device, *ramps, settings=settings)


def fit_segments(
    device,
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    segments,
    pedestal,
    crmag,
    dark_current=None,
    zeroframe=None,
    original_groupdq=None,
    *,
    settings,
):
    """Fit every ramp as `fit_ramps`, and fill in the arrays of the optional product, which must be zeros.

    Parameters
    ----------
    device, data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq, settings
        As for `fit_ramps`.
    segments : (7 * nints, nsegments, ny, nx) float32
        For each of `SEGMENT_FIELDS` and each integration, the values of the segments of a ramp, in the order of time;
        0 beyond its last one. No ramp may have more than ``nsegments``.
    pedestal : (nints, ny, nx) float32, DN
        The first group, minus the rate times the frames before its middle; 0 for ramps without a rate.
    crmag : (nints, njumps, ny, nx) float32, DN
        The differences of groups with JUMP_DET from the groups before. No ramp may have more than ``njumps``.

    Returns
    -------
    rate, rateints : Slopes

    Notes
    -----
    Source: stcal 1.20, ``OLS_C`` with ``save_opt``. It multiplies the rate per second with times in groups.
    """
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq
    return _fit(device, *ramps, settings=settings, product=(segments, pedestal, crmag))


def _fit(
    device,
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    dark_current,
    zeroframe,
    original_groupdq,
    *,
    settings,
    product=None,
):
    """Fit all ramps, in tiles of rows on threads."""
    nints, _, ny, nx = data.shape
    times = Times.of(settings)
    # Scaled to electrons per group in float64, then rounded.
    with np.errstate(all="ignore"):
        noise = (readnoise * (gain.astype(np.float64) / np.sqrt(np.float64(2 * settings.nframes)))).astype(np.float32)
    rate, rateints = (Slopes.empty(shape, np) for shape in ((ny, nx), (nints, ny, nx)))
    scratch_of = threading.local()

    def fit_rows(rows):
        if not hasattr(scratch_of, "thread"):
            scratch_of.thread = Scratch(data.shape[1])

        def rows_of(array):
            return None if array is None else _merge_rows(array[..., rows, :])

        pixels = _Pixels(
            _flag_bad_gain(rows_of(pixeldq), rows_of(gain)),
            rows_of(gain).astype(np.float64),
            rows_of(noise).astype(np.float64),
            np.float64(0) if dark_current is None else rows_of(dark_current).astype(np.float64),
        )
        with np.errstate(all="ignore"):
            tile_rate, tile_rateints = _fit_tile(
                rows_of(data),
                rows_of(groupdq),
                pixels,
                rows_of(zeroframe) if not settings.suppress_one_group else None,
                rows_of(original_groupdq),
                times,
                settings.suppress_one_group,
                scratch_of.thread,
                product and TileProduct(*product, rows, settings),
            )
            for slopes, answer in ((rate, tile_rate), (rateints, tile_rateints)):
                for name, values in answer.items():
                    target = getattr(slopes, name)[..., rows, :]
                    target[...] = values.reshape(target.shape)

    for_each_tile(fit_rows, data.shape, device.n_threads, device.tile_bytes)
    return rate, rateints


def _merge_rows(array):
    return array.reshape(*array.shape[:-2], -1)


def _flag_bad_gain(pixeldq, gain):
    bad = ~(gain > 0)
    return np.where(bad, pixeldq | np.uint32(DO_NOT_USE | NO_GAIN_VALUE), pixeldq)


def _fit_tile(data, groupdq, pixels, zeroframe, original_groupdq, times, suppress_one_group, scratch, product):
    """Fit the ramps of a tile, ``(nints, ngroups, npixels)``; return the fields of rate and rateints.

    ``product`` is a `TileProduct` that is filled in, or None.
    """
    nints, ngroups, npixels = data.shape
    flags = np.bitwise_or.reduce(groupdq, axis=1)
    samples = np.empty((ngroups, nints, npixels))
    samples[...] = data.transpose(1, 0, 2)
    samples = samples.reshape(ngroups, -1)
    slopes = medians = None
    first, needs_segments = _find_whole_ramps(groupdq, flags)
    if ngroups - first > 2 and not needs_segments.all():
        lines = None if product is None else np.empty((3, nints * npixels))
        of_pixels = pixels.gain, pixels.read_noise
        slopes, medians = fit_whole_ramps(samples[first:], first, *of_pixels, times.group, scratch, lines)
        needs_segments |= np.isnan(slopes)
    else:
        needs_segments[...] = True
        medians = np.empty(nints * npixels)

    ramps = _gather(samples, groupdq, needs_segments, zeroframe, times, suppress_one_group)
    medians[ramps.which] = _gathered_medians(ramps, times, scratch)
    median_rate = _add_up(medians.reshape(nints, npixels)) / nints
    signal = np.where(median_rate > 0, median_rate + pixels.dark, pixels.dark)

    sums = _RampSums((nints, npixels))
    if slopes is not None:
        variances = _whole_variances(ngroups - first, signal, pixels, times)
        _sum_whole_ramps(sums, slopes.reshape(nints, npixels), *variances)
        if product is not None:
            product.put_whole_ramps(~needs_segments, slopes, lines, *variances)
    _sum_segments(sums, ramps, signal, pixels, times, scratch, product)

    rateints = _finish_rateints(sums, flags, ramps, pixels)
    if product is not None:
        raw = samples[0, ramps.which]
        raw[groupdq[:, 0].reshape(-1)[ramps.which] & SATURATED != 0] = np.nan
        product.put_jumps(ramps, raw)
        samples[0, ramps.which] = ramps.samples[0]
        product.put_starts(samples[0].reshape(nints, npixels), rateints["rate"], rateints["dq"])
    rate = _finish_rate(sums, flags, rateints, pixels)
    _flag_partial_saturation(rate, rateints, flags, ramps)
    if original_groupdq is not None:
        _restore_charge_loss(rate, rateints, flags, original_groupdq, ramps, pixels, times)
    return rate, rateints


def _find_whole_ramps(groupdq, flags):
    """Find the first good group of most ramps, and the ramps with other flags.

    The first groups of MIRI are DO_NOT_USE in most pixels, but not in all.

    Parameters
    ----------
    groupdq : (nints, ngroups, npixels) uint8
    flags : (nints, npixels) uint8
        Flags of all groups combined.

    Returns
    -------
    first : int
    is_other : (nints * npixels,) bool
        False for ramps with DO_NOT_USE in all groups before ``first``, and without flags from ``first`` on.
    """
    is_clean = flags == 0
    first = 0
    before = is_late = flags == DO_NOT_USE
    # The choice affects only the speed, not the results.
    while first < groupdq.shape[1] and 2 * np.count_nonzero(is_late) > is_late.size:
        before = is_late
        is_late = is_late & (groupdq[:, first] == DO_NOT_USE)
        first += 1
    first = max(0, first - 1)
    if first == 0:
        return 0, ~is_clean.reshape(-1)
    is_whole = before & ~np.bitwise_or.reduce(groupdq[:, first:], axis=1).astype(bool)
    return first, ~is_whole.reshape(-1)


def _gather(samples, groupdq, needed, zeroframe, times, suppress_one_group):
    """Gather the ramps that need segments; ZEROFRAME replaces the first group of ramps without good groups."""
    nints, ngroups, npixels = groupdq.shape
    which = np.flatnonzero(needed)
    integration, pixel = np.divmod(which, npixels)
    samples = samples.take(which, axis=1)
    dq = np.ascontiguousarray(groupdq.transpose(1, 0, 2)).reshape(ngroups, -1).take(which, axis=1)
    samples[dq & SATURATED != 0] = np.nan
    n_good = np.count_nonzero(dq == 0, axis=0)

    is_first_only = (n_good == 1) & (dq[0] == 0) & (not suppress_one_group)
    is_zeroframe = np.zeros(len(which), bool)
    if zeroframe is not None:
        first_frame = zeroframe[integration, pixel]
        is_zeroframe = (n_good == 0) & (first_frame != 0)
        samples[0, is_zeroframe] = first_frame[is_zeroframe]
        dq[0, is_zeroframe] = 0
    time = np.select([is_first_only, is_zeroframe], [times.one_group, times.frame], times.group)
    return _Gathered(which, pixel, samples, dq, time, is_first_only | is_zeroframe, is_zeroframe)


def _gathered_medians(ramps, times, scratch):
    """Return the median rates of gathered ramps, (nramps,) float64, DN/s."""
    ngroups, nramps = ramps.samples.shape
    if ngroups == 1:
        # stcal keeps NaN here, and ignores the flags.
        return ramps.samples[0] / times.one_group
    medians = np.empty(nramps)
    for block in scratch.blocks(nramps):
        medians[block] = median_rates(ramps.samples[:, block], times.group, ramps.groupdq[:, block], scratch)
    own = ramps.has_own_time
    medians[own] = ramps.samples[0, own] / ramps.single_group_time[own]
    medians[np.isnan(medians)] = 0
    return medians


def _add_up(values):
    """Sum over integrations in order; the order of NumPy's sum depends on the shape."""
    total = np.zeros(values.shape[1:])
    for value in values:
        total += value
    return total


def _whole_variances(ngroups, signal, pixels, times):
    """Return the variances of ramps that are one segment of ``ngroups`` groups, from photons and read noise."""
    var_poisson = signal / (times.group * pixels.gain * (ngroups - 1.0))
    return var_poisson, read_noise_variance(ngroups, pixels.gain, pixels.read_noise, times.group)


def _sum_whole_ramps(sums, slopes, var_poisson, var_read):
    """Fill in the sums of ramps that are one segment of all groups; only the slope depends on the integration."""
    np.divide(slopes, var_read, out=sums.slope)
    # As a sum that starts with 0, it is never -0.
    sums.slope += 0.0
    sums.inverse_read[...] = 1 / var_read
    sums.inverse_poisson[...] = np.where(var_poisson > 0, 1 / var_poisson, 0)
    sums.inverse_total[...] = 1 / (var_poisson + var_read)


def _sum_segments(sums, ramps, signal, pixels, times, scratch, product):
    """Fit the segments of gathered ramps, and write their sums, and the segments into the optional product."""
    # A ramp with a saturated first group has no segments.
    segments = find_segments(np.where(ramps.groupdq[0] & SATURATED, ramps.groupdq[0], ramps.groupdq))
    pixel = ramps.pixel[segments.ramp]
    gain, read_noise = pixels.gain[pixel], pixels.read_noise[pixel]
    time = ramps.single_group_time[segments.ramp]
    lines = None if product is None else np.empty((3, len(segments.ramp)))
    slope = segment_slopes(ramps.samples, segments, gain, read_noise, times.group, time, scratch, lines)

    time = np.where(segments.length == 1, time, times.group)
    var_poisson = signal[pixel] / (time * gain * np.maximum(segments.length - 1.0, 1.0))
    var_read = read_noise_variance(segments.length, gain, read_noise, time)

    def put(target, values):
        # bincount adds in the order of the segments.
        target.reshape(-1)[ramps.which] = np.bincount(segments.ramp, values, len(ramps.which))

    put(sums.slope, slope / var_read)
    put(sums.inverse_read, 1 / var_read)
    put(sums.inverse_poisson, np.where(var_poisson > 0, 1 / var_poisson, 0))
    put(sums.inverse_total, 1 / (var_poisson + var_read))
    if product is not None:
        product.put_segments(ramps, segments, slope, lines, var_poisson, var_read)


def _finish_rateints(sums, flags, ramps, pixels):
    """Return the rates, variances and flags of each integration, without flags of partial saturation."""
    dq = pixels.dq | (flags & np.uint8(JUMP_DET | PERSISTENCE))
    starts_saturated = ramps.groupdq[0] & SATURATED != 0
    lost = np.all(ramps.groupdq & _INVALID, axis=0) | starts_saturated
    dq.reshape(-1)[ramps.which[lost]] |= np.uint32(DO_NOT_USE)
    dq.reshape(-1)[ramps.which[starts_saturated]] |= np.uint32(SATURATED)

    var_poisson = _invert(sums.inverse_poisson)
    var_rnoise = 1 / sums.inverse_read
    var_rnoise[var_rnoise >= LARGE_VARIANCE] = 0
    rate = sums.slope * var_rnoise
    variance = 1 / sums.inverse_total
    variance[variance > LARGE_VARIANCE] = 0
    err = np.sqrt(variance)

    invalid = dq & _INVALID != 0
    rate[invalid] = np.nan
    for values in (var_poisson, var_rnoise, err):
        values[invalid] = 0
    return {"rate": rate, "dq": dq, "var_poisson": var_poisson, "var_rnoise": var_rnoise, "err": err}


def _finish_rate(sums, flags, rateints, pixels):
    """Return the rate: the mean of the integrations, weighted by their read noise."""
    dq = pixels.dq | (np.bitwise_or.reduce(flags, axis=0) & np.uint8(JUMP_DET | PERSISTENCE))
    dq |= np.bitwise_and.reduce(rateints["dq"], axis=0) & np.uint32(_INVALID)

    var_poisson = _invert(_add_up(sums.inverse_poisson))
    inverse_read = _add_up(sums.inverse_read)
    var_rnoise = np.where(inverse_read > 0, 1 / inverse_read, inverse_read)
    var_rnoise[var_rnoise >= LARGE_VARIANCE] = 0
    err = np.sqrt(var_poisson + var_rnoise)
    rate = _add_up(sums.slope)

    invalid = dq & _INVALID != 0
    for values in (var_poisson, var_rnoise, err):
        values[invalid] = 0
    rate[invalid] = np.nan
    rate *= var_rnoise
    return {"rate": rate, "dq": dq, "var_poisson": var_poisson, "var_rnoise": var_rnoise, "err": err}


def _invert(inverse_variance):
    """Return the inverse where it is positive and below `LARGE_VARIANCE`, else 0."""
    variance = np.where(inverse_variance > 0, 1 / inverse_variance, 0)
    variance[variance >= LARGE_VARIANCE] = 0
    return variance


def _flag_partial_saturation(rate, rateints, flags, ramps):
    """Set SATURATED for ramps with saturated groups; their slopes are kept."""
    partial = flags & np.uint8(SATURATED)
    if len(ramps.samples) == 1:
        partial.reshape(-1)[ramps.which[ramps.is_zeroframe]] = 0
    rateints["dq"] |= partial
    rate["dq"] |= np.bitwise_or.reduce(partial, axis=0)


def _restore_charge_loss(rate, rateints, flags, original_groupdq, ramps, pixels, times):
    """Compute the read-noise variance from the groups that were good before charge migration was flagged.

    As in stcal, the error is not changed.
    """
    lossy = flags & CHARGELOSS != 0
    affected = lossy.any(axis=0)
    if not affected.any():
        return
    # All of these are among the gathered ramps.
    chosen = lossy.reshape(-1)[ramps.which]
    which, pixel = ramps.which[chosen], ramps.pixel[chosen]
    dq = original_groupdq[which // lossy.shape[1], :, pixel].T
    dq = np.where(dq & CHARGELOSS, dq ^ (DO_NOT_USE | CHARGELOSS), dq)
    segments = find_segments(dq)
    of_segment = pixel[segments.ramp]
    time = np.where(segments.length == 1, ramps.single_group_time[chosen][segments.ramp], times.group)
    variance = read_noise_variance(segments.length, pixels.gain[of_segment], pixels.read_noise[of_segment], time)
    inverse = np.bincount(segments.ramp, np.where(variance > 0, 1 / variance, 0), len(which))
    restored = 1 / inverse
    restored[restored >= LARGE_VARIANCE] = 0

    var_rnoise = rateints["var_rnoise"]
    inverse_read = np.where(var_rnoise > 0, 1 / var_rnoise, 0)
    inverse_read.reshape(-1)[which] = inverse
    var_rnoise.reshape(-1)[which] = restored
    total = _add_up(inverse_read)
    combined = np.where(total > 0, 1 / total, rate["var_rnoise"])
    combined[combined >= LARGE_VARIANCE] = 0
    rate["var_rnoise"][affected] = combined[affected]
