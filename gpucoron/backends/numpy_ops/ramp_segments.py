"""Segments of ramps: where they begin and end, how they are weighted, and what slope each one has.

A segment is a run of usable groups between cosmic rays. The ramps come gathered, one per row, ``(nramps, ngroups)``;
the work is vectorised over ramps or segments, with a loop over the groups only.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpucoron.dq import DO_NOT_USE, JUMP_DET, PERSISTENCE

#: A segment's signal-to-noise ratio picks the power of its weights: below 5 the first, from 100 on the last.
SNR_LIMITS = (5.0, 10.0, 20.0, 50.0, 100.0)
POWERS = (0.0, 0.4, 1.0, 3.0, 6.0, 10.0)


@dataclass(frozen=True)
class Segments:
    """Segments of gathered ramps, in the order of the ramps and, within a ramp, of time.

    ``ramp`` is the row of the ramp, ``start`` the first group and ``length`` the number of groups, all (nsegments,).
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
    groupdq : (nramps, ngroups) uint8

    Returns
    -------
    Segments
    """
    flags = groupdq & np.uint8(~PERSISTENCE & 0xFF)
    good = flags == 0
    opens = good.copy()
    opens[:, 1:] &= ~good[:, :-1]
    closes = good.copy()
    closes[:, :-1] &= ~good[:, 1:]
    ramp, start = np.nonzero(opens)
    end = np.nonzero(closes)[1] + 1
    start -= (start > 0) & (flags[ramp, start - 1] == JUMP_DET)
    length = end - start

    has_long = np.zeros(len(groupdq), bool)
    has_long[ramp[length > 1]] = True
    is_first = np.ones(len(ramp), bool)
    is_first[1:] = ramp[1:] != ramp[:-1]
    kept = (length > 1) | (is_first & ~has_long[ramp])
    return Segments(ramp[kept], start[kept], length[kept])


def median_rates(samples, groupdq, group_time):
    """Take the median rate of each ramp, for the Poisson variance.

    It is the median of the first differences, without those that touch a DO_NOT_USE or NaN group or lead to a
    JUMP_DET group. A ramp without differences answers its first group over ``group_time``, if that is usable, else 0.

    Parameters
    ----------
    samples : (nramps, ngroups) float64, DN
        NaN where saturated.
    groupdq : (nramps, ngroups) uint8
    group_time : float, s

    Returns
    -------
    (nramps,) float64, DN/s
    """
    rates = samples / group_time
    rates[groupdq & DO_NOT_USE != 0] = np.nan
    first = rates[:, 0]
    differences = rates[:, 1:] - rates[:, :-1]
    differences[groupdq[:, 1:] & JUMP_DET != 0] = np.nan
    n_valid = np.count_nonzero(~np.isnan(differences), axis=1)
    differences[n_valid == 0, 0] = first[n_valid == 0]
    differences.sort(axis=1)  # NaN go last
    rows = np.arange(len(samples))
    n_valid = np.maximum(n_valid, 1)
    upper = differences[rows, n_valid // 2]
    lower = differences[rows, (n_valid - 1) // 2]
    # An odd count has upper == lower, and x + x halves without loss.
    median = (upper + lower) / 2
    median[np.isnan(median)] = 0
    return median


def weighting_class(rise, gain, read_noise):
    """Classify segments by the signal-to-noise ratio of their rise; the class is an index of `POWERS`.

    Parameters
    ----------
    rise : float64, DN
        Last group minus first group.
    gain : float64, e-/DN
    read_noise : float64, e-

    Returns
    -------
    intp, of the common shape; a ratio of NaN has the last class
    """
    signal = rise * gain
    variance = read_noise * read_noise + signal
    snr = signal / np.sqrt(variance)
    snr[(variance <= 0) | np.broadcast_to(gain == 0, snr.shape)] = 0
    classes = np.zeros(snr.shape, np.intp)
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
    (length, len(POWERS)) float32
    """
    middle = (length - 1) / 2
    distance = [np.float32(abs((group - middle) * (1 / middle))) for group in range(length)]
    # NumPy's scalars call the C library's powf, which its array loops need not.
    table = np.array([[x ** np.float32(power) for power in POWERS] for x in distance], np.float32)
    table.setflags(write=False)
    return table


class WeightedSums:
    """The sums of a weighted straight-line fit, added up group by group.

    Float64, in the order of the groups and without fused operations: this is what makes slopes equal to stcal's.
    """

    def __init__(self, shape):
        self.w, self.x, self.xx, self.y, self.xy = np.zeros((5, *shape))
        self._scratch = np.empty((2, *shape))

    def add(self, x, y, weight):
        """Add one group: ``x`` its number, ``y`` its value, for the first ``len(weight)`` of the fits."""
        n = len(weight)
        xweight, product = self._scratch[:, :n]
        np.multiply(weight, x, out=xweight)
        self.w[:n] += weight
        self.x[:n] += xweight
        self.xx[:n] += np.multiply(xweight, x, out=product)
        self.y[:n] += np.multiply(weight, y, out=product)
        self.xy[:n] += np.multiply(xweight, y, out=product)

    def slope(self):
        """Solve for the slope, in units of y per group."""
        determinant = self.w * self.xx - self.x * self.x
        return (self.w * self.xy - self.x * self.y) * (1 / determinant)


def segment_slopes(samples, segments, gain, read_noise, group_time, single_group_time):
    """Fit each segment.

    Parameters
    ----------
    samples : (nramps, ngroups) float64, DN
    segments : Segments
    gain : (nsegments,) float64, e-/DN
    read_noise : (nsegments,) float64, e-
    group_time : float, s
    single_group_time : (nsegments,) float64, s
        The time that a segment of one group has integrated.

    Returns
    -------
    (nsegments,) float64, DN/s
        NaN in a good group counts as 0 in segments of three groups and more; in shorter ones it makes the slope NaN.
    """
    values = np.ascontiguousarray(samples).reshape(-1)
    begin = segments.ramp * samples.shape[1] + segments.start
    length = segments.length
    first = values[begin]
    rise = values[begin + length - 1] - first
    slopes = np.where(length == 1, first / single_group_time, rise / group_time)

    # Longest first: those that still have a group at step k are then the first n.
    order = np.argsort(-length, kind="stable")
    order = order[: np.count_nonzero(length > 2)]
    if not order.size:
        return slopes
    begin, start, length = begin[order], segments.start[order].astype(np.float64), length[order]
    noise = read_noise[order]
    weights, row = _stack_weights(length, weighting_class(rise[order], gain[order], noise))
    inverse_variance = 1 / (noise * noise)
    sums = WeightedSums(order.shape)
    for group in range(length[0]):
        n = np.searchsorted(-length, -group)
        value = values[begin[:n] + group]
        value[np.isnan(value)] = 0
        sums.add(start[:n] + group, value, weights[group].take(row[:n]) * inverse_variance[:n])
    slopes[order] = sums.slope() / group_time
    return slopes


def _stack_weights(length, classes):
    """Stack the weight tables of the lengths that occur: (max length, rows), and each segment's row."""
    occurring, which = np.unique(length, return_inverse=True)
    weights = np.zeros((occurring[-1], len(occurring), len(POWERS)), np.float32)
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
