"""Flags of saturation and of the A/D floor, integration by integration.

An image per integration stores which pixels have saturated so far. The second and the third pass look only at the few
pixels with the right flags in neighbouring groups.
"""

import numpy as np

from gpucoron.backends.masks import grow_cross, grow_square
from gpucoron.backends.tiles import even_tile_bytes, for_each_tile
from gpucoron.dq import AD_FLOOR, DO_NOT_USE, SATURATED

#: pixels of a group, in several integrations, that are processed together
PIXELS_AT_ONCE = 2**19


def flag_saturation(device, data, groupdq, threshold, checked, bias=None, *, settings):
    """Flag saturation and the A/D floor through the groups, in place.

    1. From the first group at or above ``threshold`` on: SATURATED; a group at or below zero: AD_FLOOR and
       DO_NOT_USE. SATURATED then grows by a square of ``n_pix_grow_sat`` pixels within its group.
    2. With ``nframes`` (the read-pattern pass), backward through the groups: an unflagged group before a saturated one
       becomes DO_NOT_USE, and grows, if it reaches the threshold for a mean whose last read saturated.
    3. With ``nframes`` and more than two groups: a second group that jumps towards a saturated third one becomes
       DO_NOT_USE, if the first group did not predict the saturation.

    Without ``grow_diagonal`` nothing grows in these passes. Instead, at the end, SATURATED alone grows within its group
    by ``n_pix_grow_sat`` steps up, down, left or right (as in spaceKLIP).

    Parameters
    ----------
    device : Device
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
    threshold : (ny, nx) float32, DN
        Above the A/D range where ``checked`` is False.
    checked : (ny, nx) bool
        False where the reference has no threshold.
    bias : (ny, nx) float32 or None
        Superbias for pass 3, DN; None counts as zero.
    settings : SaturationSettings

    Notes
    -----
    Source: stcal 1.20, ``flag_saturated_pixels``; spaceKLIP 2.2, ``do_saturation``, for growth without corners. The
    read pattern is that of jwst 3.0: group ``g`` contains reads ``g nframes + 1`` to ``(g + 1) nframes``, for any
    GROUPGAP.
    """

    def flag_integrations(some):
        with np.errstate(invalid="ignore", over="ignore"):
            flag_forward(data[some], groupdq[some], threshold, settings.n_pix_square)
            for ramp, flags in zip(data[some], groupdq[some], strict=True):
                if settings.nframes is not None:
                    flag_by_read_pattern(ramp, flags, threshold, checked, bias, settings)
                if not settings.grow_diagonal:
                    _grow_without_corners(flags, settings.n_pix_grow_sat)

    nints, _, ny, nx = data.shape
    shape, n_threads = (nints, ny * nx), device.n_threads
    for_each_tile(flag_integrations, shape, n_threads, even_tile_bytes(shape, n_threads, 4 * PIXELS_AT_ONCE))


def flag_forward(ramps, flags, threshold, n_pix_grow_sat):
    """Pass 1: all groups from the first saturated one on, and the A/D floor."""
    reached = np.zeros((len(ramps), *threshold.shape), np.uint8)
    test, saturated = np.empty(reached.shape, bool), np.empty_like(reached)
    flagged = test.view(np.uint8)
    for group in range(ramps.shape[1]):
        plane, plane_flags = ramps[:, group], flags[:, group]
        np.greater_equal(plane, threshold, out=test)
        flagged *= np.uint8(SATURATED)
        reached |= flagged
        # Existing flags grow too, but do not continue in later groups.
        np.bitwise_and(plane_flags, np.uint8(SATURATED), out=saturated)
        saturated |= reached
        np.less_equal(plane, 0, out=test)
        flagged *= np.uint8(AD_FLOOR | DO_NOT_USE)
        plane_flags |= flagged
        for found, frame_flags in zip(saturated, plane_flags, strict=True):
            if found.any():
                frame_flags |= grow_square(found, n_pix_grow_sat)


def flag_by_read_pattern(ramp, flags, threshold, checked, bias, settings):
    """Passes 2 and 3 on one integration."""
    flag_diluted(ramp, flags, threshold, checked, settings.n_pix_square, settings.nframes)
    if ramp.shape[0] > 2:
        _flag_second_group(ramp, flags, threshold, settings.nframes, bias)


def flag_diluted(ramp, flags, threshold, checked, n_pix_grow_sat, nframes):
    """Pass 2: groups before a saturated one that reach the threshold for a mean whose last read saturated."""
    spoiled = np.uint8(SATURATED | DO_NOT_USE)
    if nframes == 1:
        # The mean of one read is not diluted.
        return
    for group in range(ramp.shape[0] - 2, -1, -1):
        candidates = flags[group + 1] & np.uint8(SATURATED)
        if not candidates.any():
            continue
        # Finding flat indices is eight times faster than rows and columns.
        pixels = np.flatnonzero(((flags[group] & spoiled) == 0) & (candidates != 0))
        reads = _reads_of_group(group, nframes)
        dilution = np.mean(reads) / reads[-1]
        # float64, as in stcal: the product of a float32 threshold and the dilution must not be rounded.
        limit = threshold.ravel()[pixels] * np.where(checked.ravel()[pixels], dilution, 1.0)
        partial = pixels[ramp[group].ravel()[pixels] >= limit]
        if partial.size:
            flags[group] |= grow_square(_flag_image(threshold.shape, partial), n_pix_grow_sat)


def _flag_second_group(ramp, flags, threshold, nframes, bias):
    """Pass 3: a second group that jumps towards a saturated third one, which the first group did not predict."""
    saturated = np.uint8(SATURATED)
    pixels = np.flatnonzero(((flags[2] & saturated) != 0) & ((flags[1] & saturated) == 0))
    limit = threshold.ravel()[pixels]
    first, second = ramp[0].ravel()[pixels], ramp[1].ravel()[pixels]
    pedestal = 0.0 if bias is None else bias.ravel()[pixels]
    # The prediction is float64, because the mean read is; the jump and its limit are float32.
    prediction = (
        (first - pedestal).astype(np.float64) / np.mean(_reads_of_group(0, nframes)) * _reads_of_group(2, nframes)[-1]
    )
    unforeseen = prediction + pedestal < limit
    jumped = second - first > (limit - first) / nframes
    flags[1] |= _flag_image(threshold.shape, pixels[unforeseen & jumped])


def _grow_without_corners(flags, n_pixels):
    """Grow SATURATED within each group by steps up, down, left or right."""
    for plane_flags in flags:
        saturated = plane_flags & np.uint8(SATURATED)
        if saturated.any():
            plane_flags |= grow_cross(saturated, n_pixels)


def _flag_image(shape, pixels):
    """Return an image with DO_NOT_USE at some flat indices."""
    image = np.zeros(shape, dtype=np.uint8)
    image.ravel()[pixels] = DO_NOT_USE
    return image


def _reads_of_group(group, nframes):
    """Return the reads, counted from one, that are averaged into a group according to jwst."""
    return [group * nframes + read + 1 for read in range(nframes)]
