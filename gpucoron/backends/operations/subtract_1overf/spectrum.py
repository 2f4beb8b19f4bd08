"""The power spectrum of 1/f noise, measured in images without a scene."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.operations.subtract_1overf.iterations import has_kernels, sum_bands
from gpucoron.backends.operations.subtract_1overf.readout import Readout, fast_length, power_law
from gpucoron.backends.statistics import add_in_order

#: exponents of the power law that are tried, and the steps to the better ones on both sides
EXPONENTS, FINER = np.arange(0.5, 1.61, 0.1), (0.05, 0.025)
#: bins of the spectrum, equal in the logarithm of the frequency
N_BINS = 35
#: rounds of the fit for one exponent, and the smallest power, relative to the white noise
ROUNDS, SMALLEST = 20, 1e-9


@dataclass(frozen=True)
class PowerLaw:
    """The power A f^-alpha of 1/f noise, f in cycles per pixel of the readout.

    Attributes
    ----------
    amplitude : float
        A, in the square of the unit of an image.
    exponent : float
        alpha.
    """

    amplitude: float
    exponent: float

    def power(self, readout):
        """Return the power of the samples of a `Readout`, (n // 2 + 1,) float64."""
        return power_law(readout.frequencies, self.amplitude, self.exponent, readout.bin_width)

    def scaled(self, factor):
        """Return the spectrum of noise whose variance is larger by a factor."""
        return PowerLaw(self.amplitude * factor, self.exponent)


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of 1/f noise of the readout.

    Attributes
    ----------
    common : PowerLaw
        Noise that all outputs have in common.
    own : PowerLaw or None
        Noise of each output; None with one output.
    """

    common: PowerLaw
    own: PowerLaw | None = None

    def scaled(self, factor):
        """Return the spectrum of noise whose variance is larger by a factor."""
        return Spectrum(self.common.scaled(factor), self.own and self.own.scaled(factor))

    def powers(self, readout):
        """Return the power of the samples of each kind of noise: a list of (n // 2 + 1,) float64."""
        return [law.power(readout) for law in (self.common, self.own) if law is not None]


#: spectrum of one group, DN^2, for exposures in which it cannot be measured: the usual one of NIRCam's detectors
USUAL = PowerLaw(0.14, 1.0)
#: part of the power that is common to several outputs: 3 e- to 1 e- in the HxRG simulator of Rauscher (2015)
COMMON_SHARE = 0.9


def usual_spectrum(noutputs=1):
    """Return the usual spectrum of one group, DN^2."""
    if noutputs == 1:
        return Spectrum(USUAL)
    return Spectrum(USUAL.scaled(COMMON_SHARE), USUAL.scaled(1 - COMMON_SHARE))


@dataclass(frozen=True)
class SpectrumSettings:
    """Parameters of the spectrum.

    Attributes
    ----------
    noutputs : int
        Outputs side by side along the rows.
    exponent : float or None
        The exponent, if it is known.
    """

    noutputs: int = 1
    exponent: float | None = None


def measure_1overf(device, images, masks, *, settings):
    """Measure the power of 1/f noise and of white noise in images without a scene.

    The mean periodogram of the masked series is compared with its expectation: for a power law, the transform of its
    covariance times the autocorrelation of the mask; white noise is added. Amplitude and white noise are fitted by
    scoring with Whittle's likelihood in bins of the frequency; of several exponents, the most likely one is taken. With
    several outputs, the mean of the outputs and the differences from it are measured separately.

    Parameters
    ----------
    device : Device
    images : (n, ny, nx) float32
        Independent images with the same noise and mean 0, in the order of readout: rows along the fast axis, the first
        pixel read first.
    masks : (n, ny, nx) bool
        True for pixels to use.
    settings : SpectrumSettings

    Returns
    -------
    (2, 3) float64
        Amplitude, exponent, and power of the white noise, on the host: of the noise that all outputs have in common,
        and of that of each output. With one output, the second row is 0.

    Notes
    -----
    Source: Whittle (1953, Arkiv for Matematik 2, 423) for the likelihood.
    """
    noutputs = settings.noutputs
    readout = Readout(images.shape[1:], noutputs, bin_width=1)
    length = fast_length(2 * readout.ny * readout.period)
    found = np.zeros((2, 3))
    found[0] = _measure(device, images, masks, readout, length, settings.exponent, _mean_of_outputs)
    if noutputs > 1:
        found[1] = _measure(device, images, masks, readout, length, settings.exponent, _differences)
        # the mean of n independent outputs has 1/n of their power, and a difference from it the rest
        found[1, ::2] /= 1 - 1 / noutputs
        found[0, 0] = max(found[0, 0] - found[1, 0] / noutputs, 0)
    return found


def _mean_of_outputs(values, known, xp):
    count = known.sum(axis=1, keepdims=True)
    return values.sum(axis=1, keepdims=True) / xp.maximum(count, 1), count == known.shape[1]


def _differences(values, known, xp):
    mean, everywhere = _mean_of_outputs(values, known, xp)
    return values - mean, xp.broadcast_to(everywhere, values.shape)


def _measure(device, images, masks, readout, length, exponent, combine):
    """Fit the spectrum of the series that ``combine`` makes of the outputs."""
    xp, fft = device.xp, device.fft
    power, of_masks = xp.zeros((2, length // 2 + 1))
    n = 0
    for part in device.batches(len(images), 40 * readout.noutputs * length):
        values = readout.gather(xp.where(masks[part], images[part], 0), xp)
        known = readout.gather(masks[part].astype(np.float32), xp) > 0
        values, known = combine(values, known, xp)
        known = known.astype(np.float32)
        count = xp.maximum(known.sum(axis=(1, 2), keepdims=True), 1)
        values = (values - (values * known).sum(axis=(1, 2), keepdims=True) / count) * known
        # In double precision: the mask has far more power than the noise.
        of_values = abs(fft.rfft(values, length, axis=-1)) ** 2
        add_in_order(power, of_values.astype(np.float64).sum(axis=1), xp=xp)
        add_in_order(of_masks, (abs(fft.rfft(known.astype(np.float64), length, axis=-1)) ** 2).sum(axis=1), xp=xp)
        n += values.shape[0] * values.shape[1]
    return _fit(device, power / max(n, 1), of_masks / max(n, 1), length, readout, n, exponent)


def _fit(device, power, of_masks, length, readout, n, exponent):
    """Fit a power law and white noise to a mean periodogram, by the periodogram of the masks."""
    xp, fft = device.xp, device.fft
    overlap = fft.irfft(of_masks, length)
    n_pairs = float(overlap[0])
    if n_pairs < 1:
        return 0.0, USUAL.exponent, 0.0
    bands = _Bands(length, readout, device)
    observed, white = bands.average(power[None])[0], np.full(len(bands.counts), n_pairs)
    if not (observed > 0).all():
        return 0.0, USUAL.exponent, 0.0
    # Half of the frequencies of a series that is padded to twice its length are independent.
    weights = bands.counts / 2 * n
    frequencies = xp.arange(length // 2 + 1) * (1 / length)

    def fit(alphas):
        fits = {}
        for part in device.batches(len(alphas), 48 * length):
            laws = xp.stack([_law(frequencies, alpha, xp) for alpha in alphas[part]])
            covariances = fft.irfft(laws, length, axis=-1)
            expected = bands.average(xp.maximum(xp.real(fft.rfft(covariances * overlap, axis=-1)), 0))
            designs = (np.stack([each, white], axis=1) for each in expected)
            fits |= {
                alpha: _score(design, observed, weights) for alpha, design in zip(alphas[part], designs, strict=True)
            }
        return fits

    if exponent is not None:
        ((_, amplitude, noise),) = fit([exponent]).values()
        return amplitude, exponent, noise
    fits = fit(list(EXPONENTS))
    for step in FINER:
        best = min(fits, key=lambda alpha: fits[alpha][0])
        fits |= fit([best - step, best + step])
    best = min(fits, key=lambda alpha: fits[alpha][0])
    return fits[best][1], round(float(best), 3), fits[best][2]


def _law(frequencies, alpha, xp):
    """Return f^-alpha, 0 at frequency 0."""
    law = xp.zeros_like(frequencies)
    law[1:] = 1 / frequencies[1:] if alpha == 1 else frequencies[1:] ** -float(alpha)
    return law


class _Bands:
    """Bands of frequencies, equal in their logarithm; ``counts`` are the frequencies of each that has any."""

    def __init__(self, length, readout, device):
        frequencies = np.fft.rfftfreq(length)
        edges = np.geomspace(1 / (readout.ny * readout.width), 0.5, N_BINS + 1)
        starts = frequencies.searchsorted(edges)
        counts = np.diff(starts)
        self._filled, self._device = counts > 0, device
        self.counts = counts[self._filled]
        self._inside, self._bands = slice(starts[0], starts[-1]), np.repeat(np.arange(N_BINS), counts)
        self._starts = device.to_device(starts.astype(np.int64))

    def average(self, values):
        """Return the means of values (m, n // 2 + 1) in the bands, on the host."""
        if has_kernels(self._device):
            sums = self._device.to_host(sum_bands(self._device, values, self._starts))
        else:
            sums = np.stack([np.bincount(self._bands, each[self._inside], N_BINS) for each in values])
        return sums[:, self._filled] / self.counts


def _score(design, observed, weights):
    """Fit the two amplitudes of a spectrum by Fisher scoring; return minus the log likelihood and the amplitudes."""
    white = max(observed[-5:].mean() / design[-1, 1], np.finfo(float).tiny)
    amplitudes = np.array([0.0, white])
    for _ in range(ROUNDS):
        expected = design @ amplitudes
        weighted = design * (weights / expected**2)[:, None]
        new = np.linalg.lstsq(weighted.T @ design, weighted.T @ observed, rcond=None)[0]
        new = np.maximum(new, [0.0, SMALLEST * white])
        if np.allclose(new, amplitudes, rtol=1e-6, atol=0):
            break
        amplitudes = new
    expected = design @ amplitudes
    return float((weights * (np.log(expected) + observed / expected)).sum()), *map(float, amplitudes)
