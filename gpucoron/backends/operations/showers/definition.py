"""The search for showers: typical differences of each pixel, and pixels whose surroundings exceed them.

The NumPy definition also runs on CuPy arrays.
"""

import numpy as np

from gpucoron.backends.operations.showers.ring import make_ring, ring_sums, sums_margin
from gpucoron.backends.statistics import median_of_last
from gpucoron.backends.tiles import for_each_tile
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

UNUSABLE = DO_NOT_USE | SATURATED
FLAGGED = UNUSABLE | JUMP_DET

#: Bytes per pixel of the sums over a ring.
BYTES_OF_SUMS = 40
#: Most passes of the clipping, and its limit in standard deviations.
MOST_PASSES, CLIPPED_BEYOND = 5, 5.0


def median_differences(device, data, groupdq, gain, *, settings):
    """Find each pixel's median difference of neighbouring groups, over all integrations.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    gain : (ny, nx) float32, e-/DN
    settings : ShowerSettings

    Returns
    -------
    (ny, nx) float32, electrons
        NaN without any difference.
    """
    xp = device.xp

    def median(rows):
        with np.errstate(all="ignore"):
            found = _differences(xp, data[:, :, rows], groupdq[:, :, rows], gain[rows], settings.searched)
            pixels_first = xp.ascontiguousarray(found.reshape(-1, *found.shape[2:]).transpose(1, 2, 0))
            return median_of_last(pixels_first, xp=xp)

    return _over_rows(device, median, data.shape, axis=0)


def clip_differences(device, data, groupdq, gain, *, settings):
    """Find the clipped median and scatter of each difference of neighbouring groups, over the integrations.

    Parameters
    ----------
    device, data, groupdq, gain, settings
        As for `median_differences`.

    Returns
    -------
    median, scatter : (ngroups - 1, ny, nx) float32, electrons
        NaN without any difference.

    Notes
    -----
    Source: ``sigma_clipped_stats`` of astropy 8.0. The limits are computed in float64, the standard deviation in
    float32, both in the order of the integrations.
    """
    xp = device.xp

    def clip(rows):
        with np.errstate(all="ignore"):
            found = _differences(xp, data[:, :, rows], groupdq[:, :, rows], gain[rows], settings.searched)
            return _clipped_statistics(xp, found)

    medians, scatters = zip(*_over_rows(device, clip, data.shape), strict=True)
    return xp.concatenate(medians, axis=1), xp.concatenate(scatters, axis=1)


def find_excess(device, data, groupdq, excluded, gain, middle, noise, *, settings):
    """Find the pixels of one integration whose surroundings differ from the usual more than a threshold.

    A pixel's ratio is the distance of a difference from its middle, in units of the noise. Ratios are averaged over a
    ring about each pixel, without those of unusable pixels.

    Parameters
    ----------
    device : Device
    data : (ngroups, ny, nx) float32, DN
    groupdq : (ngroups, ny, nx) uint8
        Pixels with DO_NOT_USE, SATURATED or JUMP_DET are left out.
    excluded : (ny, nx) bool
        Pixels to leave out of all groups.
    gain : (ny, nx) float32, e-/DN
    middle, noise : (ny, nx) or (ngroups - 1, ny, nx) float32, electrons
    settings : ShowerSettings

    Returns
    -------
    (ngroups, ny, nx) bool
        False in the first group and in pixels without a ratio.

    Notes
    -----
    Source: stcal 1.20, ``find_faint_extended``, which convolves by transforms in float32. Ring sums within the rounding
    of these are convolved as there, on a CPU, so that the same pixels are found.
    """
    xp, ngroups = device.xp, len(data)
    found = xp.zeros(data.shape, bool)
    ring = make_ring(settings.extend_inner_radius, settings.extend_outer_radius)

    def search(part):
        with np.errstate(all="ignore"):
            for batch in device.batches(part.stop - part.start, BYTES_OF_SUMS * gain.size):
                groups = slice(part.start + 1 + batch.start, part.start + 1 + batch.stop)
                ratio, good = _ratios(xp, groups, data, groupdq, excluded, gain, middle, noise, settings.searched)
                found[groups] = _exceeds(xp, ratio, good, ring, settings.extend_snr_threshold)

    if ring.n_pixels:
        device.in_parts(search, ngroups - 1)
    return found


def _over_rows(device, act, shape, axis=None):
    """Call ``act(rows)`` for tiles of rows, on threads; return a list, or one array joined along ``axis``."""
    found = for_each_tile(act, shape, device.n_threads, device.tile_bytes)
    return found if axis is None else device.xp.concatenate(found, axis=axis)


def _differences(xp, data, groupdq, gain, searched):
    """Return the differences of neighbouring groups in electrons; NaN next to a group that is ignored.

    As in stcal, a group with a jump is ignored if it has no other flag, and so is an unusable one if no jumps were
    searched for; otherwise all unusable groups are.
    """
    if searched:
        ignored = (groupdq & UNUSABLE != 0) | (groupdq == JUMP_DET)
    else:
        # 1 to 5: DO_NOT_USE, SATURATED, both, JUMP_DET, and JUMP_DET with DO_NOT_USE
        ignored = groupdq - np.uint8(1) < JUMP_DET | DO_NOT_USE
    # product, then difference, both float32: the last bit depends on the order
    electrons = xp.where(ignored, np.float32(np.nan), data * gain)
    return electrons[:, 1:] - electrons[:, :-1]


