"""Likelihood fits by kernels; see `gpucoron.backends.operations.likelihood.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry, words_of
from gpucoron.backends.operations.likelihood.covariance import Covariance
from gpucoron.backends.operations.likelihood.definition import RESULTS
from gpucoron.backends.operations.likelihood.jumps import RULES
from gpucoron.backends.operations.ramp_fit.median_network import median_network
from gpucoron.backends.results import LikelihoodFit

#: float64 numbers per difference in a fit, as in likelihood_jumps.cuh
SCRATCH_ROWS = 5
#: bits of the argument ``rules``, as in likelihood.cuh
RULE_BITS = {"guess_from_used": 1, "scale_from_used": 2, "pairs_need_gain": 4, "settles_ties": 8}
REJECT_JUMPS = 16


def fit_likelihood(device, diffs, read_times, sig, diffs2use=None, *, settings):
    xp, shape = device.xp, diffs.shape
    used = xp.empty(shape, np.uint8)
    if diffs2use is not None:
        diffs2use = xp.ascontiguousarray(diffs2use != 0).view(np.uint8)
    sig = device.float64(xp.broadcast_to(device.to_device(sig), shape[1:]))
    results = {name: xp.empty(shape[1:], np.float64) for name in RESULTS}
    fit = _over_strips if device.strip_pixels else _over_ramps
    fit(
        device, "difference", used[0].size, 1, read_times, settings, diffs=device.float64(diffs),
        diffs2use=diffs2use, sig=sig, used=used, n_diffs=shape[0], n_ramps=used[0].size,
        rules=_rule_bits(settings.rules) + REJECT_JUMPS * bool(settings.reject_jumps), **results,
    )  # fmt: skip
    return LikelihoodFit(**results, diffs2use=used)


def fit_likelihood_ramps(
    device, data, groupdq, gain, readnoise, read_times, dark_current=None, zeroframe=None, *, settings
):
    nints, ngroups, ny, nx = data.shape
    gain, readnoise, dark_current, zeroframe = map(device.contiguous, (gain, readnoise, dark_current, zeroframe))
    flags = device.contiguous(groupdq)
    results = {name: device.xp.empty((nints, ny, nx), np.float32) for name in RESULTS}
    n_reads = 0 if zeroframe is None else 1 + len(np.atleast_1d(read_times[1]))
    fit = _over_strips if device.strip_pixels else _over_ramps
    fit(
        device, "group", ny * nx, nints, read_times, settings, data=device.contiguous(data), groupdq=flags,
        gain=gain, readnoise=readnoise, dark_current=dark_current, zeroframe=zeroframe, n_ints=nints,
        n_groups=ngroups, n_pixels=ny * nx, n_reads=n_reads, unusable=settings.unusable,
        rules=_rule_bits(settings.rules) + REJECT_JUMPS, **results,
    )  # fmt: skip
    if flags is not groupdq:
        groupdq[...] = flags
    return LikelihoodFit(**results)


def tabulate_covariance(covariance):
    """Return the table (16, ndiffs) float64 for the kernels, rows as in likelihood.cuh, and the numbers of kinds."""
    (alphas, alpha_of), (betas, beta_of) = covariance.kinds()
    table = np.zeros((16, len(covariance.delta_t)))
    table[0] = covariance.delta_t
    table[1], table[2] = covariance.alpha_photon, covariance.alpha_read
    table[3, :-1], table[4, :-1] = covariance.beta_photon, covariance.beta_read
    table[9, :-1] = covariance.reads[1:-1] > 1
    table[10], table[11, :-1] = alpha_of, beta_of
    for kinds, which, of_difference, of_kind in ((alphas, alpha_of, 5, 12), (betas, beta_of, 7, 14)):
        if kinds:
            table[of_difference : of_difference + 2, : len(which)] = np.array(kinds)[which].T
            table[of_kind : of_kind + 2, : len(kinds)] = np.array(kinds).T
    return table, {"n_alphas": len(alphas), "n_betas": len(betas)}


def _rule_bits(rules):
    return sum(bit for name, bit in RULE_BITS.items() if getattr(RULES[rules], name))


def _over_ramps(device, what, n_pixels, n_ints, read_times, settings, /, **values):
    """Launch a fit of differences or groups, with as many threads as the scratch memory allows."""
    coefficients = _describe(device, read_times, settings)
    n_diffs = coefficients["coefficients"].shape[1]
    bytes_each = 8 * SCRATCH_ROWS * (n_diffs + 1) + 4 * words_of(n_diffs)
    # Each thread fits one ramp after the other, so one block is enough.
    most = device.scratch_bytes // bytes_each // device.block_threads
    blocks = max(1, min(-(-n_pixels * n_ints // device.block_threads), most))
    n_threads = blocks * device.block_threads
    values |= coefficients | {
        "scratch": device.xp.empty((SCRATCH_ROWS, n_diffs + 1, n_threads), np.float64),
        "words": device.xp.empty((words_of(n_diffs), n_threads), np.uint32),
    }
    device.launch(f"fit_{what}s", (blocks, 1, 1), (device.block_threads, 1, 1), values)


def _over_strips(device, what, n_pixels, n_ints, read_times, settings, /, **values):
    """Launch a fit of differences or groups by the kernels of a CPU, which fit neighbouring ramps together."""
    coefficients = _describe(device, read_times, settings)
    n_diffs = coefficients["coefficients"].shape[1]
    networks = [np.array(median_network(n), np.int32).reshape(-1, 4)[:, :2] for n in (n_diffs, n_diffs + n_diffs % 2)]
    values |= coefficients | {
        "comparisons": np.concatenate(networks),
        "n_comparisons": len(networks[0]),
        "n_even_comparisons": len(networks[1]),
        "strip": device.strip_pixels,
    }
    device.launch(f"fit_{what}_strips", *geometry(1, 1, -(-n_pixels // device.strip_pixels) * n_ints), values)


def _describe(device, read_times, settings):
    """Return the arguments that all fits share."""
    table, n_kinds = tabulate_covariance(Covariance.of(read_times))
    return n_kinds | {
        "threshold_one": settings.threshold_oneomit,
        "threshold_two": settings.threshold_twoomit,
        "max_one_sided": settings.max_diffs_one_sided,
        "coefficients": device.to_device(table),
    }
