"""Likelihood fits of ramps, in tiles of pixels: one sweep up the groups for the rate, one down for its variances.

The covariance of a ramp's resultant differences is tridiagonal. Elimination without pivoting, group by group, gives the
fit with a few numbers per pixel, and cannot overflow. Most ramps have no jump, and for most of these a small chi-square
proves it: no rejection can decrease chi-square by more than its value. The remaining ramps are searched in
`gpucoron.backends.operations.likelihood.jumps`.
"""

import threading
from dataclasses import dataclass
from itertools import product

import numpy as np

from gpucoron.backends.operations.likelihood import jumps as likelihood_jumps
from gpucoron.backends.operations.likelihood.covariance import Covariance
from gpucoron.backends.operations.likelihood.jumps import RULES
from gpucoron.backends.operations.ramp_fit.median_network import median_of_planes
from gpucoron.backends.results import LikelihoodFit
from gpucoron.backends.tiles import for_each_tile
from gpucoron.dq import JUMP_DET

#: Ramps in a sweep: a plane of them is 128 kB, and the dozen planes in use fit into the cache.
TILE_PIXELS = 16384
#: Samples in a sweep: it limits the arrays for the sweep down to 4 MB each.
TILE_SAMPLES = 2**19
#: Bytes of float32 samples in a thread's piece of work, from which the ramps with jumps are gathered.
REGION_BYTES = 8 * 2**20
#: Ramps that are searched for jumps together.
BATCH = 2048
#: Ramps within this relative distance of a threshold are also searched.
MARGIN = 1e-6
#: Relative determinants below this are 0 but for rounding.
DEGENERATE = 1e-9

#: results of a fit for each ramp
RESULTS = ("countrate", "uncert", "chisq", "var_poisson", "var_rdnoise")


@dataclass(frozen=True)
class _Common:
    """Parameters that all tiles share."""

    covariance: Covariance
    rules: likelihood_jumps.Rules
    thresholds: tuple
    max_diffs_one_sided: int
    kinds: tuple

    @classmethod
    def of(cls, read_times, settings):
        covariance = Covariance.of(read_times)
        thresholds = (settings.threshold_oneomit, settings.threshold_twoomit)
        return cls(covariance, RULES[settings.rules], thresholds, settings.max_diffs_one_sided, covariance.kinds())


class _Scratches(threading.local):
    """The scratch arrays of each thread."""

    def of_thread(self):
        """Return the scratch arrays of this thread."""
        if not hasattr(self, "scratch"):
            self.scratch = _Scratch()
        return self.scratch


class _Scratch:
    """Arrays of a thread, reused for all tiles, because allocating new ones would take as long as the fit."""

    def __init__(self):
        self._buffers = {}

    def __call__(self, name, *shape, dtype=np.float64):
        size = int(np.prod(shape))
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)


class _Undecided:
    """Ramps that may have jumps, collected so that many are searched together."""

    def __init__(self):
        self._parts = []

    def add(self, where, *columns):
        """Add ramps: their indices ``where`` in the results, and the columns that `settle` uses."""
        self._parts.append((where, *columns))

    def settle(self, common, scratch):
        """Search the ramps for jumps, and fit them without the rejected differences.

        Yields
        ------
        where : (nramps,) int
        fit : dict
            The fields of LikelihoodFit, (nramps,) float64.
        rejected : (ndiffs, nramps) bool
        """
        if not self._parts:
            return
        columns = [np.concatenate(parts, axis=-1) for parts in zip(*self._parts, strict=True)]
        for start in range(0, columns[0].size, BATCH):
            where, diffs, used, guess, gain, sig, dark, whole = (part[..., start : start + BATCH] for part in columns)
            remaining = used.copy()
            how = common.covariance, common.thresholds, common.rules, common.max_diffs_one_sided
            rate = likelihood_jumps.reject_jumps(diffs, remaining, guess, gain, sig, *how)
            # Ramps without rejected differences keep the rate of the first fit, so that the selection has no effect.
            np.copyto(rate, whole, where=(remaining == used).all(axis=0) & ~_lacks_covariance(guess / gain, sig * sig))
            yield where, _fit(diffs, remaining, rate, gain, sig, dark, common, scratch), used & ~remaining


