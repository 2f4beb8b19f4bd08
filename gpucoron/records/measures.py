"""Numbers by which an exposure is judged: background, read noise, row noise, shifts of the star, saturation, jumps.

All of them are robust statistics of few pixels, taken one integration at a time: the record of a reduction must not
take much of its time or memory.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA, median, median_of_last
from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL, SATURATED
from gpucoron.records.shifts import Shift, measure_shift

#: pixels farther from the star than this fraction of the shorter side are the outside of the image
OUTSIDE = 0.375
#: second differences of an integration that are enough for its read noise, to 0.7 %; and pixels of a group
_ENOUGH_SAMPLES, _ENOUGH_PIXELS = 30_000, 10_000
#: integrations whose samples are copied from a device together
_INTEGRATIONS_AT_ONCE = 64
_GOLDEN = (np.sqrt(5) - 1) / 2
#: pixels of all integrations whose median is taken at a time
_MOST_PIXELS = 1_000_000
#: a saturated region belongs to the star if it comes so near, pixels
_NEAR_STAR = 5
#: side of a pixel, cm
PIXEL_PITCH = {"NIRCAM": 18e-4, "MIRI": 25e-4}
_BINS = 64
#: values of which a sample of about so many is ordered first
_MANY, _SAMPLE = 20_000, 1000


@dataclass(frozen=True, eq=False)
class Integrations:
    """The slopes of all integrations, on the host or in a file.

    Attributes
    ----------
    rate, err : (nints, ny, nx) float32, DN/s
        Anything that slices can be taken of.
    dq : (nints, ny, nx) uint32
    """

    rate: Any
    err: Any
    dq: Any

    @property
    def shape(self):
        """(nints, ny, nx)."""
        return tuple(self.rate.shape)

    def image(self, number):
        """Return the rate of an integration, NaN where it is unusable: (ny, nx) float32."""
        return usable(np.asarray(self.rate[number]), np.asarray(self.dq[number]))

    def middle(self):
        """Find the middle values of each pixel over its usable integrations; returns a `Middle`."""
        nints, ny, nx = self.shape
        rows = max(1, _MOST_PIXELS // (nints * nx))
        planes = np.full((4, ny, nx), np.nan, np.float32)
        if nints < 2:
            return Middle(*planes)
        for start in range(0, ny, rows):
            part = slice(start, start + rows)
            block = usable(np.asarray(self.rate[:, part]), np.asarray(self.dq[:, part]))
            # NaN are sorted to the end
            ordered = np.sort(np.ascontiguousarray(np.moveaxis(block, 0, -1)), axis=-1)
            count = nints - np.isnan(ordered).sum(axis=-1)
            # nearly all pixels are usable in all integrations: the places of their middle values are the same
            rest = np.nonzero(count < nints)
            few = ordered[rest]
            for plane, at, at_rest in zip(planes, _middle_of(nints), _middle_of(count[rest]), strict=True):
                plane[part] = ordered[..., at]
                found = np.take_along_axis(few, np.clip(at_rest, 0, nints - 1)[:, None], axis=-1)[:, 0]
                plane[part][rest] = np.where(count[rest] > 1, found, np.nan)
        return Middle(*planes)


def _middle_of(count):
    """Return the places of the values in the middle of ``count`` sorted ones; see `Middle`."""
    return count // 2 - 1, count // 2, (count - 1) // 2, (count + 1) // 2


@dataclass(frozen=True, eq=False)
class Middle:
    """The values in the middle of each pixel's sorted integrations, (ny, nx) float32; NaN with fewer than two."""

    low: np.ndarray
    after_low: np.ndarray
    high: np.ndarray
    after_high: np.ndarray

    def without(self, image):
        """Return the median of the other integrations than this one, which is one of them: (ny, nx) float32."""
        low = _choose(self.low < image, self.low, self.after_low)
        high = _choose(self.high < image, self.high, self.after_high)
        low += high
        low /= np.float32(2)
        return low


