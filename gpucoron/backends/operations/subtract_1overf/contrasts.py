"""The 1/f noise of ramps in everything but their pedestals and slopes: no scene is mixed with it there."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.blas import one_blas_thread
from gpucoron.backends.operations.subtract_1overf.frames import for_each_frame
from gpucoron.backends.operations.subtract_1overf.kriging import krige, row_means
from gpucoron.backends.operations.subtract_1overf.readout import Readout, variance_of
from gpucoron.backends.operations.subtract_1overf.spectrum import Spectrum
from gpucoron.backends.statistics import MAD_TO_SIGMA
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

#: polynomials in time that are looked at: higher ones hardly change a slope
MOST_CONTRASTS = 11
#: samples of a contrast beyond so many sigma are left out
OUTLYING = 5
#: photon noise relative to the read noise, above which a pixel tells little of the spectrum, if others are fainter
BRIGHT = 0.5


@dataclass(frozen=True)
class ContrastSettings:
    """Parameters of the correction of ramps.

    Attributes
    ----------
    times : tuple of float
        Mean time of each group since the reset, s.
    spectrum : Spectrum or None
        Power of the 1/f noise of a group, DN^2. None: rows are corrected by their weighted means.
    noutputs : int
        Outputs side by side along the rows.
    """

    times: tuple
    spectrum: Spectrum | None = None
    noutputs: int = 1


def contrasts_of(times):
    """Return orthonormal polynomials in time that are orthogonal to a straight line, and the line's slope.

    Parameters
    ----------
    times : (ngroups,) float, s

    Returns
    -------
    contrasts : (ngroups, n) float64
        Degrees 2, 3, ...; n may be 0.
    slope : (ngroups,) float64
        The weights of the groups in an unweighted fit of a slope, 1/s.
    """
    times = np.asarray(times, float)
    centered = times - times.mean()
    scale = max(abs(centered).max(), np.finfo(float).tiny)
    degrees = min(len(times), MOST_CONTRASTS + 2)
    polynomials, _ = np.linalg.qr(np.polynomial.legendre.legvander(centered / scale, degrees - 1))
    return polynomials[:, 2:], centered / max((centered**2).sum(), np.finfo(float).tiny)


def photon_variance(contrasts, times):
    """Return the variance of each contrast for a photon noise of 1 DN^2/s: Q^T L Q with L_ij = min(t_i, t_j)."""
    return np.einsum("gq,gh,hq->q", contrasts, np.minimum.outer(times, times), contrasts)


class _Ramps:
    """Contrasts of one integration: values, variances, and pixels without any lost group."""

    def __init__(self, data, groupdq, gain, readnoise, times, xp):
        flags = np.uint8(DO_NOT_USE | SATURATED | JUMP_DET)
        lost = (groupdq & flags) != 0
        self.whole = ~lost.any(axis=0)
        self.times = np.asarray(times, float)
        self.contrasts, slope = contrasts_of(self.times)
        weights = xp.asarray(np.concatenate([self.contrasts, slope[:, None]], axis=1).T.astype(np.float32))
        flat = data.reshape(len(data), -1)
        values = (weights @ flat).reshape(-1, *data.shape[1:])
        self.values, rate = values[:-1], xp.maximum(values[-1], 0)
        self.read = readnoise**2 / 2
        photon = xp.asarray(photon_variance(self.contrasts, self.times).astype(np.float32))
        self.photon = photon[:, None, None] * (rate / gain)
        self.whole &= xp.isfinite(values).all(axis=0) & (gain > 0) & xp.isfinite(self.read) & (self.read > 0)

    def center(self, known, xp):
        """Return the contrasts less their medians, 0 where not known, and the medians (n, 1, 1)."""
        middle = _medians(xp.where(known, self.values, np.float32(np.inf)), known, xp)
        middle = xp.where(xp.isfinite(middle), middle, np.float32(0))
        return xp.where(known, self.values - middle, np.float32(0)), middle


def _medians(values, known, xp):
    """Return the lower medians (n, 1, 1) of images in which pixels that are not known are infinite."""
    middle = max(int(known.sum()) - 1, 0) // 2
    return xp.partition(values.reshape(len(values), -1), middle, axis=1)[:, middle][:, None, None]


def gather_contrasts(device, data, groupdq, gain, readnoise, *, settings):
    """Compute contrasts of ramps to measure the spectrum of their 1/f noise.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
        In the order of readout: rows along the fast axis, the first pixel read first.
    groupdq : (nints, ngroups, ny, nx) uint8
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        Of the difference of two groups.
    settings : ContrastSettings
        Only ``times`` is used.

    Returns
    -------
    images : (n, ny, nx) float32, DN
    masks : (n, ny, nx) bool
        True for good pixels whose photon noise is small, or below its median.
    """
    xp = device.xp
    images, masks = [], []
    for ramp, flags in zip(data, groupdq, strict=True):
        ramps = _Ramps(ramp, flags, gain, readnoise, settings.times, xp)
        photon = ramps.photon.max(axis=0)
        usual = _medians(xp.where(ramps.whole, photon, np.float32(np.inf))[None], ramps.whole, xp)[0]
        faint = ramps.whole & ((photon < BRIGHT * ramps.read) | (photon <= usual))
        values, _ = ramps.center(faint, xp)
        deviation = _medians(xp.where(faint, abs(values), np.float32(np.inf)), faint, xp)
        images.append(values)
        masks.append(faint & (abs(values) <= (OUTLYING * np.float32(MAD_TO_SIGMA)) * deviation))
    return xp.concatenate(images), xp.concatenate(masks)


def subtract_contrasts(device, data, groupdq, gain, readnoise, *, settings):
    """Subtract 1/f noise from ramps in all polynomials of the time but the constant and the linear one, in place.

    These hold no scene, and the 1/f noise in them is independent of that of the slopes. Once it is subtracted, all
    pixels see the same 1/f noise in their slopes, whatever groups they have lost and whatever their weights are.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
        Linear ramps, in the order of readout as in `gather_contrasts`. Changed in place.
    groupdq, gain, readnoise
        As in `gather_contrasts`. Groups with DO_NOT_USE, SATURATED or JUMP_DET are lost; a pixel that has lost a group
        does not contribute to the estimate, but is corrected.
    settings : ContrastSettings
    """

    def correct(integration):
        _correct(device, data[integration], groupdq[integration], gain, readnoise, settings)

    with one_blas_thread():
        for_each_frame(correct, len(data), device.n_threads if device.on_host else 1)


def _correct(device, data, groupdq, gain, readnoise, settings):
    xp = device.xp
    ramps = _Ramps(data, groupdq, gain, readnoise, settings.times, xp)
    if not len(ramps.values):
        return
    values, middle = ramps.center(ramps.whole, xp)
    variance = ramps.read + ramps.photon
    readout = Readout(data.shape[1:], settings.noutputs)
    known = ramps.whole
    if settings.spectrum is not None:
        full = Readout(data.shape[1:], settings.noutputs, bin_width=1)
        of_pixel = sum(variance_of(power, full) for power in settings.spectrum.powers(full))
        known = known & (values**2 <= OUTLYING**2 * (variance + np.float32(of_pixel)))
    weights = xp.broadcast_to(xp.where(known, 1 / variance, np.float32(0)).astype(np.float32), values.shape)
    if settings.spectrum is None:
        ny, nx = data.shape[1:]
        parts = (*values.shape[:-1], settings.noutputs, nx // settings.noutputs)
        noise = row_means(values.reshape(parts), weights.reshape(parts), xp)
        noise = xp.broadcast_to(noise, parts).reshape(values.shape)
    else:
        noise = krige(values, weights, settings.spectrum.powers(readout), readout, device)
    weights = xp.asarray(ramps.contrasts.astype(np.float32))
    noise = (noise + middle).reshape(len(noise), -1)
    data -= (weights @ noise).reshape(data.shape)
