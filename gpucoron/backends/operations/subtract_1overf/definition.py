"""Models of 1/f noise from the background pixels of images: along rows, then optionally along columns of the residual.

Rows are always the fast axis; callers transpose images of detectors that read along columns.
"""

import numpy as np

from gpucoron import get_by_old_name
from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.masks import grow_cross
from gpucoron.backends.operations.subtract_1overf.background import mean_in_order
from gpucoron.backends.operations.subtract_1overf.cosines import fit_cosines
from gpucoron.backends.operations.subtract_1overf.frames import for_each_frame
from gpucoron.backends.operations.subtract_1overf.savgol import MaskedLine, odd_window, smooth_columns
from gpucoron.backends.statistics import CUT, median, median_of_rows, resistant_mean, sigma_from_mad

#: Window along the fast axis, and the largest window of the flattening across it.
WINDOW, FLATTENING_WINDOW = 127, 255
#: Maximum number of rounds in which outliers of the model are left out.
ROUNDS = 5


def fit_1overf(device, images, masks, *, settings):
    """Fit the 1/f noise of each image, with rows as the fast axis.

    Good pixels are those in ``masks`` that are, with their four neighbours, within 3 sigma of the image's median, with
    sigma from the median absolute deviation. Their median is subtracted. Then, by ``model_type``:

    - 'savgol': the image is one line, row after row. Holes are bridged linearly between values of cubic fits to 33
      good samples; the model is a cubic fit in a window of 127 samples. Samples at which the model is more than 3
      standard deviations from the median of their row are left out, and the model is fitted again, up to five times.
    - 'median': the median of each row.
    - 'mean': the mean of each row within 3 sigma of its median (``resistant_mean`` of AstroIDL).
    - 'fft': cosines with periods longer than about 100 pixels, fitted to each row by least squares (Rauscher 2024).

    The last three are 0 in rows without good pixels.

    Parameters
    ----------
    device : Device
    images : (n, ny, nx) float
    masks : (n, ny, nx) bool
        True for background pixels.
    settings : Subtract1OverfSettings

    Returns
    -------
    (n, ny, nx) float32
        The model; its constant is arbitrary.

    Notes
    -----
    Source: spaceKLIP 2.2, ``CleanSubarray`` and ``CleanFullFrame``.
    """
    models = np.empty(images.shape, np.float32)

    def fit(index):
        image = np.ascontiguousarray(images[index], np.float32)
        mask = np.ascontiguousarray(masks[index])
        models[index] = (_fit_outputs if settings.noutputs > 1 else _fit_image)(image, mask, settings)

    with one_blas_thread():
        for_each_frame(fit, len(images), device.n_threads)
    return models


