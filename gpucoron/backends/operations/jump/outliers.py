"""Outliers among the two-point differences of each pixel: the arithmetic of jump detection.

The differences of a pixel over all integrations are sorted once, NaN last. Medians are then look-ups, and the iterative
search, which rejects the values farthest from the median, needs only two pointers that move inwards from both ends.
Candidates are found in float32; every decision is made in float64, as in stcal.
"""

import numpy as np

#: Relative margin when candidates are found in float32: a hundred times its rounding.
SCREENING_MARGIN = 1e-5


def sort_by_pixel(differences, absolute=False):
    """Sort the differences of each pixel, or their absolute values.

    Parameters
    ----------
    differences : (ndiffs, npixels) float32
    absolute : bool

    Returns
    -------
    ordered : (npixels, ndiffs) float32
        Ascending along the second axis, NaN last.
    count : (npixels,) int64
        Number of values of each pixel that are not NaN.
    """
    ordered = np.empty(differences.shape[::-1], np.float32)
    if absolute:
        np.abs(differences.T, out=ordered)
    else:
        np.copyto(ordered, differences.T)
    ordered.sort(axis=1)
    return ordered, len(differences) - np.isnan(differences).sum(axis=0, dtype=np.int32).astype(np.int64)


def signed_medians(differences):
    """Return each pixel's median over its differences, ignoring NaN, in float64.

    Parameters
    ----------
    differences : (ndiffs, npixels) float32

    Returns
    -------
    (npixels,) float64
        NaN for pixels without any value.
    """
    ordered, count = sort_by_pixel(differences)
    medians = np.full(count.size, np.nan)
    (some,) = np.nonzero(count)
    start = some * ordered.shape[1]
    flat = ordered.ravel()
    lower = flat[start + (count[some] - 1) // 2]
    upper = flat[start + count[some] // 2]
    medians[some] = (lower.astype(np.float64) + upper) / 2
    return medians


def noise(medians, read_variance):
    """Return the expected noise of a difference, in electrons, in float64; NaN where it would be zero.

    Parameters
    ----------
    medians : (npixels,) float64
        Electrons per group; equal to the Poisson variance.
    read_variance : (npixels,) float64
        Square of the CDS read noise over the frames of a group.
    """
    sigma = np.sqrt(np.abs(medians) + read_variance)
    # Avoid a division by zero for pixels without noise.
    sigma[sigma == 0] = np.nan
    return sigma


def outliers_in_one_pass(differences, medians, sigma, threshold):
    """Find the differences farther than ``threshold`` sigma from their pixel's median.

    Parameters
    ----------
    differences : (ndiffs, npixels) float32
    medians, sigma : (npixels,) float64
    threshold : float

    Returns
    -------
    which, pixel : (n,) int64
        Indices into the two axes of ``differences``.

    Notes
    -----
    Source: stcal ``look_for_more_than_one_jump``.
    """
    reach = threshold * sigma
    margin = SCREENING_MARGIN * (np.abs(medians) + reach) + np.finfo(np.float32).tiny
    upper = (medians + (reach - margin)).astype(np.float32)
    lower = (medians - (reach - margin)).astype(np.float32)
    candidates = differences > upper
    candidates |= differences < lower
    which, pixel = np.divmod(np.flatnonzero(candidates), differences.shape[1])

    value = differences[which, pixel].astype(np.float64)
    sure = np.abs(value - medians[pixel]) / sigma[pixel] > threshold
    sure &= np.isfinite(value)
    return which[sure], pixel[sure]


def outliers_by_iteration(differences, read_variance, thresholds):
    """Find outlying differences one by one, with a new median and a new noise after each.

    Each pass rejects the absolute difference farthest from the median over all integrations, and all equal ones, if it
    exceeds the threshold; otherwise the pixel is finished.

    Parameters
    ----------
    differences : (ndiffs, npixels) float32
    read_variance : (npixels,) float64
    thresholds : (float, float, float)
        For two, three, and four or more usable differences, in sigma.

    Returns
    -------
    which, pixel : (n,) int64
        Indices into the two axes of ``differences``.

    Notes
    -----
    Source: stcal ``iterative_jump``, with its rounding: the median is float64 in the first pass and float32 in later
    ones, the distance from it is always float32.
    """
    ordered, count = sort_by_pixel(differences, absolute=True)
    first, last = _close_in(ordered, count, read_variance, thresholds)

    (pixels,) = np.nonzero((first > 0) | (last < count))
    first, last = first[pixels], last[pixels]
    # If nothing is left, all values are outside these bounds.
    left = first < last
    lowest = np.where(left, ordered[pixels, np.where(left, first, 0)], np.inf)
    highest = np.where(left, ordered[pixels, np.where(left, last - 1, 0)], -1)
    size = np.abs(differences[:, pixels])
    which, pixel = np.divmod(np.flatnonzero((size < lowest) | (size > highest)), max(1, pixels.size))
    return which, pixels[pixel]


def _close_in(ordered, count, read_variance, thresholds):
    """Reject values at both ends of the sorted absolute differences; return the remaining window [first, last)."""
    flat = ordered.ravel()
    first = np.zeros_like(count)
    last = count.copy()
    (active,) = np.nonzero(count >= 2)
    later_pass = False
    while active.size:
        start = active * ordered.shape[1]
        low, high = start + first[active], start + last[active]
        number = high - low
        bottom, top = flat[low], flat[high - 1]
        median = _median_below_maximum(flat, low, high, top)
        if later_pass:
            median = median.astype(np.float32).astype(np.float64)
        sigma = noise(median, read_variance[active])
        excess = np.fmax(_excess(bottom, median), _excess(top, median))
        threshold = np.take(thresholds, np.minimum(number, 4) - 2)
        hit = excess / sigma > threshold

        active, low, high, median, excess = active[hit], low[hit], high[hit], median[hit], excess[hit]
        last[active] -= _count_ties(flat, high - 1, -1, high - low, median, excess)
        first[active] += _count_ties(flat, low, 1, high - low, median, excess)
        active = active[last[active] - first[active] >= 2]
        later_pass = True
    return first, last


def _excess(values, median):
    """Return the distance from the median, rounded to float32."""
    return np.abs((values - median).astype(np.float32))


def _median_below_maximum(flat, low, high, top):
    """Return the median of ``flat[low:high]`` in float64, as stcal's ``calc_med_first_diffs`` defines it.

    From four values on, all that equal the maximum are excluded; of two values, the smaller one is returned.
    """
    number = high - low
    end = high - (number >= 4)
    (tied,) = np.nonzero((number >= 4) & (flat[end - 1] == top))
    while tied.size:
        end[tied] -= 1
        tied = tied[(end[tied] > low[tied]) & (flat[end[tied] - 1] == top[tied])]
    rest = end - low
    lower = low + (rest - 1) // 2
    upper = np.where(number == 2, low, low + rest // 2)
    # If all values are equal, none is left, and there is no median and no jump.
    empty = rest == 0
    lower[empty] = low[empty]
    median = (flat[lower].astype(np.float64) + flat[upper]) / 2
    median[empty] = np.nan
    return median


def _count_ties(flat, position, step, limit, median, excess):
    """Count successive values from ``position``, in steps of ``step``, that are exactly ``excess`` from the median."""
    ties = np.zeros_like(position)
    (tied,) = np.nonzero(_excess(flat[position], median) == excess)
    while tied.size:
        ties[tied] += 1
        tied = tied[ties[tied] < limit[tied]]
        tied = tied[_excess(flat[position[tied] + step * ties[tied]], median[tied]) == excess[tied]]
    return ties


def outliers_by_clipping(differences, shape, threshold, only_use_ints):
    """Find outlying differences by sigma clipping about the median.

    Parameters
    ----------
    differences : (nints * ndiffs, npixels) float32
    shape : (nints, ndiffs)
        Lengths of the two axes that the first axis combines.
    threshold : float
        Clipping limit, sigma.
    only_use_ints : bool
        Compare a difference with the same difference of other integrations only, otherwise with all of the pixel.

    Returns
    -------
    which, pixel : (n,) int64
        Indices into the two axes of ``differences``.

    Notes
    -----
    Source: stcal ``det_jump_sigma_clipping``. This calls astropy, because the last bit of its standard deviation
    depends on its order of summation.
    """
    from astropy.stats import sigma_clip

    cube = differences.astype(np.float64).reshape(*shape, -1)
    clipped = sigma_clip(cube, sigma=threshold, axis=0 if only_use_ints else (0, 1), masked=True)
    beyond = np.ma.getmaskarray(clipped) & np.isfinite(cube)
    return np.divmod(np.flatnonzero(beyond), differences.shape[1])
