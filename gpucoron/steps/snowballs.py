"""Snowballs: large hits of near-infrared detectors, with a saturated core and a halo of jumps (a part of jump)."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucoron.backends.ellipses import draw_ellipse, find_ellipses, find_regions, flag_ellipses
from gpucoron.backends.operation import choose_settings, settings_from
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.errors import ArgumentError
from gpucoron.facts import Facts
from gpucoron.steps.arguments import RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.values import Having, Kind, Number, Options, kinds_of


@dataclass(frozen=True)
class SnowballSettings:
    """Parameters of the search for snowballs.

    Attributes
    ----------
    min_jump_area, min_sat_area : float, pixels
        Smallest area of a connected region of jumps, and of a core: a region that saturates in one group.
    expand_factor : float
        Factor on the minor axis of a snowball; as many pixels are added to its major axis.
    sat_required_snowball : bool
        A region of jumps is a snowball only if a core starts in its group or in the next one, or near the edge.
    min_sat_radius_extend : float, pixels
        Cores with a longer minor axis grow by ``sat_expand``, and are flagged in the next integration.
    sat_expand : int, pixels
    edge_size : int, pixels
        Near an edge no core is required, because it may be beyond the edge. As in stcal, the number of rows defines the
        upper limit of both axes.
    max_extended_radius : int, pixels
        Limit of the semi-axes after growth.
    n_groups_next_int : int
        Cores are flagged in groups below this one of the next integration, except for its first group.
    """

    min_jump_area: float = 5.0
    min_sat_area: float = 1.0
    expand_factor: float = 2.0
    sat_required_snowball: bool = True
    min_sat_radius_extend: float = 2.5
    sat_expand: int = 2
    edge_size: int = 25
    max_extended_radius: int = 200
    n_groups_next_int: int = 0


#: no image and no ramp has as many pixels or groups; larger numbers cannot be compared with floats
_MOST = 2**31
_WHOLE = ("sat_expand", "edge_size", "max_extended_radius", "n_groups_next_int")


def _check_list(value):
    if not isinstance(value, list):
        raise TypeError(value)


_SETTINGS = kinds_of(
    SnowballSettings,
    min_jump_area=Number("pixels"),
    min_sat_area=Number("pixels"),
    min_sat_radius_extend=Number("pixels"),
    edge_size=Number(whole=True),
)


@on_arrays(
    groupdq=Array(RAMP, "uint8", in_place=True),
    settings=Having("SnowballSettings", **_SETTINGS),
    covered=Kind("a list", _check_list),
    options=Options(_SETTINGS),
)
def flag_snowballs(
    groupdq: NDArray[Any],
    *,
    backend: BackendLike = None,
    settings: SnowballSettings | None = None,
    covered: list[Any] | None = None,
    **options: Any,
) -> int:
    """Flag snowballs among the jumps that were found: set JUMP_DET and SATURATED in ``groupdq``, in place.

    Connected regions of jumps in a group, and of pixels that saturate in it, are described by the ellipses with the
    same second moments. JUMP_DET is set in the expanded ellipses of the snowballs, in their group, except in saturated
    pixels. Large cores grow: from their group on, all flags in the grown ellipse are replaced by SATURATED. In the next
    integration JUMP_DET is set in the ellipses of these cores.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
        With the jumps of `gpucoron.steps.jump.flag_jumps`.
    backend : str or Backend, optional
        The default is the device of the array.
    settings : SnowballSettings, optional
    covered : list, optional
        Grown cores with usable samples are appended, as (integration, group, rows, columns, usable): ``usable`` is true
        for the samples, now saturated, in a part of the image in this and all later groups; a bool array on the device.
    **options
        Fields of ``settings``, if that is not given; see `SnowballSettings`.

    Returns
    -------
    int
        The number of snowballs, counted as in stcal.

    Notes
    -----
    Source: stcal 1.20, ``flag_large_events``. Regions are found and drawn on the host, from the indices of the flagged
    pixels of one group at a time.

    Examples
    --------
    >>> number = flag_snowballs(groupdq, min_jump_area=15.0, n_groups_next_int=5)  # doctest: +SKIP
    """
    try:
        settings = choose_settings(SnowballSettings, settings, options)
    except TypeError as error:
        raise ArgumentError(str(error)) from None
    settings = replace(settings, **{name: _bounded(getattr(settings, name)) for name in _WHOLE})

    def flag(integrations):
        return [_flag_integration(flags, settings, backend) for flags in groupdq[integrations]]

    number, earlier = 0, []
    found = [each for part in backend.in_parts(flag, len(groupdq)) for each in part]
    for integration, (count, grown) in enumerate(found):
        # all snowballs have been found: this must not add to the jumps
        for rows, columns, inside in earlier:
            part = groupdq[integration, 1 : settings.n_groups_next_int, rows, columns]
            part |= inside * part.dtype.type(JUMP_DET)
        number, earlier = number + count, [core for core, _ in grown]
        if covered is not None:
            covered += [(integration, *place) for _, place in grown]
    return number


def settle(parameters: Any, facts: Facts) -> SnowballSettings:
    """Make the settings from the parameters of the step, an object with their names, and the facts of the exposure."""
    # limited before the division, which converts it to a float
    time = _bounded(parameters.snowball_time_masked_next_int)
    n_groups = max(0, int(time // facts.group_time)) if parameters.mask_snowball_core_next_int else 0
    return settings_from(SnowballSettings, parameters, n_groups_next_int=n_groups)


def _bounded(value):
    return max(-_MOST, min(value, _MOST))


def _flag_integration(groupdq, settings, backend):
    """Flag the snowballs of one integration; return their number, and the cores that grew.

    For each of these: the place of the core, and the usable samples that are now saturated, as in `flag_snowballs`.
    """
    count, grown = 0, []
    shape, longest = groupdq.shape[1:], 2 * settings.max_extended_radius
    starting = _find_cores(groupdq, 1, settings, backend)
    for group in range(1, len(groupdq)):
        regions = find_regions(groupdq[group] & JUMP_DET, settings.min_jump_area, backend=backend)
        if settings.sat_required_snowball:
            following = _find_cores(groupdq, group + 1, settings, backend)
            snowballs = _choose(regions, [*starting, *following], settings, shape[0])
            large = [core for core in starting if core.minor > settings.min_sat_radius_extend]
            for x, y, *axes, angle in large:
                longer = (min(axis + 2 * settings.sat_expand, longest) for axis in axes)
                place = _saturate(groupdq, group, draw_ellipse(x, y, *longer, angle, shape), backend)
                rows, columns, inside = draw_ellipse(x, y, *axes, angle, shape)
                grown.append(((rows, columns, backend.to_device(inside)), place))
            # pixels of a grown core do not saturate again
            starting = _find_cores(groupdq, group + 1, settings, backend) if large else following
        else:
            snowballs = regions.ellipses()
        count += len(snowballs)
        flag_ellipses(groupdq, group, snowballs, factor=settings.expand_factor, longest=longest, backend=backend)
    return count, grown


def _find_cores(groupdq, group, settings, backend):
    """Return the ellipses of regions that saturate in a group of an integration."""
    if not settings.sat_required_snowball or group >= len(groupdq):
        return []
    return find_ellipses(groupdq[group] & ~groupdq[group - 1] & SATURATED, settings.min_sat_area, backend=backend)


def _choose(regions, cores, settings, n_rows):
    """Return the ellipses of the regions of jumps that are near an edge or contain the centre of a core."""
    low, high = settings.edge_size, max(0, n_rows - settings.edge_size)
    x, y = regions.x, regions.y
    near_edge = (x < low) | (y < low) | (x > high) | (y > high)
    snowballs = [regions.ellipse(index) for index in np.flatnonzero(near_edge)]
    with_core = {}
    for core in cores:
        # an ellipse does not reach beyond the diagonal of its region's box
        in_reach = np.hypot(x - core.x, y - core.y) <= regions.extent
        for index in np.flatnonzero(in_reach & ~near_edge):
            ellipse = regions.ellipse(index)
            if _is_inside(core.x, core.y, ellipse):
                with_core[ellipse] = True
    return [*snowballs, *with_core]


def _is_inside(x, y, ellipse):
    """Return whether a point is inside an ellipse; source: stcal 1.20, ``point_inside_ellipse``."""
    angle = np.radians(180 - ellipse.angle)
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y = x - ellipse.x, y - ellipse.y
    along, across = x * cosine - y * sine, x * sine + y * cosine
    # nothing is inside an axis of zero
    with np.errstate(divide="ignore", invalid="ignore"):
        return along**2 / (ellipse.major * 0.5) ** 2 + across**2 / (ellipse.minor * 0.5) ** 2 <= 1


def _saturate(groupdq, group, place, backend):
    """Replace all flags by SATURATED in a place, from a group on.

    Returns
    -------
    tuple
        (group, rows, columns, usable), as in `flag_snowballs`.
    """
    rows, columns, inside = place
    inside = backend.to_device(inside)
    part = groupdq[group:, rows, columns]
    usable = inside & ((part & (DO_NOT_USE | SATURATED)) == 0)
    part[...] = backend.xp.where(inside, part.dtype.type(SATURATED), part)
    return group, rows, columns, usable
