"""The 1/f noise of ramps in everything but their pedestals and slopes: no scene is mixed with it there."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.operations.subtract_1overf.frames import for_each_block
from gpucoron.backends.operations.subtract_1overf.kriging import krige, means_of_rows
from gpucoron.backends.operations.subtract_1overf.readout import Readout, variance_of
from gpucoron.backends.operations.subtract_1overf.spectrum import Spectrum
from gpucoron.backends.statistics import MAD_TO_SIGMA
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

#: flags of lost groups
LOST = np.uint8(DO_NOT_USE | SATURATED | JUMP_DET)
#: polynomials in time that are looked at: higher ones hardly change a slope
MOST_CONTRASTS = 11
#: samples of a contrast beyond so many sigma are left out
OUTLYING = 5
#: measured bytes per pixel of an integration: of each contrast and all others while they are kriged, and of each
#: contrast when the noise of the groups is computed
_KRIGED, _OTHERS, _SUBTRACTED = 45, 16, 25
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
    used : tuple of int or None
        Groups to use, if others are lost in all pixels; these are not changed.
    """

    times: tuple
    spectrum: Spectrum | None = None
    noutputs: int = 1
    used: tuple | None = None


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


def contrast_bytes(nints, ngroups):
    """Return the bytes per pixel that `subtract_contrasts` needs for some integrations."""
    n = min(max(ngroups - 2, 0), MOST_CONTRASTS)
    return nints * max(_KRIGED * n + _OTHERS, _SUBTRACTED * n + 4 * ngroups + _OTHERS)


def photon_variance(contrasts, times):
    """Return the variance of each contrast for a photon noise of 1 DN^2/s: Q^T L Q with L_ij = min(t_i, t_j)."""
    return np.einsum("gq,gh,hq->q", contrasts, np.minimum.outer(times, times), contrasts)


class _Ramps:
    """Contrasts of some integrations: values, variances, and pixels without any lost group."""

    def __init__(self, data, groupdq, gain, readnoise, settings, xp):
        n, ngroups, ny, nx = data.shape
        used = list(range(ngroups)) if settings.used is None else list(settings.used)
        times = np.asarray(settings.times, float)[used]
        contrasts, slope = contrasts_of(times)
        self.weights = np.zeros((ngroups, contrasts.shape[1]), np.float32)
        self.weights[used] = contrasts
        of_slope = np.zeros(ngroups, np.float32)
        of_slope[used] = slope
        whole = (gain > 0) & xp.isfinite(readnoise) & (readnoise > 0)
        flags = np.zeros((ngroups, 1, 1), np.uint8)
        flags[used] = LOST
        flags = xp.asarray(flags)
        self.whole = (whole & ((groupdq & flags) == 0).all(axis=1))[:, None]
        weights = xp.asarray(np.concatenate([self.weights, of_slope[:, None]], axis=1).T)
        if len(used) < ngroups:
            # they may be NaN
            data = xp.where(flags > 0, data, np.float32(0))
        values = (weights @ data.reshape(n, ngroups, -1)).reshape(n, -1, ny, nx)
        self.values, rate = values[:, :-1], xp.maximum(values[:, -1:], 0)
        self.read = readnoise**2 / 2
        photon = xp.asarray(photon_variance(contrasts, times).astype(np.float32))
        self.photon = photon[:, None, None] * (rate / xp.where(gain > 0, gain, np.float32(1)))
        self.whole &= xp.isfinite(values).all(axis=1, keepdims=True)

    def center(self, known, xp):
        """Return the contrasts less their medians, 0 where not known, and the medians (n, q, 1, 1)."""
        middle = _medians(xp.where(known, self.values, np.float32(np.inf)), known, xp)
        middle = xp.where(xp.isfinite(middle), middle, np.float32(0))
        return xp.where(known, self.values - middle, np.float32(0)), middle


def _medians(values, known, xp):
    """Return the lower medians (n, q, 1, 1) of images that are infinite where they are not known (n, 1, ny, nx)."""
    counts = known.sum(axis=(1, 2, 3))
    middle = xp.maximum(counts - 1, 0) // 2
    values = values.reshape(*values.shape[:2], -1)
    if xp is np:
        ordered = np.partition(values, sorted({int(each) for each in middle}), axis=2)
    else:
        ordered = xp.sort(values, axis=2)
    where = xp.broadcast_to(middle[:, None, None], (*values.shape[:2], 1))
    return xp.take_along_axis(ordered, where, axis=2)[..., None]


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
        Only ``times`` and ``used`` are read.

    Returns
    -------
    images : (n, ny, nx) float32, DN
    masks : (n, ny, nx) bool
        True for good pixels whose photon noise is small, or below its median.
    """
    xp = device.xp
    ramps = _Ramps(data, groupdq, gain, readnoise, settings, xp)
    photon = ramps.photon.max(axis=1, keepdims=True)
    usual = _medians(xp.where(ramps.whole, photon, np.float32(np.inf)), ramps.whole, xp)
    faint = ramps.whole & ((photon < BRIGHT * ramps.read) | (photon <= usual))
    values, _ = ramps.center(faint, xp)
    deviation = _medians(xp.where(faint, abs(values), np.float32(np.inf)), faint, xp)
    masks = faint & (abs(values) <= (OUTLYING * np.float32(MAD_TO_SIGMA)) * deviation)
    return values.reshape(-1, *values.shape[2:]), masks.reshape(-1, *values.shape[2:])


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

    # In chunks, arrays that are not divided are still on the host.
    gain, readnoise = device.to_device(gain), device.to_device(readnoise)
    readout = Readout(data.shape[2:], settings.noutputs)
    powers = None
    of_pixel = np.float32(0)
    if settings.spectrum is not None:
        full = Readout(data.shape[2:], settings.noutputs, bin_width=1)
        powers = settings.spectrum.powers(readout)
        of_pixel = np.float32(sum(variance_of(power, full) for power in settings.spectrum.powers(full)))

    def correct(part):
        _correct(device, data[part], groupdq[part], gain, readnoise, settings, readout, powers, of_pixel)

    bytes_each = contrast_bytes(1, data.shape[1]) * data[0, 0].size
    for_each_block(correct, len(data), device, bytes_each)


def _correct(device, data, groupdq, gain, readnoise, settings, readout, powers, of_pixel):
    """Correct some integrations; ``of_pixel`` is the variance of the 1/f noise of a pixel."""
    xp = device.xp
    ramps = _Ramps(data, groupdq, gain, readnoise, settings, xp)
    if not ramps.weights.shape[1]:
        return
    values, middle = ramps.center(ramps.whole, xp)
    variance = ramps.read + ramps.photon
    known = ramps.whole
    if powers is not None:
        known = known & (values**2 <= OUTLYING**2 * (variance + of_pixel))
    weights = xp.where(known, 1 / variance, np.float32(0)).astype(np.float32)
    if powers is None:
        noise = means_of_rows(values, weights, settings.noutputs, xp)
    else:
        noise = krige(values, weights, powers, readout, device)
    noise = (noise + middle).reshape(*noise.shape[:2], -1)
    data -= (xp.asarray(ramps.weights) @ noise).reshape(data.shape)
