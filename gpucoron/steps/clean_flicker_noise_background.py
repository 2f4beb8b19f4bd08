"""The background of images: pixels near the middle of the distribution, and their level.

All functions take a stack of images, sort the good pixels of each image once, and clip in sorted order.
"""

import logging
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucoron.backends import get_backend

log = logging.getLogger(__name__)

#: clipping of the statistics of the background, standard deviations, and the maximum number of iterations
CUT, ITERATIONS = 3.0, 5
#: bins of the histogram, which extends this number of standard deviations to both sides
BINS, HISTOGRAM_WIDTH = 2000, 4.0
#: largest box of the model of the background, and the boxes of its median filter
LARGEST_BOX, FILTER = 32, (5, 5)


@dataclass(frozen=True)
class Ordered:
    """The good pixels of a stack of images in ascending order.

    Attributes
    ----------
    values : (n, npixels) float
        Sorted along the last axis.
    first, last : (n, 1) int
        The range of columns of each image that counts, ``last`` excluded.
    backend : Backend
        The backend of the arrays.
    """

    values: Any
    first: Any
    last: Any
    backend: Any

    @classmethod
    def of(cls, images, masks, *, backend):
        """Sort the finite pixels of images (n, ny, nx) where their masks are true."""
        xp = backend.xp
        good = (masks & xp.isfinite(images)).reshape(len(images), -1)
        values = xp.where(good, images.reshape(good.shape), images.dtype.type(np.nan))
        last = good.sum(axis=1, keepdims=True)
        return cls(xp.sort(values, axis=1), xp.zeros_like(last), last, backend)

    def between(self, low, high):
        """Return the same pixels without values below ``low`` or above ``high``, both (n, 1)."""
        below = (self.values < low).sum(axis=1, keepdims=True)
        up_to = (self.values <= high).sum(axis=1, keepdims=True)
        xp = self.backend.xp
        first = xp.maximum(self.first, below)
        return replace(self, first=first, last=xp.maximum(first, xp.minimum(self.last, up_to)))

    def median(self):
        """Return the medians, (n, 1), in the precision of the values; NaN without pixels."""
        xp, end = self.backend.xp, self.values.shape[1] - 1
        lower = xp.take_along_axis(self.values, xp.clip((self.first + self.last - 1) // 2, 0, end), axis=1)
        upper = xp.take_along_axis(self.values, xp.clip((self.first + self.last) // 2, 0, end), axis=1)
        number = self.values.dtype.type
        return xp.where(self.last > self.first, (lower + upper) / number(2), number(np.nan))

    def mean(self):
        """Return the means, (n, 1); NaN without pixels."""
        return self._average(self.values)

    def scatter(self, center):
        """Return the root mean square distances from ``center``, (n, 1)."""
        return self.backend.xp.sqrt(self._average((self.values - center) ** 2))

    def _average(self, values):
        xp = self.backend.xp
        column = xp.arange(self.values.shape[1])
        counts = (column >= self.first) & (column < self.last)
        total = xp.where(counts, values, 0).sum(axis=1, keepdims=True)
        n = self.last - self.first
        return xp.where(n > 0, total / xp.maximum(n, 1), np.nan)

    def clipped(self, measure):
        """Clip until no value is further than 3 sigma from the center, with at most 5 iterations.

        ``measure(pixels)`` returns center and sigma, both (n, 1).
        """
        pixels = self
        for _ in range(ITERATIONS):
            center, sigma = measure(pixels)
            kept = pixels.between(center - CUT * sigma, center + CUT * sigma)
            if bool((kept.last - kept.first == pixels.last - pixels.first).all()):
                break
            pixels = kept
        return pixels


def _about_median(pixels):
    return pixels.median(), pixels.scatter(pixels.mean())


def background_limits(pixels, lower, upper, *, lower_half=False, histogram=False):
    """Return the range of values that counts as background.

    Parameters
    ----------
    pixels : Ordered
    lower, upper : float
        Standard deviations below and above the center.
    lower_half : bool
        Measure the standard deviation from the values up to the median, as if the distribution were symmetric, so that
        faint sources do not widen it.
    histogram : bool
        Fit a Gaussian to a histogram of the values for the center and the standard deviation.

    Returns
    -------
    low, high : (n, 1) float64
        NaN for images without pixels.

    Notes
    -----
    Source: jwst 3.0, ``clip_to_background``, which clips with astropy's ``sigma_clipped_stats``.
    """
    xp = pixels.backend.xp
    pixels = replace(pixels, values=pixels.values.astype(np.float64))
    clipped = pixels.clipped(_about_median)
    center, sigma = _about_median(clipped)
    if lower_half:
        # The mirrored values of jwst have the same median, and the same scatter about it.
        half = pixels.between(xp.full_like(center, -np.inf), center)
        sigma = half.clipped(lambda values: (center, values.scatter(center))).scatter(center)
    if histogram:
        center = clipped.mean()
        fits = [_fit_histogram(pixels, row, float(center[row, 0]), float(sigma[row, 0])) for row in range(len(center))]
        center, sigma = (pixels.backend.to_device(np.array(each)[:, None]) for each in zip(*fits, strict=True))
    return center - lower * sigma, center + upper * sigma


def _fit_histogram(pixels, row, center, sigma):
    """Fit a Gaussian to the histogram of one image; return its center and width, or those given if it fails."""
    from scipy.optimize import curve_fit

    def gaussian(x, height, mean, width):
        return height * np.exp(-0.5 * ((x - mean) / width) ** 2)

    to_device, to_host = pixels.backend.to_device, pixels.backend.to_host
    values = pixels.values[row, int(pixels.first[row, 0]) : int(pixels.last[row, 0])]
    if len(values) == 0:
        return center, sigma
    try:
        span = (center - HISTOGRAM_WIDTH * sigma, center + HISTOGRAM_WIDTH * sigma)
        edges = np.histogram_bin_edges(np.empty(0), BINS, span)
        below = to_host(pixels.backend.xp.searchsorted(values, to_device(edges), side="left"))
        below[-1] = int((values <= edges[-1]).sum())  # the last bin includes its upper edge
        counts = np.diff(below)
        middles = (edges[1:] + edges[:-1]) / 2
        highest = int(counts.argmax())
        start = counts[highest], middles[highest], sigma
        bounds = (0, middles[0], 0), (np.inf, middles[-1], middles[-1] - middles[0])
        (_height, mean, width), _ = curve_fit(gaussian, middles, counts, p0=start, bounds=bounds)
    except (RuntimeError, ValueError) as error:
        log.warning("no Gaussian fits the histogram of the background (%s): it is clipped without", error)
        return center, sigma
    return float(mean), float(width)


def clip_masks(images, masks, lower, upper, *, backend, **how):
    """Return masks (n, ny, nx) without pixels outside the `background_limits` of their image."""
    limits = background_limits(Ordered.of(images, masks, backend=backend), lower, upper, **how)
    return _inside(images, masks, limits)


def _inside(images, masks, limits):
    low, high = (limit[:, :, None] for limit in limits)
    return masks & ~((images < low) | (images > high))  # an image without pixels has no limits, but NaN


def subtract_background(images, masks, method, *, box=None, n_sigma=0.0, backend):
    """Subtract the level of the background of each image, and clip what remains.

    Parameters
    ----------
    images : (n, ny, nx) float32
        Without NaN.
    masks : (n, ny, nx) bool
        True for background.
    method : {'median', 'model'}
        Subtract the median, or a smooth model of the medians of boxes.
    box : (int, int), optional
        Height and width of the boxes.
    n_sigma : float
        Clipping after the subtraction; 0 or less: none.
    backend : Backend

    Returns
    -------
    residuals : (n, ny, nx) float
    backgrounds : (n, 1, 1) or (n, ny, nx) float
    masks : (n, ny, nx) bool
    """
    pixels = Ordered.of(images, masks, backend=backend)
    limits = background_limits(pixels, CUT, CUT, lower_half=True)
    masks, pixels = _inside(images, masks, limits), pixels.between(*limits)
    if method == "model":
        backgrounds = _model_backgrounds(images, masks, box, backend)
        residuals = images - backgrounds
        pixels = Ordered.of(residuals, masks, backend=backend) if n_sigma > 0 else pixels
    else:
        medians = pixels.median()
        backgrounds = medians[:, :, None]
        residuals = images - backgrounds
        # the order of the pixels is the same after the subtraction of a constant
        pixels = replace(pixels, values=pixels.values - medians)
    if n_sigma > 0:
        masks = _inside(residuals, masks, background_limits(pixels, n_sigma, n_sigma, lower_half=True))
    return residuals, backgrounds, masks


def _model_backgrounds(images, masks, box, backend):
    on_host = zip(backend.to_host(images), backend.to_host(masks), strict=True)
    models = [model_background(image, mask, box) for image, mask in on_host]
    return backend.to_device(np.stack(models))


def model_background(image, mask, box=None):
    """Fit a smooth background to the unmasked pixels of an image on the host.

    Parameters
    ----------
    image : (ny, nx) float32
    mask : (ny, nx) bool
        True for background.
    box : (int, int), optional
        Height and width of the boxes; by default the largest numbers up to 32 that divide the image.

    Returns
    -------
    (ny, nx) float32
        The median of the image everywhere, if no box has enough pixels; NaN without background.

    Notes
    -----
    The fit is photutils' ``Background2D`` with jwst's options; it needs the image on the host.
    """
    from astropy.stats import SigmaClip
    from astropy.utils.exceptions import AstropyUserWarning
    from photutils.background import Background2D, MedianBackground

    if not mask.any():
        return np.full(image.shape, np.nan, image.dtype)
    box = default_box(image.shape) if box is None else list(box)
    if any(size % side for size, side in zip(image.shape, box, strict=True)):
        log.warning("boxes of %s pixels do not divide an image of %s evenly", box, image.shape)
    try:
        with warnings.catch_warnings(action="ignore", category=AstropyUserWarning):
            return Background2D(
                image,
                box_size=box,
                filter_size=FILTER,
                mask=~mask,
                sigma_clip=SigmaClip(sigma=CUT, maxiters=ITERATIONS),
                bkg_estimator=MedianBackground(),
            ).background
    except ValueError as error:
        log.warning("the background cannot be fitted (%s): its median is used", error)
        return np.full(image.shape, np.nanmedian(image[mask]), image.dtype)


def default_box(shape):
    """Return the largest box whose sides, up to 32 pixels, divide an image."""
    return [max(side for side in range(1, LARGEST_BOX + 1) if size % side == 0) for size in shape]


def fill_flat(flat):
    """Replace zeros, NaN and infinite values of a flat on the host by a smooth model of the others.

    Parameters
    ----------
    flat : (ny, nx) float32
        Not changed.

    Returns
    -------
    (ny, nx) float32

    Notes
    -----
    Source: jwst 3.0, ``read_flat_file``.
    """
    good = (flat != 0) & np.isfinite(flat)
    if good.all():
        return flat
    mask = clip_masks(flat[None], good[None], CUT, CUT, lower_half=True, backend=get_backend("numpy"))[0]
    return np.where(good, flat, model_background(flat, mask)).astype(flat.dtype)
