"""Flags of whole ramps and of whole groups, before ramps are fitted: in NumPy, and by kernels."""

import numpy as np

from gpucoron.backends.devices.launch import frames_apart, geometry
from gpucoron.dq import DO_NOT_USE, PERSISTENCE, SATURATED

#: most blocks of threads for a group, of which the first samples usually decide
MOST_BLOCKS = 64


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


def find_usable_groups(device, groupdq, drops_flagged):
    """Find the groups that are left without leading groups, and the last group, that are DO_NOT_USE everywhere.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8
    drops_flagged : bool
        Otherwise all groups are left.

    Returns
    -------
    first, end : int
        The groups that are left; none if both are the number of groups.
    is_saturated : bool
        Whether all ramps are saturated at the first of them.
    """
    return _bounds(lambda group, flag: bool((groupdq[:, group] & flag != 0).all()), groupdq.shape[1], drops_flagged)


def _bounds(has_all, ngroups, drops_flagged):
    """Return `find_usable_groups`; ``has_all(group, flag)`` returns whether all samples of a group have a flag."""
    first, end = 0, ngroups
    while drops_flagged and first < end and has_all(first, DO_NOT_USE):
        first += 1
    if first == end:
        return first, end, False
    if drops_flagged and has_all(end - 1, DO_NOT_USE):
        end -= 1
    return first, end, has_all(first, SATURATED)


def suppress_by_kernel(device, groupdq):
    nints, ngroups, ny, nx = groupdq.shape
    device.over_pixels("suppress_single_groups", ny * nx, nints, groupdq=groupdq, n_ints=nints, n_groups=ngroups)


def find_usable_by_kernel(device, groupdq, drops_flagged):
    # one launch for all groups: the host waits once
    ramps = groupdq if drops_flagged else groupdq[:, :1]
    nints, ngroups, ny, nx = ramps.shape
    missing = device.zeros((ngroups,), np.int32)
    n_threads = min(ny * nx, MOST_BLOCKS * device.block_threads)
    grid, block = geometry(n_threads, device.block_threads, ngroups)
    values = {"n_ints": nints, "n_groups": ngroups, "frames_apart": frames_apart(ramps), "n_pixels": ny * nx}
    device.launch("find_usable_groups", grid, block, {"groupdq": ramps, "missing": missing, **values})
    missing = device.to_host(missing)
    return _bounds(lambda group, flag: not missing[group] & flag, groupdq.shape[1], drops_flagged)
