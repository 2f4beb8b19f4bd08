"""1/f noise by kriging: the best linear estimate for a measured power spectrum, in two stages.

In ramps, everything but the pedestals and slopes shows 1/f noise without the scene. It gives the power spectrum, and is
corrected first. What is left is the 1/f noise of the slopes, which is separated from the scene of the mean of all
integrations, and then estimated for their differences, which show no scene.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operations.subtract_1overf.contrasts import (
    BRIGHT,
    LOST,
    MOST_CONTRASTS,
    OUTLYING,
    ContrastSettings,
)
from gpucoron.backends.operations.subtract_1overf.differences import DifferenceSettings
from gpucoron.backends.operations.subtract_1overf.readout import from_order, in_order
from gpucoron.backends.operations.subtract_1overf.slopes import KrigingSettings
from gpucoron.backends.operations.subtract_1overf.spectrum import (
    PowerLaw,
    Spectrum,
    SpectrumSettings,
    usual_spectrum,
)
from gpucoron.backends.results import Slopes
from gpucoron.backends.statistics import MAD_TO_SIGMA, add_in_order, medians_where
from gpucoron.dq import DO_NOT_USE
from gpucoron.steps.arguments import CUBE, IMAGE, RAMP, Array, BackendLike, Images, on_arrays
from gpucoron.steps.noise_error import NoiseError, remaining_error
from gpucoron.steps.values import Choice, Kind, Number, check_numbers

#: most images whose power spectra are averaged: more hardly change the amplitude
MOST_IMAGES = 24
#: with fewer images the exponent is not measured
FEWEST_IMAGES = 4
#: images with fewer good pixels tell nothing of the spectrum: the scatter of the amplitude would be its size
FEWEST_PIXELS = 500
#: smoothing (sigma) of the photon variances, which depend on the noise of the rates, pixels
SMOOTHING = 1.5

#: directions of readout: 2 and -2 rows one after the other, 1 and -1 columns; the sign is the direction
_AXIS = Choice(2, -2, 1, -1)
_TIMES = Kind("for each group its mean time, in s", check_numbers)
_READOUT = {"slowaxis": _AXIS, "fastaxis": _AXIS, "noutputs": Number(whole=True, minimum=1)}


def _check_center(center):
    if center is not None:
        check_numbers(center, 2)


_CENTER = Kind("the star's x and y, in pixels from 0, or None", _check_center)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    times=_TIMES,
    exponent=Number(),
    **_READOUT,
)
def measure_spectrum(
    data: ArrayLike,
    groupdq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    times: Any,
    *,
    exponent: float | None = None,
    slowaxis: int = 2,
    fastaxis: int = 1,
    noutputs: int = 1,
    backend: BackendLike = None,
) -> Spectrum | None:
    """Measure the power spectrum of the 1/f noise of ramps, without assumptions on the scene.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        Linear ramps.
    groupdq : (nints, ngroups, ny, nx) uint8
        Pixels that have lost a group (DO_NOT_USE, SATURATED, JUMP_DET) are ignored.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        Of the difference of two groups.
    times : (ngroups,) float, s
        Mean time of each group.
    exponent : float, optional
        The exponent, if it is known.
    slowaxis, fastaxis : {1, -1, 2, -2}
        Axes of the readout.
    noutputs : int
        Amplifiers side by side along the fast axis.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    Spectrum or None
        Of one group, DN^2; None if there are fewer than three groups, or no quiet pixels.

    Notes
    -----
    See `gpucoron.backends.backend.Backend.measure_1overf`. The amplitude is accurate to about 10 % with ten groups of
    one integration of 320 x 320 pixels.
    """
    _check_outputs(data.shape[-1 if abs(slowaxis) == 2 else -2], noutputs)
    if len(times) != data.shape[1]:
        msg = f"times must have one value for each of the {data.shape[1]} groups, not {len(times)}"
        raise ValueError(msg)
    groups = used_groups(groupdq, backend)
    per_integration = min(len(groups) - 2, MOST_CONTRASTS)
    if per_integration < 1:
        return None
    n_ints = min(len(data), max(1, MOST_IMAGES // per_integration))
    chosen = np.linspace(0, len(data) - 1, n_ints).astype(int)
    settings = ContrastSettings(tuple(map(float, times)), used=groups)
    found = []
    for integration in chosen:
        part = slice(integration, integration + 1)
        arrays = (in_order(array, slowaxis, fastaxis) for array in (data[part], groupdq[part], gain, readnoise))
        found.append(backend.gather_contrasts(*arrays, settings=settings))
    images, masks = (backend.xp.concatenate(arrays) for arrays in zip(*found, strict=True))
    return _fit_spectrum(images, masks, exponent, noutputs, backend)


def _check_outputs(nx, noutputs):
    if nx % noutputs:
        msg = f"{nx} pixels along the fast axis cannot be divided among {noutputs} outputs"
        raise ValueError(msg)


def used_groups(groupdq, backend):
    """List the groups that are not lost in all pixels of all integrations."""
    everywhere = np.ones(groupdq.shape[1], bool)
    for part in backend.batches(len(groupdq), 2 * math.prod(groupdq.shape[1:])):
        everywhere &= backend.to_host(((groupdq[part] & LOST) != 0).all(axis=(0, 2, 3)))
        if not everywhere.any():
            break
    return tuple(int(group) for group in np.flatnonzero(~everywhere))


def _fit_spectrum(images, masks, exponent, noutputs, backend):
    """Fit the spectrum of images without a scene; None if there is none to fit."""
    enough = backend.to_host(masks.sum(axis=(1, 2))) >= FEWEST_PIXELS
    if not enough.any():
        return None
    chosen = [int(index) for index in np.flatnonzero(enough)[:MOST_IMAGES]]
    images, masks = (backend.xp.stack([array[index] for index in chosen]) for array in (images, masks))
    if len(images) < FEWEST_IMAGES and exponent is None:
        exponent = usual_spectrum().common.exponent
    settings = SpectrumSettings(noutputs, exponent)
    common, own = backend.measure_1overf(images, masks, settings=settings)
    laws = [PowerLaw(float(amplitude), float(alpha)) for amplitude, alpha, _ in (common, own)]
    if not common[2] > 0:
        return None
    return Spectrum(laws[0], laws[1] if noutputs > 1 else None)


@on_arrays(
    data=Array(RAMP, unit="DN", in_place=True),
    groupdq=Array(RAMP, "uint8"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    times=_TIMES,
    **_READOUT,
)
def subtract_contrasts(
    data: ArrayLike,
    groupdq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    times: Any,
    *,
    spectrum: Spectrum | None = None,
    slowaxis: int = 2,
    fastaxis: int = 1,
    noutputs: int = 1,
    backend: BackendLike = None,
) -> None:
    """Subtract the 1/f noise from ramps in everything but their pedestals and slopes, in place.

    Parameters
    ----------
    data, groupdq, gain, readnoise, times, slowaxis, fastaxis, noutputs
        As in `measure_spectrum`.
    spectrum : Spectrum, optional
        Of one group, DN^2. Without it, the weighted mean of each row is subtracted.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Notes
    -----
    See `gpucoron.backends.backend.Backend.subtract_contrasts`.
    """
    groups = used_groups(groupdq, backend)
    if len(groups) < 3:
        return  # there is nothing but pedestals and slopes
    _check_outputs(data.shape[-1 if abs(slowaxis) == 2 else -2], noutputs)
    settings = ContrastSettings(tuple(map(float, times)), spectrum, noutputs, groups)
    arrays = (in_order(array, slowaxis, fastaxis) for array in (data, groupdq, gain, readnoise))
    backend.subtract_contrasts(*arrays, settings=settings)


@on_arrays(
    rateints=Images(CUBE),
    is_reference=Array(IMAGE, "bool"),
    protected=Array(IMAGE, "bool"),
    relaxation=Number(minimum=1),
    center=_CENTER,
    **_READOUT,
)
def noise_of_slopes(
    rateints: Slopes,
    *,
    spectrum: Spectrum | None = None,
    relaxation: float = 2.0,
    center: Any = None,
    is_reference: ArrayLike | None = None,
    protected: ArrayLike | None = None,
    slowaxis: int = 2,
    fastaxis: int = 1,
    noutputs: int = 1,
    backend: BackendLike = None,
) -> tuple[NDArray[np.float32], NoiseError]:
    """Estimate the 1/f noise of the slopes of each integration.

    Parameters
    ----------
    rateints : Slopes
        Slopes of the integrations, (nints, ny, nx), DN/s. Pixels with DO_NOT_USE or NaN are ignored, but get a value.
    spectrum : Spectrum, optional
        Of the slopes of one integration, (DN/s)^2. Without it, the weighted mean of each row is estimated.
    relaxation : float
        At least 1. With 1 the error is smallest for a random scene of known variance; with more, less of a faint
        companion is lost, and more noise is left.
    center : (x, y), optional
        The star, pixels from 0; by default the centre. A few pixels off do not matter.
    is_reference : (ny, nx) bool, optional
        True for reference pixels, which see no scene.
    protected : (ny, nx) bool, optional
        True for pixels that are ignored, but get a value: known sources.
    slowaxis, fastaxis, noutputs
        As in `measure_spectrum`.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    noise : (nints, ny, nx) float32, DN/s
        To subtract from the rates; the mean over the pixels is that of the integration's differences from the mean.
    error : NoiseError
        What remains of the noise, to be added to the variances.

    Notes
    -----
    See `gpucoron.backends.backend.Backend.krige_slopes`. New in gpucoron.
    """
    xp = backend.xp
    rate, dq, poisson, read = (
        in_order(array, slowaxis, fastaxis)
        for array in (rateints.rate, rateints.dq, rateints.var_poisson, rateints.var_rnoise)
    )
    nints, ny, nx = rate.shape
    _check_outputs(nx, noutputs)
    if noutputs > 1 and spectrum is not None and spectrum.own is None:
        msg = "spectrum.own, the noise of each output, is needed for several outputs"
        raise ValueError(msg)
    x, y = ((rateints.rate.shape[-1] - 1) / 2, (rateints.rate.shape[-2] - 1) / 2) if center is None else center
    if abs(slowaxis) == 1:
        x, y = y, x
    place = float(nx - 1 - x if fastaxis < 0 else x), float(ny - 1 - y if slowaxis < 0 else y)
    usable = True if protected is None else ~in_order(protected, slowaxis, fastaxis)
    variance = xp.empty(rate.shape, xp.float32)
    weight, mean, count = xp.zeros((3, ny, nx))
    for part in backend.batches(nints, 40 * ny * nx):
        known = xp.isfinite(rate[part]) & ((dq[part] & DO_NOT_USE) == 0) & usable
        photon = xp.where(known & xp.isfinite(poisson[part]), poisson[part], xp.float32(0))
        of_one = backend.ndimage.gaussian_filter(photon, (0, SMOOTHING, SMOOTHING), mode="nearest") + read[part]
        known &= xp.isfinite(of_one) & (of_one > 0)
        variance[part] = xp.where(known, of_one, xp.float32(xp.inf))
        share = xp.where(known, 1 / xp.where(known, of_one, 1), 0)
        add_in_order(weight, share, xp=xp)
        add_in_order(count, known, xp=xp)
        add_in_order(mean, share * xp.where(known, rate[part], 0), xp=xp)
    some = weight > 0
    mean = xp.where(some, mean / xp.where(some, weight, 1), 0).astype(xp.float32)
    of_mean = xp.where(some, 1 / xp.where(some, weight, 1), xp.inf).astype(xp.float32)
    reference = None if is_reference is None else in_order(is_reference, slowaxis, fastaxis)
    settings = KrigingSettings(spectrum and spectrum.scaled(1 / nints), place, noutputs, relaxation)
    noise = xp.empty(rate.shape, xp.float32)
    noise[...] = backend.krige_slopes(mean, of_mean, reference, settings=settings)
    share = 1 - 1 / nints
    if nints > 1:
        differences = DifferenceSettings(spectrum and spectrum.scaled(share), noutputs)
        # with one integration, the difference from the mean says nothing
        variance[:, count < 2] = xp.inf
        variance *= share
        noise += backend.krige_differences(rate - mean, variance, settings=differences)
    error = remaining_error(spectrum, of_mean, variance, relaxation, noutputs, xp=xp)
    return from_order(noise, slowaxis, fastaxis), error


def spectrum_of_integrations(rateints, exponent, slowaxis, fastaxis, noutputs, backend):
    """Measure the spectrum of the slopes of one integration by the differences of integrations, or return None.

    Parameters
    ----------
    rateints : Slopes
        As in `noise_of_slopes`.
    exponent, slowaxis, fastaxis, noutputs, backend
        As in `measure_spectrum`.

    Returns
    -------
    Spectrum or None
        (DN/s)^2; None with one integration.
    """
    xp = backend.xp
    rate = in_order(rateints.rate, slowaxis, fastaxis)
    dq, read = in_order(rateints.dq, slowaxis, fastaxis), in_order(rateints.var_rnoise, slowaxis, fastaxis)
    photon = in_order(rateints.var_poisson, slowaxis, fastaxis)
    known = xp.isfinite(rate) & ((dq & DO_NOT_USE) == 0) & xp.isfinite(read) & (read > 0)
    counts = backend.to_host(known.sum(axis=(1, 2)))
    # without integrations that have lost most pixels
    used = [int(index) for index in np.flatnonzero(2 * counts >= counts.max())]
    n = min(len(used) - 1, MOST_IMAGES)
    if n < 1 or not counts.max():
        return None
    first, end = used[0], used[-1] + 1
    of_used = slice(first, end) if len(used) == end - first else xp.asarray(np.array(used))
    rate, photon, read, known = (array[of_used] for array in (rate, photon, read, known))
    whole, share = xp.ones(rate.shape[1:], bool), xp.zeros(rate.shape[1:], xp.float32)
    for part in backend.batches(len(used), 16 * rate[0].size):
        whole &= known[part].all(axis=0)
        shares = xp.where(known[part], photon[part] / xp.where(known[part], read[part], 1), 0)
        share = xp.maximum(share, shares.max(axis=0))
    faint = whole & (share < BRIGHT)
    if int(faint.sum()) < FEWEST_PIXELS and bool(whole.any()):
        faint = whole & (share <= xp.median(share[whole]))
    images, masks = xp.empty((n, *rate.shape[1:]), xp.float32), xp.empty((n, *rate.shape[1:]), bool)
    sums = xp.zeros(rate.shape[1:])
    for part in backend.batches(n, 64 * rate[0].size):
        # Helmert's contrasts: each integration less the mean of those before it
        number = xp.arange(part.start + 1, part.stop + 1, dtype=xp.float64)[:, None, None]
        before = xp.where(faint, rate[part], xp.float32(0)).astype(xp.float64)
        before[0] += sums
        before = xp.cumsum(before, axis=0)
        sums = before[-1]
        after = xp.where(faint, rate[part.start + 1 : part.stop + 1], 0)
        values = (after - before / number) * xp.sqrt(number / (number + 1))
        images[part], masks[part] = _centered(values, faint, xp)
    return _fit_spectrum(images, masks, exponent, noutputs, backend)


def _centered(images, known, xp):
    """Subtract the medians; return the images and their pixels within five median deviations (in sigma)."""
    masks = xp.broadcast_to(known, images.shape)
    images = images - medians_where(images, masks, xp=xp)[:, None, None]
    width = medians_where(abs(images), masks, xp=xp)[:, None, None] * MAD_TO_SIGMA
    return images, known & (abs(images) <= OUTLYING * width)
