"""1/f noise of images from their background pixels: along rows first, then, if asked, along columns of what is left.

Here rows are always the fast axis; a caller whose detector reads along columns transposes.
"""

import numpy as np

from gpucoron.backends.operations.subtract_1overf.background import MAD_TO_SIGMA
from gpucoron.backends.operations.subtract_1overf.cosines import fit_cosines
from gpucoron.backends.operations.subtract_1overf.frames import for_each_frame, median
from gpucoron.backends.operations.subtract_1overf.savgol import ORDER, MaskedLine, odd_window

#: Window along the fast axis, and the largest one of the flattening across it.
_WINDOW, _FLATTENING_WINDOW = 127, 255
#: Cut of outliers, and how often samples of a model that stray from their row are left out.
_CUT, _ROUNDS = 3, 5
# How a cut at 3 sigma narrows a Gaussian, as the resistant mean of the IDL Astronomy User's Library has it.
_NARROWING = -0.15405 + 0.90723 * _CUT - 0.23584 * _CUT**2 + 0.020142 * _CUT**3


def fit_flicker(images, masks, *, model_type, vertical_corr, flatten_model, noutputs, channel_averaging, n_threads):
    """See `gpucoron.backends.base.Backend.fit_flicker`."""
    models = np.empty(images.shape, np.float32)

    def fit(index):
        image = np.ascontiguousarray(images[index], np.float32)
        mask = np.ascontiguousarray(masks[index])
        if noutputs > 1:
            model = _fit_outputs(image, mask, model_type, vertical_corr, flatten_model, noutputs, channel_averaging)
        else:
            model = _fit_image(image, mask, model_type, vertical_corr, flatten_model)
        models[index] = model

    for_each_frame(fit, len(images), n_threads)
    return models


