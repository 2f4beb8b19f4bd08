"""Showers of MIRI: faint, extended events that last for some groups."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.operation import settings_from
from gpucoron.backends.operations.jump import find_lost_groups
from gpucoron.backends.operations.showers import ShowersSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, REFERENCE_PIXEL, SATURATED
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.ellipses import draw_ellipse, find_ellipses
from gpucoron.steps.values import Having, Number, Options, Switch, kinds_of

log = logging.getLogger(__name__)

FLAGGED = DO_NOT_USE | SATURATED | JUMP_DET

#: Exposures with fewer differences are not searched.
LEAST_DIFFERENCES = 10


@dataclass(frozen=True)
class ShowerRules:
    """Parameters of showers.

    Attributes
    ----------
    extend_snr_threshold : float, sigma
        The average of the ratios in a ring about each pixel of a shower is larger.
    extend_min_area : int, pixels
        Minimum area of a shower.
    extend_inner_radius, extend_outer_radius : float, pixels
        The inner radius of the ring, and its width.
    extend_ellipse_expand_ratio : float
        Growth of the fitted ellipse.
    max_extended_radius : int, pixels
        Largest radius of the ellipse.
    n_groups_after : int
        Later groups that are flagged too.
    max_amplitude : float
        Largest change of a pixel's rate by the flags, in electrons or DN per group.
    amplitude_in_dn : bool
    minimum_sigclip_groups : int
        Integrations from which on differences are clipped over the integrations.
    nframes : int
        Reads averaged into a group.
    searched : bool
        Whether jumps were searched for: all unusable groups are then ignored.
    """

    extend_snr_threshold: float = 1.2
    extend_min_area: int = 90
    extend_inner_radius: float = 1.0
    extend_outer_radius: float = 2.6
    extend_ellipse_expand_ratio: float = 1.1
    max_extended_radius: int = 200
    n_groups_after: int = 5
    max_amplitude: float = 6.0
    amplitude_in_dn: bool = False
    minimum_sigclip_groups: int = 100
    nframes: int = 1
    searched: bool = True


_RULES = kinds_of(
    ShowerRules,
    extend_snr_threshold=Number("sigma"),
    extend_min_area=Number(whole=True),
    extend_inner_radius=Number("pixels", minimum=0, maximum=256),
    extend_outer_radius=Number("pixels", minimum=0.01, maximum=256),
    n_groups_after=Number(whole=True),
    max_amplitude=Number("electrons per group", nan=True),
    minimum_sigclip_groups=Number(whole=True),
    nframes=Number(whole=True, minimum=1),
)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    unusable=Array(RAMP, "bool"),
    rules=Having("ShowerRules", **_RULES),
    options=Options(_RULES),
)
def flag_showers(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    unusable: ArrayLike | None = None,
    *,
    backend: BackendLike = None,
    rules: ShowerRules | None = None,
    **options: Any,
) -> int:
    """Flag showers: set JUMP_DET in ``groupdq``, in place, in the group of each shower and in later groups.

    A pixel's differences are compared with their median, in units of the noise. Where the average of these ratios over
    a ring about each pixel exceeds the threshold in a large area, an ellipse of the same moments is flagged, without
    saturated pixels and those after.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
    groupdq : (nints, ngroups, ny, nx) uint8
        After the search for jumps.
    pixeldq : (ny, nx) uint32
        Pixels with DO_NOT_USE, SATURATED or JUMP_DET, and reference pixels, are left out of the averages.
    gain : (ny, nx) float32, e-/DN
    readnoise : (ny, nx) float32, DN
        CDS noise, as in the reference file.
    unusable : (nints, ngroups, ny, nx) bool, optional
        Groups that were unusable when jumps were searched for, if flags were added since then.
    backend : str or Backend, optional
        The default is the device of the arrays.
    rules : ShowerRules, optional
    **options
        Fields of ``rules``, if that is not given; see `gpucoron.steps.showers.ShowerRules`.

    Returns
    -------
    int
        The number of showers.

    Notes
    -----
    Source: stcal 1.20, ``find_faint_extended``.

    Examples
    --------
    >>> number = flag_showers(data, groupdq, pixeldq, gain, readnoise, extend_min_area=40)  # doctest: +SKIP
    """
    rules = ShowerRules(**options) if rules is None else rules
    nints, ngroups = data.shape[:2]
    lost = find_lost_groups(backend, groupdq)
    if nints * (ngroups - 1) - int(lost.sum()) < LEAST_DIFFERENCES:
        log.warning("showers: fewer than %d differences of groups; not searched", LEAST_DIFFERENCES)
        return 0
    search = _Search(backend, data, groupdq, pixeldq, gain, readnoise, unusable, rules)
    return sum(search.flag(integration) for integration in range(nints))


class _Search:
    """The search for showers, one integration after the other."""

    def __init__(self, backend, data, groupdq, pixeldq, gain, readnoise, unusable, rules):
        self.backend, self.rules = backend, rules
        self.data, self.groupdq, self.gain, self.unusable = data, groupdq, gain, unusable
        self.settings = settings_from(ShowersSettings, rules)
        self.is_reference = pixeldq == REFERENCE_PIXEL
        self.excluded = (pixeldq & FLAGGED != 0) | self.is_reference
        how = data, groupdq, gain, unusable
        if len(data) >= rules.minimum_sigclip_groups:
            self.middle, self.noise = backend.clip_differences(*how, settings=self.settings)
        else:
            self.middle = backend.median_differences(*how, settings=self.settings)
            read_variance = (readnoise * gain) ** 2 / rules.nframes
            with np.errstate(invalid="ignore"):
                self.noise = backend.xp.sqrt(abs(self.middle) + read_variance)

    def flag(self, integration):
        """Flag the showers of an integration; return their number."""
        flags = self.groupdq[integration]
        unusable = None if self.unusable is None else self.unusable[integration]
        arrays = self.data[integration], flags, self.excluded, self.gain, self.middle, self.noise, unusable
        excess = self.backend.to_host(self.backend.find_excess(*arrays, settings=self.settings))
        starts, number = None, 0
        for group in range(self._first_usable(flags) + 1, len(flags)):
            ellipses = find_ellipses(excess[group], self.rules.extend_min_area)
            if not ellipses:
                continue
            if starts is None:
                starts = np.zeros(excess.shape, bool)
            for ellipse in ellipses:
                place, inside = draw_ellipse(excess.shape[1:], *_grown(ellipse, self.rules))
                starts[group][place] |= inside
            number += len(ellipses)
        if starts is not None:
            # no difference of reference pixels is known afterwards, so stcal restores their flags
            starts &= ~self.backend.to_host(self.is_reference)
            self._flag_groups(integration, starts)
        return number

    def _first_usable(self, flags):
        """Return the first group that is not DO_NOT_USE in all pixels, without reference pixels; 0 if there is none."""
        for group, quality in enumerate(flags):
            if not bool(((quality & DO_NOT_USE != 0) | self.is_reference).all()):
                return group
        return 0

    def _flag_groups(self, integration, starts):
        """Flag the groups from the start of a shower on; ``starts`` is True in its ellipse.

        A pixel that is saturated keeps its flags, and so do those whose rate would change too much, or be lost.
        """
        xp, (ngroups, ny, nx) = self.backend.xp, starts.shape
        pixels = np.flatnonzero(starts.any(axis=0))
        starts = self.backend.to_device(starts.reshape(ngroups, -1)[:, pixels])
        pixels = self.backend.to_device(pixels)
        flags = self.groupdq[integration].reshape(ngroups, ny * nx)
        before = flags[:, pixels]
        after, left = before.copy(), xp.zeros(len(pixels), np.int32)
        lasting = min(max(0, self.rules.n_groups_after + 1), ngroups)
        for group in range(ngroups):
            left = xp.where(starts[group], np.int32(lasting), xp.maximum(left - 1, 0))
            left[before[group] & SATURATED != 0] = 0
            after[group] |= (left > 0).astype(np.uint8) * np.uint8(JUMP_DET)
        electrons = self.data[integration].reshape(ngroups, ny * nx)[:, pixels] * self.gain.reshape(-1)[pixels]
        limit = self.rules.max_amplitude
        if self.rules.amplitude_in_dn:
            limit = limit * self.gain.reshape(-1)[pixels]
        with np.errstate(all="ignore"):
            change = abs(_mean_difference(xp, electrons, before) - _mean_difference(xp, electrons, after))
            is_good = xp.isfinite(change) & ~(change > limit)
        flags[:, pixels] = xp.where(is_good, after, before)


def _grown(ellipse, rules):
    """Return the centre, semi-axes and angle of a larger ellipse; both axes grow by as much as the minor one."""
    centre, (minor, major), angle = ellipse
    growth = rules.extend_ellipse_expand_ratio
    if major < minor:
        axes = minor + (growth - 1.0) * major, major * growth
    else:
        axes = minor * growth, major + (growth - 1.0) * minor
    widest = 2 * rules.max_extended_radius
    return centre, tuple(round(min(axis, widest) / 2) for axis in axes), angle


def _mean_difference(xp, electrons, flags):
    """Return the mean of the differences of neighbouring groups without flags, (npixels,) float32."""
    electrons = xp.where(flags & FLAGGED != 0, np.float32(np.nan), electrons)
    total, count = xp.zeros(electrons.shape[1], np.float32), xp.zeros(electrons.shape[1], np.int32)
    for earlier, later in zip(electrons[:-1], electrons[1:], strict=True):
        difference = later - earlier
        is_number = ~xp.isnan(difference)
        total += xp.where(is_number, difference, np.float32(0))
        count += is_number
    return total / count.astype(np.float32)
