"""Background masks: repeated clipping about the median and search for extended sources."""

from functools import lru_cache

import numpy as np

from gpucoron.backends.operations.subtract_1overf.frames import for_each_frame
from gpucoron.backends.statistics import CUT, median_of_sorted, sigma_from_mad

#: Sigma and half size of the Gaussian for the search of sources, pixels.
_KERNEL_SIGMA, _KERNEL_HALF = 2.0, 2
#: A source has at least this many connected pixels (over edges) above this many sigma of the unsmoothed image.
SOURCE_PIXELS, SOURCE_SIGMA = 7, 2.0


def background_mask(device, images, bad=None, *, settings):
    """Find the background pixels of each image: near the median and not part of a source.

    1. c is the median of the good pixels, sigma the median distance of those below c, over 0.6745.
    2. Pixels further than ``nsigma`` sigma from c are excluded.
    3. The median of the remaining pixels is subtracted, and the image smoothed by a Gaussian of sigma 2 on 5 x 5 pixels
       (ignoring NaN, with zeros outside). Areas of 7 or more connected pixels above 2 sigma are excluded.
    4. Repeat from 1 with the remaining pixels and 3 sigma, ``niter`` times in total or until nothing changes.

    Parameters
    ----------
    device : Device
    images : (n, ny, nx) float
        NaN and infinite pixels are never background.
    bad : (n, ny, nx) bool or None
        True for pixels to exclude from the start; ignored for images in which all pixels are True.
    settings : BackgroundSettings

    Returns
    -------
    (n, ny, nx) bool
        True = background.

    Notes
    -----
    Source: spaceKLIP 2.2, ``create_bkg_mask``.
    """
    masks = np.empty(images.shape, bool)

    def find(index):
        image = np.ascontiguousarray(images[index], np.float32)
        masks[index] = _find_background(image, None if bad is None else bad[index], settings)

    for_each_frame(find, len(images), device.n_threads)
    return masks


def _find_background(image, bad, settings):
    valid = np.isfinite(image)
    smooth, offset = _smooth(image, valid)
    good = valid if bad is None or bad.all() else valid & ~np.ascontiguousarray(bad)
    ordered = np.sort(np.compress(good.reshape(-1), image.reshape(-1)))
    for round_ in range(settings.niter):
        if round_ and not len(ordered):
            break
        centre, sigma = _describe_lower_half(ordered)
        # Later rounds always use three sigma.
        reach = np.float32(settings.nsigma if round_ == 0 else CUT) * sigma
        if np.isnan(reach):  # no values below the median
            reach = np.float32(np.inf)
        lowest, highest = centre - reach, centre + reach
        new = image >= lowest
        new &= image <= highest
        new &= good
        ordered = ordered[ordered.searchsorted(lowest) : ordered.searchsorted(highest, "right")]
        sources = _find_sources(smooth, median_of_sorted(ordered) * offset + np.float32(SOURCE_SIGMA) * sigma, new)
        if len(sources):
            new.reshape(-1)[sources] = False
            ordered = _remove(ordered, image.reshape(-1)[sources])
        unchanged = round_ > 0 and np.count_nonzero(new) == np.count_nonzero(good)
        good = new
        if unchanged:
            break
    return good


def _describe_lower_half(ordered):
    """Return the median, and sigma from the values below it, which are not affected by sources."""
    centre = median_of_sorted(ordered)
    below = ordered[: np.searchsorted(ordered, centre)]
    n = len(below)
    mad = median_of_sorted(centre - below[(n - 1) // 2 : n // 2 + 1])
    return centre, np.float32(sigma_from_mad(mad, lambda: mean_in_order(centre - below), multiplies=True))


def mean_in_order(values):
    """Return the mean of a flat float32 array, from a running sum in float64: unlike `numpy.mean`, in a fixed order."""
    return np.float32(np.cumsum(values, dtype=np.float64)[-1] / len(values)) if len(values) else np.float32(np.nan)


def _remove(ordered, values):
    """Return a sorted array without some of its values."""
    values = np.sort(values)
    first = np.searchsorted(ordered, values)
    repeats = np.arange(len(values)) - np.searchsorted(values, values)
    return np.delete(ordered, first + repeats)


@lru_cache(1)
def gaussian():
    """Return the weights of a row of the kernel, from its middle outwards."""
    weights = np.exp(-(np.arange(_KERNEL_HALF + 1) ** 2) / (2 * _KERNEL_SIGMA**2))
    return (weights / (2 * weights.sum() - weights[0])).astype(np.float32)


def _convolve(image):
    """Return a float32 image smoothed by the Gaussian, with zeros outside."""
    ny, nx = image.shape
    half, weights = _KERNEL_HALF, gaussian()
    padded = np.zeros((ny + 2 * half, nx), np.float32)
    padded[half:-half] = image
    across = np.zeros((ny, nx + 2 * half), np.float32)
    columns = across[:, half:-half]
    np.multiply(image, weights[0], out=columns)
    for step in range(1, half + 1):
        pair = padded[half - step :][:ny] + padded[half + step :][:ny]
        pair *= weights[step]
        columns += pair
    smooth = columns * weights[0]
    for step in range(1, half + 1):
        pair = across[:, half - step :][:, :nx] + across[:, half + step :][:, :nx]
        pair *= weights[step]
        smooth += pair
    return smooth


@lru_cache(4)
def weight_of_array(shape):
    """Return the part of the kernel inside the array, for each pixel."""
    weight = _convolve(np.ones(shape, np.float32))
    weight.flags.writeable = False
    return weight


def _smooth(image, valid):
    """Return the smoothed image (ignoring NaN, zeros outside), and a smoothed image of ones to scale backgrounds."""
    inside = weight_of_array(image.shape)
    if valid.all():
        return _convolve(image), inside
    seen = _convolve(valid.astype(np.float32))
    weight = 1 - inside + seen
    weight[weight < 1e-6] = np.nan  # only NaN in the kernel
    return _convolve(np.where(valid, image, np.float32(0))) / weight, seen / weight


def _find_sources(smooth, threshold, good):
    """Return the flat indices of pixels in large connected areas of the smoothed image above the threshold."""
    bright = smooth > threshold
    bright &= good
    where = np.flatnonzero(bright)
    if len(where) < SOURCE_PIXELS:
        return where[:0]
    import scipy.ndimage  # slow to import

    labels, n_areas = scipy.ndimage.label(bright)
    of_pixel = labels.reshape(-1)[where]
    large = np.bincount(of_pixel, minlength=n_areas + 1) >= SOURCE_PIXELS
    return where[large[of_pixel]]