def _fit_image(image, mask, settings):
    values, good = _centre(image, mask)
    model = _fit_along(values, good, settings)
    if settings.vertical_corr:
        values = np.ascontiguousarray((values - model).T)
        good = np.ascontiguousarray(good.T)
        model += _fit_rows(values, good, settings.model_type, image.shape[0] // 3 - 1).T
    return model


def _fit_outputs(image, mask, settings):
    """Fit the mean of the output amplifiers if requested, then each amplifier, then columns of the whole image."""
    width = image.shape[1] // settings.noutputs
    channels = [slice(k * width, (k + 1) * width) for k in range(settings.noutputs)]
    # Every second output is read in the opposite direction.
    directions = [slice(None, None, -1 if k % 2 == 0 else 1) for k in range(settings.noutputs)]
    common = np.zeros((image.shape[0], width), np.float32)
    if settings.channel_averaging:
        common = _fit_common(image, mask, channels, directions, settings)
    model = np.zeros(image.shape, np.float32)
    for channel, direction in zip(channels, directions, strict=True):
        shared = common[:, direction]
        values, good = _centre(np.ascontiguousarray(image[:, channel]), mask[:, channel])
        model[:, channel] = _fit_along(values - shared, good, settings) + shared
    if settings.vertical_corr:
        values, good = _centre(np.ascontiguousarray((image - model).T), mask.T)
        model += _fit_along(values, good, settings).T
    return model


def _fit_common(image, mask, channels, directions, settings):
    """Fit the mean of all outputs, flipped to the same direction of readout."""
    good = mask & ~np.isnan(image)
    total = np.zeros((image.shape[0], channels[0].stop), np.float32)
    count = np.zeros(total.shape, np.float32)
    for channel, direction in zip(channels, directions, strict=True):
        seen = good[:, channel]
        values = np.where(seen, image[:, channel] - median(image[:, channel][seen]), np.float32(0))
        total += values[:, direction]
        count += seen[:, direction]
    mean = np.divide(total, count, out=np.full(total.shape, np.nan, np.float32), where=count > 0)
    values, good = _centre(mean, count > 0)
    return _fit_along(values, good, settings)


def _centre(image, mask):
    """Subtract the median of the good pixels; exclude outliers and their four neighbours from the good pixels."""
    finite = np.isfinite(image)
    outlying = ~finite
    samples = image.reshape(-1) if finite.all() else image[finite]
    if len(samples):
        deviation = np.abs(image - _middle(samples))
        distances = deviation.reshape(-1) if finite.all() else deviation[finite]
        spread = sigma_from_mad(_middle(distances), lambda: mean_in_order(distances), multiplies=True)
        outlying = ~(deviation <= np.float32(CUT) * spread)
    good = mask & ~grow_cross(outlying)
    samples = np.compress(good.reshape(-1), image.reshape(-1))
    values = image - _middle(samples) if len(samples) else image.copy()
    return values, good


def _middle(samples):
    # a zero is positive, in whatever order zeros of both signs are
    return median(samples) + np.float32(0)


def _fit_along(values, good, settings):
    """Fit rows; optionally subtract from the model its smooth part along columns, which is due to sources."""
    model = _fit_rows(values, good, settings.model_type, WINDOW)
    if not settings.flatten_model:
        return model
    ny = model.shape[0]
    return model - smooth_columns(model, odd_window(min(ny - 1, FLATTENING_WINDOW), ny))


def _fit_rows(values, good, model_type, window):
    """Fit the noise along rows; for smoothed models, exclude outliers of the model from ``good``."""
    if model_type == "median":
        return np.repeat(median_of_rows(values, good)[:, None], values.shape[1], axis=1)
    if model_type == "mean":
        return np.repeat(resistant_mean(values, good, axis=1)[:, None], values.shape[1], axis=1)
    if model_type == "fft":
        return fit_cosines(values, good)
    return _smooth_rows(values, good, window)


def _smooth_rows(values, good, window):
    """Smooth the image as one line; leave out samples where the model is far from the row's median, and repeat."""
    shape = values.shape
    line = MaskedLine(values.reshape(-1), good.reshape(-1), odd_window(window, values.size))
    model = line.model.reshape(shape)
    strays = _Strays(values, good, model)
    for _ in range(ROUNDS):
        straying = strays.find()
        if not len(straying):
            break
        good.reshape(-1)[straying] = False
        touched = np.zeros(shape[0], bool)
        touched[straying // shape[1]] = True
        strays.take_medians(np.flatnonzero(touched))
        touched[line.leave_out(straying) // shape[1]] = True
        strays.measure(np.flatnonzero(touched))
    return model


class _Strays:
    """Deviations of a model from the medians of its rows, updated row by row."""

    def __init__(self, values, good, model):
        self.values, self.good, self.model = values, good, model
        self.medians, self.deviations = np.zeros(len(values), np.float32), np.zeros(values.shape)
        self.take_medians(slice(None))
        self.measure(slice(None))

    def take_medians(self, rows):
        self.medians[rows] = median_of_rows(self.values[rows], self.good[rows]) + np.float32(0)

    def measure(self, rows):
        deviations = self.model[rows] - self.medians[rows, None]
        deviations[~self.good[rows]] = 0
        self.deviations[rows] = deviations

    def find(self):
        """Return the flat indices of good pixels with deviations of more than 3 sigma."""
        n = np.count_nonzero(self.good)
        # Columns are summed from row to row: the order of these sums is fixed.
        total = np.cumsum(self.deviations.sum(axis=0))[-1]
        square = np.cumsum((self.deviations * self.deviations).sum(axis=0))[-1]
        scatter = max(square - total * total / max(n, 1), 0.0)
        reach = np.float32(CUT * np.sqrt(scatter / max(n - 1, 1)))
        return (np.abs(self.deviations) > reach).reshape(-1).nonzero()[0]


def __getattr__(name):
    return get_by_old_name(__name__, name)
