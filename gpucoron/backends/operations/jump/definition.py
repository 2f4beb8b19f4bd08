"""Jump detection by two-point differences, in tiles of rows: stcal's ``detect_jumps_data`` without its large events.

Pixels are searched independently, in tiles. The few jumps with neighbours to flag are collected, and the neighbours are
flagged when all tiles are done. The ramp is never copied as a whole.
"""

import warnings

import numpy as np

from gpucoron.backends.operations.jump.outliers import (
    noise,
    outliers_by_clipping,
    outliers_by_iteration,
    outliers_in_one_pass,
    signed_medians,
)
from gpucoron.backends.operations.jump.strips import UNUSABLE, Ramps
from gpucoron.backends.tiles import for_each_tile
from gpucoron.dq import DO_NOT_USE, JUMP_DET

#: Modes of the search, numbered as in jump.cu.
ONE_PASS, ITERATIVE, AFTER_CLIPPING = 0, 1, 2


def search_jumps(device, data, groupdq, gain, readnoise, mode, lost, *, settings):
    """Find the jumps of some rows in a given mode; flag them, neighbours of medium jumps, and groups after large jumps.

    A difference of two groups is a jump if its distance from the pixel's median difference, over all groups and
    integrations, exceeds the threshold times the noise expected from this median and the read noise. The search makes
    one pass if every integration has enough differences; otherwise it finds one jump at a time, with a new median
    after each. Groups that are DO_NOT_USE or SATURATED, and NaN, are ignored; JUMP_DET is removed from such groups at
    the end.

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        C-contiguous; JUMP_DET is set, in place.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    mode : int
        From `choose_search`.
    lost : (nints, ngroups) bool
        From `find_lost_groups`; they are left out, because all their differences would be NaN.
    settings : JumpSettings

    Returns
    -------
    (ny, 1) or (ny, nx) int
        Number of groups in each row, or pixel, with JUMP_DET before neighbours are flagged.
    """
    _check_contiguous(groupdq)
    ny = data.shape[2]
    # Clipping has used all differences.
    usable = ~lost if mode != AFTER_CLIPPING else np.ones(data.shape[:2], bool)
    ramps = Ramps(data, groupdq, gain, readnoise, settings.nframes, usable)
    thresholds = (
        settings.three_group_rejection_threshold,
        settings.four_group_rejection_threshold,
        settings.rejection_threshold,
    )

    def search(strip):
        if mode == ONE_PASS:
            _search_in_one_pass(strip, settings.rejection_threshold)
        elif mode == ITERATIVE:
            strip.flag_jumps(*outliers_by_iteration(strip.differences, strip.read_variance, thresholds))
        rows = strip.rows_with_jumps()
        reaching = np.empty(0, np.int64)
        if settings.flag_4_neighbors:
            limits = settings.min_jump_to_flag_neighbors, settings.max_jump_to_flag_neighbors
            reaching = _jumps_that_reach(strip, *limits)
        strip.remove_redundant_jumps()
        return rows, reaching

    rows, reaching = zip(*_over_strips(device, ramps, search), strict=True)
    _flag_neighbors(groupdq, np.concatenate(reaching))
    if settings.flags_later_groups:
        _over_strips(device, ramps, lambda strip: _flag_after_jumps(strip, settings.after))
    return np.bincount(np.concatenate(rows), minlength=ny)[:, np.newaxis]


def clip_jumps(device, data, groupdq, gain, *, settings):
    """Flag each pixel's outliers over the integrations, or over all of its differences, in place.

    Parameters
    ----------
    device, data, groupdq, gain, settings
        As for `search_jumps`.
    """
    from astropy.utils.exceptions import AstropyUserWarning

    _check_contiguous(groupdq)
    nints, ngroups = data.shape[:2]

    def clip(strip):
        if 0 not in strip.differences.shape:
            how = (nints, ngroups - 1), settings.rejection_threshold, settings.only_use_ints
            strip.flag_jumps(*outliers_by_clipping(strip.differences, *how))

    # Clipping over integrations needs all differences.
    ramps = Ramps(data, groupdq, gain, None, 1, usable=np.ones((nints, ngroups), bool))
    # astropy warns about NaN in each strip.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input data contains invalid values", AstropyUserWarning)
        _over_strips(device, ramps, clip)


def drop_redundant_jumps(device, groupdq):
    """Clear JUMP_DET, in place, in groups that are DO_NOT_USE or SATURATED: (nints, ngroups, ny, nx) uint8."""
    for flags in groupdq.reshape(-1, *groupdq.shape[2:]):
        flags &= np.where(flags & UNUSABLE, np.uint8(0xFF & ~JUMP_DET), np.uint8(0xFF))