def _choose(is_first, first, second):
    """Return np.where(is_first, first, second) of float32 arrays: by their bits, without branches that guess wrong."""
    bits = -is_first.astype(np.int32)
    bits &= first.view(np.int32) ^ second.view(np.int32)
    bits ^= second.view(np.int32)
    return bits.view(np.float32)


def usable(rate, dq):
    """Return the rate with NaN where it is DO_NOT_USE, a reference pixel or not finite: float32, a copy."""
    bad = (dq & np.uint32(DO_NOT_USE | REFERENCE_PIXEL)) != 0
    return np.where(bad | ~np.isfinite(rate), np.float32(np.nan), rate).astype(np.float32, copy=False)


@lru_cache(maxsize=4)
def find_outside(shape, star):
    """Mark the outside of an image: pixels farther from the star than 3/4 of half the shorter side.

    Parameters
    ----------
    shape : (int, int)
        (ny, nx)
    star : (float, float)
        (x, y), 0-based.

    Returns
    -------
    (ny, nx) bool, read-only
    """
    y, x = np.ogrid[: shape[0], : shape[1]]
    outside = np.hypot(x - star[0], y - star[1]) > OUTSIDE * min(shape)
    outside.flags.writeable = False
    return outside


def robust_width(values):
    """Return the standard deviation of a normal distribution with the median absolute deviation of these values.

    Parameters
    ----------
    values : array of float
        NaN are ignored.

    Returns
    -------
    float
        NaN without values.
    """
    values = np.asarray(values)
    values = values[np.isfinite(values)]
    return MAD_TO_SIGMA * float(quick_median(np.abs(values - quick_median(values)))) if values.size else np.nan


