"""Segments of ramps: where they begin and end, how they are weighted, and what slope each one has.

A segment is a run of usable groups between cosmic rays. Ramps come as columns, ``(ngroups, nramps)``; the work is
vectorised over ramps or segments, in blocks that fit the cache.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpucoron.backends.operations.ramp_fit.median_network import MOST_PLANES, median_of_planes
from gpucoron.dq import DO_NOT_USE, JUMP_DET, PERSISTENCE

#: A segment's signal-to-noise ratio picks the power of its weights: below 5 the first, from 100 on the last.
SNR_LIMITS = (5.0, 10.0, 20.0, 50.0, 100.0)
POWERS = (0.0, 0.4, 1.0, 3.0, 6.0, 10.0)

#: Samples worked on at once, float64. A core's cache would hold a quarter of them, but the operations on so few end so
#: soon that threads wait for the interpreter lock.
BLOCK_SAMPLES = 2**18


@dataclass(frozen=True)
class Segments:
    """Segments of several ramps, in the order of the ramps and, within a ramp, of time.

    ``ramp`` is the column of the ramp, ``start`` the first group and ``length`` the number of groups, (nsegments,).
    """

    ramp: np.ndarray
    start: np.ndarray
    length: np.ndarray


def find_segments(groupdq):
    """Cut ramps into segments.

    A segment is a run of groups without any flag but PERSISTENCE, led by the group before it if that one has JUMP_DET
    (and at most PERSISTENCE beside it). Segments of one group count only where a ramp has none longer, and then only
    the first one.

    Parameters
    ----------
    groupdq : (ngroups, nramps) uint8

    Returns
    -------
    Segments
    """
    ngroups, nramps = groupdq.shape
    # One ramp after the other, parted by a flagged group: a run is then a run of the flat array.
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
    """Arrays for one block of ramps, used again and again: fresh pages would cost more than the arithmetic on them."""

    def __init__(self, ngroups):
        self.ramps = max(2, BLOCK_SAMPLES // ngroups)
        self._arrays = np.empty((4, ngroups * self.ramps))

    def array(self, which, *shape):
        """Array number ``which`` of four as float64 of this shape."""
        return self._arrays[which, : math.prod(shape)].reshape(shape)

    def blocks(self, nramps):
        """Cut ``nramps`` into slices that fit."""
        return [slice(start, min(start + self.ramps, nramps)) for start in range(0, nramps, self.ramps)]


def median_rates(samples, group_time, groupdq, scratch):
    """Take the median rate of each ramp, for the Poisson variance.

    It is the median of the first differences, without those that touch a DO_NOT_USE or NaN group or lead to a
    JUMP_DET group. A ramp without differences answers its first group over ``group_time``, if that is usable, else 0.

    Parameters
    ----------
    samples : (ngroups, nramps) float64, DN
        NaN where saturated; ``nramps`` at most ``scratch.ramps``.
    group_time : float, s
    groupdq : (ngroups, nramps) uint8 or None
        None if nothing is flagged and nothing NaN.
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
    rows.sort(axis=1)  # NaN go last
    n_valid = np.maximum(n_valid, 1)
    ramps = np.arange(nramps)
    # An odd count has one middle, and x + x halves without loss.
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
        A ratio of NaN has the last class.
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
    """Tabulate the weights of a segment's groups, before division by the squared read noise.

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
    """Put the weights of all segments of so many groups or fewer behind each other, as the kernels read them.

    Returns
    -------
    (n,) float32
        For each length from 0 on, and each of `POWERS`, those of the first half of the groups, which the others mirror.
        The parts of length 0 to 2, for which there are no weights, are 0.
    """
    tables = np.zeros(len(POWERS) * ((longest + 1) ** 2 // 4), np.float32)
    for length in range(3, longest + 1):
        half = _half_of_weights(length)
        start = len(POWERS) * (length**2 // 4)
        tables[start : start + half.size] = half.reshape(-1)
    tables.setflags(write=False)
    return tables


def _half_of_weights(length):
    """Tabulate the weights of the first half of a segment's groups: (len(POWERS), (length + 1) // 2) float32."""
    middle = (length - 1) / 2
    distance = np.abs((np.arange((length + 1) // 2) - middle) * (1 / middle)).astype(np.float32)
    weights = np.ones((len(POWERS), len(distance)), np.float32)
    for weight, power in zip(weights, np.float32(POWERS), strict=True):
        if power == 1:
            weight[...] = distance
        elif power > 0:
            # NumPy's scalars call the C library's powf, which its array loops need not.
            weight[...] = [x**power for x in distance]
    return weights


def weighted_slopes(values, numbers, weights, inverse_variance, scratch):
    """Fit straight lines with weights.

    Float64, summed in the order of the groups and without fused operations: this makes slopes equal to stcal's.

    Parameters
    ----------
    values : (ngroups, n) float64, DN
    numbers : (ngroups, n) or (ngroups, 1) float64
        The number of each group.
    weights : (ngroups, n) float64
        Overwritten.
    inverse_variance : (n,) float64
    scratch : Scratch
        Of its arrays, number 2 is used.

    Returns
    -------
    (n,) float64, DN per group
    """
    weights *= inverse_variance
    xweights = np.multiply(weights, numbers, out=scratch.array(2, *weights.shape))
    w = _sum_groups(weights)
    x = _sum_groups(xweights)
    y = _sum_groups(np.multiply(weights, values, out=weights))
    xy = _sum_groups(np.multiply(xweights, values, out=weights))
    xx = _sum_groups(np.multiply(xweights, numbers, out=xweights))
    return (w * xy - x * y) * (1 / (w * xx - x * x))


def _sum_groups(values):
    """Sum over the first axis, one after the other: with a second axis of one, NumPy would add in pairs."""
    if values.shape[1] == 1:
        return np.cumsum(values, axis=0)[-1]
    return np.add.reduce(values, axis=0)


def segment_slopes(samples, segments, gain, read_noise, group_time, single_group_time, scratch):
    """Fit each segment.

    Parameters
    ----------
    samples : (ngroups, nramps) float64, DN
        C-contiguous.
    segments : Segments
    gain : (nsegments,) float64, e-/DN
    read_noise : (nsegments,) float64, e-
    group_time : float, s
    single_group_time : (nsegments,) float64, s
        The time that a segment of one group has integrated.
    scratch : Scratch

    Returns
    -------
    (nsegments,) float64, DN/s
        NaN in a good group counts as 0 in segments of three groups and more; in shorter ones it makes the slope NaN.
    """
    nramps = samples.shape[1]
    samples = samples.reshape(-1)
    begin = segments.start * nramps + segments.ramp
    length = segments.length
    first = samples[begin]
    rise = samples[begin + (length - 1) * nramps] - first
    slopes = np.where(length == 1, first / single_group_time, rise / group_time)

    # By length, so that the segments of a block are about equally long.
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
        # Past the end of a shorter segment the weight is 0, and the value must be finite.
        values = samples.take(place, out=scratch.array(1, *shape), mode="clip")
        unused = np.isnan(values)
        if length[block][-1] < longest:
            unused |= step >= length[block]
        np.copyto(values, 0.0, where=unused)
        chosen = weights[:longest].take(rows[block], axis=1, out=scratch.array(0, *shape), mode="clip")
        numbers = np.add(start[block], step, out=scratch.array(3, *shape))
        slopes[order[block]] = weighted_slopes(values, numbers, chosen, inverse_variance[block], scratch)
    slopes[order] /= group_time
    return slopes


def _stack_weights(length, classes):
    """Stack the weight tables of the lengths that occur, (longest, rows), and tell each segment's row."""
    occurring, which = np.unique(length, return_inverse=True)
    weights = np.zeros((occurring[-1], len(occurring), len(POWERS)))
    for i, n in enumerate(occurring):
        weights[:n, i] = weight_table(int(n))
    return weights.reshape(len(weights), -1), which * len(POWERS) + classes


def read_noise_variance(length, gain, read_noise, time):
    """Variance of a segment's slope from read noise, (DN/s)^2.

    Parameters
    ----------
    length : int or (nsegments,) int
    gain, read_noise : float64, e-/DN and e-
    time : float or float64, s
        ``group_time``; for a segment of one group, the time that it has integrated.

    Notes
    -----
    ``12 R^2 / (n^3 - n) / t^2`` of Robberto (2008, JWST-STScI-0001490), where one group counts as two; 0 for three
    groups and more where the gain is not positive.
    """
    n = np.maximum(length, 2).astype(np.float64)
    noise = read_noise / time
    variance = 12.0 * noise * noise / ((n * n * n - n) * gain * gain)
    return np.where((length > 2) & ~(gain > 0), 0.0, variance)
