"""The fit of ramps without flags, the majority in an exposure: part of `fit_ramps` in NumPy."""

import numpy as np

from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.ramp_fit.median_network import MOST_PLANES, median_network
from gpucoron.backends.operations.ramp_fit.segments import median_rates, weight_table, weighted_slopes, weighting_class


def fit_whole_ramps(device, samples, first, gain, readnoise, group_time, scratch):
    """Fit all ramps of a tile as if they had no flags.

    Parameters
    ----------
    device : Device
    samples : (ngroups, nints * npixels) float64, DN
        At least three groups; for the kernel, at most `median_network.MOST_PLANES` differences.
    first : int
        Number of the first of these groups in the ramp.
    gain, readnoise : (npixels,) float64, e-/DN and e-
    group_time : float, s
    scratch : Scratch or None
        None for the kernel.

    Returns
    -------
    slopes, medians : (nints * npixels,) float64
        DN/s. Slopes are NaN for values that are not finite or invalid read noise; the medians there are undefined.
    """
    ngroups, nramps = samples.shape
    repeats = nramps // len(gain)
    gain, noise = np.tile(gain, repeats), np.tile(readnoise, repeats)
    classes = weighting_class(samples[-1] - samples[0], gain, noise)
    inverse_variance = 1 / (noise * noise)
    numbers = np.arange(first, first + ngroups, dtype=np.float64)[:, np.newaxis]
    table = weight_table(ngroups)
    slopes, medians = np.empty(nramps), np.empty(nramps)
    for block in scratch.blocks(nramps):
        values = samples[:, block]
        weights = table.take(classes[block], axis=1, out=scratch.array(0, *values.shape), mode="clip")
        slopes[block] = weighted_slopes(values, numbers, weights, inverse_variance[block], scratch)
        medians[block] = median_rates(values, group_time, None, scratch)
    slopes /= group_time
    return slopes, medians


def _launch(device, samples, first, gain, readnoise, group_time, scratch):
    ngroups, n_ramps = samples.shape
    nints = n_ramps // gain.size
    comparisons = np.array([pair[:2] for pair in median_network(ngroups - 1)], np.int32)
    slopes, medians = (device.xp.empty(n_ramps, np.float64) for _ in range(2))
    values = {
        "samples": samples, "gain": gain, "readnoise": readnoise, "slopes": slopes, "medians": medians,
        "weights": device.to_device(weight_table(ngroups)), "comparisons": device.to_device(comparisons),
        "n_groups": ngroups, "first": first, "n_comparisons": len(comparisons), "n_ints": nints,
        "n_pixels": gain.size, "group_time": group_time,
    }  # fmt: skip
    device.launch("fit_whole_ramps", *geometry(1, device.frame_threads, -(-gain.size // 64) * nints), values)
    return slopes, medians


def _native(settings, samples, *others):
    """Return the native library if the kernel has a sorting network for this number of differences."""
    return [("cpu/ramp_strips.cpp", False)] if len(samples) - 1 <= MOST_PLANES else []


fit_whole_ramps = Operation(  # type: ignore[assignment]
    fit_whole_ramps, _launch, cut=None, native=_native, libraries=(("cpu/ramp_strips.cpp", False),)
)
