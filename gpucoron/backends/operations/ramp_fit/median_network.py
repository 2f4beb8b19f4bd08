"""Medians of a few planes, pixel by pixel, with a sorting network.

A network compares the same pairs for all values, so each comparison is one `numpy.minimum` and one `numpy.maximum` of
whole planes. For a few planes this is several times as fast as partitioning every pixel.
"""

from functools import lru_cache

import numpy as np

#: With more planes, partitioning is faster.
MOST_PLANES = 64


def median_of_planes(planes, spare):
    """Return the median over the first axis.

    Parameters
    ----------
    planes : (n, npixels) float, without NaN
        Overwritten.
    spare : (npixels,) float
        Overwritten.

    Returns
    -------
    (npixels,) float
        For an even ``n``, the mean of the two middle values.
    """
    planes = list(planes)
    n = len(planes)
    for low, high, needs_minimum, needs_maximum in median_network(n):
        a, b = planes[low], planes[high]
        if needs_minimum and needs_maximum:
            planes[low], spare = np.minimum(a, b, out=spare), a
            np.maximum(a, b, out=b)
        elif needs_minimum:
            np.minimum(a, b, out=a)
        else:
            np.maximum(a, b, out=b)
    return (planes[(n - 1) // 2] + planes[n // 2]) / 2


@lru_cache
def median_network(n):
    """Return the comparisons (low, high, minimum needed, maximum needed) that sort the median of ``n`` to the middle.

    Batcher's odd-even merge sort (1968, AFIPS 32, 307), without comparisons that do not affect the middle.
    """
    comparisons = []
    size = 1
    while size < n:
        stride = size
        while stride:
            for first in range(stride % size, n - stride, 2 * stride):
                for low in range(first, min(first + stride, n - stride)):
                    if low // (2 * size) == (low + stride) // (2 * size):
                        comparisons.append((low, low + stride))
            stride //= 2
        size *= 2

    needed = {(n - 1) // 2, n // 2}
    kept = []
    for low, high in reversed(comparisons):
        if low in needed or high in needed:
            kept.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(kept))
