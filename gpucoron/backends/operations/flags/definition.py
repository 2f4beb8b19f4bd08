"""Group flags in NumPy: counts of them, flags that follow from them, and flags that are set in many groups."""

import numpy as np

from gpucoron.backends.results import FlagCounts
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, FLUX_ESTIMATED, JUMP_DET, PERSISTENCE, SATURATED

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
    ngroups, image = groupdq.shape[1], groupdq.shape[2:] if settings.in_pixels else 0
    in_groups = _bits_of(settings.in_groups)
    others = settings.in_samples & ~settings.in_groups

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
            for frame in flags if settings.in_pixels else ():
                collected |= frame
        return total, groups, collected

    total, groups, collected = count(slice(0, 0))
    for part in device.in_parts(count, len(groupdq)):
        total += part[0]
        groups += part[1]
        collected |= part[2]
    pixels = np.zeros(N_BITS, np.int64)
    for bit in _bits_of(settings.in_pixels):
        pixels[bit] = np.count_nonzero(collected & np.uint8(1 << bit))
    for bit in _bits_of(settings.in_samples & settings.in_groups):
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


def add_flags(device, groupdq, flags):
    """Set the flags of a pixel in all of its groups, in place.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8
    flags : (ny, nx) uint8
    """

    def add(integrations):
        groupdq[integrations] |= flags

    # This is the first use of the flags: where the system provides their memory slowly, threads halve the time.
    device.in_parts(add, len(groupdq))


def suppress_single_groups(device, groupdq):
    """Set DO_NOT_USE in all groups of ramps with one good group, in place. Groups with only PERSISTENCE are good.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8

    Notes
    -----
    Source: stcal 1.20, ``suppress_one_good_group_ramps``.
    """
    without_persistence = groupdq.dtype.type(0xFF & ~PERSISTENCE)

    def suppress(integrations):
        for flags in groupdq[integrations]:
            # sums of bytes are the fastest; 255 of them never overflow
            n_good = 0
            for start in range(0, len(flags), 255):
                good = (flags[start : start + 255] & without_persistence) == 0
                n_good = n_good + good.view("uint8").sum(axis=0, dtype="uint8").astype("uint32")
            single = n_good == 1
            if single.any():
                flags |= single.astype(flags.dtype) * flags.dtype.type(DO_NOT_USE)

    device.in_parts(suppress, len(groupdq))


def flag_first_groups(device, groupdq, pixeldq, parts):
    """Set DO_NOT_USE in the first groups of integrations, or in fewer groups of ramps that saturate early, in place.

    If the second group after the skipped ones is saturated and the first group of the ramp is not, the number is
    lowered step by step until that group is not saturated. Such pixels get FLUX_ESTIMATED in ``pixeldq``.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    parts : list of (slice, int)
        At most 15 slices of integrations, with the number of groups to skip, which is at most ``ngroups - 2``.

    Returns
    -------
    list of (int, int)
        For each part, the numbers of pixels that keep some of the groups, and that keep all of them.

    Notes
    -----
    Source: jwst 3.0, ``rscd_sub``.
    """
    return [_flag_part(groupdq[integrations], pixeldq, skip) for integrations, skip in parts]


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


def _flag_part(groupdq, pixeldq, skip):
    saturated_first = (groupdq[:, 0] & SATURATED) != 0

    def saturated_at(group):
        return ((groupdq[:, group] & SATURATED) != 0) & ~saturated_first

    group = skip + 1
    early = saturated_at(group)
    if not early.any():
        groupdq[:, : max(skip, 0)] |= DO_NOT_USE
        return 0, 0
    skips = np.full(early.shape, skip, dtype="int16")
    while group > 0 and early.any():
        skips = np.maximum(skips - early, 0)
        group -= 1
        early = saturated_at(group)
    lowered = (skips < skip).any(axis=0)
    pixeldq |= lowered.astype(pixeldq.dtype) * pixeldq.dtype.type(FLUX_ESTIMATED)
    for group in range(skip):
        groupdq[:, group] |= (group < skips).astype(groupdq.dtype) * groupdq.dtype.type(DO_NOT_USE)
    return int(lowered.sum()), int((skips == 0).any(axis=0).sum())
