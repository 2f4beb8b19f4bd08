"""Measure what changed between two arrays, plane by plane, in bounded memory."""

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA
from gpucoron.dq import flags_by_name
from gpucoron.report.compare.differences import ArrayDifference, FlagDifference, Maps, PixelChange

#: bits of `Maps.changed`
GAINED, LOST, NAN_GAINED, NAN_LOST = 1, 2, 4, 8
#: most differences that are kept for the median and the scatter
MOST_SAMPLES = 2**21
#: number of pixels in the list of the largest changes
MOST_PIXELS = 10

_FLAGS = flags_by_name()


def find_changed(first, second, tolerance, rtol):
    """Return which values differ, and the differences.

    Parameters
    ----------
    first, second : (ny, nx) float
    tolerance, rtol : float
        Differences up to ``tolerance + rtol * max(abs(first), abs(second))`` do not count.

    Returns
    -------
    changed : (ny, nx) bool
        NaN differs from every number, but not from NaN.
    differences : (ny, nx) float64
        ``second - first``; 0 where both are the same, also infinite.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    are_same = (first == second) | (np.isnan(first) & np.isnan(second))
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.where(are_same, 0.0, second - first)
        allowed = tolerance + rtol * np.fmax(np.abs(first), np.abs(second))
        # an infinite value allows no difference
        changed = ~are_same & ~((np.abs(differences) <= allowed) & np.isfinite(allowed))
    return changed, differences


class Sample:
    """Differences for a median: all of them, or every n-th in the order in which they come if there are many."""

    def __init__(self, most=MOST_SAMPLES):
        self._most, self._step, self._seen, self._kept = most, 1, 0, np.zeros(0)

    def add(self, values):
        """Add values in one dimension."""
        self._kept = np.concatenate([self._kept, values[-self._seen % self._step :: self._step]])
        self._seen += values.size
        while self._kept.size > self._most:
            self._kept, self._step = self._kept[::2].copy(), 2 * self._step

    @property
    def values(self):
        """The values that were kept."""
        return self._kept


class ArrayMeter:
    """Sums up what changed in one array over the planes of a product."""

    def __init__(self, name, unit):
        self.name, self._unit = name, unit
        self._n_values = self._n_different = self._gained = self._lost = 0
        self._largest, self._where, self._in_err, self._sample = 0.0, (), None, Sample()

    def add(self, first, second, changed, differences, err, integration=None):
        """Add a plane; ``err`` is the ERR of the first product, or None for the variances."""
        gained, lost = np.isnan(second) & ~np.isnan(first), np.isnan(first) & ~np.isnan(second)
        self._n_values += changed.size
        self._n_different += int(np.count_nonzero(changed))
        self._gained += int(np.count_nonzero(gained))
        self._lost += int(np.count_nonzero(lost))
        numbers = changed & ~gained & ~lost
        if not numbers.any():
            return
        sizes = np.where(numbers, np.abs(differences), -1.0)
        y, x = (int(index) for index in np.unravel_index(np.argmax(sizes), sizes.shape))
        if not self._where or sizes[y, x] > self._largest:
            self._largest = float(sizes[y, x])
            self._where = (x, y) if integration is None else (x, y, integration)
        self._sample.add(differences[numbers])
        if err is not None:
            in_err = np.abs(in_units_of(err, differences))[numbers]
            largest = float(np.nanmax(in_err)) if np.isfinite(in_err).any() else None
            if largest is not None:
                self._in_err = max(largest, self._in_err or 0.0)

    def add_unchanged(self, n_values):
        """Add a plane without any difference."""
        self._n_values += n_values

    def result(self):
        """Return an ArrayDifference."""
        sample = self._sample.values[np.isfinite(self._sample.values)]
        n_sampled = sample.size
        median = float(np.median(sample)) if n_sampled else 0.0
        scatter = MAD_TO_SIGMA * float(np.median(np.abs(sample - median))) if n_sampled else 0.0
        return ArrayDifference(
            name=self.name,
            unit=self._unit,
            n_values=self._n_values,
            n_different=self._n_different,
            n_nan_gained=self._gained,
            n_nan_lost=self._lost,
            largest=self._largest,
            where=self._where,
            largest_in_err=self._in_err,
            median=median,
            scatter=scatter,
            n_sampled=n_sampled,
        )


class FlagMeter:
    """Sums up the flags that pixels gained and lost."""

    def __init__(self):
        self._n_values = self._n_different = 0
        self._gained, self._lost = dict.fromkeys(_FLAGS, 0), dict.fromkeys(_FLAGS, 0)

    def add(self, first, second):
        """Add a plane of flags, (ny, nx) uint32; return the bits that were gained and lost."""
        gained, lost = second & ~first, first & ~second
        self._n_values += first.size
        self._n_different += int(np.count_nonzero(first != second))
        for counts, bits in ((self._gained, gained), (self._lost, lost)):
            seen = int(np.bitwise_or.reduce(bits, axis=None))
            for name, flag in _FLAGS.items():
                if seen & flag:
                    counts[name] += int(np.count_nonzero(bits & np.uint32(flag)))
        return gained, lost

    def result(self):
        """Return a FlagDifference."""
        counts = [{name: count for name, count in each.items() if count} for each in (self._gained, self._lost)]
        return FlagDifference(self._n_values, self._n_different, *counts)


class MapMaker:
    """Combines the changes of all planes into maps, and keeps the pixels with the largest ones."""

    def __init__(self, shape):
        self._science, self._in_err = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._changed, self._missing = np.zeros(shape, np.uint8), np.ones(shape, bool)
        self._rank = np.full(shape, -1.0)
        self._pixels = []

    def add(self, first, second, changed, differences, err, gained, lost, integration=None):
        """Add a plane of SCI, its ERR in the first product, and the bits that were gained and lost in DQ."""
        nan_gained, nan_lost = np.isnan(second) & ~np.isnan(first), np.isnan(first) & ~np.isnan(second)
        self._changed |= (gained != 0) * np.uint8(GAINED) | (lost != 0) * np.uint8(LOST)
        self._changed |= nan_gained * np.uint8(NAN_GAINED) | nan_lost * np.uint8(NAN_LOST)
        self._missing &= np.isnan(first) & np.isnan(second)
        with np.errstate(over="ignore"):
            in_err = in_units_of(err, differences)
            is_larger = changed & ~nan_gained & ~nan_lost & (np.abs(differences) > self._rank)
            self._rank[is_larger] = np.abs(differences)[is_larger]
            self._science[is_larger], self._in_err[is_larger] = differences[is_larger], in_err[is_larger]
        self._keep_largest(first, second, changed, in_err, gained, lost, integration)

    def add_unchanged(self, science):
        """Add a plane of SCI without any difference."""
        self._missing &= np.isnan(science)

    def _keep_largest(self, first, second, changed, in_err, gained, lost, integration):
        """Rank changes by their size in units of ERR; NaN that came or went is largest, flags alone are smallest."""
        is_candidate = changed | (gained != 0) | (lost != 0)
        sizes = np.where(changed, np.where(np.isnan(in_err), np.inf, np.abs(in_err)), 0.0)
        if len(self._pixels) == MOST_PIXELS:
            is_candidate &= sizes > self._pixels[-1][0]
        places = np.flatnonzero(is_candidate)
        if places.size > MOST_PIXELS:
            ranks = sizes.ravel()[places]
            least = np.partition(ranks, -MOST_PIXELS)[-MOST_PIXELS]
            larger = places[ranks > least]
            places = np.concatenate([larger, places[ranks == least][: MOST_PIXELS - larger.size]])
        for place in places:
            y, x = divmod(int(place), first.shape[1])
            change = PixelChange(
                x=x,
                y=y,
                integration=integration,
                first=float(first[y, x]),
                second=float(second[y, x]),
                in_err=float(in_err[y, x]),
                gained=_names(gained[y, x]),
                lost=_names(lost[y, x]),
            )
            self._pixels.append((float(sizes[y, x]), change))
        self._pixels.sort(key=lambda pixel: -pixel[0])
        del self._pixels[MOST_PIXELS:]

    def pixels(self):
        """Return the largest changes, the largest first."""
        return tuple(change for _, change in self._pixels)

    def maps(self):
        """Return the Maps."""
        without_value = self._missing | ((self._changed & (NAN_GAINED | NAN_LOST)) != 0) & (self._rank < 0)
        for image in (self._science, self._in_err):
            image[without_value] = np.nan
        return Maps(self._science, self._in_err, self._changed)


def are_identical(first, second):
    """Return whether two planes have the same bits."""
    kind = f"u{first.dtype.itemsize}"
    return first.dtype == second.dtype and bool((first.view(kind) == second.view(kind)).all())


def in_units_of(err, differences):
    """Divide differences by ERR; NaN where ERR is not a positive number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(np.isfinite(err) & (err > 0), differences / err.astype(np.float64), np.nan)


def _names(bits):
    return tuple(name for name, flag in _FLAGS.items() if int(bits) & flag)
