"""Saturation by kernels; see `gpucoron.backends.operations.saturation.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry, words_of
from gpucoron.backends.operations.saturation.definition import flag_by_read_pattern
from gpucoron.backends.tiles import for_each_tile
from gpucoron.dq import DO_NOT_USE, SATURATED

#: as in saturation_strips.cpp: pixels of a part, and of a strip
_PART_PIXELS, _STRIP_PIXELS = 512, 8192


def flag_saturation(device, data, groupdq, threshold, checked, bias=None, *, settings):
    how = _flag_in_strips if device.strip_pixels else _flag_by_words
    how(device, data, groupdq, threshold, checked, bias, settings)


def _flag_in_strips(device, data, groupdq, threshold, checked, bias, settings):
    """Flag saturation on a CPU: what is rare, the passes of the read pattern, in NumPy."""
    nints, ngroups, ny, nx = data.shape
    found = np.empty((nints, ngroups, -(-ny * nx // _PART_PIXELS)), np.uint8)
    values = {"groupdq": groupdq, "found": found, "n_ints": nints, "n_groups": ngroups}
    ramps = {"data": data, "threshold": device.contiguous(threshold), "n_pixels": ny * nx}
    grid, block = geometry(1, 1, nints * -(-ny * nx // _STRIP_PIXELS))
    device.launch("mark_saturation_strips", grid, block, {**values, **ramps})

    def grow(corners):
        if settings.n_pix_grow_sat > 0:
            image = {"radius": settings.n_pix_grow_sat, "ny": ny, "nx": nx}
            device.launch("grow_saturation", *geometry(1, 1, nints * ngroups), {**values, **image}, (corners,))

    if settings.grow_diagonal:
        grow(corners=True)
    if settings.nframes is not None:

        def flag(some):
            with np.errstate(invalid="ignore", over="ignore"):
                for ramp, flags in zip(data[some], groupdq[some], strict=True):
                    flag_by_read_pattern(ramp, flags, threshold, checked, bias, settings)

        for_each_tile(flag, (nints, 1), device.n_threads if settings.nframes > 1 else 1, tile_bytes=4)
    if not settings.grow_diagonal:
        grow(corners=False)


def _flag_by_words(device, data, groupdq, threshold, checked, bias, settings):
    """Flag saturation with a thread for each pixel; the flags of a ramp's groups are bits of words."""
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
