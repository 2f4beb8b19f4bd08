"""Jump detection by two-point differences, in tiles of rows: stcal's ``detect_jumps_data`` without its large events.

The search looks at one pixel at a time, so tiles are free; only the few jumps that reach their neighbours cross a
tile's border. They are collected, and act once all tiles are searched. No copy of the ramp in electrons is made.
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
from gpucoron.backends.tiles import TILE_BYTES, for_each_tile
from gpucoron.dq import DO_NOT_USE, JUMP_DET

#: How jumps are searched; the numbers are those of jump.cu.
ONE_PASS, ITERATIVE, AFTER_CLIPPING = 0, 1, 2

#: With fewer there is no second difference to compare with.
MINIMUM_GROUPS = 3

#: What stcal counts when it finds too few groups to look for jumps.
NOT_SEARCHED = -99


def detect_jumps(
    data,
    groupdq,
    gain,
    readnoise,
    *,
    n_threads=1,
    tile_bytes=TILE_BYTES,
    rejection_threshold=4.0,
    three_group_rejection_threshold=6.0,
    four_group_rejection_threshold=5.0,
    flag_4_neighbors=True,
    max_jump_to_flag_neighbors=1000.0,
    min_jump_to_flag_neighbors=10.0,
    after_jump_flag_e1=0.0,
    after_jump_flag_n1=0,
    after_jump_flag_e2=0.0,
    after_jump_flag_n2=0,
    min_diffs_single_pass=10,
    minimum_groups=MINIMUM_GROUPS,
    minimum_sigclip_groups=100,
    only_use_ints=True,
    nframes=1,
):
    """Flag jumps in ``groupdq``, in place; see `gpucoron.backends.base.Backend.detect_jumps`.

    A difference of two groups is a jump where it lies too far from the median difference of its pixel, over all
    groups and integrations, in units of the noise that this median and the read noise let expect:

    - by sigma clipping over integrations (or over all differences) where there are ``minimum_sigclip_groups`` of them;
    - else in one pass, where every integration has ``min_diffs_single_pass`` differences or more;
    - else one jump after the other, with a new median after each.

    Then the four neighbours of a jump of medium size are flagged, and the groups that follow a large one. Groups that
    are DO_NOT_USE or SATURATED, and NaN, take no part; JUMP_DET is removed from such groups in the end.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        C-contiguous.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise.
    n_threads, tile_bytes : int
        Neither changes the result.
    minimum_groups : int
        At least 3, which stcal takes whatever its parameter says.

    Returns
    -------
    int
        Groups with JUMP_DET after the search and before the neighbours, or -99 where an integration has less than
        ``minimum_groups`` usable groups and nothing was searched.

    Notes
    -----
    Source: stcal 1.20 ``detect_jumps_data`` and ``find_crs`` (Anderson & Gordon 2011, PASP 123, 1237).
    """
    _check_contiguous(groupdq)
    lost = _groups_without_pixels(groupdq)
    mode = choose_search(lost, min_diffs_single_pass, minimum_sigclip_groups, only_use_ints, minimum_groups)
    how = {"n_threads": n_threads, "tile_bytes": tile_bytes}
    if mode is None:
        ramps = Ramps(data, groupdq, gain, readnoise, nframes, usable=~lost)
        _over_strips(ramps, lambda strip: strip.remove_redundant_jumps(), **how)
        return NOT_SEARCHED
    if mode == AFTER_CLIPPING:
        clip_jumps(data, groupdq, gain, rejection_threshold, only_use_ints, **how)
        clear_groups_full_of_jumps(groupdq)
    n_flagged = search_jumps(
        mode,
        data,
        groupdq,
        gain,
        readnoise,
        usable=None if mode == AFTER_CLIPPING else ~lost,
        rejection_threshold=rejection_threshold,
        three_group_rejection_threshold=three_group_rejection_threshold,
        four_group_rejection_threshold=four_group_rejection_threshold,
        flag_4_neighbors=flag_4_neighbors,
        max_jump_to_flag_neighbors=max_jump_to_flag_neighbors,
        min_jump_to_flag_neighbors=min_jump_to_flag_neighbors,
        after_jump_flag_e1=after_jump_flag_e1,
        after_jump_flag_n1=after_jump_flag_n1,
        after_jump_flag_e2=after_jump_flag_e2,
        after_jump_flag_n2=after_jump_flag_n2,
        nframes=nframes,
        **how,
    )
    return int(n_flagged.sum())


def search_jumps(
    mode,
    data,
    groupdq,
    gain,
    readnoise,
    *,
    usable=None,
    n_threads=1,
    tile_bytes=TILE_BYTES,
    rejection_threshold,
    three_group_rejection_threshold,
    four_group_rejection_threshold,
    flag_4_neighbors,
    max_jump_to_flag_neighbors,
    min_jump_to_flag_neighbors,
    after_jump_flag_e1,
    after_jump_flag_n1,
    after_jump_flag_e2,
    after_jump_flag_n2,
    nframes,
):
    """Search the jumps of some rows in a mode that `choose_search` chose for all; then neighbours, and later groups.

    Parameters beyond those of `detect_jumps`
    -----------------------------------------
    mode : int
    usable : (nints, ngroups) bool, optional
        Groups that have a pixel to search; all by default. What is left out would be NaN.

    Returns
    -------
    (ny,) int64
        How many groups of each row have JUMP_DET before the neighbours are flagged.
    """
    _check_contiguous(groupdq)
    ny = data.shape[2]
    usable = np.ones(data.shape[:2], bool) if usable is None else usable
    ramps = Ramps(data, groupdq, gain, readnoise, nframes, usable)
    how = {"n_threads": n_threads, "tile_bytes": tile_bytes}
    thresholds = (three_group_rejection_threshold, four_group_rejection_threshold, rejection_threshold)

    def search(strip):
        if mode == ONE_PASS:
            _search_in_one_pass(strip, rejection_threshold)
        elif mode == ITERATIVE:
            strip.flag_jumps(*outliers_by_iteration(strip.differences, strip.read_variance, thresholds))
        rows = strip.rows_with_jumps()
        reaching = np.empty(0, np.int64)
        if flag_4_neighbors:
            reaching = _jumps_that_reach(strip, min_jump_to_flag_neighbors, max_jump_to_flag_neighbors)
        strip.remove_redundant_jumps()
        return rows, reaching

    rows, reaching = zip(*_over_strips(ramps, search, **how), strict=True)
    _flag_neighbors(groupdq, np.concatenate(reaching))

    after = ((after_jump_flag_e1, after_jump_flag_n1), (after_jump_flag_e2, after_jump_flag_n2))
    if any(n_groups > 0 for _, n_groups in after):
        _over_strips(ramps, lambda strip: _flag_after_jumps(strip, after), **how)
    return np.bincount(np.concatenate(rows), minlength=ny)


def clip_jumps(data, groupdq, gain, threshold, only_use_ints, *, n_threads=1, tile_bytes=TILE_BYTES):
    """Flag the outliers of some rows over the integrations, or over all differences of a pixel, in place."""
    from astropy.utils.exceptions import AstropyUserWarning

    _check_contiguous(groupdq)
    nints, ngroups = data.shape[:2]

    def clip(strip):
        if 0 not in strip.differences.shape:
            shape = nints, ngroups - 1
            strip.flag_jumps(*outliers_by_clipping(strip.differences, shape, threshold, only_use_ints))

    # The clipping over integrations wants every difference in its place.
    ramps = Ramps(data, groupdq, gain, None, 1, usable=np.ones((nints, ngroups), bool))
    # astropy says once per strip that it left out NaN.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input data contains invalid values", AstropyUserWarning)
        _over_strips(ramps, clip, n_threads=n_threads, tile_bytes=tile_bytes)


def choose_search(dropped, min_diffs_single_pass, minimum_sigclip_groups, only_use_ints, minimum_groups):
    """Choose how jumps are searched, which is one choice for the whole image.

    Parameters
    ----------
    dropped : (nints, ngroups) bool
        Groups that are DO_NOT_USE in every pixel.
    min_diffs_single_pass, minimum_sigclip_groups, only_use_ints, minimum_groups
        As for `gpucoron.backends.base.Backend.detect_jumps`.

    Returns
    -------
    int or None
        A mode of `search_jumps`; None where too few groups are left.
    """
    nints, ngroups = dropped.shape
    n_clippable = nints if only_use_ints else nints * ngroups - int(dropped.sum())
    if n_clippable >= minimum_sigclip_groups:
        return AFTER_CLIPPING
    usable_groups = ngroups - int(dropped.sum(axis=1).max(initial=0))
    if usable_groups < minimum_groups:
        return None
    return ONE_PASS if usable_groups - 1 >= min_diffs_single_pass else ITERATIVE


def _over_strips(ramps, act, *, n_threads, tile_bytes):
    """Call ``act(strip)`` for all strips; return the answers in the strips' order."""

    def act_on_tile(rows):
        # A thread has its own error state. Invalid values are expected here, and end as NaN.
        with np.errstate(all="ignore"):
            return [act(strip) for strip in ramps.strips(rows, tile_bytes)]

    tiles = for_each_tile(act_on_tile, ramps.shape, n_threads, tile_bytes)
    return [answer for tile in tiles for answer in tile]