def clear_groups_full_of_jumps(device, groupdq):
    """Clear, in place, the jumps of groups in which all pixels are JUMP_DET or DO_NOT_USE, as in stcal's clipping.

    Parameters
    ----------
    device : Device
    groupdq : (nints, ngroups, ny, nx) uint8
    """
    for group in groupdq.reshape(-1, *groupdq.shape[2:]):
        if ((group & (JUMP_DET | DO_NOT_USE)) != 0).all():
            group[group == JUMP_DET] = 0


def choose_search(lost, settings):
    """Choose the mode of the search for the whole image.

    Parameters
    ----------
    lost : (nints, ngroups) bool
        Groups that are DO_NOT_USE in every pixel.
    settings : JumpSettings

    Returns
    -------
    int or None
        A mode of `search_jumps`; None if there are too few groups.
    """
    nints, ngroups = lost.shape
    n_clippable = nints if settings.only_use_ints else nints * ngroups - int(lost.sum())
    if n_clippable >= settings.minimum_sigclip_groups:
        return AFTER_CLIPPING
    usable_groups = ngroups - int(lost.sum(axis=1).max(initial=0))
    if usable_groups < settings.minimum_groups:
        return None
    return ONE_PASS if usable_groups - 1 >= settings.min_diffs_single_pass else ITERATIVE


def _over_strips(device, ramps, act):
    """Call ``act(strip)`` for all strips, on threads; return the results in the order of the strips."""

    def act_on_tile(rows):
        # NumPy's error state is per thread. Invalid values are expected and become NaN.
        with np.errstate(all="ignore"):
            return [act(strip) for strip in ramps.strips(rows, device.tile_bytes)]

    tiles = for_each_tile(act_on_tile, ramps.shape, device.n_threads, device.tile_bytes)
    return [answer for tile in tiles for answer in tile]


def _check_contiguous(groupdq):
    if not groupdq.flags.c_contiguous:
        msg = "groupdq must be C-contiguous: it is edited in place"
        raise ValueError(msg)


def _search_in_one_pass(strip, threshold):
    medians = signed_medians(strip.differences)
    strip.ramps.medians[strip.pixels] = medians
    sigma = noise(medians, strip.read_variance)
    strip.flag_jumps(*outliers_in_one_pass(strip.differences, medians, sigma, threshold))


def _jumps_that_reach(strip, smallest, largest):
    """Return the indices in flat ``groupdq`` of jumps between ``smallest`` and ``largest`` sigma."""
    which, pixel = strip.jumps()
    pixels, owner = _distinct(pixel, strip.pixels.size)
    medians = strip.medians(pixels)
    sigma = noise(medians, strip.read_variance[pixels])
    ratio = np.abs(strip.differences[which, pixel] - medians[owner]) / sigma[owner]
    reaches = (ratio > smallest) & (ratio < largest)
    return strip.address(which[reaches], pixel[reaches])


def _flag_neighbors(groupdq, jumps):
    """Set JUMP_DET in the usable pixels above, below, left and right of jumps, given as indices of the flat array."""
    ny, nx = groupdq.shape[2:]
    flat = groupdq.reshape(-1)
    y, x = np.divmod(jumps % (ny * nx), nx)
    for step, inside in ((-nx, y > 0), (nx, y < ny - 1), (-1, x > 0), (1, x < nx - 1)):
        neighbors = jumps[inside] + step
        flat[neighbors[(flat[neighbors] & UNUSABLE) == 0]] |= JUMP_DET


def _flag_after_jumps(strip, after):
    """Set JUMP_DET in the usable groups that follow a large jump of their pixel.

    ``after`` contains pairs: the smallest jump in electrons, and the number of groups to flag.
    """
    nints, ngroups = strip.ramps.shape[:2]
    which, pixel = strip.jumps()
    pixels, owner = _distinct(pixel, strip.pixels.size)
    jump = strip.differences[which, pixel] - strip.medians(pixels)[owner]
    integration, group = strip.groups(which)
    for electrons, n_groups in after:
        reach = min(n_groups, ngroups)
        large = (jump >= electrons) & (reach > 0)
        hit, column = _distinct(pixel[large], strip.pixels.size)
        # The group of the latest large jump so far; before the first one, a group too early to matter.
        latest = np.full((nints, ngroups, hit.size), -reach - 1, np.int32)
        latest[integration[large], group[large], column] = group[large]
        np.maximum.accumulate(latest, axis=1, out=latest)
        strip.flag_usable(np.arange(ngroups, dtype=np.int32)[:, None] - latest <= reach, hit)


def _distinct(indices, length):
    """Return the sorted distinct ``indices`` below ``length``, and the position of each index among them."""
    present = np.zeros(length, bool)
    present[indices] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[indices]
