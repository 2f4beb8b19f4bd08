"""The kTC pedestal of every ramp, from a straight line through its unsaturated groups, by running sums.

A line through the first n groups, equally spaced, needs two sums. One pass over the groups computes them for all n; for
pixels with fewer groups the sums are saved at their last group.
"""

import numpy as np

from gpucoron.backends.tiles import for_each_tile
from gpucoron.dq import DO_NOT_USE

#: The sums of a tile stay in the cache.
_TILE_BYTES = 2**18


def fit_ktc(device, data, groupdq, limit, *, settings):
    """Fit each ramp's pedestal and slope by an unweighted straight line through its early groups.

    The line uses all groups up to the last one that is below ``limit`` and usable. Groups are usable before the first
    one that is DO_NOT_USE or NaN. Group k (from 0) is read at ``(k + 1) group_time``.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    limit : (ny, nx) float, DN
        If NaN, no group is used.
    settings : SubtractKtcSettings

    Returns
    -------
    pedestal : (nints, ny, nx) float64, DN
        The line's value at time zero; 0 if fewer than two groups are used.
    slope : (nints, ny, nx) float64, DN/s
        0 if fewer than two groups are used.

    Notes
    -----
    Source: spaceKLIP 2.2, ``cube_fit``.
    """
    nints, _, ny, nx = data.shape
    pedestal = np.empty((nints, ny, nx))
    slope = np.empty((nints, ny, nx))

    def fit_tile(rows):
        for i in range(nints):
            ramp = data[i, :, rows]
            length = _measure(ramp, _find_lost(ramp, groupdq[i, :, rows]), limit[rows])
            pedestal[i, rows], slope[i, rows] = _fit_lines(ramp, length, settings.group_time)

    for_each_tile(fit_tile, data.shape[1:], device.n_threads, _TILE_BYTES)
    return pedestal, slope


def fit_mean_slope(device, data, groupdq, pedestal, limit, *, settings):
    """Fit one slope to the mean ramp of all integrations, after subtraction of their pedestals.

    The mean uses the usable groups, as in `fit_ktc`; a group that is usable in no integration ends the ramp.

    Parameters
    ----------
    device, data, groupdq, settings
        As in `fit_ktc`.
    pedestal : (nints, ny, nx) float64, DN
    limit : (ny, nx) float, DN
        As in `fit_ktc`, after subtraction of the pedestal.

    Returns
    -------
    (ny, nx) float64, DN/s
        0 if fewer than two groups are used.

    Notes
    -----
    Source: spaceKLIP 2.2, ``fit_slopes_to_ramp_data`` with ``combine_ints``.
    """
    slope = np.empty(data.shape[2:])

    def fit_tile(rows):
        ramp, lost = _average_ramps(data[:, :, rows], groupdq[:, :, rows], pedestal[:, rows])
        slope[rows] = _fit_lines(ramp, _measure(ramp, lost, limit[rows]), settings.group_time)[1]

    for_each_tile(fit_tile, data.shape[1:], device.n_threads, _TILE_BYTES)
    return slope


def _find_lost(ramp, flags):
    """Yield for each group which pixels are lost: flagged or NaN in this group or an earlier one."""
    lost = np.zeros(ramp.shape[1:], bool)
    for group, dq in zip(ramp, flags, strict=True):
        lost |= (dq & DO_NOT_USE) != 0
        lost |= group != group  # NaN
        yield lost


def _average_ramps(data, groupdq, pedestal):
    """Return the mean of the integrations without their pedestals and lost pixels, and in which groups all are lost."""
    nints, ngroups = data.shape[:2]
    mean = np.zeros(data.shape[1:])
    count = np.full(data.shape[1:], nints, np.float64)
    for i in range(nints):
        for g, lost in enumerate(_find_lost(data[i], groupdq[i])):
            residual = data[i, g] - pedestal[i]
            where = np.flatnonzero(lost)
            residual.reshape(-1)[where] = 0
            count[g].reshape(-1)[where] -= 1
            mean[g] += residual
    mean /= np.maximum(count, 1)
    return mean, iter(count == 0)


def _measure(ramp, lost, limit):
    """Return the number of groups up to the last one that is below its limit and not lost, (ny, nx) uint16."""
    length = np.zeros(limit.shape, np.uint16)
    for g, (group, gone) in enumerate(zip(ramp, lost, strict=True)):
        ends = (group < limit) & ~gone
        np.maximum(length, ends * np.uint16(g + 1), out=length)
    return length


def _fit_lines(ramp, length, group_time):
    """Fit each pixel's first ``length`` groups; return the value at time zero and the slope, 0 below two groups."""
    # With S = y_0 + ... and D the sum of all S so far, sum of k y_k = n S - D.
    total, sum_of_totals = np.zeros((2, *length.shape))
    early = np.zeros((2, *length.shape))
    for n, group in enumerate(ramp, 1):
        total += group
        sum_of_totals += total
        if n < len(ramp):
            where = np.flatnonzero(length == n)
            early[0].flat[where], early[1].flat[where] = total.flat[where], sum_of_totals.flat[where]
    ends_early = length < len(ramp)
    np.copyto(total, early[0], where=ends_early)
    np.copyto(sum_of_totals, early[1], where=ends_early)

    n = np.maximum(length, 2).astype(np.float64)
    per_group = (n * total - sum_of_totals - (n - 1) / 2 * total) / (n * (n * n - 1) / 12)
    # The first group is read at group_time, not at zero.
    pedestal = total / n - per_group * (n + 1) / 2
    fitted = length >= 2
    return np.where(fitted, pedestal, 0), np.where(fitted, per_group / group_time, 0)
