"""Jump detection by kernels; see `gpucoron.backends.operations.jump.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry, words_of
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING
from gpucoron.dq import DO_NOT_USE, JUMP_DET


def search_jumps(device, data, groupdq, gain, readnoise, mode, lost, *, settings):
    nints, ngroups, ny, nx = data.shape
    xp, gain, readnoise = device.xp, device.contiguous(gain), device.contiguous(readnoise)
    ramp = {"n_ints": nints, "n_groups": ngroups}
    reaching = None
    if settings.flag_4_neighbors:
        reaching = xp.zeros((nints, words_of(ngroups), ny, nx), np.uint32)
    medians = xp.empty((ny, nx), np.float64) if settings.flags_later_groups else None
    n_flagged = xp.empty((ny, nx), np.int32)
    lanes = 1 if mode == AFTER_CLIPPING else device.choose_lanes(ny * nx, nints * words_of(ngroups))
    values = {
        "data": data, "groupdq": groupdq, "gain": gain, "readnoise": readnoise, "reaching": reaching,
        "medians": medians, "n_flagged": n_flagged, "n_pixels": ny * nx, "n_frames": settings.nframes,
        "threshold": settings.rejection_threshold, "three_groups": settings.three_group_rejection_threshold,
        "four_groups": settings.four_group_rejection_threshold, "smallest": settings.min_jump_to_flag_neighbors,
        "largest": settings.max_jump_to_flag_neighbors, **ramp,
    }  # fmt: skip
    device.launch("search_jumps", *geometry(ny * nx * lanes, device.block_threads), values, (mode, lanes))
    if settings.flag_4_neighbors:
        grid, block = geometry(ny * nx, device.block_threads, nints * words_of(ngroups))
        device.launch(
            "flag_neighbors", grid, block, {"groupdq": groupdq, "reaching": reaching, "ny": ny, "nx": nx, **ramp}
        )
    if settings.flags_later_groups:
        (e1, n1), (e2, n2) = settings.after
        device.over_pixels(
            "flag_after_jumps", ny * nx, nints, data=data, groupdq=groupdq, gain=gain, medians=medians,
            e1=e1, n1=n1, e2=e2, n2=n2, **ramp,
        )  # fmt: skip
    return n_flagged


def clip_jumps(device, data, groupdq, gain, *, settings):
    nints, ngroups, ny, nx = data.shape
    device.over_pixels(
        "clip_jumps", ny * nx, ngroups - 1 if settings.only_use_ints else 1, (not settings.only_use_ints,), data=data,
        groupdq=groupdq, gain=device.contiguous(gain), n_ints=nints, n_groups=ngroups,
        threshold=settings.rejection_threshold,
    )  # fmt: skip


def find_lost_groups(device, groupdq):
    return device.to_host(_mark_full_groups(device, groupdq, DO_NOT_USE)).astype(bool)


def drop_redundant_jumps(device, groupdq):
    grid, block = geometry(groupdq.size, device.block_threads)
    device.launch("drop_redundant_jumps", grid, block, {"groupdq": groupdq, "n_samples": groupdq.size})


def clear_groups_full_of_jumps(device, groupdq):
    nints, ngroups, ny, nx = groupdq.shape
    n_frames = nints * ngroups
    full = _mark_full_groups(device, groupdq, JUMP_DET | DO_NOT_USE)
    device.over_pixels("clear_lone_jumps", ny * nx, n_frames, groupdq=groupdq, all_flagged=full, n_frames=n_frames)


def _mark_full_groups(device, groupdq, mask):
    """Return 1 for groups in which all pixels have a bit of ``mask``: (nints, ngroups) int32."""
    nints, ngroups, ny, nx = groupdq.shape
    full = device.xp.ones((nints, ngroups), np.int32)
    # One block per frame, which stops at the first pixel without the flag.
    device.over_frames(
        "planes_all_flagged", nints * ngroups, groupdq=groupdq, mask=mask, all_flagged=full, n_pixels=ny * nx
    )
    return full
