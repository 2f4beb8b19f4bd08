"""Medians of short runs of numbers, for arrays of any namespace: NumPy and CuPy alike."""


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