def fit_likelihood(device, diffs, read_times, sig, diffs2use=None, *, settings):
    """Fit resultant differences by likelihood, after rejecting jumps.

    The covariance of the differences, photon and read noise, is computed for a guess of the rate: the median difference
    in the search for jumps, and the resulting rate in the fit; without a search, the mean of the used differences. The
    result is NaN if any difference is NaN, used or not, or if no difference is used.

    Parameters
    ----------
    device : Device
    diffs : (ngroups - 1, ...) float, electrons per second
        Differences of resultants divided by the differences of their mean times.
    read_times : sequence of float, or of sequences of float, s
        The time of each resultant, or the times of the reads averaged in it.
    sig : (...) float, electrons
        Noise of a single read.
    diffs2use : (ngroups - 1, ...) bool or uint8, optional
        Differences to use; all by default. Not changed.
    settings : LikelihoodSettings

    Returns
    -------
    LikelihoodFit
        Float64, (...); ``diffs2use`` has the shape of ``diffs``.

    Notes
    -----
    Source: Brandt 2024, PASP 136, 045004 (fit) and 045005 (jumps).
    """
    shape, npixels = diffs.shape, int(np.prod(diffs.shape[1:]))
    common = _Common.of(read_times, settings)
    diffs = diffs.reshape(len(diffs), -1)
    used = np.ones(diffs.shape, bool) if diffs2use is None else diffs2use.reshape(diffs.shape) != 0
    sig = np.broadcast_to(np.asarray(sig, np.float64), shape[1:]).reshape(-1)
    results = {name: np.empty(npixels) for name in RESULTS}
    scratches = _Scratches()

    def fit_pixels(pixels):
        scratch, undecided = scratches.of_thread(), _Undecided()
        for tile in _cut(pixels, _tile_length(len(diffs))):
            # A contiguous copy, because the sweeps read it several times.
            columns = (np.array(diffs[:, tile], np.float64), used[:, tile], np.ones(1), sig[tile], np.zeros(1))
            with np.errstate(all="ignore"):
                to_search = undecided if settings.reject_jumps else None
                fit = _fit_tile(*columns, tile.start, common, to_search, scratch)
            for name, values in fit.items():
                results[name][tile] = values
        with np.errstate(all="ignore"):
            for where, fit, rejected in undecided.settle(common, scratch):
                used[:, where] &= ~rejected
                for name, values in fit.items():
                    results[name][where] = values

    for_each_tile(fit_pixels, (len(diffs), npixels, 1), device.n_threads, REGION_BYTES)
    results = {name: values.reshape(shape[1:]) for name, values in results.items()}
    return LikelihoodFit(**results, diffs2use=used.astype(np.uint8).reshape(shape))


