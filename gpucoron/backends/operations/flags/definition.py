"""Counts of group flags in NumPy, integration by integration."""

import numpy as np

from gpucoron.backends.results import FlagCounts
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED

#: flags of a group
N_BITS = 8


def count_flags(device, groupdq, *, settings):
    """Count samples and pixels with group flags.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8
    settings : FlagsSettings

    Returns
    -------
    FlagCounts
        Arrays on the host; zero for flags that are not asked for.
    """
    ngroups, image = groupdq.shape[1], groupdq.shape[2:] if settings.pixels else 0
    in_groups = _bits_of(settings.groups)
    others = settings.total & ~settings.groups

    def count(integrations):
        total, groups = np.zeros(N_BITS, np.int64), np.zeros((ngroups, N_BITS), np.int64)
        collected = np.zeros(image, np.uint8)
        for flags in groupdq[integrations]:
            for bit in _bits_to_count(flags, others):
                total[bit] += np.count_nonzero(flags & np.uint8(1 << bit))
            # a single frame fits into the CPU cache
            for frame, counts in zip(flags, groups, strict=True) if in_groups else ():
                for bit in in_groups:
                    counts[bit] += np.count_nonzero(frame & np.uint8(1 << bit))
            for frame in flags if settings.pixels else ():
                collected |= frame
        return total, groups, collected

    total, groups, collected = count(slice(0, 0))
    for part in device.in_parts(count, len(groupdq)):
        total += part[0]
        groups += part[1]
        collected |= part[2]
    pixels = np.zeros(N_BITS, np.int64)
    for bit in _bits_of(settings.pixels):
        pixels[bit] = np.count_nonzero(collected & np.uint8(1 << bit))
    for bit in _bits_of(settings.total & settings.groups):
        total[bit] = groups[:, bit].sum()
    everywhere = _flags_everywhere(groupdq, settings.everywhere)
    return FlagCounts(total, groups, pixels, everywhere, n_samples=groupdq.size)


def find_lost_groups(device, groupdq):
    """Find the groups that are DO_NOT_USE in every pixel.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8

    Returns
    -------
    (nints, ngroups) bool
        On the host.
    """
    return _flags_everywhere(groupdq, DO_NOT_USE) != 0


def join_group_flags(device, groupdq, pixeldq):
    """Return the flags of each integration: those of the pixel, and those that follow from its groups.

    SATURATED and JUMP_DET are set if any group has them, DO_NOT_USE if no group is good.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32

    Returns
    -------
    (nints, ny, nx) uint32

    Notes
    -----
    Source: stcal 1.20, ``dq_compress_sect``.
    """
    dq = np.empty((groupdq.shape[0], *pixeldq.shape), dtype=pixeldq.dtype)
    for integration, groups in enumerate(groupdq):
        some = np.zeros_like(groups[0])
        bad = np.ones(pixeldq.shape, dtype=bool)
        for flags in groups:
            some |= flags
            bad &= flags & (SATURATED | DO_NOT_USE) != 0
        dq[integration] = pixeldq | (some & (SATURATED | JUMP_DET)) | bad.astype(pixeldq.dtype)
    return dq


def join_integration_flags(device, dq):
    """Return the flags of all integrations, but DO_NOT_USE only if all integrations have it.

    Parameters
    ----------
    device : Device
    dq : (nints, ny, nx) uint32

    Returns
    -------
    (ny, nx) uint32
    """
    some = np.bitwise_or.reduce(dq, axis=0)
    bad = np.bitwise_and.reduce(dq, axis=0)
    return some & np.uint32(0xFFFFFFFF & ~DO_NOT_USE) | bad & np.uint32(DO_NOT_USE)


def _bits_of(flags):
    """List the numbers of the bits of a sum of flags."""
    return [bit for bit in range(N_BITS) if flags >> bit & 1]


def _bits_to_count(flags, asked):
    """List the bits to count in an array of flags: bits above its highest flag need no count."""
    # for one flag a maximum takes longer than it saves, unless it is the highest, which few exposures have
    if asked and (asked & (asked - 1) or asked == CHARGELOSS):
        asked &= (1 << int(flags.max()).bit_length()) - 1
    return _bits_of(asked)


def _flags_everywhere(groupdq, flags):
    """Return those of some flags that all pixels of a group have: (nints, ngroups) uint8."""
    found = groupdq[:, :, 0, 0] & np.uint8(flags)
    # A group without them in one of three pixels needs no search.
    ny, nx = groupdq.shape[2:]
    for y, x in ((ny // 2, nx // 2), (ny - 1, nx // 3)):
        left = np.nonzero(found)
        found[left] &= groupdq[(*left, y, x)]
    for integration, group in np.argwhere(found):
        found[integration, group] &= np.bitwise_and.reduce(groupdq[integration, group], axis=None)
    return found
