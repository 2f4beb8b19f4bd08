"""Images as series in the order of readout, in which 1/f noise is stationary."""

from functools import lru_cache

import numpy as np

#: time between two rows, in pixels
OVERHEAD = 12
#: pixels of a sample: 1/f noise of higher frequencies is far below the white noise
BIN = 4
#: part of a series that is added as padding, because Fourier transforms are periodic
PADDING = 1 / 8


def in_order(images, slowaxis, fastaxis):
    """Return a view of images (..., ny, nx) in the order of readout: row after row, each from its first pixel.

    Parameters
    ----------
    images : (..., ny, nx) array
    slowaxis, fastaxis : {1, -1, 2, -2}
        Axes of the readout: 1 is x and 2 is y, negative from the end.
    """
    if abs(slowaxis) == 1:
        images = images.swapaxes(-1, -2)
    return images[..., :: _step(slowaxis), :: _step(fastaxis)]


def from_order(images, slowaxis, fastaxis):
    """Return a view of images in the order of readout in their original orientation: the inverse of `in_order`."""
    images = images[..., :: _step(slowaxis), :: _step(fastaxis)]
    return images.swapaxes(-1, -2) if abs(slowaxis) == 1 else images


def _step(axis):
    return -1 if axis < 0 else 1


class Readout:
    """The order in which the pixels of an image are read: row after row, in several outputs at the same time.

    Rows are along the fast axis. Every second output is read in the opposite direction.

    Parameters
    ----------
    shape : (ny, nx)
    noutputs : int
        Outputs side by side along the rows.
    bin_width : int
        Pixels of a row that make one sample.

    Attributes
    ----------
    period : int
        Samples from one row to the next, with the time between them.
    n : int
        Samples of a series, with padding.
    n_bins : int
        Samples of a row.
    """

    def __init__(self, shape, noutputs=1, bin_width=BIN):
        self.ny, self.nx = shape
        self.noutputs, self.bin_width = noutputs, bin_width
        self.width = self.nx // noutputs
        self.n_bins = -(-self.width // bin_width)
        self.period = -(-(self.width + OVERHEAD) // bin_width)
        self.n = fast_length(int(self.ny * self.period * (1 + PADDING)))

    @property
    def frequencies(self):
        """Frequencies of the Fourier transform of a series, (n // 2 + 1,) float64, cycles per pixel."""
        return np.fft.rfftfreq(self.n, d=self.bin_width)

    def _rows(self, series):
        """View the samples of a series (..., n) as rows with the time between them, (..., ny, period)."""
        rows = series[..., : self.ny * self.period]
        return rows.reshape(*rows.shape[:-1], self.ny, self.period)

    def gather(self, images, xp):
        """Return the sums of the pixels of each sample, (..., noutputs, n), from images (..., ny, nx)."""
        outputs = images.reshape(*images.shape[:-1], self.noutputs, self.width).swapaxes(-3, -2)
        series = xp.zeros((*outputs.shape[:-2], self.n), images.dtype)
        rows = self._rows(series)[..., : self.n_bins]
        missing = self.n_bins * self.bin_width - self.width
        for output in range(self.noutputs):
            pixels = outputs[..., output, :, :: -1 if output % 2 else 1]
            if missing:
                edge = xp.zeros((*pixels.shape[:-1], missing), pixels.dtype)
                pixels = xp.concatenate([pixels, edge], axis=-1)
            samples = pixels.reshape(*pixels.shape[:-1], self.n_bins, self.bin_width)
            if self.bin_width == BIN:
                # much faster than a sum over a short axis
                rows[..., output, :, :] = (samples[..., 0] + samples[..., 1]) + (samples[..., 2] + samples[..., 3])
            else:
                rows[..., output, :, :] = samples.sum(axis=-1)
        return series

    def scatter(self, series, xp):
        """Return images (..., ny, nx) in which each pixel has the value of its sample, from (..., noutputs, n)."""
        rows = self._rows(series)[..., : self.n_bins]
        return self._join(xp.repeat(rows, self.bin_width, axis=-1)[..., : self.width], xp)

    def interpolate(self, series, xp):
        """Return images like `scatter`, interpolated linearly between the middles of the samples."""
        place = (np.arange(self.width) - (self.bin_width - 1) / 2) / self.bin_width
        left = np.floor(place).astype(int)
        share = xp.asarray((place - left).astype(np.float32))
        rows = self._rows(series)
        low = rows[..., xp.asarray(np.maximum(left, 0))]
        high = rows[..., xp.asarray(np.minimum(left + 1, self.n_bins - 1))]
        return self._join(low + (high - low) * share, xp)

    def _join(self, outputs, xp):
        if self.noutputs == 1:
            return outputs[..., 0, :, :]
        turned = [outputs[..., k, :, :: -1 if k % 2 else 1] for k in range(self.noutputs)]
        return xp.concatenate(turned, axis=-1)


@lru_cache(16)
def fast_length(n):
    """Return the smallest length of at least ``n`` whose real Fourier transform is fast."""
    from scipy.fft import next_fast_len

    return next_fast_len(n, real=True)


def power_law(frequencies, amplitude, exponent, bin_width=1):
    """Return the power spectrum of 1/f noise, averaged over the pixels of a sample; 0 at frequency 0.

    Parameters
    ----------
    frequencies : (n,) float64, cycles per pixel
    amplitude : float
        Power at one cycle per pixel: A in A f^-alpha.
    exponent : float
        alpha.
    bin_width : int

    Returns
    -------
    (n,) float64
        In the units of the amplitude; the mean over all frequencies is the variance of a sample.
    """
    power = np.zeros(len(frequencies))
    power[1:] = amplitude * frequencies[1:] ** -exponent / bin_width
    return power if bin_width == 1 else power * np.sinc(frequencies * bin_width) ** 2


def variance_of(power, readout):
    """Return the variance of a sample of noise with a power (n // 2 + 1,), which is 0 at frequency 0: its mean."""
    return float(2 * power.sum() / readout.n)
