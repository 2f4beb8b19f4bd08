"""Saturation by kernels; see `gpucoron.backends.operations.saturation.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry, words_of
from gpucoron.dq import DO_NOT_USE, SATURATED


def flag_saturation(device, data, groupdq, threshold, checked, bias=None, *, settings):
    nints, ngroups, ny, nx = data.shape
    threshold, checked, bias = map(device.contiguous, (threshold, checked, bias))
    ramp = {"n_ints": nints, "n_groups": ngroups}
    shape = (nints, words_of(ngroups), ny, nx)

    def grow(marked, flag, radius, corners=True):
        grid, block = geometry(ny * nx, device.block_threads, nints * words_of(ngroups))
        values = {"groupdq": groupdq, "words": marked, "flag": flag, "radius": max(radius, 0), "ny": ny, "nx": nx}
        device.launch("grow_flags", grid, block, {**values, **ramp}, (corners,))

    saturated = device.xp.empty(shape, np.uint32)
    device.over_pixels(
        "mark_saturation", ny * nx, nints, data=data, groupdq=groupdq, threshold=threshold, words=saturated, **ramp
    )
    grow(saturated, SATURATED, settings.n_pix_square)
    # The mean of one read is not diluted.
    diluted = settings.nframes is not None and settings.nframes > 1
    second = settings.nframes is not None and ngroups > 2
    spoiled = None
    if diluted:
        spoiled = saturated if settings.grow_diagonal else device.xp.empty(shape, np.uint32)
    if diluted or second:
        device.over_pixels(
            "mark_dilution", ny * nx, nints, (diluted, second),
            data=data, groupdq=groupdq, threshold=threshold, checked=checked.view(np.uint8), bias=bias,
            words=spoiled, n_frames=settings.nframes, **ramp,
        )  # fmt: skip
    if diluted:
        grow(spoiled, DO_NOT_USE, settings.n_pix_square)
    if not settings.grow_diagonal:
        grow(saturated, SATURATED, settings.n_pix_grow_sat, corners=False)
