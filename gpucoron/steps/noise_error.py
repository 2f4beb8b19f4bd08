"""What remains of 1/f noise after its correction, for the errors of the slopes."""

from dataclasses import dataclass

import numpy as np

from gpucoron.backends.operations.subtract_1overf.readout import Readout, variance_of
from gpucoron.backends.operations.subtract_1overf.slopes import QUIET, relax


@dataclass(frozen=True)
class NoiseError:
    """The variance that remains of 1/f noise, beyond the variances of a fit, (DN/s)^2.

    Attributes
    ----------
    rateints : (nints,) float
    rate : float
    """

    rateints: tuple
    rate: float


def remaining_error(spectrum, of_mean, of_differences, relaxation, noutputs, *, xp):
    """Return what remains of 1/f noise after kriging, in quiet pixels.

    Parameters
    ----------
    spectrum : Spectrum or None
        Of the slopes of one integration, (DN/s)^2.
    of_mean : (ny, nx) float32, (DN/s)^2
        Variance of the mean of the integrations without 1/f noise; infinite where it is unknown.
    of_differences : (nints, ny, nx) float32, (DN/s)^2
        The same for the differences from the mean.
    relaxation : float
    noutputs : int
    xp : module

    Returns
    -------
    NoiseError

    Notes
    -----
    In a quiet pixel, the estimate is the series filtered by H = C / (C + V), with the relaxed C. The error of the
    corrected rate is that of (1 - H) applied to 1/f and white noise; the variance of the latter is in ERR already.
    """
    nints = len(of_differences)
    if spectrum is None:
        return NoiseError((0.0,) * nints, 0.0)
    shape = of_mean.shape
    rate = _excess(spectrum.scaled(1 / nints), float(_quiet(of_mean[None], xp)[0]), relaxation, shape, noutputs)
    share = 1 - 1 / nints
    others = [0.0] * nints
    if nints > 1:
        differences = spectrum.scaled(share)
        quiet = _quiet(of_differences, xp)
        others = [_excess(differences, float(each), None, shape, noutputs) for each in quiet]
    return NoiseError(tuple(max(rate + each, 0.0) for each in others), max(rate, 0.0))


def _excess(spectrum, noise, relaxation, shape, noutputs):
    """Return the variance of the error beyond that of white noise; a relaxation of None is that of differences."""
    fine, coarse = Readout(shape, noutputs, bin_width=1), Readout(shape, noutputs)
    if not noise > 0:
        # no pixel tells of the noise: all of it is left
        return sum(variance_of(power, fine) for power in spectrum.powers(fine))
    total = 0.0
    # all outputs show the common noise
    for power, white in zip(spectrum.powers(fine), (noise / noutputs, noise), strict=False):
        estimated = power if relaxation is None else relax(power, white, relaxation, fine)
        left = white / (estimated * (fine.frequencies <= coarse.frequencies[-1]) + white)
        total += variance_of(left**2 * (power + white) - white, fine)
    return total


def _quiet(variances, xp):
    """Return the percentile `QUIET` of the finite values of each image, (n,) float64 on the host; 0 without any."""
    if xp is np:
        known = (variance[np.isfinite(variance)] for variance in variances)
        return np.array([np.percentile(each, QUIET) if each.size else 0.0 for each in known], float)
    known = xp.isfinite(variances).reshape(len(variances), -1)
    ordered = xp.sort(xp.where(known, variances.reshape(known.shape), xp.float32(xp.inf)), axis=1)
    count = known.sum(axis=1, keepdims=True)
    last = xp.maximum(count - 1, 0)
    place = last * (QUIET / 100)
    low = xp.floor(place).astype(xp.int64)
    below, above = (xp.take_along_axis(ordered, each, axis=1) for each in (low, xp.minimum(low + 1, last)))
    # interpolated from the nearer value, as in numpy.percentile
    share, step = (place - low).astype(xp.float32), above - below
    levels = xp.where(share < 0.5, below + step * share, above - step * (1 - share))
    return xp.asnumpy(xp.where(count > 0, levels, 0)[:, 0]).astype(float)


def add_noise_error(exposure, *, xp):
    """Add what remains of 1/f noise to the variances of an exposure's slopes, in place.

    Parameters
    ----------
    exposure : Exposure
        ``rate`` and ``rateints`` (Slopes) are changed if ``noise_error`` (NoiseError) is not None: ``var_rnoise``,
        because it is noise of the readout, and ``err``.
    xp : module
        Namespace of the arrays.
    """
    error = exposure.noise_error
    if error is None or exposure.rateints is None:
        return
    of_integrations, variances = exposure.rateints, xp.asarray(np.array(error.rateints, float))[:, None, None]
    at_once = 1 if xp is np else max(1, len(variances))
    for start in range(0, len(variances), at_once):
        part = slice(start, start + at_once)
        _add(of_integrations.var_rnoise[part], of_integrations.err[part], variances[part], xp)
    if exposure.rate is not None:
        _add(exposure.rate.var_rnoise, exposure.rate.err, error.rate, xp)


def _add(var_rnoise, err, variance, xp):
    known = xp.isfinite(err) & (err > 0)
    err[...] = xp.where(known, xp.sqrt(err.astype(xp.float64) ** 2 + variance), err)
    var_rnoise[...] = xp.where(known, var_rnoise + xp.asarray(variance, xp.float32), var_rnoise)