def quick_median(values):
    """Return the median of a flat array without NaN, as `gpucoron.backends.statistics.median`, but sooner for many.

    A sample tells between which values the median is; only those are ordered. If it is not there, all of them are.
    """
    n = len(values)
    if n < _MANY:
        return median(values)
    sample = np.sort(values[:: n // _SAMPLE | 1])
    middle, reach = len(sample) // 2, int(2 * np.sqrt(len(sample)))
    low, high = sample[middle - reach], sample[middle + reach]
    near = values[(values >= low) & (values <= high)]
    upper = n // 2 - np.count_nonzero(values < low)
    if not 0 < upper < len(near):
        return median(values)
    ordered = np.partition(near, upper)
    return ordered[upper] if n % 2 else (ordered[:upper].max() + ordered[upper]) / values.dtype.type(2)


def measure_integrations(integrations, star, read_noise=None):
    """Measure each integration.

    Parameters
    ----------
    integrations : Integrations
    star : (x, y)
        0-based.
    read_noise : list of float, optional
        See `read_noise_of_ramps`.

    Returns
    -------
    dict
        Each a list with one number per integration, NaN where it is unknown.

        median : DN/s
            Of all usable pixels.
        background : DN/s
            Median of the usable pixels of the outside, see `find_outside`.
        row_noise : DN/s
            Robust width of the medians of the rows of the integration minus the median of the other integrations,
            times ``sqrt(1 - 1/nints)`` for the noise of these. NaN with one integration. Noise of the pixels is part of
            it: with ``nx`` pixels in a row, 1.25 / sqrt(nx) of it.
        read_noise : DN
        shift_x, shift_y, shift_x_error, shift_y_error : pixels
            Shift of the star against the median of the other integrations, see
            `gpucoron.records.shifts.measure_shift`; the shift is NaN where it is less than three times its error.
    """
    nints, *shape = integrations.shape
    outside = find_outside(tuple(shape), tuple(star))
    middle = integrations.middle() if nints > 1 else None
    rows = {name: [] for name in ("median", "background", "row_noise")}
    shifts = []
    for number in range(nints):
        image = integrations.image(number)
        rows["median"].append(_median_of(image))
        rows["background"].append(_median_of(image[outside]))
        if middle is None:
            rows["row_noise"].append(np.nan)
            shifts.append(Shift())
            continue
        # not of all integrations: a median of few integrations follows each of them
        reference = middle.without(image)
        noise = robust_width(median_of_last(image - reference, xp=np)) * np.sqrt(1 - 1 / nints)
        rows["row_noise"].append(float(noise))
        shifts.append(measure_shift(image, np.asarray(integrations.err[number]), reference, star))
    rows["read_noise"] = list(read_noise) if read_noise is not None else [np.nan] * nints
    rows["shift_x"] = [shift.x if shift.is_significant_x else np.nan for shift in shifts]
    rows["shift_y"] = [shift.y if shift.is_significant_y else np.nan for shift in shifts]
    rows["shift_x_error"] = [shift.x_error for shift in shifts]
    rows["shift_y_error"] = [shift.y_error for shift in shifts]
    return rows


def _median_of(image):
    values = image[np.isfinite(image)]
    return float(quick_median(values))


def read_noise_of_ramps(data, groupdq, pixeldq, star, backend=None):
    """Measure the read noise of each integration in the outside of the image.

    It is the robust width of the second differences ``data[g+1] - 2 data[g] + data[g-1]`` of three successive groups
    without any flag, divided by sqrt(6). A constant flux cancels in it; the photon noise of one group, and 1/f noise
    that was not removed, are part of it. As many groups are used as give 30,000 differences, spread evenly over
    the ramp, and of each at most 20,000 pixels.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        The corrected ramps.
    groupdq : (nints, ngroups, ny, nx) uint8
    pixeldq : (ny, nx) uint32
    star : (x, y)
    backend : Backend, optional
        That of the arrays, if they are not on the host.

    Returns
    -------
    list of float
        DN; NaN for each integration with fewer than three groups.
    """
    nints, ngroups, *shape = data.shape
    if ngroups < 3:
        return [np.nan] * nints
    excluded = pixeldq if backend is None else backend.to_host(pixeldq)
    region = find_outside(tuple(shape), tuple(star)) & ((excluded & np.uint32(DO_NOT_USE | REFERENCE_PIXEL)) == 0)
    region = np.flatnonzero(region)
    # an odd step, so that all channels of the readout are among the columns
    region = region[:: len(region) // _ENOUGH_PIXELS | 1]
    # multiples of the golden ratio are spread evenly, however many of them are needed
    middles = 1 + np.argsort(np.arange(1, ngroups - 1) * _GOLDEN % 1)
    # arrays on a device are copied in few large pieces
    at_once = 1 if isinstance(data, np.ndarray) else _INTEGRATIONS_AT_ONCE
    return [
        float(robust_width(np.concatenate(differences)) / np.sqrt(6))
        for start in range(0, nints, at_once)
        for differences in _second_differences(data, groupdq, slice(start, start + at_once), middles, region, backend)
    ]


def _second_differences(data, groupdq, integrations, middles, region, backend):
    """Return for each of some integrations a list of arrays with enough second differences."""
    data, groupdq = data[integrations], groupdq[integrations]
    found = [[np.empty(0, np.float32)] for _ in range(len(data))]
    left = np.arange(len(data))
    for group in middles:
        if not left.size:
            break
        samples = (_take_around(array, group, left, region, backend) for array in (data, groupdq))
        for number, (before, here, after), flags in zip(left, *samples, strict=True):
            difference = ((after - here) - (here - before))[np.bitwise_or.reduce(flags) == 0]
            if difference.size:
                # a step of the whole frame between two groups is no noise of its pixels
                found[number].append(difference - quick_median(difference))
        left = left[[sum(map(len, found[number])) < _ENOUGH_SAMPLES for number in left]]
    return found


def _take_around(ramps, group, integrations, region, backend):
    """Return the pixels of a region, in a group and its neighbours, of some integrations: (n, 3, npix)."""
    groups = np.arange(group - 1, group + 2)
    if isinstance(ramps, np.ndarray):
        return np.array([[ramps[each, at].reshape(-1)[region] for at in groups] for each in integrations])
    places = integrations[:, None, None], groups[:, None], region
    frames = ramps.reshape(*ramps.shape[:2], -1)
    return backend.to_host(frames[tuple(backend.to_device(place) for place in places)])


def measure_exposure(rate, err, dq, star):
    """Measure the rate of an exposure.

    Parameters
    ----------
    rate, err : (ny, nx) float32, DN/s
    dq : (ny, nx) uint32
    star : (x, y)

    Returns
    -------
    dict
        background : float, DN/s
            Median of the usable pixels of the outside, see `find_outside`.
        saturated_radius : float, pixels
            See `saturated_radius`.
        histogram : dict or None
            See `histogram_of`.
    """
    image = usable(rate, dq)
    return {
        "background": _median_of(image[find_outside(image.shape, tuple(star))]),
        "saturated_radius": saturated_radius(dq, star),
        "histogram": histogram_of(image, err),
    }


def saturated_radius(dq, star):
    """Return the radius of the circle with the area of the saturated pixels at the star.

    Parameters
    ----------
    dq : (ny, nx) uint32
        Flags of the rate.
    star : (x, y)

    Returns
    -------
    float
        ``sqrt(n / pi)`` pixels, with ``n`` the SATURATED pixels of the connected region that contains or encloses the
        star, or else of the nearest one within five pixels of it. 0 if there is none.
    """
    from scipy import ndimage

    saturated = (dq & np.uint32(SATURATED)) != 0
    # behind a mask the star itself need not saturate: its surroundings do
    labels, count = ndimage.label(ndimage.binary_fill_holes(saturated), np.ones((3, 3)))
    if not count:
        return 0.0
    y, x = np.nonzero(labels)
    distance = np.hypot(x - star[0], y - star[1])
    nearest = np.argmin(distance)
    if distance[nearest] > _NEAR_STAR:
        return 0.0
    return float(np.sqrt(np.count_nonzero(saturated & (labels == labels[y[nearest], x[nearest]])) / np.pi))


def histogram_of(image, err):
    """Count rate over error.

    Parameters
    ----------
    image : (ny, nx) float32
        Rate, NaN where unusable.
    err : (ny, nx) float32

    Returns
    -------
    dict or None
        edges : list of n + 1 float
            Evenly from 8 robust widths below the median to 16 above it, for the star, but not beyond the pixels;
            others are not counted.
        counts : list of n int
        None if no pixel has a rate and an error.
    """
    good = np.isfinite(image) & np.isfinite(err) & (err > 0)
    if not good.any():
        return None
    ratio = image[good].astype(np.float64) / err[good]
    middle, spread = float(quick_median(ratio)), robust_width(ratio)
    low, high = max(ratio.min(), middle - 8 * spread), min(ratio.max(), middle + 16 * spread)
    width = float(f"{max(high - low, 1e-3 * abs(middle), 1e-3) / _BINS:.2g}")
    edges = np.floor(low / width) * width + width * np.arange(int((high - low) / width) + 3)
    counts = _count_between(ratio, edges, width)
    return {"edges": [float(f"{edge:.6g}") for edge in edges], "counts": [int(count) for count in counts]}


def _count_between(values, edges, width):
    """Return np.histogram(values, edges)[0] for edges that are ``width`` apart, up to rounding, without sorting."""
    values = values[(values >= edges[0]) & (values <= edges[-1])]
    bins = np.minimum(((values - edges[0]) / width).astype(np.intp), len(edges) - 2)
    bins -= values < edges[bins]
    # the last bin includes its upper edge
    bins += (values >= edges[bins + 1]) & (bins < len(edges) - 2)
    return np.bincount(bins, minlength=len(edges) - 1)


def jump_rate(primary_cosmic_rays, instrument):
    """Convert jwst's number of primary cosmic rays to hits per second and cm^2.

    Parameters
    ----------
    primary_cosmic_rays : float or None
        PRIMECRS: per 1000 pixels and second.
    instrument : str

    Returns
    -------
    float
        NaN if unknown.
    """
    pitch = PIXEL_PITCH.get((instrument or "").upper())
    is_known = isinstance(primary_cosmic_rays, (int, float)) and primary_cosmic_rays >= 0 and pitch is not None
    return primary_cosmic_rays / 1000 / pitch**2 if is_known else np.nan
