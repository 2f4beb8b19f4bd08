"""Coronagraphic scenes for validation: companions, a disc, rings around the star, and scatter."""

import numpy as np
from common import PIXEL_SCALE, width
from scipy.ndimage import gaussian_filter

#: electrons per second of the star without its mask
STAR = 1e7
FWHM = 2.3
SHAPE = (160, 160)
#: separations from the star at which noise and companions are measured, arcsec
SEPARATIONS = (0.5, 1.0, 2.0, 3.0)


def center():
    return (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2


def radius(place=None, shape=SHAPE):
    """Compute the distance of each pixel from the star, by default in the centre, arcsec."""
    y, x = np.indices(shape)
    x0, y0 = place or center()
    return np.hypot(x - x0, y - y0) * PIXEL_SCALE["NIRCAM"]


def companions(contrast, angle=40.0):
    """Make one companion at each separation, a quarter turn apart: ``(n, ny, nx)`` e-/s."""
    y, x = np.indices(SHAPE)
    x0, y0 = center()
    sigma = FWHM / 2.355
    made = []
    for k, separation in enumerate(SEPARATIONS):
        r, phi = separation / PIXEL_SCALE["NIRCAM"], np.deg2rad(angle + 90 * k)
        distance = (x - x0 - r * np.cos(phi)) ** 2 + (y - y0 - r * np.sin(phi)) ** 2
        made.append(STAR * contrast * np.exp(-distance / (2 * sigma**2)) / (2 * np.pi * sigma**2))
    return np.array(made, np.float32)


def disc(peak, place=None, shape=SHAPE):
    """Make a ring of 1.6" at an inclination of 53 degrees around the star, ``(ny, nx)`` e-/s."""
    y, x = np.indices(shape)
    x0, y0 = place or center()
    r = np.hypot(x - x0, (y - y0) / 0.6)
    return (peak * np.exp(-(((r - 25) / 6) ** 2))).astype(np.float32)


def share_kept(change, light):
    """Estimate the fraction of `light` in a difference of two images, by the matched filter."""
    known = np.isfinite(change)
    light = np.where(known, light, 0).astype(float)
    return float((np.where(known, change, 0) * light).sum() / (light * light).sum())


def scatter_at(image, half_width=0.12):
    """Measure the robust scatter of an image in a ring at each separation."""
    r = radius()
    return [width(image[abs(r - separation) < half_width]) for separation in SEPARATIONS]


def match(image):
    """Filter an image with the shape of a companion, normalised to its flux; NaN pixels have no weight."""
    known = np.isfinite(image)
    sigma = FWHM / 2.355
    weight = gaussian_filter(known.astype(float), sigma)
    filtered = gaussian_filter(np.where(known, image, 0.0), sigma)
    return filtered / np.maximum(weight, 0.3) * (4 * np.pi * sigma**2)
