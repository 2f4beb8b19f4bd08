"""EMI correction by kernels; see `gpucoron.backends.operations.emicorr.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import MATCHED_TOGETHER
from gpucoron.backends.operations.emicorr.definition import bin_phases, time_sums

#: bytes of the ramps of a strip, which are read twice, so that they stay in a core's cache
_STRIP_BYTES = 2**19
#: as in emicorr_strips.cpp: most pixels of a strip, and groups that are summed at the same time
_STRIP_PIXELS, _GROUPS_AT_ONCE = 1024, 8


def measure_scatter(device, data):
    nints, ngroups, ny, nx = data.shape
    scatter = device.xp.empty((nints, ny, nx), np.float32)
    if device.strip_pixels:
        strip = min(device.strip_pixels, _STRIP_PIXELS, max(64, _STRIP_BYTES // (4 * ngroups)))
        values = {"data": data, "scatter": scatter, "n_ints": nints, "n_groups": ngroups, "n_pixels": ny * nx}
        grid, block = geometry(1, 1, nints * -(-ny * nx // strip))
        device.launch("measure_scatter_strips", grid, block, {**values, "strip": strip})
        return scatter
    device.over_pixels("measure_scatter", ny * nx, nints, data=data, scatter=scatter, n_ints=nints, n_groups=ngroups)
    return scatter


def sum_by_phase(device, data, good, bins, n_bins):
    nints, ngroups, ny, nx = data.shape
    if device.strip_pixels:
        return _sum_strips(device, data, good, bins, n_bins)
    flat = bins.ravel()
    # Stable: within a bin, quads stay in the order in which they are read.
    order = np.argsort(flat, kind="stable").astype(np.int32)
    starts = np.searchsorted(flat[order], np.arange(n_bins + 1)).astype(np.int32)
    sums = device.xp.empty((nints, ngroups, n_bins), np.float64)
    counts = device.xp.empty((nints, n_bins), np.float64)
    values = {
        "data": data, "good": good.view(np.uint8), "order": device.to_device(order), "sums": sums, "counts": counts,
        "starts": device.to_device(starts), "n_ints": nints, "n_groups": ngroups, "n_pixels": ny * nx,
        "n_bins": n_bins,
    }  # fmt: skip
    device.launch("sum_quads", *geometry(n_bins, device.block_threads, nints * ngroups), values)
    return sums, counts


def _sum_strips(device, data, good, bins, n_bins):
    """Sum by phase, several groups at a time."""
    nints, ngroups = data.shape[:2]
    # Excluded quads go into an extra bin, which is dropped.
    sums, counts = np.empty((nints, ngroups, n_bins + 1)), np.empty((nints, n_bins + 1))
    values = {
        "data": data, "good": good.view(np.uint8), "bins": np.where(bins < 0, np.int32(n_bins), bins), "sums": sums,
        "counts": counts, "n_ints": nints, "n_groups": ngroups, "n_quads": bins.size, "n_bins": n_bins + 1,
    }  # fmt: skip
    device.launch("sum_quads_strips", *geometry(1, 1, nints * -(-ngroups // _GROUPS_AT_ONCE)), values)
    return np.ascontiguousarray(sums[..., :n_bins]), np.ascontiguousarray(counts[:, :n_bins])


def match_emicorr(device, sums, counts, wave, group_phases, n_trials):
    nints, ngroups, n_bins = sums.shape
    s_t, s_tt, delta = time_sums(ngroups)
    at_once = min(nints, MATCHED_TOGETHER)
    squared, mixed = (device.xp.empty((at_once, n_trials, n_bins), np.float64) for _ in range(2))
    terms = device.xp.empty((2, nints, n_trials), np.float64)
    quadratic, linear = terms
    values = {
        "wave": device.float64(wave), "n_groups": ngroups, "n_trials": n_trials, "s_t": s_t, "s_tt": s_tt,
        "bin_phases": device.float64(bin_phases(n_bins, group_phases)), "delta": delta,
    }  # fmt: skip
    parts = {"squared": squared, "mixed": mixed, "n_bins": n_bins}
    for start in range(0, nints, at_once):
        some = slice(start, min(start + at_once, nints))
        n_ints = some.stop - some.start
        of_some = {"sums": sums[some], "counts": counts[some], "n_ints": n_ints}
        grid, block = geometry(n_trials * n_bins, device.block_threads)
        device.launch("match_bins", grid, block, {**values, **parts, **of_some}, (MATCHED_TOGETHER,))
        of_some = {"quadratic": quadratic[some], "linear": linear[some], "n_rows": n_ints * n_trials}
        device.launch("sum_bins", *geometry(n_ints * n_trials, device.block_threads), {**parts, **of_some})
    return tuple(device.to_host(terms))


def subtract_emicorr(device, data, wave, pixel_phases, group_phases, integration_phases, amplitudes):
    nints, ngroups, *_ = data.shape
    tables = {
        "wave": wave, "pixel_phases": pixel_phases, "group_phases": group_phases,
        "integration_phases": integration_phases, "amplitudes": amplitudes,
    }  # fmt: skip
    values = {name: device.float64(table) for name, table in tables.items()}
    values |= {"data": data, "n_ints": nints, "n_groups": ngroups, "n_quads": pixel_phases.size}
    if device.strip_pixels:
        pieces = np.ascontiguousarray(values.pop("wave").T)
        values |= {"pieces": pieces, "n_bins": wave.shape[1] - 1}
        device.launch("subtract_emicorr_strips", *geometry(1, 1, nints * ngroups), values)
        return
    grid, block = geometry(pixel_phases.size, device.block_threads, nints * ngroups)
    device.launch("subtract_emicorr", grid, block, {**values, "n_bins": wave.shape[1] - 1})
