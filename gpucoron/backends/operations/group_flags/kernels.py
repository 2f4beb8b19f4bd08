"""Flags of groups by kernels; see the definitions in this folder."""

import numpy as np

from gpucoron.dq import FLUX_ESTIMATED

#: frames of a thread that sets flags in all of them
FRAMES = 64


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
