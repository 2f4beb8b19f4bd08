"""What all corrections with reference pixels share: the detector's orientation, clipped means, running medians."""

from bisect import bisect_left, insort

import numpy as np

from gpucoron.backends.statistics import median_of_last

#: values in the windows of a running median at a time
_WINDOW_VALUES = 2**21
#: values in a window that are sorted for each row; longer windows slide, on the host
_SORTED_VALUES = 1000


def in_detector_frame(array, facts):
    """Return a view of images (..., ny, nx) as the detector reads them: (..., rows, columns), columns fastest.

    Parameters
    ----------
    array : (..., ny, nx)
        In the science frame.
    facts : Facts
        fastaxis and slowaxis are used.

    Returns
    -------
    (..., rows, columns) view

    Notes
    -----
    Source: jwst 3.0, ``science_detector_frame_transform``.
    """
    rows, columns = (slice(None, None, 1 if axis > 0 else -1) for axis in (facts.slowaxis, facts.fastaxis))
    return (array if abs(facts.fastaxis) == 1 else array.swapaxes(-2, -1))[..., rows, columns]


def mirrored_windows(n_rows, length):
    """Return the rows in the window of each row, (n_rows, length), mirrored at both ends.

    An even window has one row more before than after its row, as in jwst.
    """
    rows = abs(np.arange(n_rows, dtype=np.int32)[:, None] + np.arange(length, dtype=np.int32) - length // 2)
    return np.where(rows < n_rows, rows, 2 * (n_rows - 1) - rows)


def running_median(columns, windows, spoilt=None, *, xp):
    """Return the running median of all values of some columns, ignoring NaN.

    Parameters
    ----------
    columns : (n, rows, k) float
    windows : (m, length) int
        The rows in each window.
    spoilt : (n, rows) bool, optional
        Rows that make the medians of all their windows NaN.
    xp : module
        Namespace of the arrays.

    Returns
    -------
    (n, m) array of the same dtype
        NaN also where all values of a window are NaN.
    """
    n, _, k = columns.shape
    m, length = windows.shape
    if xp is np and columns.dtype == np.float64 and length * k > _SORTED_VALUES:
        medians = np.array([_sliding_median(each, windows) for each in columns])
        return medians if spoilt is None else _spoil(medians, spoilt, windows)
    at_once = max(1, _WINDOW_VALUES // (n * length * k))
    medians = []
    for start in range(0, m, at_once):
        rows = windows[start : start + at_once]
        median = median_of_last(columns[:, rows].reshape(n, len(rows), length * k), xp=xp)
        medians.append(median if spoilt is None else xp.where(spoilt[:, rows].any(axis=2), xp.nan, median))
    return medians[0] if len(medians) == 1 else xp.concatenate(medians, axis=1)


def _sliding_median(columns, windows):
    """Return the running median of one frame's columns (rows, k), from an ordered list that slides along the rows."""
    rows = [[value for value in row if value == value] for row in columns.tolist()]
    first, last = windows[:, 0].tolist(), windows[:, -1].tolist()
    ordered = sorted(value for row in windows[0] for value in rows[row])
    medians = []
    for number in range(len(windows)):
        if number:
            for value in rows[first[number - 1]]:
                del ordered[bisect_left(ordered, value)]
            for value in rows[last[number]]:
                insort(ordered, value)
        n = len(ordered)
        medians.append((ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else np.nan)
    return medians


def _spoil(medians, spoilt, windows):
    """Set medians (n, m) to NaN whose windows contain rows that spoil them."""
    for number, window in enumerate(windows):
        medians[spoilt[:, window].any(axis=1), number] = np.nan
    return medians


def average_of_sides(left, right, *, xp):
    """Return the average of two signals; one alone where the other is NaN, and 0 where both are."""
    signal = xp.where(xp.isnan(left), right, xp.where(xp.isnan(right), left, 0.5 * (left + right)))
    return xp.where(xp.isnan(signal), 0.0, signal)