def _clipped_statistics(xp, differences):
    """Return the clipped median and standard deviation over the first axis."""
    shape = differences.shape[1:]
    values = differences.reshape(len(differences), -1)
    values = xp.where(xp.isfinite(values), values, np.float32(np.nan))
    ordered = xp.sort(xp.ascontiguousarray(values.T), axis=1)
    low, high = _clipping_limits(xp, values, ordered)
    # not only the values of the last pass; the limits of a pixel without any are NaN
    good = (values >= low) & (values <= high)
    count = _sum_in_order(good, np.int32)
    median = _middle(xp, ordered, _rank(ordered, low), count)
    number = count.astype(np.float32)
    mean = _sum_in_order(xp.where(good, values, np.float32(0)), np.float32) / number
    deviation = values - mean
    variance = _sum_in_order(xp.where(good, deviation * deviation, np.float32(0)), np.float32) / number
    return median.reshape(shape), xp.sqrt(variance).reshape(shape)


def _clipping_limits(xp, values, ordered):
    """Return the limits of the last pass of the clipping, (npixels,) float64; NaN without values."""
    left = xp.isfinite(values)
    number = _sum_in_order(left, np.int32)
    first = xp.zeros_like(number)
    low = high = xp.full(number.shape, np.nan)
    active = number > 0
    for _ in range(MOST_PASSES):
        mean = _sum_in_order(xp.where(left, values, np.float32(0)), np.float64) / number
        deviation = values - mean
        square = _sum_in_order(xp.where(left, deviation * deviation, 0.0), np.float64)
        reach = CLIPPED_BEYOND * xp.sqrt(square / number)
        # the values left are neighbours in their order
        middle = _middle(xp, ordered.astype(np.float64), first, number)
        low, high = xp.where(active, middle - reach, low), xp.where(active, middle + reach, high)
        left &= (values >= low) & (values <= high)
        before, number = number, _sum_in_order(left, np.int32)
        active &= (number < before) & (number > 0)
        if not bool(active.any()):
            break
        first = xp.maximum(first, _rank(ordered, low))
    return low, high


def _sum_in_order(values, dtype):
    """Sum over the first axis, one after the other; the order decides on the last bit."""
    total = values[0].astype(dtype)
    for each in values[1:]:
        total += each
    return total


def _rank(ordered, limit):
    """Return how many values of each row are below its limit."""
    return (ordered < limit[:, np.newaxis]).sum(axis=1)


def _middle(xp, ordered, first, number):
    """Return the median of ``number`` values of each row from ``first`` on, in their dtype; NaN of none."""
    last = ordered.shape[1] - 1
    low, high = (xp.clip(first + rank // 2, 0, last)[:, np.newaxis] for rank in (number - 1, number))
    both = xp.take_along_axis(ordered, low, axis=1) + xp.take_along_axis(ordered, high, axis=1)
    return xp.where(number > 0, both[:, 0] / ordered.dtype.type(2), ordered.dtype.type(np.nan))


def _ratios(xp, groups, data, groupdq, excluded, gain, middle, noise, searched):
    """Return the ratios of some groups, 0 where they are not good, and where they are good."""
    which = np.s_[np.newaxis, groups.start - 1 : groups.stop]
    (differences,) = _differences(xp, data[which], groupdq[which], gain, searched)
    if middle.ndim == 3:
        middle, noise = (each[groups.start - 1 : groups.stop - 1] for each in (middle, noise))
    ratio = abs(differences - middle) / noise
    good = xp.isfinite(ratio) & (groupdq[groups] & FLAGGED == 0) & ~excluded
    return xp.where(good, ratio, np.float32(0)), good


def _exceeds(xp, ratio, good, ring, threshold):
    """Return where the average of the good ratios over a ring exceeds the threshold: (n, ny, nx) bool."""
    count = ring_sums(xp, good.astype(np.int32), ring, 1)
    excess = ring_sums(xp, ratio.astype(np.float64), ring, 0) - threshold * count
    may = good & (count > 0)
    found = may & (excess > 0)
    if xp is np:
        for frame in range(len(found)):
            doubtful = may[frame] & ~(abs(excess[frame]) > sums_margin(ratio[frame], ring))
            settle_doubtful(found[frame], doubtful, ratio[frame], good[frame], ring, threshold)
    return found


def settle_frame(found, group, data, groupdq, excluded, gain, middle, noise, ring, settings):
    """Decide the pixels of a frame of ``found`` that are neither 0 nor 1, in place; arguments as for `find_excess`."""
    with np.errstate(all="ignore"):
        which = slice(group, group + 1)
        (ratio,), (good,) = _ratios(np, which, data, groupdq, excluded, gain, middle, noise, settings.searched)
        settle_doubtful(found[group], found[group] > 1, ratio, good, ring, settings.extend_snr_threshold)


def settle_doubtful(found, doubtful, ratio, good, ring, threshold):
    """Decide doubtful pixels of a frame as stcal, by its convolutions; set ``found`` there, in place.

    Parameters
    ----------
    found, doubtful : (ny, nx) bool
    ratio : (ny, nx) float32
        0 in pixels that are not good.
    good : (ny, nx) bool
    ring : Ring
    threshold : float
    """
    if not doubtful.any():
        return
    from scipy.signal import oaconvolve

    reach, (ny, nx) = ring.reach, ratio.shape
    padded = np.ones((ny + 2 * reach, nx + 2 * reach))
    padded[reach : reach + ny, reach : reach + nx] = good
    average = oaconvolve(ratio, ring.kernel, mode="same") / oaconvolve(padded, ring.kernel, mode="valid")
    found[doubtful] = average[doubtful] > threshold
