"""Find the number of groups to keep, so that science and reference exposures reach the same signal.

`sum_ring` and `measure_core` measure the exposures of a concatenation one at a time. `choose_groups_basic` and
`choose_groups_advanced` compare science with reference exposures. `prepare_masks` does both, and makes a mask for each
exposure, which the step `mask_groups` applies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays, unnamed
from gpucoron.steps.values import Kind, Number, check_numbers

METHODS = ("basic", "advanced", "custom")
#: method -> half width of the square around the star, and width of the ring along its edge, pixels
WIDTHS = {"basic": (20, 10), "advanced": (30, 20)}
#: types of exposures that get a mask
TYPES = ("REF", "REF_BG")
#: the advanced method extends bright regions by these numbers of pixels, to smaller and to larger indices
REGION_PADS = (2, 1)


@dataclass(frozen=True)
class Ramp:
    """One raw exposure of a concatenation.

    ``name`` is the key of its mask, ``type`` is SCI, REF, SCI_BG or REF_BG, ``center`` is (CRPIX1, CRPIX2), and
    ``data`` is (nints, ngroups, ny, nx), DN. Any object with these attributes is accepted. ``data`` is read once, and
    released before that of the next exposure, so it may be a property that reads a file.
    """

    name: str
    type: str
    center: tuple
    data: Any


@dataclass(frozen=True)
class Core:
    """The measurements of an exposure for the advanced method.

    Attributes
    ----------
    groups : (ngroups, n, n) float64, DN
        Median over the integrations around the center, minus the median of each group.
    last : (ny, nx) float64, DN
        Median over the integrations of the last group, minus its median.
    box : tuple of slices
        Position of the square around the center in ``last``.
    """

    groups: Any
    last: Any
    box: tuple


@dataclass(frozen=True)
class Match:
    """The result of the advanced method for a concatenation: numbers of groups to keep of bright and of faint pixels.

    Attributes
    ----------
    n_bright, n_faint : int
        Numbers of groups to keep of the brightest pixels, and of the pixels in the ring.
    peak : float, DN
        Median over the exposures of their brightest pixel in the last group.
    regions : (n_other, n, n) bool
        Regions around the bright pixels of each exposure of the other kind.
    """

    n_bright: int
    n_faint: int
    peak: float
    regions: Any


_CENTER = Kind("two coordinates, in pixels", lambda center: check_numbers(center, 2))


@on_arrays(
    data=Array(RAMP, "real", unit="DN", on_host=True),
    center=_CENTER,
    cropwidth=Number("pixels", whole=True, minimum=1),
    edgewidth=Number("pixels", whole=True, minimum=1),
)
def sum_ring(
    data: ArrayLike, center: Sequence[float], *, cropwidth: int = 20, edgewidth: int = 10, backend: BackendLike = None
) -> NDArray[np.float64]:
    """Sum a ring around the center of every group, after subtracting the median of the image.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx), DN
    center : (float, float)
        CRPIX1 and CRPIX2.
    cropwidth, edgewidth : int, pixels
        The ring lies between squares of ``2 cropwidth`` and ``2 (cropwidth - edgewidth)`` pixels.
    backend : str or Backend, optional
        Ignored: the sums are computed on the host.

    Returns
    -------
    (nints, ngroups) float64, DN
    """
    ring = _ring(cropwidth, edgewidth)
    box = _box(data.shape[2:], center, cropwidth)
    sums = np.empty(data.shape[:2])
    for index in np.ndindex(*sums.shape):
        image = np.asarray(data[index], dtype=np.float64)
        sums[index] = np.nansum((image[box] - np.nanmedian(image))[ring])
    return sums


def choose_groups_basic(own_sums, other_sums):
    """Choose the number of groups to keep: up to the group whose signal is nearest to the last group of the others.

    Parameters
    ----------
    own_sums : list of (nints, ngroups) float
        `sum_ring` of the exposures to mask.
    other_sums : list of (nints, ngroups) float
        `sum_ring` of the exposures to match.

    Returns
    -------
    int
        For each integration of the others, find the exposure with the nearest signal in any group, and the median over
        its integrations of the nearest group. The result is the median of these numbers, rounded down.

    Notes
    -----
    Source: spaceKLIP 2.2, ``prepare_group_masking_basic``.
    """
    nearest = []
    for target in np.concatenate([np.asarray(sums)[:, -1] for sums in other_sums]):
        distances = [abs(sums - target) for sums in own_sums]
        best = min(distances, key=lambda distance: distance.min())
        nearest.append(np.median(best.argmin(axis=1)))
    return int(np.median(nearest)) + 1


@on_arrays(
    data=Array(RAMP, "real", unit="DN", on_host=True),
    center=_CENTER,
    cropwidth=Number("pixels", whole=True, minimum=1),
)
def measure_core(data: ArrayLike, center: Sequence[float], *, cropwidth: int = 30, backend: BackendLike = None) -> Core:
    """Measure an exposure for the advanced method.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx), DN
    center : (float, float)
        CRPIX1 and CRPIX2.
    cropwidth : int, pixels
        Half width of the square around the center.
    backend : str or Backend, optional
        Ignored: the core is measured on the host.

    Returns
    -------
    Core
    """
    box = _box(data.shape[2:], center, cropwidth)
    groups = np.array(
        [np.nanmedian(np.asarray(data[(slice(None), group, *box)], float), axis=0) for group in range(data.shape[1])]
    )
    groups -= np.nanmedian(groups, axis=(1, 2), keepdims=True)
    last = np.nanmedian(np.asarray(data[:, -1], dtype=np.float64), axis=0)
    return Core(groups, last - np.nanmedian(last), box)


def choose_groups_advanced(own, others, *, edgewidth=20, threshold=85):
    """Choose the numbers of groups to keep of the brightest pixels, and of the fainter pixels in the ring.

    Parameters
    ----------
    own, others : list of Core
        The exposures to mask, and the exposures to match.
    edgewidth : int, pixels
        Width of the ring along the edge of the square.
    threshold : float, percent
        Pixels of the others above this percentile, and their neighbours, are bright. Only bright pixels are used in
        the ring.

    Returns
    -------
    Match
        For each pair of exposures, find the group that is nearest to the last group of the other: by the brightest
        pixel, and by the median of the bright pixels in the ring. The numbers are medians over all pairs, rounded down.

    Raises
    ------
    ValueError
        No bright pixel lies in the ring.

    Notes
    -----
    Source: spaceKLIP 2.2, ``prepare_group_masking_advanced``. As there, all own exposures use the regions of the first
    of the others.
    """
    images = np.array([core.groups[-1] for core in others])
    regions = _spread(images > np.nanpercentile(images, threshold))
    ring = _ring(images.shape[1] // 2, edgewidth)
    if not (regions & ring).any(axis=(1, 2)).all():
        msg = f"no pixel above the {threshold}th percentile lies in a ring of edgewidth {edgewidth}; change one of them"
        raise ValueError(msg)
    own_levels = [np.nanmedian(core.groups[:, regions[0] & ring], axis=1) for core in own]
    own_peaks = [np.nanmax(core.groups, axis=(1, 2)) for core in own]
    faint, bright = [], []
    for image, region in zip(images, regions, strict=True):
        level, peak = np.nanmedian(image[region & ring]), np.nanmax(image)
        faint += [np.argmin(abs(levels - level)) for levels in own_levels]
        bright += [np.argmin(abs(peaks - peak)) for peaks in own_peaks]
    return Match(
        n_bright=int(np.median(bright)) + 1,
        n_faint=int(np.median(faint)) + 1,
        peak=float(np.median([peaks[-1] for peaks in own_peaks])),
        regions=regions,
    )


def keep_by_brightness(core, match, *, edgewidth=20, is_background=False):
    """Choose the number of groups to keep for each pixel of an exposure.

    Parameters
    ----------
    core : Core
    match : Match
    edgewidth : int, pixels
    is_background : bool
        A background exposure has no star: use the brightest pixel of the match.

    Returns
    -------
    (ny, nx) int
        Pixels fainter than the bright pixels in the ring keep all groups. From there to the brightest pixel, the number
        is interpolated linearly from ``n_faint`` to ``n_bright`` and rounded down; it is constant beyond.

    Notes
    -----
    Source: spaceKLIP 2.2, ``prepare_group_masking_advanced``, which uses the whole ring instead of its bright pixels,
    and ``n_faint`` for pixels brighter than the brightest one near the center.
    """
    crop = core.last[core.box]
    ring = _ring(crop.shape[0] // 2, edgewidth)
    faintest = np.median([np.nanmedian(crop[region & ring]) for region in match.regions])
    brightest = match.peak if is_background else np.nanmax(crop)
    if brightest > faintest:
        index = np.interp(core.last, (faintest, brightest), (match.n_faint - 1, match.n_bright - 1))
    else:
        index = np.full(core.last.shape, match.n_bright - 1.0)
    masked = core.last >= faintest
    n_groups = core.groups.shape[0]
    return np.where(masked, np.minimum(np.where(masked, index, 0).astype(int) + 1, n_groups), n_groups)


def mask_late_groups(n_kept, ngroups):
    """Make the mask that excludes all groups after the first ``n_kept``.

    Parameters
    ----------
    n_kept : int or (ny, nx) int
    ngroups : int

    Returns
    -------
    (1, ngroups, 1, 1) or (1, ngroups, ny, nx) bool
        True for excluded groups; the same for all integrations.
    """
    mask = np.arange(ngroups)[:, None, None] >= np.asarray(n_kept)
    return mask[None]


def prepare_masks(
    key,
    science,
    references,
    *,
    mask_method="basic",
    types=TYPES,
    cropwidth=None,
    edgewidth=None,
    threshold=85,
    custom_group=None,
):
    """Make the masks of the exposures of a concatenation.

    Parameters
    ----------
    key : str
        Name of the concatenation, for messages.
    science, references : sequence of Ramp
        Raw exposures, including background exposures. Only SCI and REF are compared.
    mask_method : {'basic', 'advanced', 'custom'}
        'basic': one number of groups for all exposures. 'advanced': numbers that depend on the brightness of each
        pixel. 'custom': ``custom_group``.
    types : sequence of str
        Types of exposures that get a mask. REF and REF_BG are matched to the science exposures; SCI and SCI_BG, if
        named, to the references.
    cropwidth, edgewidth : int, optional, pixels
        The default is 20 and 10 (basic) or 30 and 20 (advanced).
    threshold : float, percent
        See `choose_groups_advanced`.
    custom_group : int
        Number of groups to keep (custom).

    Returns
    -------
    dict
        name -> mask, (1, ngroups, 1, 1) or (1, ngroups, ny, nx) bool, for each exposure of these types.

    Raises
    ------
    ValueError
        The concatenation lacks a type that the method needs, a center is too near to an edge, or a parameter is
        invalid. The message names the concatenation.

    Notes
    -----
    Source: spaceKLIP 2.2, ``run_obs``. Concatenations do not affect each other.
    """
    try:
        if mask_method == "custom":
            return _prepare_custom(science, references, types, custom_group)
        if mask_method not in METHODS:
            msg = f"there is no mask_method {mask_method!r}; known: {', '.join(METHODS)}"
            raise ValueError(msg)
        _check_types(science, references)
        widths = WIDTHS[mask_method]
        crop = widths[0] if cropwidth is None else cropwidth
        edge = widths[1] if edgewidth is None else edgewidth
        if not 0 < edge < crop:
            msg = f"edgewidth must lie between 0 and cropwidth, {crop}, not be {edge}"
            raise ValueError(msg)
        with unnamed():
            if mask_method == "basic":
                return _prepare_basic(science, references, types, crop, edge)
            return _prepare_advanced(science, references, types, crop, edge, threshold)
    except ValueError as error:
        msg = f"mask_groups: concatenation {key}: {error}"
        raise ValueError(msg) from error


def _check_types(science, references):
    for type_, exposures in (("SCI", science), ("REF", references)):
        if not any(exposure.type == type_ for exposure in exposures):
            msg = f"there is no exposure of type {type_}; skip mask_groups, or use mask_method 'custom'"
            raise ValueError(msg)


def _prepare_custom(science, references, types, custom_group):
    if custom_group is None or custom_group < 1:
        msg = f"mask_method 'custom' needs custom_group, the number of groups to keep, at least 1, not {custom_group}"
        raise ValueError(msg)
    to_mask = [exposure for exposure in (*science, *references) if exposure.type in types]
    return {exposure.name: mask_late_groups(custom_group, exposure.data.shape[1]) for exposure in to_mask}


def _prepare_basic(science, references, types, cropwidth, edgewidth):
    def measure(exposure):
        return sum_ring(exposure.data, exposure.center, cropwidth=cropwidth, edgewidth=edgewidth)

    def choose(own, others):
        n_kept = choose_groups_basic(own, others)
        return lambda sums, type_: mask_late_groups(n_kept, sums.shape[1])

    return _prepare(science, references, types, measure, choose)


def _prepare_advanced(science, references, types, cropwidth, edgewidth, threshold):
    def measure(exposure):
        return measure_core(exposure.data, exposure.center, cropwidth=cropwidth)

    def choose(own, others):
        match = choose_groups_advanced(own, others, edgewidth=edgewidth, threshold=threshold)

        def make_mask(core, type_):
            n_kept = keep_by_brightness(core, match, edgewidth=edgewidth, is_background=type_.endswith("_BG"))
            return mask_late_groups(n_kept, core.groups.shape[0])

        return make_mask

    return _prepare(science, references, types, measure, choose)


def _prepare(science, references, types, measure, choose):
    """Measure each exposure once, compare science with reference exposures, and make the masks."""
    measures = {}
    for exposure in (*science, *references):
        if exposure.type in ("SCI", "REF") or exposure.type in types:
            try:
                measures[exposure.name] = measure(exposure)
            except ValueError as error:
                msg = f"{exposure.name}: {error}"
                raise ValueError(msg) from error
    masks = {}
    for own, others, own_type, other_type in (
        (references, science, "REF", "SCI"),
        (science, references, "SCI", "REF"),
    ):
        to_mask = [exposure for exposure in own if exposure.type in types]
        if to_mask:
            make_mask = choose(
                [measures[exposure.name] for exposure in own if exposure.type == own_type],
                [measures[exposure.name] for exposure in others if exposure.type == other_type],
            )
            masks |= {exposure.name: make_mask(measures[exposure.name], exposure.type) for exposure in to_mask}
    return masks


def _box(shape, center, cropwidth):
    """Cut a square of ``2 cropwidth`` pixels around a center."""
    if center is None or None in tuple(center):
        msg = "there is no CRPIX: the position of the star is unknown"
        raise ValueError(msg)
    column, row = (int(coordinate) for coordinate in center)
    ny, nx = shape
    if min(row, column) < cropwidth or row + cropwidth > ny or column + cropwidth > nx:
        place = f"CRPIX ({center[0]}, {center[1]})"
        msg = f"a cropwidth of {cropwidth} around {place} exceeds the image of {nx} x {ny} pixels"
        raise ValueError(msg)
    return slice(row - cropwidth, row + cropwidth), slice(column - cropwidth, column + cropwidth)


def _ring(cropwidth, edgewidth):
    """Mark the ring along the edge of a square of ``2 cropwidth`` pixels."""
    ring = np.ones((2 * cropwidth, 2 * cropwidth), dtype=bool)
    ring[edgewidth:-edgewidth, edgewidth:-edgewidth] = False
    return ring


def _spread(masks):
    """Extend the masks by `REGION_PADS` along both axes: as in spaceKLIP, by fewer pixels to larger indices."""
    before, after = REGION_PADS
    spread = masks
    for axis in (1, 2):
        grown = spread.copy()
        for shift in range(-before, after + 1):
            size = masks.shape[axis]
            source = [slice(None)] * 3
            target = [slice(None)] * 3
            source[axis] = slice(max(0, -shift), size - max(0, shift))
            target[axis] = slice(max(0, shift), size - max(0, -shift))
            grown[tuple(target)] |= spread[tuple(source)]
        spread = grown
    return spread
