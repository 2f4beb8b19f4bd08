"""Parameters of clean_flicker_noise that follow from the data of an exposure, for ``autoparam``.

jwst 3.0 has such rules for NIRCam and NIRISS images; those of NIRCam are here.
"""

import logging

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.statistics import median_of_last
from gpucoron.steps.clean_flicker_noise_background import clip_masks, model_background, subtract_background

log = logging.getLogger(__name__)

#: limits of jwst's rule for NIRCam; the level in DN/s
MASKED_FRACTION, OFFSET, SLOPE, SCATTER = 0.1, 0.07, 1e-5, 0.02
#: rows or columns in the middle of the image that are averaged
MIDDLE = 3 / 8, 5 / 8
#: sizes of a full frame and of the part that one amplifier reads, pixels
FULL_FRAME, AMPLIFIER = 2048, 512


def choose_parameters(rate, axis):
    """Choose the method of the background, and whether to fit each amplifier separately, for a NIRCam image.

    Parameters
    ----------
    rate : (ny, nx) float32, DN/s
        On the host, divided by the flat if there is one. Not changed.
    axis : {0, 1}
        The axis of the image along which 1/f noise is constant.

    Returns
    -------
    dict
        ``background_method`` and ``fit_by_channel``.

    Notes
    -----
    Source: jwst 3.0, ``nircam_image_parameters``.
    """
    cleaned, mask = _clean_quickly(rate, axis)
    mask = clip_masks(cleaned[None], mask[None], 3.0, 3.0, lower_half=True, backend=get_backend("numpy"))[0]
    cleaned = np.where(mask, cleaned, model_background(cleaned, mask))
    (first_row, last_row), (first_column, last_column) = (
        (round(MIDDLE[0] * size), round(MIDDLE[1] * size)) for size in cleaned.shape
    )
    along_x = np.nanmean(cleaned[first_row:last_row], axis=0)
    along_y = np.nanmean(cleaned[:, first_column:last_column], axis=1)
    (slope_along_x, scatter), (slope_along_y, _) = _fit_line(along_x), _fit_line(along_y)
    slope = max(abs(slope_along_x), abs(slope_along_y))
    masked, offset = (~mask).mean(), _largest_offset(along_x)
    log.debug("masked %.5g, offset %.5g, slope %.5g, scatter %.5g", masked, offset, slope, scatter)
    return _decide(masked, offset, slope, scatter)


def _decide(masked, offset, slope, scatter):
    """Return the parameters for the properties of an image, by jwst's limits for NIRCam."""
    is_crowded, has_offset, is_sloped = masked >= MASKED_FRACTION, offset >= OFFSET, slope >= SLOPE
    method = "model" if is_sloped and (is_crowded or not has_offset) else "median"
    by_channel = not is_crowded and (has_offset or (offset > 0 and scatter >= SCATTER))
    return {"background_method": method, "fit_by_channel": by_channel}


def _clean_quickly(rate, axis):
    """Subtract the medians of the lines from a rate; return it with its mask."""
    backend = get_backend("numpy")
    lost = np.isnan(rate)
    mask = clip_masks(rate[None], np.ones((1, *rate.shape), bool), 3.0, 2.0, backend=backend) & ~lost
    image = np.where(lost, rate.dtype.type(0), rate)[None]
    residual, background, mask = subtract_background(image, mask, "median", backend=backend)
    mask = clip_masks(residual, mask, 3.0, 2.0, lower_half=True, backend=backend)
    lines = np.where(mask, residual, np.float32(np.nan))[0]
    stripes = np.nan_to_num(median_of_last(lines if axis == 1 else lines.T, xp=np))
    cleaned = residual[0] - (stripes[:, None] if axis == 1 else stripes) + background[0]
    cleaned[lost] = np.nan
    return cleaned, mask[0]


def _fit_line(profile):
    """Return the slope of a line through a profile, and the scatter about it."""
    from astropy.stats import sigma_clipped_stats

    good = np.isfinite(profile)
    x = np.arange(profile.size)[good]
    line = np.polynomial.Polynomial.fit(x, profile[good], deg=1)
    coefficients = line.convert().coef
    _mean, _median, scatter = sigma_clipped_stats(profile[good] - line(x), sigma=10.0)
    return (coefficients[1] if len(coefficients) > 1 else 0.0), scatter


def _largest_offset(along_x):
    """Return the largest difference between the means of neighbouring amplifiers; 0 unless it is a full frame."""
    from astropy.stats import sigma_clipped_stats

    if along_x.size != FULL_FRAME:
        return 0.0
    means = [sigma_clipped_stats(part, sigma=3.0)[0] for part in along_x.reshape(-1, AMPLIFIER)]
    return float(np.abs(np.diff(means)).max())
