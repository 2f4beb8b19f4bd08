"""Showers of MIRI: faint, extended events that last for some groups."""

import logging
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.backends.ellipses import find_ellipses, flag_ellipses
from gpucoron.backends.operation import settings_from
from gpucoron.backends.operations.flags import find_lost_groups
from gpucoron.backends.operations.showers import ShowerSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, REFERENCE_PIXEL, SATURATED
from gpucoron.facts import Facts
from gpucoron.steps.arguments import IMAGE, RAMP, Array, BackendLike, on_arrays
from gpucoron.steps.values import Having, Kind, Number, Options, kinds_of

log = logging.getLogger(__name__)

FLAGGED = DO_NOT_USE | SATURATED | JUMP_DET

#: Largest change of a rate, electrons per group, that jwst multiplies by the time of a group.
MOST_ELECTRONS = 6
#: Groups that are searched together for a usable one, which is usually among the first.
GROUPS_AT_ONCE = 16
#: Samples of flagged pixels that are copied together.
SAMPLES_AT_ONCE = 2**21
#: no image and no ramp has as many pixels or groups; larger numbers cannot be compared with floats
_MOST = 2**31
#: Exposures with fewer differences are not searched.
LEAST_DIFFERENCES = 10


_SETTINGS = kinds_of(
    ShowerSettings,
    extend_snr_threshold=Number("sigma"),
    extend_min_area=Number(whole=True),
    extend_inner_radius=Number("pixels", minimum=0, maximum=256),
    extend_outer_radius=Number("pixels", minimum=0.01, maximum=256),
    n_groups_after=Number(whole=True),
    max_amplitude=Number("electrons per group", nan=True),
    minimum_sigclip_groups=Number(whole=True),
    nframes=Number(whole=True, minimum=1),
)


def _check_tuples(value):
    if not isinstance(value, list) or not all(isinstance(each, tuple) for each in value):
        raise TypeError(value)