def _check_contiguous(groupdq):
    if not groupdq.flags.c_contiguous:
        msg = "groupdq must be C-contiguous: it is edited in place"
        raise ValueError(msg)


def _groups_without_pixels(groupdq):
    """Find the groups that are DO_NOT_USE in every pixel: (nints, ngroups) bool."""
    lost = (groupdq[:, :, 0, 0] & DO_NOT_USE) != 0
    for integration, group in np.argwhere(lost):
        lost[integration, group] = ((groupdq[integration, group] & DO_NOT_USE) != 0).all()
    return lost


def _search_in_one_pass(strip, threshold):
    medians = signed_medians(strip.differences)
    strip.ramps.medians[strip.pixels] = medians
    sigma = noise(medians, strip.read_variance)
    strip.flag_jumps(*outliers_in_one_pass(strip.differences, medians, sigma, threshold))


def clear_groups_full_of_jumps(groupdq):
    """Take back the jumps of groups where every pixel is a jump or DO_NOT_USE, as stcal does after clipping."""
    for group in groupdq.reshape(-1, *groupdq.shape[2:]):
        if ((group & (JUMP_DET | DO_NOT_USE)) != 0).all():
            group[group == JUMP_DET] = 0


def _jumps_that_reach(strip, smallest, largest):
    """Find the jumps between ``smallest`` and ``largest`` sigma, old or new; return where they are in ``groupdq``."""
    which, pixel = strip.jumps()
    pixels, owner = _distinct(pixel, strip.pixels.size)
    medians = strip.medians(pixels)
    sigma = noise(medians, strip.read_variance[pixels])
    ratio = np.abs(strip.differences[which, pixel] - medians[owner]) / sigma[owner]
    reaches = (ratio > smallest) & (ratio < largest)
    return strip.address(which[reaches], pixel[reaches])


