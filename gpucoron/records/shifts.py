"""The shift of the star in an integration against the median integration, in pixels."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA

#: radius of the pixels that are fitted: a fraction of the shorter side, but at least so many pixels
NEAR, LEAST_RADIUS = 0.125, 16
#: a shift of fewer standard deviations is not significant
SIGNIFICANT = 3.0
#: pixels that deviate by more are left out of a second fit
_CLIP = 5.0
#: pixels beyond the radius from which the spline is made
_MARGIN = 4
#: fewer pixels determine no shift
_LEAST_PIXELS = 50


@dataclass(frozen=True)
class Shift:
    """Shift in x and y with standard deviations, pixels; NaN if unknown."""

    x: float = np.nan
    y: float = np.nan
    x_error: float = np.nan
    y_error: float = np.nan

    @property
    def is_significant_x(self):
        """Whether the shift in x is at least three times its error."""
        return abs(self.x) >= SIGNIFICANT * self.x_error

    @property
    def is_significant_y(self):
        """Whether the shift in y is at least three times its error."""
        return abs(self.y) >= SIGNIFICANT * self.y_error


def measure_shift(image, err, reference, star):
    """Fit the shift of the star by linear least squares.

    ``image - reference = -dx dM/dx - dy dM/dy + scale * M + constant``, with M the reference, weighted by ``1/err^2``,
    over the usable pixels within an eighth of the shorter side (at least 16 pixels) of the star. The gradients are
    those of the cubic spline through the pixels of M.

    Parameters
    ----------
    image : (ny, nx) float32
        Rate of an integration, NaN where unusable.
    err : (ny, nx) float32
    reference : (ny, nx) float32
        The median integration, NaN where unusable.
    star : (x, y)
        0-based.

    Returns
    -------
    Shift
        Positive where the star is at larger x or y than in the reference. The errors are those of the covariance
        matrix, times the square root of the reduced chi-square where that is above 1. NaN with too few pixels.

    Notes
    -----
    Pixels more than 5 standard deviations from a first fit, such as undetected cosmic rays, are left out of the second.
    """
    radius = max(NEAR * min(image.shape), LEAST_RADIUS)
    box = tuple(
        slice(max(0, int(center - radius) - _MARGIN), int(center + radius) + _MARGIN + 2) for center in star[::-1]
    )
    image, err, reference = (np.asarray(array[box], np.float64) for array in (image, err, reference))
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    near = np.hypot(x + box[1].start - star[0], y + box[0].start - star[1]) <= radius
    by_y, by_x, is_known = gradients(reference)
    use = near & is_known & np.isfinite(image) & np.isfinite(err) & (err > 0)
    terms = np.stack([-by_x[use], -by_y[use], reference[use], np.ones(np.count_nonzero(use))], axis=1) / err[use, None]
    difference = (image - reference)[use] / err[use]
    for is_last in (False, True):
        if len(difference) < _LEAST_PIXELS:
            return Shift()
        # terms of different units: scaled to the same size before the fit
        size = np.sqrt((terms**2).sum(axis=0))
        if not np.all(size > 0):
            return Shift()
        covariance = np.linalg.pinv((terms / size).T @ (terms / size), rcond=1e-10) / np.outer(size, size)
        solution = covariance @ (terms.T @ difference)
        residual = difference - terms @ solution
        if not is_last:
            width = max(1.0, MAD_TO_SIGMA * float(np.median(np.abs(residual - np.median(residual)))))
            kept = np.abs(residual) <= _CLIP * width
            terms, difference = terms[kept], difference[kept]
    scatter = float((residual**2).sum()) / (len(difference) - len(solution))
    errors = np.sqrt(np.diag(covariance)[:2] * max(scatter, 1.0))
    return Shift(float(solution[0]), float(solution[1]), float(errors[0]), float(errors[1]))


def gradients(image):
    """Differentiate the cubic spline through the pixels of an image.

    Central differences underestimate the gradient of an undersampled star by tens of percent, and thus overestimate
    its shift.

    Parameters
    ----------
    image : (ny, nx) float64
        NaN pixels are filled with the mean of their neighbours.

    Returns
    -------
    by_y, by_x : (ny, nx) float64
        Per pixel.
    is_known : (ny, nx) bool
        False for NaN pixels and their four neighbours, and at the border.
    """
    from scipy import ndimage

    missing = ~np.isfinite(image)
    if missing.any():
        filled, known = (
            ndimage.uniform_filter(values, 5, mode="constant")
            for values in (np.where(missing, 0.0, image), (~missing).astype(float))
        )
        image = np.where(missing, filled / np.maximum(known, 1e-3), image)
    slopes = []
    for axis in (0, 1):
        # the derivative of a cubic spline is half the difference of the neighbouring coefficients
        coefficients = ndimage.spline_filter1d(image, 3, axis=axis, mode="mirror")
        slopes.append(ndimage.correlate1d(coefficients, [-0.5, 0.0, 0.5], axis=axis, mode="mirror"))
    is_known = ~ndimage.binary_dilation(missing)
    is_known[[0, -1]] = False
    is_known[:, [0, -1]] = False
    return slopes[0], slopes[1], is_known