@on_arrays(
    data=Array(RAMP, unit="DN"),
    groupdq=Array(RAMP, "uint8", in_place=True),
    pixeldq=Array(IMAGE, "uint32"),
    gain=Array(IMAGE, unit="e-/DN"),
    readnoise=Array(IMAGE, unit="DN"),
    settings=Having("ShowerSettings", **_SETTINGS),
    covered=Kind("a list of tuples", _check_tuples),
    options=Options(_SETTINGS),
)
def flag_showers(
    data: ArrayLike,
    groupdq: NDArray[Any],
    pixeldq: ArrayLike,
    gain: ArrayLike,
    readnoise: ArrayLike,
    *,
    backend: BackendLike = None,
    settings: ShowerSettings | None = None,
    covered: list[Any] | None = None,
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
    settings : ShowerSettings, optional
    covered : list of tuples, optional
        Samples that snowballs have saturated since the search for jumps, from
        `gpucoron.steps.snowballs.flag_snowballs`.
    **options
        Fields of ``settings``, if that is not given; see `gpucoron.backends.operations.showers.ShowerSettings`.

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
    settings = settings or ShowerSettings(**options)
    nints, ngroups = data.shape[:2]
    lost = find_lost_groups(backend, groupdq)
    if nints * (ngroups - 1) - int(lost.sum()) < LEAST_DIFFERENCES:
        log.warning("showers are not searched for in fewer than %d differences of groups", LEAST_DIFFERENCES)
        return 0
    search = _Search(backend, data, groupdq, pixeldq, gain, settings)
    with _uncovered(groupdq, covered or ()):
        search.measure(readnoise)
    return sum(search.flag(integration) for integration in range(nints))


def settle(parameters: Any, facts: Facts, *, searched: bool) -> ShowerSettings:
    """Make the settings from the parameters of the step, an object with their names, and the facts of the exposure.

    ``searched`` is true if jumps were searched for.
    """
    applies = parameters.apply_max_shower_amplitude
    return settings_from(
        ShowerSettings,
        parameters,
        extend_min_area=_bounded(parameters.extend_min_area),
        max_extended_radius=_bounded(parameters.max_extended_radius),
        n_groups_after=_bounded(int(parameters.time_masked_after_shower // facts.group_time)),
        # jwst ignores its parameter, and takes stcal's default for one in DN per second
        max_amplitude=(parameters.max_shower_amplitude if applies else MOST_ELECTRONS) * facts.group_time,
        amplitude_in_dn=applies,
        nframes=facts.nframes,
        searched=searched,
    )


def _bounded(value):
    return max(-_MOST, min(value, _MOST))


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

    def __init__(self, backend, data, groupdq, pixeldq, gain, settings):
        self.backend, self.settings = backend, settings
        self.data, self.groupdq, self.gain = data, groupdq, gain
        self.is_reference = pixeldq == REFERENCE_PIXEL
        self.excluded = (pixeldq & FLAGGED != 0) | self.is_reference
        self.middle = self.noise = None

    def measure(self, readnoise):
        """Measure the usual differences of each pixel and their noise."""
        backend, how = self.backend, (self.data, self.groupdq, self.gain)
        if len(self.data) >= self.settings.minimum_sigclip_groups:
            self.middle, self.noise = backend.clip_differences(*how, settings=self.settings)
            return
        self.middle = backend.median_differences(*how, settings=self.settings)
        with np.errstate(all="ignore"):
            read_variance = (readnoise * self.gain) ** 2 / self.settings.nframes
            self.noise = backend.xp.sqrt(abs(self.middle) + read_variance)

    def flag(self, integration):
        """Flag the showers of an integration; return their number."""
        backend, settings, flags = self.backend, self.settings, self.groupdq[integration]
        first = self._first_usable(flags)
        arrays = self.data[integration], flags, self.excluded, self.gain, self.middle, self.noise
        excess = backend.find_excess(*arrays, settings=settings)
        if backend.xp is np:
            n_pixels = [np.count_nonzero(frame) for frame in excess]
        else:
            # once for all groups: each time, the CPU waits for the GPU
            n_pixels = backend.to_host(excess.sum(axis=(1, 2))).tolist()
        found = {}
        for group in range(first + 1, len(flags)):
            if n_pixels[group] and _largest_area(n_pixels[group]) >= settings.extend_min_area:
                found[group] = find_ellipses(excess[group], settings.extend_min_area, backend=backend)
        n_later = settings.n_groups_after
        if n_later >= 0 and any(found.values()):
            before = flags.copy()
            how = {"factor": settings.extend_ellipse_expand_ratio, "longest": 2 * settings.max_extended_radius}
            for group, ellipses in found.items():
                flag_ellipses(flags, group, ellipses, n_later=n_later, backend=backend, **how)
            self._restore(integration, before)
        return sum(map(len, found.values()))

    def _first_usable(self, flags):
        """Return the first group that is not DO_NOT_USE in all pixels, without reference pixels; 0 if there is none."""
        for start in range(0, len(flags), GROUPS_AT_ONCE):
            is_lost = (flags[start : start + GROUPS_AT_ONCE] & DO_NOT_USE != 0) | self.is_reference
            usable = np.flatnonzero(~self.backend.to_host(is_lost.all(axis=(1, 2))))
            if len(usable):
                return start + int(usable[0])
        return 0

    def _restore(self, integration, before):
        """Restore the flags of pixels whose rate would change too much, or be lost, and of reference pixels."""
        xp, settings, flags = self.backend.xp, self.settings, self.groupdq[integration]
        changed = xp.flatnonzero((flags != before).any(axis=0))
        arrays = [array.reshape(len(array), -1) for array in (before, flags, self.data[integration])]
        at_once = max(1, SAMPLES_AT_ONCE // len(flags))
        for start in range(0, len(changed), at_once):
            pixels = changed[start : start + at_once]
            before, after, data = (array[:, pixels] for array in arrays)
            gain = self.gain.reshape(-1)[pixels]
            with np.errstate(all="ignore"):
                limit = settings.max_amplitude * gain if settings.amplitude_in_dn else settings.max_amplitude
                electrons = data * gain
                change = abs(_mean_difference(xp, electrons, before) - _mean_difference(xp, electrons, after))
                lost = ~xp.isfinite(change) | (change > limit) | self.is_reference.reshape(-1)[pixels]
            arrays[1][:, pixels] = xp.where(lost, before, after)


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
