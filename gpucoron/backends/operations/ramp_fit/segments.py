"""Segments of ramps: their limits, weights and slopes.

A segment is a run of usable groups between cosmic rays. Ramps are columns, ``(ngroups, nramps)``; the work is
vectorized over ramps or segments, in blocks that fit into the cache.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpucoron.backends.operations.ramp_fit.median_network import MOST_PLANES, median_of_planes
from gpucoron.dq import DO_NOT_USE, JUMP_DET, PERSISTENCE

#: The signal-to-noise ratio of a segment selects the power of its weights: the first below 5, the last from 100 on.
SNR_LIMITS = (5.0, 10.0, 20.0, 50.0, 100.0)
POWERS = (0.0, 0.4, 1.0, 3.0, 6.0, 10.0)

#: the square root of 2 with the digits of stcal
SQRT_2 = 1.41421356

#: Float64 samples in a block. Smaller blocks fit the cache better, but threads then wait for the interpreter lock.
BLOCK_SAMPLES = 2**18


@dataclass(frozen=True)
class Segments:
    """Segments of several ramps, sorted by ramp and, within a ramp, by time.

    ``ramp`` is the column of the ramp, ``start`` the first group and ``length`` the number of groups, (nsegments,).
    """

    ramp: np.ndarray
    start: np.ndarray
    length: np.ndarray


def find_segments(groupdq):
    """Divide ramps into segments.

    A segment is a run of groups without flags other than PERSISTENCE, plus the group before it if that has JUMP_DET
    and no other flags except PERSISTENCE. Segments of one group are used only if a ramp has no longer ones, and then
    only the first.

    Parameters
    ----------
    groupdq : (ngroups, nramps) uint8

    Returns
    -------
    Segments
    """
    ngroups, nramps = groupdq.shape
    # All ramps in one array, separated by a flagged group.
    flags = np.full((nramps, ngroups + 1), DO_NOT_USE, np.uint8)
    flags[:, 1:] = groupdq.T
    flags = flags.reshape(-1)
    flags &= np.uint8(~PERSISTENCE & 0xFF)
    good = flags == 0
    begin = np.flatnonzero(good[1:] > good[:-1]) + 1
    end = np.flatnonzero(good[1:] < good[:-1]) + 1
    if len(end) < len(begin):
        end = np.append(end, len(good))
    begin -= flags[begin - 1] == JUMP_DET
    length = end - begin
    ramp, place = np.divmod(begin, ngroups + 1)

    has_long = np.zeros(nramps, bool)
    has_long[ramp[length > 1]] = True
    is_first = np.ones(len(ramp), bool)
    is_first[1:] = ramp[1:] != ramp[:-1]
    kept = (length > 1) | (is_first & ~has_long[ramp])
    return Segments(ramp[kept], place[kept] - 1, length[kept])


class Scratch:
    """Arrays for one block of ramps, reused for all blocks, because allocating new ones would be slow."""

    def __init__(self, ngroups):
        self.ramps = max(2, BLOCK_SAMPLES // ngroups)
        self._arrays = np.empty((4, ngroups * self.ramps))

    def array(self, which, *shape):
        """Return array ``which`` of four as float64 of this shape."""
        return self._arrays[which, : math.prod(shape)].reshape(shape)

    def blocks(self, nramps):
        """Return slices of ``nramps`` that fit into the arrays."""
        return [slice(start, min(start + self.ramps, nramps)) for start in range(0, nramps, self.ramps)]


def median_rates(samples, group_time, groupdq, scratch):
    """Return the median rate of each ramp, for the Poisson variance.

    It is the median of the first differences, without those of DO_NOT_USE or NaN groups and those with JUMP_DET in the
    later group. Without any difference it is the first group over ``group_time``, or 0 if that group is not usable.

    Parameters
    ----------
    samples : (ngroups, nramps) float64, DN
        NaN where saturated; ``nramps`` at most ``scratch.ramps``.
    group_time : float, s
    groupdq : (ngroups, nramps) uint8 or None
        None if there are no flags and no NaN.
    scratch : Scratch

    Returns
    -------
    (nramps,) float64, DN/s
    """
    ngroups, nramps = samples.shape
    rates = np.divide(samples, group_time, out=scratch.array(0, ngroups, nramps))
    if groupdq is not None:
        rates[groupdq & DO_NOT_USE != 0] = np.nan
    differences = np.subtract(rates[1:], rates[:-1], out=scratch.array(1, ngroups - 1, nramps))
    if groupdq is not None:
        differences[groupdq[1:] & JUMP_DET != 0] = np.nan
        n_valid = np.count_nonzero(~np.isnan(differences), axis=0)
        differences[0, n_valid == 0] = rates[0, n_valid == 0]
    if groupdq is None and len(differences) <= MOST_PLANES:
        return median_of_planes(differences, scratch.array(2, nramps))
    rows = scratch.array(2, nramps, ngroups - 1)
    rows[...] = differences.T
    if groupdq is None:
        lower, upper = (ngroups - 2) // 2, (ngroups - 1) // 2
        rows.partition((lower, upper) if lower < upper else upper, axis=1)
        return (rows[:, upper] + rows[:, lower]) / 2
    rows.sort(axis=1)  # NaN last
    n_valid = np.maximum(n_valid, 1)
    ramps = np.arange(nramps)
    # For an odd count both are the same value x, and (x + x) / 2 is exact.
    median = (rows[ramps, n_valid // 2] + rows[ramps, (n_valid - 1) // 2]) / 2
    median[np.isnan(median)] = 0
    return median


def weighting_class(rise, gain, read_noise):
    """Classify segments by the signal-to-noise ratio of their rise; the class is an index of `POWERS`.

    Parameters
    ----------
    rise : (n,) float64, DN
        Last group minus first group.
    gain : (n,) float64, e-/DN
    read_noise : (n,) float64, e-

    Returns
    -------
    (n,) intp
        NaN ratios are in the last class.
    """
    signal = rise * gain
    variance = read_noise * read_noise + signal
    snr = signal / np.sqrt(variance)
    snr[(variance <= 0) | (gain == 0)] = 0
    classes = np.zeros(len(snr), np.intp)
    for limit in SNR_LIMITS:
        classes += ~(snr < limit)
    return classes


@lru_cache(maxsize=4096)
def weight_table(length):
    """Return the weights of a segment's groups, before division by the squared read noise.

    The weight of group ``i`` is ``|(i - m) / m| ** power`` with ``m = (length - 1) / 2``, rounded to float32 as by
    ``powf``.

    Returns
    -------
    (length, len(POWERS)) float64
    """
    half = _half_of_weights(length).T
    table = np.empty((length, len(POWERS)))
    table[: len(half)], table[length - length // 2 :] = half, half[: length // 2][::-1]
    table.setflags(write=False)
    return table


@lru_cache(maxsize=4)
def weight_tables(longest):
    """Return the weights of all segments of up to ``longest`` groups in one array, as the kernels read them.

    Returns
    -------
    (n,) float32
        For each length from 0 on, and each of `POWERS`: the weights of the first half of the groups; the second half
        is symmetric. The parts for lengths 0 to 2 are 0.
    """
    tables = np.zeros(len(POWERS) * ((longest + 1) ** 2 // 4), np.float32)
    for length in range(3, longest + 1):
        half = _half_of_weights(length)
        start = len(POWERS) * (length**2 // 4)
        tables[start : start + half.size] = half.reshape(-1)
    tables.setflags(write=False)
    return tables


def _half_of_weights(length):
    """Return the weights of the first half of a segment's groups: (len(POWERS), (length + 1) // 2) float32."""
    middle = (length - 1) / 2
    distance = np.abs((np.arange((length + 1) // 2) - middle) * (1 / middle)).astype(np.float32)
    weights = np.ones((len(POWERS), len(distance)), np.float32)
    for weight, power in zip(weights, np.float32(POWERS), strict=True):
        if power == 1:
            weight[...] = distance
        elif power > 0:
            # NumPy's scalars call powf of the C library, as stcal; its array loops may not.
            weight[...] = [x**power for x in distance]
    return weights


def fit_lines(values, numbers, weights, inverse_variance, scratch, lines=None):
    """Fit straight lines with weights.

    Float64, summed in the order of the groups and without fused operations, so that results are equal to stcal's.

    Parameters
    ----------
    values : (ngroups, n) float64, DN
    numbers : (ngroups, n) or (ngroups, 1) float64
        The number of each group.
    weights : (ngroups, n) float64
        Overwritten.
    inverse_variance : (n,) float64
    scratch : Scratch
        Array 2 is overwritten.
    lines : (3, n) float64, optional
        Receives the standard deviation of the slope, DN per group, the intercept and its standard deviation, DN.

    Returns
    -------
    (n,) float64, DN per group
        The slopes.
    """
    weights *= inverse_variance
    xweights = np.multiply(weights, numbers, out=scratch.array(2, *weights.shape))
    w = _sum_groups(weights)
    x = _sum_groups(xweights)
    y = _sum_groups(np.multiply(weights, values, out=weights))
    xy = _sum_groups(np.multiply(xweights, values, out=weights))
    xx = _sum_groups(np.multiply(xweights, numbers, out=xweights))
    inverse_determinant = 1 / (w * xx - x * x)
    if lines is not None:
        np.sqrt(w * inverse_determinant, out=lines[0])
        np.multiply(xx * y - x * xy, inverse_determinant, out=lines[1])
        np.sqrt(xx * inverse_determinant, out=lines[2])
    return (w * xy - x * y) * inverse_determinant


def _sum_groups(values):
    """Sum over the first axis in order; NumPy's sum has another order if the second axis has length 1."""
    if values.shape[1] == 1:
        return np.cumsum(values, axis=0)[-1]
    return np.add.reduce(values, axis=0)


def fit_whole_ramps(samples, first, gain, readnoise, group_time, scratch, lines=None):
    """Fit all ramps of a tile as if they had no flags.

    Parameters
    ----------
    samples : (ngroups, nints * npixels) float64, DN
        At least three groups.
    first : int
        Number of the first of these groups in the ramp.
    gain, readnoise : (npixels,) float64, e-/DN and e-
    group_time : float, s
    scratch : Scratch
    lines : (3, nints * npixels) float64, optional
        As for `fit_lines`.

    Returns
    -------
    slopes, medians : (nints * npixels,) float64
        DN/s. Slopes are NaN for values that are not finite or invalid read noise; the medians there are undefined.
    """
    ngroups, nramps = samples.shape
    repeats = nramps // len(gain)
    gain, noise = np.tile(gain, repeats), np.tile(readnoise, repeats)
    classes = weighting_class(samples[-1] - samples[0], gain, noise)
    inverse_variance = 1 / (noise * noise)
    numbers = np.arange(first, first + ngroups, dtype=np.float64)[:, np.newaxis]
    table = weight_table(ngroups)
    slopes, medians = np.empty(nramps), np.empty(nramps)
    for block in scratch.blocks(nramps):
        values = samples[:, block]
        weights = table.take(classes[block], axis=1, out=scratch.array(0, *values.shape), mode="clip")
        of_block = None if lines is None else lines[:, block]
        slopes[block] = fit_lines(values, numbers, weights, inverse_variance[block], scratch, of_block)
        medians[block] = median_rates(values, group_time, None, scratch)
    slopes /= group_time
    return slopes, medians


def segment_slopes(samples, segments, gain, read_noise, group_time, single_group_time, scratch, lines=None):
    """Fit the slope of each segment.

    Parameters
    ----------
    samples : (ngroups, nramps) float64, DN
        C-contiguous.
    segments : Segments
    gain : (nsegments,) float64, e-/DN
    read_noise : (nsegments,) float64, e-
    group_time : float, s
    single_group_time : (nsegments,) float64, s
        Integration time of a segment of one group.
    scratch : Scratch
    lines : (3, nsegments) float64, optional
        As for `fit_lines`; 0 for segments of one group.

    Returns
    -------
    (nsegments,) float64, DN/s
        NaN in a good group counts as 0 in segments of three groups or more; in shorter ones the slope is NaN.
    """
    nramps = samples.shape[1]
    samples = samples.reshape(-1)
    begin = segments.start * nramps + segments.ramp
    length = segments.length
    first = samples[begin]
    last = samples[begin + (length - 1) * nramps]
    rise = last - first
    if lines is not None:
        second = segments.start + 1.0
        noise = np.where(length == 2, SQRT_2 * read_noise, 0)
        lines[...] = noise, np.where(length == 2, last * (1 - second) + first * second, 0), noise
    slopes = np.where(length == 1, first / single_group_time, rise / group_time)

    # Sorted by length, so that the segments of a block have similar lengths.
    order = np.argsort(-length, kind="stable")
    order = order[: np.count_nonzero(length > 2)]
    if not order.size:
        return slopes
    length, noise = length[order], read_noise[order]
    weights, rows = _stack_weights(length, weighting_class(rise[order], gain[order], noise))
    inverse_variance = 1 / (noise * noise)
    begin, start = begin[order], segments.start[order].astype(np.float64)
    for block in scratch.blocks(len(order)):
        longest = int(length[block][0])
        shape = longest, len(length[block])
        step = np.arange(longest)[:, np.newaxis]
        place = np.add(begin[block], step * nramps, out=scratch.array(0, *shape).view(np.intp))
        # Beyond the end of a shorter segment the weight is 0, and the value must be finite.
        values = samples.take(place, out=scratch.array(1, *shape), mode="clip")
        unused = np.isnan(values)
        if length[block][-1] < longest:
            unused |= step >= length[block]
        np.copyto(values, 0.0, where=unused)
        chosen = weights[:longest].take(rows[block], axis=1, out=scratch.array(0, *shape), mode="clip")
        numbers = np.add(start[block], step, out=scratch.array(3, *shape))
        found = None if lines is None else np.empty((3, len(length[block])))
        slopes[order[block]] = fit_lines(values, numbers, chosen, inverse_variance[block], scratch, found)
        if lines is not None:
            lines[:, order[block]] = found
    slopes[order] /= group_time
    return slopes


def _stack_weights(length, classes):
    """Return the weight tables of all occurring lengths, (longest, rows), and the row of each segment."""
    occurring, which = np.unique(length, return_inverse=True)
    weights = np.zeros((occurring[-1], len(occurring), len(POWERS)))
    for i, n in enumerate(occurring):
        weights[:n, i] = weight_table(int(n))
    return weights.reshape(len(weights), -1), which * len(POWERS) + classes


def read_noise_variance(length, gain, read_noise, time):
    """Return the variance of a segment's slope from read noise, (DN/s)^2.

    Parameters
    ----------
    length : int or (nsegments,) int
    gain, read_noise : float64, e-/DN and e-
    time : float or float64, s
        ``group_time``; for a segment of one group, its integration time.

    Notes
    -----
    ``12 R^2 / (n^3 - n) / t^2`` of Robberto (2008, JWST-STScI-0001490), where one group counts as two; 0 for three
    groups or more if the gain is not positive.
    """
    n = np.maximum(length, 2).astype(np.float64)
    noise = read_noise / time
    variance = 12.0 * noise * noise / ((n * n * n - n) * gain * gain)
    return np.where((length > 2) & ~(gain > 0), 0.0, variance)