def _fit_image(image, mask, model_type, vertical_corr, flatten_model):
    values, good = _centre(image, mask)
    model = _fit_along(values, good, model_type, flatten_model)
    if vertical_corr:
        values = np.ascontiguousarray((values - model).T)
        good = np.ascontiguousarray(good.T)
        model += _fit_rows(values, good, model_type, image.shape[0] // 3 - 1).T
    return model


def _fit_outputs(image, mask, model_type, vertical_corr, flatten_model, noutputs, channel_averaging):
    """Fit each output amplifier by itself, what they have in common first; then columns over the whole image."""
    width = image.shape[1] // noutputs
    channels = [slice(k * width, (k + 1) * width) for k in range(noutputs)]
    # Every second output is read in the other direction.
    directions = [slice(None, None, -1 if k % 2 == 0 else 1) for k in range(noutputs)]
    common = np.zeros((image.shape[0], width), np.float32)
    if channel_averaging:
        common = _fit_common(image, mask, channels, directions, model_type, flatten_model)
    model = np.zeros(image.shape, np.float32)
    for channel, direction in zip(channels, directions, strict=True):
        shared = common[:, direction]
        values, good = _centre(np.ascontiguousarray(image[:, channel]), mask[:, channel])
        model[:, channel] = _fit_along(values - shared, good, model_type, flatten_model) + shared
    if vertical_corr:
        values, good = _centre(np.ascontiguousarray((image - model).T), mask.T)
        model += _fit_along(values, good, model_type, flatten_model).T
    return model


def _fit_common(image, mask, channels, directions, model_type, flatten_model):
    """Fit the mean of all outputs, turned so that they are read in the same direction."""
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
    return _fit_along(values, good, model_type, flatten_model)


def _centre(image, mask):
    """Subtract the median of the good pixels; outliers of the image and their four neighbours are not good."""
    finite = np.isfinite(image)
    outlying = ~finite
    samples = image.reshape(-1) if finite.all() else image[finite]
    if len(samples):
        deviation = np.abs(image - median(samples))
        spread = median(deviation.reshape(-1) if finite.all() else deviation[finite]) * np.float32(MAD_TO_SIGMA)
        if spread < np.finfo(float).eps:
            spread = deviation[finite].mean() / np.float32(0.8)
        outlying = ~(deviation <= _CUT * spread)
    grown = outlying.copy()
    grown[1:] |= outlying[:-1]
    grown[:-1] |= outlying[1:]
    grown[:, 1:] |= outlying[:, :-1]
    grown[:, :-1] |= outlying[:, 1:]
    good = mask & ~grown
    samples = np.compress(good.reshape(-1), image.reshape(-1))
    values = image - median(samples) if len(samples) else image.copy()
    return values, good


def _fit_along(values, good, model_type, flatten_model):
    """Fit rows; if asked, take out of the model what is broad along columns: that is sources, 1/f noise is not."""
    model = _fit_rows(values, good, model_type, _WINDOW)
    if not flatten_model:
        return model
    from scipy.signal import savgol_filter  # 0.4 s, which only this option should take

    ny = model.shape[0]
    return model - savgol_filter(model, odd_window(min(ny - 1, _FLATTENING_WINDOW), ny), ORDER, axis=0)


def _fit_rows(values, good, model_type, window):
    """Fit the noise along rows; ``good`` loses what strays from a smoothed model."""
    if model_type == "median":
        return np.repeat(_row_medians(values, good)[:, None], values.shape[1], axis=1)
    if model_type == "mean":
        return np.repeat(_row_means(values, good)[:, None], values.shape[1], axis=1)
    if model_type == "fft":
        return fit_cosines(values, good)
    return _smooth_rows(values, good, window)


def _sort_rows(values, good):
    """Sort each row's good values to its front; give them and how many there are."""
    ordered = values.copy()
    np.copyto(ordered, np.inf, where=~good)
    ordered.sort(axis=1)
    return ordered, good.sum(axis=1, dtype=np.int32)


def _middles(ordered, count):
    rows = np.arange(len(ordered))
    lower = ordered[rows, np.maximum(count - 1, 0) // 2]
    upper = ordered[rows, np.minimum(count // 2, ordered.shape[1] - 1)]
    return np.where(count > 0, (lower + upper) / 2, ordered.dtype.type(0))


def _row_medians(values, good):
    """Take each row's median over its good pixels, (ny,) float32; 0 for a row without any."""
    return _middles(*_sort_rows(values, good))


def _row_means(values, good):
    """Take each row's mean within 3 sigma of its median, sigma from what lies within 3 median deviations; (ny,)."""
    count = np.count_nonzero(good, axis=1)
    deviation = np.abs(values - _row_medians(values, good)[:, None])
    spread = _row_medians(deviation, good) * np.float32(MAD_TO_SIGMA)
    flat = spread < np.finfo(float).eps
    spread[flat] = (_sum_where(deviation, good) / np.maximum(count, 1))[flat] / 0.8

    near = good & (deviation <= _CUT * spread[:, None])
    n = np.maximum(np.count_nonzero(near, axis=1), 1)
    mean = _sum_where(values, near) / n
    scatter = _sum_where((values - mean[:, None].astype(np.float32)) ** 2, near) / n
    sigma = (np.sqrt(scatter) / _NARROWING).astype(np.float32)

    near = good & (deviation <= _CUT * sigma[:, None])
    n = np.count_nonzero(near, axis=1)
    return (_sum_where(values, near) / np.maximum(n, 1)).astype(np.float32)


def _sum_where(values, where):
    return np.where(where, values, np.float32(0)).sum(axis=1, dtype=np.float64)


def _smooth_rows(values, good, window):
    """Smooth the image as one line of rows; leave out where that strays from the row's median, and smooth again."""
    shape = values.shape
    line = MaskedLine(values.reshape(-1), good.reshape(-1), odd_window(window, values.size))
    model = line.model.reshape(shape)
    strays = _Strays(values, good, model)
    for _ in range(_ROUNDS):
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
    """How far a model strays from the medians of its rows, kept up to date row by row."""

    def __init__(self, values, good, model):
        self.values, self.good, self.model = values, good, model
        self.medians, self.sums, self.squares, self.largest = np.zeros((4, len(values)))
        self.take_medians(slice(None))
        self.measure(slice(None))

    def take_medians(self, rows):
        self.medians[rows] = _row_medians(self.values[rows], self.good[rows])

    def measure(self, rows):
        deviation = self._deviate(rows)
        self.largest[rows] = np.maximum(deviation.max(axis=1), -deviation.min(axis=1))
        self.sums[rows] = deviation.sum(axis=1)
        self.squares[rows] = np.einsum("ij,ij->i", deviation, deviation)

    def _deviate(self, rows):
        deviation = self.model[rows] - self.medians[rows, None].astype(np.float32)
        deviation *= self.good[rows]
        return deviation

    def find(self):
        """Find the good pixels, by flat index, that stray more than 3 sigma."""
        n = max(np.count_nonzero(self.good), 1)
        scatter = max(self.squares.sum() - self.sums.sum() ** 2 / n, 0.0)
        reach = np.float32(_CUT * np.sqrt(scatter / max(n - 1, 1)))
        rows = (self.largest > reach).nonzero()[0]
        nx = self.values.shape[1]
        at = (np.abs(self._deviate(rows)) > reach).reshape(-1).nonzero()[0]
        return rows[at // nx] * nx + at % nx
