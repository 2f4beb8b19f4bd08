"""Subtraction of the frames of a reference by a kernel; see the definition in this folder."""

from gpucoron.backends.devices.launch import count_parts, frames_apart

#: least number of integrations of a thread, which loads their frames once
FEWEST_INTEGRATIONS = 8


def subtract_frames(device, data, frames, line=None, *, settings):
    nints, ngroups, ny, nx = data.shape
    matched = settings.match(frames, ngroups, line=line, xp=device.xp)
    parts = count_parts(ny * nx * ngroups, nints, FEWEST_INTEGRATIONS)
    lines = {
        name: None if line is None else device.float64(getattr(line, name)) for name in ("mean", "slope", "center")
    }
    pattern = matched.pattern
    device.over_pixels(
        "subtract_frames", ny * nx, ngroups * parts, (matched.extrapolated > 0,), data=data,
        frames=device.contiguous(frames), n_ints=nints, n_groups=ngroups, frames_apart=frames_apart(data),
        n_frames=len(frames), n_averaged=1 if matched.same_pattern else pattern.nframes,
        spacing=1 if matched.same_pattern else pattern.nframes + pattern.groupgap,
        is_rounded=not matched.same_pattern, n_parts=parts, **lines,
    )  # fmt: skip
