"""Ramp fitting by kernels; see `gpucoron.backends.operations.ramp_fit.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import frames_apart, geometry
from gpucoron.backends.operations.ramp_fit.definition import Times
from gpucoron.backends.operations.ramp_fit.optional import groups_before_first
from gpucoron.backends.operations.ramp_fit.segments import weight_tables
from gpucoron.backends.results import Slopes

#: pixels that a thread processes together, as in ramp_strips.cpp
STRIP = 256


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
    pixels = {"gain": gain, "readnoise": readnoise}
    ramp = {"n_ints": nints, "n_groups": ngroups, "frames_apart": apart}
    sums = {name: xp.empty(cube, np.float64) for name in ("slope_sums", "read_weights")}
    states = xp.empty(cube, np.uint32)
    rateints = Slopes.empty(cube, xp)
    median_rates = xp.empty(cube, np.float64)
    device.over_pixels(
        "fit_integrations", ny * nx, nints, data=data, groupdq=groupdq, pixeldq=pixeldq, zeroframe=zeroframe,
        median_rates=median_rates, states=states, dq=rateints.dq, weights=weights,
        suppress_one_group=int(settings.suppress_one_group), **pixels, **sums, **ramp, **times,
    )  # fmt: skip
    signal = xp.empty(image, np.float64)
    device.over_pixels("average_median_rates", ny * nx, 1, median_rates=median_rates, signal=signal, n_ints=nints)
    # The array of median rates is free now.
    poisson_weights = median_rates
    restored_weights = None if original_groupdq is None else xp.empty(cube, np.float64)
    device.over_pixels(
        "weigh_integrations", ny * nx, nints, groupdq=groupdq, original_groupdq=original_groupdq,
        dark_current=dark_current, signal=signal, poisson_weights=poisson_weights,
        restored_weights=restored_weights, states=states, **vars(rateints), **pixels, **sums, **ramp, **times,
    )  # fmt: skip
    if segments is not None:
        device.over_pixels(
            "write_optional", ny * nx, nints, data=data, groupdq=groupdq, dark_current=dark_current,
            zeroframe=zeroframe, weights=weights, signal=signal, states=states, dq=rateints.dq, **pixels, **sums,
            **ramp, **times, **optional,
        )  # fmt: skip
    rate = Slopes.empty(image, xp)
    device.over_pixels(
        "combine_integrations", ny * nx, 1, pixeldq=pixeldq, gain=gain, poisson_weights=poisson_weights,
        restored_weights=restored_weights, states=states, dq_ints=rateints.dq, n_ints=nints, **sums, **vars(rate),
    )  # fmt: skip
    return rate, rateints


def _side_by_side(device, *ramps):
    """Return ramps with the same number of frames from one integration to the next, and that number; copy if needed."""
    apart = {frames_apart(ramp) for ramp in ramps if ramp is not None}
    if len(apart) == 1 and None not in apart:
        return *ramps, apart.pop()
    return *map(device.contiguous, ramps), ramps[0].shape[1]
