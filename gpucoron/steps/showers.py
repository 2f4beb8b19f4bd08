"""Showers of MIRI: faint, extended events that last for some groups."""

import logging
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.ellipses import find_ellipses, flag_ellipses
from gpucoron.backends.operation import settings_from
from gpucoron.backends.operations.jump import find_lost_groups
from gpucoron.backends.operations.showers import ShowersSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, REFERENCE_PIXEL, SATURATED
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.values import Having, Kind, Number, Options, Switch, kinds_of

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
    rules=Having("ShowerRules", **_RULES),
    covered=Kind("samples covered by snowballs", iter),
    options=Options(_RULES),
)
def flag_showers(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    *,
    backend: BackendLike = None,
    rules: ShowerRules | None = None,
    covered: Iterable[Any] = (),
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
    backend : str or Backend, optional
        The default is the device of the arrays.
    rules : ShowerRules, optional
    covered : iterable of tuples
        Samples that snowballs have saturated since the search for jumps, from `gpucoron.steps.snowballs.flag_snowballs`.
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
        log.warning("showers are not searched for in fewer than %d differences of groups", LEAST_DIFFERENCES)
        return 0
    search = _Search(backend, data, groupdq, pixeldq, gain, rules)
    with _uncovered(groupdq, covered):
        search.measure(readnoise)
    return sum(search.flag(integration) for integration in range(nints))


@contextmanager
def _uncovered(groupdq, covered):
    """Hide the flags of samples that snowballs covered twice: stcal recognizes others by their flag alone."""
    twice = []
    for integration, group, rows, columns, usable in covered:
        flags = groupdq[integration, group:, rows, columns]
        hidden = (usable & (flags == SATURATED | JUMP_DET)) * np.uint8(SATURATED | JUMP_DET)
        flags ^= hidden
        twice.append((flags, hidden))
    try:
        yield
    finally:
        for flags, hidden in twice:
            flags ^= hidden


class _Search:
    """The search for showers, one integration after the other."""

    def __init__(self, backend, data, groupdq, pixeldq, gain, rules):
        self.backend, self.rules = backend, rules
        self.data, self.groupdq, self.gain = data, groupdq, gain
        self.settings = settings_from(ShowersSettings, rules)
        self.is_reference = pixeldq == REFERENCE_PIXEL
        self.excluded = (pixeldq & FLAGGED != 0) | self.is_reference
        self.middle = self.noise = None

    def measure(self, readnoise):
        """Measure the usual differences of each pixel and their noise."""
        backend, how = self.backend, (self.data, self.groupdq, self.gain)
        if len(self.data) >= self.rules.minimum_sigclip_groups:
            self.middle, self.noise = backend.clip_differences(*how, settings=self.settings)
            return
        self.middle = backend.median_differences(*how, settings=self.settings)
        with np.errstate(all="ignore"):
            read_variance = (readnoise * self.gain) ** 2 / self.rules.nframes
            self.noise = backend.xp.sqrt(abs(self.middle) + read_variance)

    def flag(self, integration):
        """Flag the showers of an integration; return their number."""
        backend, rules, flags = self.backend, self.rules, self.groupdq[integration]
        first = self._first_usable(flags)
        arrays = self.data[integration], flags, self.excluded, self.gain, self.middle, self.noise
        excess = backend.find_excess(*arrays, settings=self.settings)
        n_pixels = backend.to_host(excess.sum(axis=(1, 2)))
        found = {}
        for group in range(first + 1, len(flags)):
            if _largest_area(n_pixels[group]) >= max(1, rules.extend_min_area):
                found[group] = find_ellipses(excess[group], rules.extend_min_area, backend=backend)
        n_later = rules.n_groups_after
        if n_later >= 0 and any(found.values()):
            before = flags.copy()
            how = {"factor": rules.extend_ellipse_expand_ratio, "longest": 2 * rules.max_extended_radius}
            for group, ellipses in found.items():
                flag_ellipses(flags, group, ellipses, n_later=n_later, backend=backend, **how)
            self._restore(integration, before)
        return sum(map(len, found.values()))

    def _first_usable(self, flags):
        """Return the first group that is not DO_NOT_USE in all pixels, without reference pixels; 0 if there is none."""
        for group, quality in enumerate(flags):
            if not bool(((quality & DO_NOT_USE != 0) | self.is_reference).all()):
                return group
        return 0

    def _restore(self, integration, before):
        """Restore the flags of pixels whose rate would change too much, or be lost, and of reference pixels."""
        xp, rules, flags = self.backend.xp, self.rules, self.groupdq[integration]
        pixels = xp.flatnonzero((flags != before).any(axis=0))
        before, after, data = (array.reshape(len(array), -1)[:, pixels] for array in (before, flags, self.data[integration]))
        gain = self.gain.reshape(-1)[pixels]
        limit = rules.max_amplitude * gain if rules.amplitude_in_dn else rules.max_amplitude
        with np.errstate(all="ignore"):
            electrons = data * gain
            change = abs(_mean_difference(xp, electrons, before) - _mean_difference(xp, electrons, after))
            lost = ~xp.isfinite(change) | (change > limit) | self.is_reference.reshape(-1)[pixels]
        flags.reshape(len(flags), -1)[:, pixels] = xp.where(lost, before, after)


def _largest_area(n_pixels):
    """Return the largest area, with its holes, of a region of at most so many pixels."""
    return max(n_pixels, (n_pixels // 2 + 1) ** 2)


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
