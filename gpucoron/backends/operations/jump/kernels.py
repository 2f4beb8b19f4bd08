"""Jump detection by kernels; see `gpucoron.backends.operations.jump.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import WORD_GROUPS, geometry, is_in_words, words_of
from gpucoron.backends.kernel_files import CLIPPED_WORDS
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING, ITERATIVE, ONE_PASS
from gpucoron.dq import DO_NOT_USE, JUMP_DET

#: Words of shared memory that the threads of a block share out to keep differences, as in slices.cuh, and the fewest
#: threads of a block for this, by mode: repeated rounds gain more from it than they lose by fewer threads.
SLICE_WORDS = 8192
LEAST_THREADS = {ONE_PASS: 64, AFTER_CLIPPING: 64, ITERATIVE: 32}

#: The fewest threads of a block for sigma clipping with the differences in shared memory.
LEAST_CLIPPING_THREADS = 32

#: Pixels of a strip, and jumps of the list that a thread processes at a time, as in jump_strips.cpp.
STRIP_PIXELS, JUMPS_AT_ONCE = 64, 4096


def search_jumps(device, data, groupdq, gain, readnoise, mode, lost, *, settings):
    nints, ngroups, ny, nx = data.shape
    xp, gain, readnoise = device.xp, device.contiguous(gain), device.contiguous(readnoise)
    if device.strip_pixels:
        return _search_in_strips(device, data, groupdq, gain, readnoise, mode, settings)
    ramp = {"n_ints": nints, "n_groups": ngroups}
    # Also the kernel's list of groups to examine.
    reaching = xp.empty((nints, words_of(ngroups), ny, nx), np.uint32)
    medians = xp.empty((ny, nx), np.float64) if settings.flags_later_groups else None
    n_flagged = xp.empty((ny, nx), np.int32)
    lanes, block_threads = _choose_threads(device, mode, nints, ngroups, ny * nx)
    values = {
        "data": data, "groupdq": groupdq, "gain": gain, "readnoise": readnoise, "reaching": reaching,
        "medians": medians, "n_flagged": n_flagged, "n_pixels": ny * nx, **_limits(settings), **ramp,
    }  # fmt: skip
    device.launch("search_jumps", *geometry(ny * nx * lanes, block_threads), values, (mode, lanes))
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


def _choose_threads(device, mode, nints, ngroups, n_pixels):
    """Choose the threads that share a pixel, and those of a block.

    Where possible, the slices of shared memory hold all differences. Otherwise blocks are as large as usual.
    """
    n_units = nints * words_of(ngroups)

    def fitting_block(lanes):
        n_values = -(-n_units // lanes) * min(ngroups, WORD_GROUPS)
        return _block_for(device, SLICE_WORDS, n_values, LEAST_THREADS[mode])

    kernel = "search_jumps", (mode, 1)
    lanes = device.choose_lanes(n_pixels, n_units, *kernel)
    if lanes == 1 and fitting_block(1) < device.block_threads:
        # Sharing is faster also if one thread per pixel fills the device.
        shared = device.choose_lanes(1, n_units, *kernel)
        lanes = shared if fitting_block(shared) > fitting_block(1) else 1
    return lanes, fitting_block(lanes) or device.block_threads


def _block_for(device, n_words, n_values, least):
    """Return the threads of the largest block with room for ``n_values`` each; 0 if they are fewer than ``least``."""
    for n_threads in (device.block_threads, device.block_threads // 2, device.block_threads // 4):
        if n_threads >= least and n_values * n_threads <= n_words:
            return n_threads
    return 0


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
    n_series, n_values = (ngroups - 1, nints) if settings.only_use_ints else (1, nints * ngroups)
    # All differences of a pixel rarely fit.
    choices = CLIPPED_WORDS if settings.only_use_ints else CLIPPED_WORDS[:1]
    fitting = ((words, _block_for(device, words, n_values, LEAST_CLIPPING_THREADS)) for words in choices)
    # The most threads; among equals, those with the fewest words, because more blocks are resident.
    words, n_threads = max(fitting, key=lambda choice: (choice[1], -choice[0]))
    n_threads = n_threads or device.block_threads
    n_blocks = -(-ny * nx // n_threads) * n_series
    values = {
        "data": data, "groupdq": groupdq, "gain": device.contiguous(gain), "n_ints": nints, "n_groups": ngroups,
        "n_pixels": ny * nx, "threshold": settings.rejection_threshold,
    }  # fmt: skip
    device.launch("clip_jumps", *geometry(n_blocks * n_threads, n_threads), values, (not settings.only_use_ints, words))


def drop_redundant_jumps(device, groupdq):
    grid, block = geometry(groupdq.size, device.block_threads)
    device.launch("drop_redundant_jumps", grid, block, {"groupdq": groupdq, "n_samples": groupdq.size})


def clear_groups_full_of_jumps(device, groupdq):
    nints, ngroups, ny, nx = groupdq.shape
    device.over_frames(
        "clear_lone_jumps", nints * ngroups, groupdq=groupdq, mask=JUMP_DET | DO_NOT_USE, n_pixels=ny * nx,
        in_words=is_in_words(groupdq, ny * nx),
    )  # fmt: skip
