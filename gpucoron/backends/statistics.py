"""Robust means and widths of arrays with outliers.

They follow the ``resistant_mean`` of the IDL Astronomy User's Library (AstroIDL), which spaceKLIP uses: the standard
deviation is the median absolute deviation (MAD) over 0.6745; where that is zero, the mean absolute deviation over 0.8.
"""

import numpy as np

#: Median absolute deviation of a normal distribution, in standard deviations, and the inverse.
MAD_OF_NORMAL = 0.6744897501960817
MAD_TO_SIGMA = 1 / MAD_OF_NORMAL
#: Mean absolute deviation of a normal distribution, in standard deviations, as rounded in AstroIDL.
MEAN_DEVIATION_OF_NORMAL = 0.8
#: A smaller MAD counts as zero.
NO_DEVIATION = float(np.finfo(np.float64).eps)
#: Cut of the resistant mean in standard deviations, and the width of a normal distribution after it.
CUT = 3.0
NARROWING = -0.15405 + 0.90723 * CUT - 0.23584 * CUT**2 + 0.020142 * CUT**3


def median_of_last(values, *, xp):
    """Return the median along the last axis, ignoring NaN.

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


def median(values):
    """Return the median of a flat array without NaN, in its own precision; NaN if it is empty."""
    n = len(values)
    if n == 0:
        return values.dtype.type(np.nan)
    ordered = np.partition(values, n // 2)
    upper = ordered[n // 2]
    return upper if n % 2 else (ordered[: n // 2].max() + upper) / values.dtype.type(2)


def medians_where(images, masks, *, xp):
    """Return the median of each image (n, ...) over its pixels in a mask, (n,) in the same dtype; NaN without any.

    Parameters
    ----------
    images : (n, ...) float
        Without NaN in the masks.
    masks : (n, ...) bool
    xp : module
        Namespace of the arrays.
    """
    if xp is np:
        return np.array([median(image[mask]) for image, mask in zip(images, masks, strict=True)], images.dtype)
    return median_of_last(xp.where(masks, images, images.dtype.type(np.nan)).reshape(len(images), -1), xp=xp)


def add_in_order(total, terms, *, xp):
    """Add terms (n, ...) to a total, in place, one after the other: the result does not depend on the batches."""
    if len(terms) == 1:
        total += terms[0]
    else:
        total[...] = xp.concatenate([total[None], terms]).sum(axis=0)


def median_of_sorted(ordered):
    """Return the median of a sorted flat array without NaN, in its own precision; NaN if it is empty."""
    n = len(ordered)
    if n == 0:
        return ordered.dtype.type(np.nan)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / ordered.dtype.type(2)


def median_of_rows(values, good):
    """Return each row's median over its good pixels, (ny,) in the dtype of the values; 0 for a row without any."""
    ordered = values.copy()
    np.copyto(ordered, np.inf, where=~good)
    ordered.sort(axis=1)
    count = good.sum(axis=1, dtype=np.int32)
    rows = np.arange(len(ordered))
    lower = ordered[rows, np.maximum(count - 1, 0) // 2]
    upper = ordered[rows, np.minimum(count // 2, ordered.shape[1] - 1)]
    return np.where(count > 0, (lower + upper) / 2, ordered.dtype.type(0))


def sigma_from_mad(mad, mean_deviation, *, multiplies=False, xp=np):
    """Return the standard deviation of a normal distribution with this median absolute deviation.

    Parameters
    ----------
    mad : float scalar or array
    mean_deviation : callable or array
        The mean absolute deviation, used where the MAD is zero. A callable is called only if the MAD is zero somewhere:
        without arguments for a scalar, with a mask for an array, for which it returns the values in the mask.
    multiplies : bool
        Multiply by 1.4826, as the kernels do in float32, instead of dividing by 0.6745, as AstroIDL does; the
        results differ in the last bit.
    xp : module
        Namespace of the array.

    Returns
    -------
    scalar or array of the same dtype
    """
    number = mad.dtype.type
    sigma = mad * number(MAD_TO_SIGMA) if multiplies else mad / number(MAD_OF_NORMAL)
    is_zero = sigma < number(NO_DEVIATION)

    def over_normal(deviation):
        return deviation / deviation.dtype.type(MEAN_DEVIATION_OF_NORMAL)

    if not callable(mean_deviation):
        return xp.where(is_zero, over_normal(mean_deviation), sigma)
    if mad.ndim == 0:
        return over_normal(mean_deviation()) if bool(is_zero) else sigma
    if bool(is_zero.any()):
        sigma[is_zero] = over_normal(mean_deviation(is_zero))
    return sigma


def resistant_mean(values, good=None, *, axis, xp=np):
    """Return the mean within 3 sigma of the median, with sigma from the values within 3 median deviations.

    Parameters
    ----------
    values : array of float
        Without NaN where good.
    good : array of bool, optional
        Values to include, only for rows (``axis`` 1); by default all.
    axis : int
    xp : module
        Namespace of the array.

    Returns
    -------
    array of the same dtype
        0 where no value is included.

    Notes
    -----
    Source: AstroIDL, ``resistant_mean``. Sums are float64. float32 values keep float32 deviations, as in the kernels.
    """

    def middle(numbers):
        return xp.median(numbers, axis=axis) if good is None else median_of_rows(numbers, good)

    def spread_out(numbers):
        return xp.expand_dims(numbers.astype(values.dtype), axis)

    def average(numbers, where):
        count = where.sum(axis=axis)
        total = xp.where(where, numbers, values.dtype.type(0)).sum(axis=axis, dtype=np.float64)
        return total / xp.maximum(count, 1)

    def within_cut(sigma):
        near = deviation <= CUT * spread_out(sigma)
        return near if good is None else near & good

    def mean_deviation(is_zero):
        return average(deviation, xp.ones(values.shape, bool) if good is None else good)[is_zero]

    deviation = abs(values - spread_out(middle(values)))
    near = within_cut(sigma_from_mad(middle(deviation), mean_deviation, multiplies=values.dtype == np.float32, xp=xp))
    scatter = average((values - spread_out(average(values, near))) ** 2, near)
    near = within_cut(xp.sqrt(scatter) / NARROWING)
    return average(values, near).astype(values.dtype)
