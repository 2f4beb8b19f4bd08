"""Ramp fitting by kernels; see `gpucoron.backends.operations.ramp_fit.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import frames_apart, geometry
from gpucoron.backends.operations.ramp_fit.definition import Times
from gpucoron.backends.operations.ramp_fit.optional import groups_before_first
from gpucoron.backends.operations.ramp_fit.segments import weight_tables
from gpucoron.backends.results import Slopes

#: pixels that a thread processes together, as in ramp_strips.cpp
STRIP = 256

#: threads of a block, and differences that one of them sorts, as in slice_median.cuh
SLICE_THREADS, MOST_SORTED = 128, 24

#: threads that fit the listed ramps, as many as a large device runs at the same time
MOST_THREADS = 2**17


def fit_ramps(
    device,
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    dark_current=None,
    zeroframe=None,
    original_groupdq=None,
    *,
    settings,
):
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq
    return _fit(device, *ramps, settings=settings)


def fit_segments(
    device,
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    segments,
    pedestal,
    crmag,
    dark_current=None,
    zeroframe=None,
    original_groupdq=None,
    *,
    settings,
):
    ramps = data, groupdq, pixeldq, gain, readnoise, dark_current, zeroframe, original_groupdq
    return _fit(device, *ramps, settings=settings, product=(segments, pedestal, crmag))


def _fit(
    device,
    data,
    groupdq,
    pixeldq,
    gain,
    readnoise,
    dark_current,
    zeroframe,
    original_groupdq,
    *,
    settings,
    product=(None, None, None),
):
    nints, ngroups, ny, nx = data.shape
    xp, image, cube = device.xp, (ny, nx), (nints, ny, nx)
    times = Times.of(settings)
    times = {
        "group_time": times.group, "frame_time": times.frame, "one_group_time": times.one_group,
        "noise_divisor": np.sqrt(2.0 * settings.nframes),
    }  # fmt: skip
    pixeldq, gain, readnoise, dark_current, zeroframe = map(
        device.contiguous, (pixeldq, gain, readnoise, dark_current, zeroframe)
    )
    data, groupdq, original_groupdq, apart = _side_by_side(device, data, groupdq, original_groupdq)
    weights = device.to_device(weight_tables(ngroups))
    segments, pedestal, jumps = product
    optional = {
        "segments": segments, "pedestal": pedestal, "jumps": jumps, "pedestal_frames": groups_before_first(settings),
        "most_segments": 0 if segments is None else segments.shape[1],
        "most_jumps": 0 if jumps is None else jumps.shape[1],
    }  # fmt: skip
    if device.strip_pixels:
        rate, rateints = (Slopes.empty(shape, xp) for shape in (image, cube))
        values = {
            "data": data, "groupdq": groupdq, "original_groupdq": original_groupdq, "pixeldq": pixeldq, "gain": gain,
            "readnoise": readnoise, "dark_current": dark_current, "zeroframe": zeroframe, "weights": weights,
            "n_ints": nints, "n_groups": ngroups, "frames_apart": apart, "n_pixels": ny * nx,
            "suppress_one_group": int(settings.suppress_one_group),
            **vars(rate), **{f"{name}_ints": array for name, array in vars(rateints).items()}, **times, **optional,
        }  # fmt: skip
        device.launch("fit_strips", *geometry(1, 1, -(-ny * nx // STRIP)), values)
        return rate, rateints
    rate, rateints = (Slopes.empty(shape, xp) for shape in (image, cube))
    fits = {name: xp.empty(cube, np.float64) for name in ("median_rates", "slope_sums", "read_weights")}
    fits["states"] = xp.empty(cube, np.uint32)
    ramps = {
        "groupdq": groupdq, "gain": gain, "readnoise": readnoise, "n_groups": ngroups, "frames_apart": apart,
        "n_pixels": ny * nx, **times,
    }  # fmt: skip
    # The errors are written last: until then, their memory holds the list of ramps.
    fitting = {
        "data": data, "pixeldq": pixeldq, "weights": weights, "dq": rateints.dq, "listed": rateints.err.view(np.uint32),
        "n_listed": device.zeros(1, np.uint32), **ramps, **fits,
    }  # fmt: skip
    threads = min(device.block_threads, SLICE_THREADS)
    is_short = ngroups <= MOST_SORTED + 1
    # The kernel divides by it where it is usable: without a time, it lists all ramps.
    per_second = 1 / times["group_time"] if times["group_time"] > 0 else 0.0
    of_whole = {"n_ints": nints, "groups_per_second": per_second, **fitting}
    device.launch("fit_integrations", *geometry(nints * ny * nx, threads), of_whole, (is_short,))
    fitting |= {"zeroframe": zeroframe, "suppress_one_group": int(settings.suppress_one_group)}
    device.launch("fit_listed", *geometry(min(nints * ny * nx, MOST_THREADS), threads), fitting)
    ramps |= {
        "n_ints": nints, "dark_current": dark_current, "slope_sums": fits["slope_sums"],
        "read_weights": fits["read_weights"], "states": fits["states"],
        "signal": None if segments is None else xp.empty(image, np.float64),
    }  # fmt: skip
    finishing = {
        "pixeldq": pixeldq, "original_groupdq": original_groupdq, "median_rates": fits["median_rates"], **ramps,
        **vars(rate), **{f"{name}_ints": array for name, array in vars(rateints).items()},
    }  # fmt: skip
    device.launch("finish_products", *geometry(ny * nx, device.block_threads), finishing)
    if segments is not None:
        values = {"data": data, "weights": weights, "zeroframe": zeroframe, "dq": rateints.dq, **ramps, **optional}
        device.launch("write_optional", *geometry(ny * nx, device.block_threads, nints), values)
    return rate, rateints


def _side_by_side(device, *ramps):
    """Return ramps with the same number of frames from one integration to the next, and that number; copy if needed."""
    apart = {frames_apart(ramp) for ramp in ramps if ramp is not None}
    if len(apart) == 1 and None not in apart:
        return *ramps, apart.pop()
    return *map(device.contiguous, ramps), ramps[0].shape[1]
