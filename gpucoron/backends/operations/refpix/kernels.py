"""Subtraction of the levels of reference pixels by a kernel; see `gpucoron.backends.operations.refpix.definition`."""

from gpucoron.backends.devices.launch import geometry


def subtract_levels(device, frames, levels, sides, rounded, *, settings):
    n, ny, nx = frames.shape
    values = {
        "frames": frames, "levels": levels, "sides": sides, "rounded": rounded, "n_frames": n, "ny": ny, "nx": nx,
        "n_outputs": 1 if sides is None else sides.shape[2],
    }  # fmt: skip
    grid, block = geometry(1, device.frame_threads, n * ny)
    device.launch("subtract_levels", grid, block, values, (settings.along_y, settings.keeps_zeros))
