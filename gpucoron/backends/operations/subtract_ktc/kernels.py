"""The kTC pedestals by kernels; see `gpucoron.backends.operations.subtract_ktc.definition`."""

import numpy as np


def fit_ktc(device, data, groupdq, limit, *, settings):
    nints, ngroups, ny, nx = data.shape
    data, groupdq = device.contiguous(data), device.contiguous(groupdq)
    pedestal, slope = (device.xp.empty((nints, ny, nx), np.float64) for _ in range(2))
    device.over_pixels(
        "fit_ktc", ny * nx, nints, data=data, groupdq=groupdq, limit=device.float64(limit),
        pedestal=pedestal, slope=slope, n_ints=nints, n_groups=ngroups, group_time=settings.group_time,
    )  # fmt: skip
    return pedestal, slope


def fit_mean_slope(device, data, groupdq, pedestal, limit, *, settings):
    nints, ngroups, ny, nx = data.shape
    ramp = {"data": device.contiguous(data), "n_ints": nints, "n_groups": ngroups}
    n_usable = device.xp.empty((nints, ny, nx), np.int32)
    groupdq = device.contiguous(groupdq)
    device.over_pixels("count_usable_groups", ny * nx, nints, groupdq=groupdq, n_usable=n_usable, **ramp)
    slope = device.xp.empty((ny, nx), np.float64)
    device.over_pixels(
        "fit_mean_slopes", ny * nx, 1, n_usable=n_usable, pedestal=device.float64(pedestal),
        limit=device.float64(limit), slope=slope, group_time=settings.group_time, **ramp,
    )  # fmt: skip
    return slope
