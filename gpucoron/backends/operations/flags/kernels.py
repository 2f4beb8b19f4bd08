"""Group flags by kernels; see `gpucoron.backends.operations.flags.definition`."""

import numpy as np

from gpucoron.backends.devices.launch import MAX_BLOCKS_Y, geometry, is_in_words
from gpucoron.backends.kernel_files import ROW_LANES
from gpucoron.backends.operations.flags.definition import N_BITS
from gpucoron.backends.results import FlagCounts
from gpucoron.dq import DO_NOT_USE, FLUX_ESTIMATED

#: frames of a thread that sets flags in all of them
FRAMES = 64
#: as in flags.cu: samples of a frame that a thread counts together
_THREAD_SAMPLES = 64
#: warps that keep a large device busy; more would only collect more words of the same pixels
_WARPS = 2**15


def count_flags(device, groupdq, *, settings):
    nints, ngroups, ny, nx = groupdq.shape
    groupdq, xp, n_frames = _contiguous(device, groupdq), device.xp, nints * ngroups
    of_frames = settings.in_samples | settings.in_groups | settings.everywhere
    # The last row is for the flags of pixels, so that there is one download.
    counts = xp.zeros((n_frames + 1 if of_frames else 1, N_BITS), np.int32)
    collected = xp.zeros(-(-ny * nx // 4), np.uint32) if settings.in_pixels else None
    _launch(device, groupdq, counts[:-1] if of_frames else None, collected, n_frames, ny * nx, settings)
    if settings.in_pixels:
        _launch(device, collected.view(np.uint8), counts[-1:], None, 1, ny * nx, settings)
    counts = device.to_host(counts)
    frames = counts[:-1] if of_frames else np.zeros((n_frames, N_BITS), np.int32)
    frames, pixels = frames.reshape(nints, ngroups, N_BITS), counts[-1].astype(np.int64)
    groups = frames.sum(axis=0, dtype=np.int64)
    everywhere = np.packbits(frames == ny * nx, axis=2, bitorder="little")[..., 0]
    return FlagCounts(
        groups.sum(axis=0) * _asked(settings.in_samples),
        groups * _asked(settings.in_groups),
        pixels * _asked(settings.in_pixels),
        everywhere & np.uint8(settings.everywhere),
        n_samples=groupdq.size,
    )


def find_lost_groups(device, groupdq):
    nints, ngroups, ny, nx = groupdq.shape
    groupdq = _contiguous(device, groupdq)
    full = device.xp.empty((nints, ngroups), np.uint8)
    device.over_frames(
        "find_full_frames", nints * ngroups, groupdq=groupdq, mask=DO_NOT_USE, full=full, n_pixels=ny * nx,
        in_words=is_in_words(groupdq, ny * nx),
    )  # fmt: skip
    return device.to_host(full).astype(bool)


def join_group_flags(device, groupdq, pixeldq):
    nints, ngroups, ny, nx = groupdq.shape
    groupdq = _contiguous(device, groupdq)
    joined = device.xp.empty((nints, ny, nx), np.uint32)
    values = {
        "groupdq": groupdq, "pixeldq": device.contiguous(pixeldq), "joined": joined, "n_ints": nints,
        "n_groups": ngroups, "n_pixels": ny * nx, "in_words": is_in_words(groupdq, ny * nx),
    }  # fmt: skip
    device.launch("join_group_flags", *geometry(-(-ny * nx // 4), device.block_threads, nints), values)
    return joined


def join_integration_flags(device, dq):
    nints, ny, nx = dq.shape
    joined = device.xp.empty((ny, nx), np.uint32)
    values = {"dq": _contiguous(device, dq), "joined": joined, "n_ints": nints}
    device.over_pixels("join_integration_flags", ny * nx, 1, **values)
    return joined


def add_flags(device, groupdq, flags):
    nints, ngroups, ny, nx = groupdq.shape
    n_frames = nints * ngroups
    device.over_pixels(
        "add_flags", ny * nx, -(-n_frames // FRAMES), groupdq=groupdq, flags=device.contiguous(flags), n_frames=n_frames
    )


def suppress_single_groups(device, groupdq):
    nints, ngroups, ny, nx = groupdq.shape
    device.over_pixels("suppress_single_groups", ny * nx, nints, groupdq=groupdq, n_ints=nints, n_groups=ngroups)


def flag_first_groups(device, groupdq, pixeldq, parts):
    _, ngroups, ny, nx = groupdq.shape
    found = device.zeros((ny, nx), np.int32)
    early = device.zeros((len(parts), ngroups), np.int32)
    for number, (integrations, skip) in enumerate(parts):
        ramps = groupdq[integrations]
        common = {
            "groupdq": ramps, "is_early": early[number], "skip": skip, "n_ints": len(ramps), "n_groups": ngroups,
        }  # fmt: skip
        device.over_pixels("find_early_saturation", ny * nx, len(ramps), **common)
        device.over_pixels(
            "flag_first_groups", ny * nx, len(ramps), pixeldq=pixeldq, found=found, lowered=1 << 2 * number,
            kept_all=2 << 2 * number, flag_of_lowered=FLUX_ESTIMATED, **common,
        )  # fmt: skip
    # one wait for all parts
    found = device.to_host(found)
    counts = [int(np.count_nonzero(found & 1 << bit)) for bit in range(2 * len(parts))]
    return list(zip(counts[::2], counts[1::2], strict=True))


def _launch(device, groupdq, counts, collected, n_frames, n_pixels, settings):
    lanes = ROW_LANES[-1] if device.choose_lanes(1, ROW_LANES[-1]) > 1 else 1
    n_threads = -(-n_pixels // _THREAD_SAMPLES)
    n_threads = -(-n_threads // lanes) * lanes
    # Each warp counts several frames, so that it collects the flags of its pixels in registers.
    n_rows = min(n_frames, max(1, 32 * _WARPS // n_threads), MAX_BLOCKS_Y)
    grid, block = geometry(n_threads, device.block_threads, n_rows)
    values = {
        "groupdq": groupdq, "counts": counts, "collected": collected, "wanted": settings.in_pixels,
        "n_frames": n_frames, "n_pixels": n_pixels, "in_words": is_in_words(groupdq, n_pixels),
    }  # fmt: skip
    device.launch("count_flags", grid, block, values, (lanes,))


def _asked(flags):
    """Return 1 for each bit of a sum of flags, else 0."""
    return flags >> np.arange(N_BITS) & 1


def _contiguous(device, array):
    return array if array.flags.c_contiguous else device.xp.ascontiguousarray(array)
