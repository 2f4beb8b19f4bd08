"""Medians of short runs, for arrays of any namespace, NumPy and CuPy alike; and the numbers of the resistant mean."""

import numpy as np

#: Median absolute deviation of a normal distribution, in standard deviations, and what takes it to one.
MAD_OF_NORMAL = 0.6744897501960817
MAD_TO_SIGMA = 1 / MAD_OF_NORMAL
#: Mean absolute deviation of a normal distribution, as rounded in the IDL Astronomy User's Library.
MEAN_DEVIATION_OF_NORMAL = 0.8
#: A deviation below this counts as none; the mean deviation then takes the median one's place.
NO_DEVIATION = float(np.finfo(np.float64).eps)
#: The cut of the library's ``resistant_mean``, standard deviations, and how it narrows a normal distribution.
CUT = 3.0
NARROWING = -0.15405 + 0.90723 * CUT - 0.23584 * CUT**2 + 0.020142 * CUT**3


def median_of_last(values, *, xp):
    """Take the median along the last axis without the NaN.

    Parameters
    ----------
    values : (..., n) float
        ``n`` at least one.
    xp : module
        Namespace of the array.

    Returns
    -------
    (...) array of the same dtype
        The mean, in that dtype, of the two values in the middle where their number is even; NaN where all are NaN.

    Notes
    -----
    The bits of `numpy.nanmedian`, without its warnings: NaN sort to the end, so that counting them finds the middle.
    """
    ordered = xp.sort(values, axis=-1)
    count = values.shape[-1] - xp.isnan(ordered).sum(axis=-1, keepdims=True)
    low = xp.take_along_axis(ordered, xp.maximum(count - 1, 0) // 2, axis=-1)
    high = xp.take_along_axis(ordered, xp.minimum(count // 2, values.shape[-1] - 1), axis=-1)
    return (low + high)[..., 0] / values.dtype.type(2)