def _flag_neighbors(groupdq, jumps):
    """Set JUMP_DET in the usable pixels above, below, left and right of ``jumps`` (indices of the flat array)."""
    ny, nx = groupdq.shape[2:]
    flat = groupdq.reshape(-1)
    y, x = np.divmod(jumps % (ny * nx), nx)
    for step, inside in ((-nx, y > 0), (nx, y < ny - 1), (-1, x > 0), (1, x < nx - 1)):
        neighbors = jumps[inside] + step
        flat[neighbors[(flat[neighbors] & UNUSABLE) == 0]] |= JUMP_DET


def _flag_after_jumps(strip, after):
    """Set JUMP_DET in the usable groups that follow a large jump of their pixel.

    ``after`` holds pairs: the smallest jump, electrons, and how many groups to flag.
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
        # The group of the latest large jump so far, and before the first one a group that is too long ago.
        latest = np.full((nints, ngroups, hit.size), -reach - 1, np.int32)
        latest[integration[large], group[large], column] = group[large]
        np.maximum.accumulate(latest, axis=1, out=latest)
        strip.flag_usable(np.arange(ngroups, dtype=np.int32)[:, None] - latest <= reach, hit)


def _distinct(indices, length):
    """Sort ``indices`` below ``length`` and drop repetitions; say also where each index went."""
    present = np.zeros(length, bool)
    present[indices] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[indices]
