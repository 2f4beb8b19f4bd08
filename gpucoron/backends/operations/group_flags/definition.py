"""Flags of groups that follow from a pixel, or from other groups of its ramp, in NumPy."""

import numpy as np

from gpucoron.dq import DO_NOT_USE, FLUX_ESTIMATED, PERSISTENCE, SATURATED


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
