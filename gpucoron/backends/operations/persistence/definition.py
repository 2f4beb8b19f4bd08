"""Windows of persistence in NumPy."""

import numpy as np

from gpucoron.dq import DO_NOT_USE, PERSISTENCE, SATURATED

#: pixels that are looked through at a time, so that masks stay in the cache
PIXELS_AT_ONCE = 2**16


def open_windows(device, data, groupdq, ends, times, *, settings):
    """Open windows for pixels that are saturated or bright, and set PERSISTENCE in the groups of a window, in place.

    A window opens in the first saturated group of an integration, and, if there is none open, in a group above the
    threshold. If only one group of an integration is saturated, each later group of it extends the window.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    ends : (ny, nx) float64, s
        When the window of each pixel ends, 0 if there is none: before the exposure, and afterwards after it.
    times : (nints, ngroups) float64, s
        Time of each group, on the host, on the same clock.
    settings : PersistenceSettings

    Notes
    -----
    Source: jwst 3.0, ``process_persistence_flagging``.
    """
    flag, threshold = flag_of(settings), threshold_of(settings)
    data, groupdq = (array.reshape(*array.shape[:2], -1) for array in (data, groupdq))
    ends = ends.reshape(-1)

    def flag_pixels(pixels):
        for start in range(pixels.start, pixels.stop, PIXELS_AT_ONCE):
            block = slice(start, min(start + PIXELS_AT_ONCE, pixels.stop))
            for samples, flags, of_groups in zip(data, groupdq, times, strict=True):
                how = of_groups, settings.window, threshold, flag
                _flag_integration(samples[:, block], flags[:, block], ends[block], *how)

    device.in_parts(flag_pixels, len(ends))


def flag_of(settings):
    """Return the flags of a group in a window."""
    return np.uint8(PERSISTENCE | (DO_NOT_USE if settings.do_not_use else 0))


def threshold_of(settings):
    """Return the threshold in the dtype of the samples; None if there is none."""
    if settings.threshold is None:
        return None
    with np.errstate(over="ignore"):
        return np.float32(settings.threshold)


def _flag_integration(data, groupdq, ends, times, window, threshold, flag):
    """Flag some pixels of an integration, (ngroups, npixels)."""
    where = np.flatnonzero(_concerned(data, groupdq, ends, threshold))
    if len(where) == 0:
        return
    now_open = ends[where]
    count = np.zeros(now_open.shape, np.uint8)
    for group, now in enumerate(times):
        flags, end = groupdq[group][where], now + window
        now_open[now_open < now] = 0.0
        count = np.minimum(count + ((flags & SATURATED) != 0), np.uint8(2))
        now_open[count == 1] = end
        if threshold is not None:
            now_open[(data[group][where] > threshold) & ~(now_open > 0.0)] = end
        # from the file of an exposure that started later
        now_open[now_open > end] = 0.0
        groupdq[group][where] = flags | (now_open > 0.0) * flag
    ends[where] = now_open


def _concerned(data, groupdq, ends, threshold):
    """Return which pixels, (npixels,), have a window, or are saturated or bright in the integration."""
    found = (np.bitwise_or.reduce(groupdq, axis=0) & SATURATED) != 0
    found |= (ends != 0) | np.signbit(ends)
    if threshold is not None:
        bright = np.empty_like(found)
        for group in data:
            np.greater(group, threshold, out=bright)
            found |= bright
    return found
