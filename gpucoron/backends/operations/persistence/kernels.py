"""Windows of persistence by a kernel; see `gpucoron.backends.operations.persistence.definition`."""

from gpucoron.backends.operations.persistence.definition import flag_of, threshold_of


def open_windows(device, data, groupdq, ends, times, *, settings):
    nints, ngroups, ny, nx = data.shape
    threshold = threshold_of(settings)
    device.over_pixels(
        "open_windows", ny * nx, 1, data=data, groupdq=groupdq, ends=ends, times=device.float64(times),
        window=settings.window, threshold=threshold or 0.0, has_threshold=int(threshold is not None),
        flag=int(flag_of(settings)), n_ints=nints, n_groups=ngroups,
    )  # fmt: skip