def fit_likelihood_ramps(
    device, data, groupdq, gain, readnoise, read_times, dark_current=None, zeroframe=None, *, settings
):
    """Fit ramps by likelihood, for each integration separately, and flag the rejected jumps.

    As `fit_likelihood`, for the differences of neighbouring usable groups. JUMP_DET is set, in place, in the group
    after a rejected difference.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        Edited in place.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    read_times : sequence of float, or of sequences of float, s
        As for `fit_likelihood`; with ``zeroframe`` the first entry is its time, and the second lists the other reads
        of the first group.
    dark_current : (ny, nx) float32, DN/s, optional
        Dark current that was subtracted from ``data``; added to the guess of the rate, because its noise remains.
    zeroframe : (nints, ny, nx) float32, DN, optional
        The first read, which is fitted as a separate group with the flags of the first one.
    settings : LikelihoodRampSettings

    Returns
    -------
    LikelihoodFit
        Float32, (nints, ny, nx), DN/s and (DN/s)^2; without ``diffs2use``.

    Notes
    -----
    Source: stcal 1.20, ``LIKELY``; Brandt 2024, PASP 136, 045004 and 045005.
    """
    nints, ngroups, ny, nx = data.shape
    common = _Common.of(read_times, settings)
    sig = readnoise.astype(np.float64) / np.sqrt(np.float64(2))
    results = {name: np.empty((nints, ny, nx), np.float32) for name in RESULTS}
    flat = {name: values.reshape(-1) for name, values in results.items()}
    scratches = _Scratches()
    # With ZEROFRAME, the first difference is between reads of the first group.
    first_later_group = 1 if zeroframe is None else 0

    def fit_rows(rows):
        scratch, undecided = scratches.of_thread(), _Undecided()
        for integration, tile in product(range(nints), _cut(rows, max(1, _tile_length(ngroups) // nx))):
            first = None if zeroframe is None else zeroframe[integration, tile].reshape(-1)
            ramps, flags = (array[integration, :, tile].reshape(ngroups, -1) for array in (data, groupdq))
            start = (integration * ny + tile.start) * nx
            with np.errstate(all="ignore"):
                diffs, used = _difference(ramps, flags & np.uint8(settings.unusable), first, common.covariance, scratch)
                pixels = [array[tile].reshape(-1) for array in (gain, sig)]
                dark = np.zeros(1) if dark_current is None else dark_current[tile].reshape(-1)
                fit = _fit_tile(diffs, used, *pixels, dark, start, common, undecided, scratch)
            for name, values in fit.items():
                flat[name][start : start + values.size] = values
        with np.errstate(all="ignore"):
            for where, fit, rejected in undecided.settle(common, scratch):
                for name, values in fit.items():
                    flat[name][where] = values
                # The later group of the difference gets the flag.
                group, hit = np.nonzero(rejected)
                integration, row, column = np.unravel_index(where[hit], (nints, ny, nx))
                groupdq[integration, group + first_later_group, row, column] |= np.uint8(JUMP_DET)

    for_each_tile(fit_rows, data.shape, device.n_threads, REGION_BYTES)
    return LikelihoodFit(**results)


def _tile_length(n):
    return min(TILE_PIXELS, max(1, TILE_SAMPLES // n))


def _cut(rows, length):
    for start in range(rows.start, rows.stop, length):
        yield slice(start, min(start + length, rows.stop))


def _difference(groups, flags, zeroframe, covariance, scratch):
    """Return the differences of neighbouring groups, counts per second, and whether both groups are usable.

    Parameters
    ----------
    groups : (ngroups, npixels) float32
    flags : (ngroups, npixels) uint8
        Nonzero if a group is unusable.
    zeroframe : (npixels,) float32 or None
        The first read, which becomes a separate group with the flags of the first one.

    Returns
    -------
    diffs : (ndiffs, npixels) float64
    used : (ndiffs, npixels) bool
    """
    groups, good = list(groups), list(flags == 0)
    if zeroframe is not None:
        n = 1 + covariance.reads[1].item()
        groups[:1] = zeroframe, (groups[0] * n - zeroframe) / (n - 1)
        good[:1] = good[0], good[0]
    shape = (len(groups) - 1, groups[0].size)
    diffs, used = scratch("diffs", *shape), scratch("used", *shape, dtype=bool)
    for k, delta_t in enumerate(covariance.delta_t):
        np.divide(groups[k + 1] - groups[k], delta_t, out=diffs[k], dtype=np.float64)
        np.logical_and(good[k], good[k + 1], out=used[k])
    return diffs, used


def _fit_tile(diffs, used, gain, sig, dark, start, common, undecided, scratch):
    """Fit the ramps of a tile.

    Parameters
    ----------
    diffs : (ndiffs, npixels) float64
        Counts per second.
    used : (ndiffs, npixels) bool
    gain : (npixels,) or (1,) float
        Electrons per count.
    sig : (npixels,) float64
        Noise of a single read, counts.
    dark : (npixels,) or (1,) float
        Rate of the dark current, which adds photon noise but no signal; counts per second.
    start : int
        Index of the tile's first ramp in the results.
    common : _Common
    undecided : _Undecided or None
        Collects the ramps that may have jumps; None for no search.

    Returns
    -------
    dict
        The fields of LikelihoodFit, (npixels,) float64.
    """
    if undecided is None:
        number = np.count_nonzero(used, axis=0)
        guess = likelihood_jumps.add_up(diffs * used) / number
        return _fit(diffs, used, guess, gain, sig, dark, common, scratch)
    guess = _guess_rate(diffs, used, common.rules.guess_from_used, scratch)
    rate, ramps = _search(diffs, used, guess, gain, sig, common, scratch)
    if ramps.size:
        per_pixel = (np.broadcast_to(values, rate.shape)[ramps] for values in (guess, gain, sig, dark, rate))
        undecided.add(start + ramps, diffs[:, ramps], used[:, ramps], *per_pixel)
    return _fit(diffs, used, rate, gain, sig, dark, common, scratch)


def _guess_rate(diffs, used, from_used, scratch):
    """Return the median of all or of the used differences, at least 0: (npixels,), NaN for any NaN."""
    ndiffs, npixels = diffs.shape
    # This array is free until the sweeps.
    planes = scratch("lower", ndiffs, npixels)
    planes[...] = diffs
    median = median_of_planes(planes, scratch("work", npixels))
    if from_used:
        some = np.flatnonzero(~used.all(axis=0))
        ordered = np.sort(np.where(used[:, some], diffs[:, some], np.inf), axis=0)
        number = np.count_nonzero(used[:, some], axis=0)
        column = np.arange(len(some))
        low, high = ordered[np.maximum(number - 1, 0) // 2, column], ordered[number // 2 - (number == ndiffs), column]
        median[some] = np.where(number > 0, (low + high) / 2, np.nan)
    return median * (median > 0)


def _prepare(diffs, used, scratch):
    """Return the differences with unused ones set to 0, and the mask as float64."""
    kept = np.multiply(used, 1.0, out=scratch("kept", *diffs.shape))
    return np.multiply(diffs, kept, out=scratch("values", *diffs.shape)), kept


def _eliminate(values, kept, photons, noise, common, scratch):
    """Sweep up the groups: eliminate one difference after the other.

    With ``C = L D L^T``, the sums of chi-square are those of squares of ``L^-1 d`` and ``L^-1 1`` over D. L is 0 on
    both sides of an unused difference.

    Returns
    -------
    A, B, C : (npixels,) float64
        Chi-square at rate a is ``A - 2 a B + a^2 C``.

    Notes
    -----
    Fills the scratch arrays 'lower' (L), 'inverse' (1/D), 'signal' and 'ones' (both vectors over D) for the sweep down.
    """
    ndiffs, npixels = values.shape
    (alphas, alpha_of), (betas, beta_of) = common.kinds
    diagonals, besides = ([photons * photon + noise * read for photon, read in kinds] for kinds in (alphas, betas))
    lower, inverse = scratch("lower", ndiffs, npixels), scratch("inverse", ndiffs, npixels)
    signal, ones = scratch("signal", ndiffs, npixels), scratch("ones", ndiffs, npixels)
    beside, work = scratch("beside", npixels), scratch("work", npixels)
    # L^-1 d and L^-1 1 of this difference.
    y, u = scratch("y", npixels), scratch("u", npixels)
    A, B, C = np.zeros((3, npixels))
    for i in range(ndiffs):
        if i == 0:
            np.divide(1, diagonals[alpha_of[0]], out=inverse[0])
            y[...], u[...] = values[0], kept[0]
        else:
            np.multiply(besides[beta_of[i - 1]], kept[i], out=beside)
            beside *= kept[i - 1]
            np.multiply(beside, inverse[i - 1], out=lower[i])
            beside *= lower[i]
            np.subtract(diagonals[alpha_of[i]], beside, out=beside)
            np.divide(1, beside, out=inverse[i])
            y *= lower[i]
            np.subtract(values[i], y, out=y)
            u *= lower[i]
            np.subtract(kept[i], u, out=u)
        np.multiply(y, inverse[i], out=signal[i])
        np.multiply(u, inverse[i], out=ones[i])
        A += np.multiply(signal[i], y, out=work)
        B += np.multiply(signal[i], u, out=work)
        C += np.multiply(ones[i], u, out=work)
    return A, B, C


def _fit(diffs, used, rate, gain, sig, dark, common, scratch):
    """Fit the ramps of a tile with the covariance for a rate, at least 0; see `_fit_tile`."""
    ndiffs, npixels = diffs.shape
    guess = rate * (rate > 0) + dark
    photons, noise = guess / gain, sig * sig
    A, B, C = _eliminate(*_prepare(diffs, used, scratch), photons, noise, common, scratch)
    (alphas, alpha_of), (betas, beta_of) = common.kinds
    squares, products = np.zeros((len(alphas), npixels)), np.zeros((len(betas), npixels))
    lower, ones = scratch("lower", ndiffs, npixels), scratch("ones", ndiffs, npixels)
    # The weights of the differences times C.
    weight, work = scratch("y", npixels), scratch("work", npixels)
    weight[...] = ones[-1]
    squares[alpha_of[-1]] += np.multiply(weight, weight, out=work)
    for i in range(ndiffs - 2, -1, -1):
        np.multiply(lower[i + 1], weight, out=work)
        np.subtract(ones[i], work, out=work)
        weight *= work
        products[beta_of[i]] += weight
        weight[...] = work
        work *= work
        squares[alpha_of[i]] += work
    per_photon, per_read = (
        sum(kind[part] * total for kind, total in zip(alphas, squares, strict=True))
        + 2 * sum(kind[part] * total for kind, total in zip(betas, products, strict=True))
        for part in (0, 1)
    )
    inverse = 1 / C
    rate = B * inverse
    fit = {
        "countrate": rate,
        "uncert": np.sqrt(inverse),
        "chisq": A - B * rate,
        "var_poisson": photons * per_photon * inverse * inverse,
        "var_rdnoise": noise * per_read * inverse * inverse,
    }
    odd = np.flatnonzero(_lacks_covariance(photons, noise))
    if odd.size:
        columns = (np.broadcast_to(values, npixels)[odd] for values in (guess, gain, sig))
        exact = likelihood_jumps.fit(diffs[:, odd], used[:, odd], *columns, common.covariance, common.rules)
        for name, values in exact.items():
            fit[name][odd] = values
    return fit


def _lacks_covariance(photons, noise):
    """Return which pixels have no valid covariance; their results are NaN or meaningless, as in stcal."""
    return (photons < 0) | (noise <= 0) | np.isinf(photons)


def _search(diffs, used, guess, gain, sig, common, scratch):
    """Fit the ramps of a tile with a guess of the rate, and find those that may have differences to reject.

    Returns
    -------
    rate : (npixels,) float64
    ramps : (nramps,) int
        All ramps with differences to reject, and some without.
    """
    photons, noise = guess / gain, sig * sig
    A, B, C = _eliminate(*_prepare(diffs, used, scratch), photons, noise, common, scratch)
    rate = B / C
    odd = _lacks_covariance(photons, noise)
    ramps = np.flatnonzero((A - B * rate > min(common.thresholds) * (1 - MARGIN)) | odd)
    if ramps.size:
        ramps = ramps[_may_lose(ramps, rate[ramps], C[ramps], diffs.shape, common, scratch) | odd[ramps]]
    return rate, ramps


def _may_lose(ramps, rate, C, shape, common, scratch):
    """Return whether rejecting one difference, or two neighbours, decreases chi-square enough: (nramps,) bool.

    The sweep down computes the residuals ``r = C^-1 (d - a)``, their covariance M for the best rate a, and the decrease
    of chi-square, ``r M^-1 r``. An unused difference has r = 0.
    """
    lower, inverse, signal, ones = (
        scratch(name, *shape).take(ramps, axis=1) for name in ("lower", "inverse", "signal", "ones")
    )
    one, two = (threshold * (1 - MARGIN) for threshold in common.thresholds)
    pair_is_spoiled = common.covariance.reads[1:-1] > 1
    # The last elements of C^-1 d and C^-1 1, and the last diagonal element of C^-1.
    x, v, diagonal = signal[-1], ones[-1], inverse[-1]
    residual, own = x - rate * v, diagonal - v * v / C
    may_lose = ~(residual * residual / own <= one)
    for i in range(shape[0] - 2, -1, -1):
        above, residual_above, own_above = v, residual, own
        x, v = signal[i] - lower[i + 1] * x, ones[i] - lower[i + 1] * v
        beside = -lower[i + 1] * diagonal
        diagonal = inverse[i] - lower[i + 1] * beside
        residual, own = x - rate * v, diagonal - v * v / C
        may_lose |= ~(residual * residual / own <= one)
        if pair_is_spoiled[i]:
            beside -= v * above / C
            drop = residual**2 * own_above + residual_above**2 * own - 2 * residual * residual_above * beside
            determinant = own * own_above - beside * beside
            # Of a ramp with two differences the determinant is 0 but for rounding: without one the other fits as well.
            is_pair = determinant > DEGENERATE * (own * own_above)
            may_lose |= ~(np.where(is_pair, drop / determinant, residual * residual / own) <= two)
    return may_lose
