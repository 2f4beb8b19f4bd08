"""Jump detection by kernels; see `gpucoron.backends.operations.jump.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry, is_in_words, words_of
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING
from gpucoron.dq import DO_NOT_USE, JUMP_DET

#: Pixels of a strip, and jumps of the list that a thread processes at a time, as in jump_strips.cpp.
STRIP_PIXELS, JUMPS_AT_ONCE = 64, 4096


def search_jumps(device, data, groupdq, gain, readnoise, mode, lost, *, settings):
    nints, ngroups, ny, nx = data.shape
    xp, gain, readnoise = device.xp, device.contiguous(gain), device.contiguous(readnoise)
    if device.strip_pixels:
        return _search_in_strips(device, data, groupdq, gain, readnoise, mode, settings)
    ramp = {"n_ints": nints, "n_groups": ngroups}
    reaching = None
    if settings.flag_4_neighbors:
        reaching = xp.zeros((nints, words_of(ngroups), ny, nx), np.uint32)
    medians = xp.empty((ny, nx), np.float64) if settings.flags_later_groups else None
    n_flagged = xp.empty((ny, nx), np.int32)
    lanes = 1 if mode == AFTER_CLIPPING else device.choose_lanes(ny * nx, nints * words_of(ngroups))
    values = {
        "data": data, "groupdq": groupdq, "gain": gain, "readnoise": readnoise, "reaching": reaching,
        "medians": medians, "n_flagged": n_flagged, "n_pixels": ny * nx, **_limits(settings), **ramp,
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


def _limits(settings):
    return {
        "n_frames": settings.nframes, "threshold": settings.rejection_threshold,
        "three_groups": settings.three_group_rejection_threshold,
        "four_groups": settings.four_group_rejection_threshold, "smallest": settings.min_jump_to_flag_neighbors,
        "largest": settings.max_jump_to_flag_neighbors,
    }  # fmt: skip


def _search_in_strips(device, data, groupdq, gain, readnoise, mode, settings):
    """Search strips of neighbouring pixels; jumps with neighbours to flag are listed instead of marked."""
    nints, ngroups, ny, nx = data.shape
    n_strips = -(-ny * nx // STRIP_PIXELS)
    ramp = {"data": data, "groupdq": groupdq, "gain": gain, "n_ints": nints, "n_groups": ngroups, "n_pixels": ny * nx}
    reaching = None
    if settings.flag_4_neighbors:
        # As many bytes as the marks of the other kernel.
        reaching = np.empty(max(1, nints * words_of(ngroups) * ny * nx // 2), np.int64)
    medians = np.empty((ny, nx), np.float64) if settings.flags_later_groups else None

    def search(reaching):
        n_flagged, n_reaching = np.empty((ny, nx), np.int32), np.zeros(1, np.int64)
        values = {
            "readnoise": readnoise, "reaching": reaching, "n_reaching": n_reaching, "medians": medians,
            "n_flagged": n_flagged, "capacity": 0 if reaching is None else reaching.size, **_limits(settings), **ramp,
        }  # fmt: skip
        device.launch("search_strips", *geometry(1, 1, n_strips), values, (mode,))
        return n_flagged, int(n_reaching[0])

    n_flagged, n_jumps = search(reaching)
    if reaching is not None:
        if n_jumps > reaching.size:
            # Another search finds the same jumps, but no longer those that it has removed from unusable groups.
            reaching = np.empty(n_jumps, np.int64)
            search(reaching)
        grid, block = geometry(1, 1, -(-n_jumps // JUMPS_AT_ONCE))
        values = {"groupdq": groupdq, "reaching": reaching, "n_jumps": n_jumps, "ny": ny, "nx": nx}
        device.launch("flag_listed_neighbors", grid, block, values)
    if settings.flags_later_groups:
        (e1, n1), (e2, n2) = settings.after
        values = {"medians": medians, "e1": e1, "n1": n1, "e2": e2, "n2": n2, **ramp}
        device.launch("flag_groups_after_jumps", *geometry(1, 1, n_strips), values)
    return n_flagged


def clip_jumps(device, data, groupdq, gain, *, settings):
    nints, ngroups, ny, nx = data.shape
    device.over_pixels(
        "clip_jumps", ny * nx, ngroups - 1 if settings.only_use_ints else 1, (not settings.only_use_ints,), data=data,
        groupdq=groupdq, gain=device.contiguous(gain), n_ints=nints, n_groups=ngroups,
        threshold=settings.rejection_threshold,
    )  # fmt: skip


def drop_redundant_jumps(device, groupdq):
    grid, block = geometry(groupdq.size, device.block_threads)
    device.launch("drop_redundant_jumps", grid, block, {"groupdq": groupdq, "n_samples": groupdq.size})


def clear_groups_full_of_jumps(device, groupdq):
    nints, ngroups, ny, nx = groupdq.shape
    device.over_frames(
        "clear_lone_jumps", nints * ngroups, groupdq=groupdq, mask=JUMP_DET | DO_NOT_USE, n_pixels=ny * nx,
        in_words=is_in_words(groupdq, ny * nx),
    )  # fmt: skip
