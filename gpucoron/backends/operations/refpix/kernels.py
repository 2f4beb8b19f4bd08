"""Levels of reference pixels by kernels; see the definitions in this folder."""

import numpy as np

from gpucoron.backends.devices.launch import geometry


def subtract_levels(device, frames, levels, sides, rounded, *, settings):
    n, ny, nx = frames.shape
    values = {
        "frames": frames, "levels": device.contiguous(levels), "sides": device.contiguous(sides),
        "rounded": device.contiguous(rounded), "n_frames": n, "ny": ny, "nx": nx,
        "n_outputs": 1 if sides is None else sides.shape[2],
    }  # fmt: skip
    grid, block = geometry(1, device.frame_threads, n * ny)
    device.launch("subtract_levels", grid, block, values, (settings.along_y, settings.keeps_zeros))


def clip_levels(device, frames, pixels, n_first, siglimit):
    n, ny, nx = frames.shape
    n_kinds = 1 if n_first == len(pixels) else 2
    samples, means = device.empty((len(pixels), n), np.float32), device.empty((n, n_kinds), np.float32)
    # small blocks on many multiprocessors: there are few threads, and their values stay in the caches
    grid, block = geometry(n, min(32, device.block_threads), n_kinds)
    values = {"n_first": n_first, "n_reference": len(pixels), "n_frames": n, "n_pixels": ny * nx, "siglimit": siglimit}
    arrays = {"frames": frames, "pixels": device.to_device(pixels), "samples": samples, "means": means}
    device.launch("clip_levels", grid, block, arrays | values)
    return means
