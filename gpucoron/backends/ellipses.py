"""Connected regions of a mask and their ellipses, as scikit-image measures and draws them: for snowballs and showers.

The device only lists the pixels of a mask. They are few, so that regions are found, measured and drawn on the host, in
float64, with the same results for all devices.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpucoron.dq import JUMP_DET, SATURATED

#: A region with a hole has at least as many pixels, because a hole is closed at the corners too.
_LEAST_WITH_HOLE = 8
#: The shapes of regions whose box has at most as many pixels are remembered: small hits look alike.
_SMALL_BOX = 256
_MOST_REMEMBERED = 4096
#: longer axes, which no image has, are drawn with this length, pixels
_LONGEST = 2**31


class Ellipse(NamedTuple):
    """The ellipse with the second moments of a region.

    Attributes
    ----------
    x, y : float, pixels
        The mean of the pixels' coordinates.
    minor, major : float, pixels
        Full lengths of the axes, less one pixel as in stcal: -1 for a single pixel, and ``minor`` is -1 for a line.
    angle : float, degrees
        From the y axis to the major axis, counted towards the x axis.
    """

    x: float
    y: float
    minor: float
    major: float
    angle: float


class Regions:
    """Connected regions of a mask, in the order of their first pixels.

    Attributes
    ----------
    x, y : (n,) float64, pixels
        Centres: the mean coordinates of the pixels.
    extent : (n,) float64, pixels
        Diagonal of the box around each region.
    """

    def __init__(self, runs, ends):
        self._runs, self._ends = runs, ends
        row, first, last = runs
        starts = ends[:-1]
        length = last - first + 1
        area = np.add.reduceat(length, starts)
        self.x = np.add.reduceat((first + last) * length // 2, starts) / area
        self.y = np.add.reduceat(row * length, starts) / area
        # the runs of a region are sorted by row
        self._bottom, self._left = row[starts], np.minimum.reduceat(first, starts)
        self._shapes = row[ends[1:] - 1] - self._bottom + 1, np.maximum.reduceat(last, starts) - self._left + 1
        self._area = area
        self.extent = np.hypot(*self._shapes)

    def __len__(self):
        return len(self.x)

    def image(self, index):
        """Return the pixels of a region in its box: a (height, width) bool array."""
        image = np.zeros([sizes[index] for sizes in self._shapes], bool)
        runs = (values[self._ends[index] : self._ends[index + 1]] for values in self._runs)
        for row, first, last in zip(*(values.tolist() for values in runs), strict=True):
            left = self._left[index]
            image[row - self._bottom[index], first - left : last + 1 - left] = True
        return image

    def ellipse(self, index):
        """Return the `Ellipse` of a region."""
        image = self.image(index)
        is_small = image.size <= _SMALL_BOX
        shape = _measure_bytes(image.tobytes(), image.shape) if is_small else _measure(image)
        return Ellipse(float(self.x[index]), float(self.y[index]), *shape)

    def of_area(self, min_area):
        """Return which regions, with their holes filled, have an area of ``min_area`` or more: (n,) bool."""
        is_large = ~(self._area < min_area)
        boxes = self._shapes[0] * self._shapes[1]
        for index in np.flatnonzero(~is_large & (self._area >= _LEAST_WITH_HOLE) & (boxes >= min_area)):
            is_large[index] = _filled_area(self.image(index)) >= min_area
        return is_large


def find_regions(mask, min_area, *, backend):
    """Find connected regions of a mask; neighbours at corners are connected.

    Parameters
    ----------
    mask : (ny, nx) bool or integer
        On the device of the backend; pixels that are not zero are searched.
    min_area : float, pixels
        Smaller regions are left out, where the area includes holes.
    backend : Backend

    Returns
    -------
    Regions or None
        None if there are none.

    Notes
    -----
    Source: ``label`` and ``regionprops`` of scikit-image 0.26, and stcal 1.20, ``_sk_filter_areas``. Runs of pixels in
    a row are the nodes of a graph; its components are the regions.
    """
    where = backend.to_host(backend.xp.flatnonzero(mask != 0))
    if not len(where):
        return None
    runs = _find_runs(where, mask.shape[1])
    labels = _label_runs(*runs, mask.shape[1])
    row, first, last = runs
    area = np.bincount(labels, last - first + 1)
    # only regions with a hole are larger than their pixels
    candidates = ~(area < min_area) | (area >= _LEAST_WITH_HOLE)
    regions = _select(runs, labels, candidates)
    if regions is None:
        return None
    is_large = regions.of_area(min_area)
    if is_large.all():
        return regions
    candidates[candidates] = is_large
    return _select(runs, labels, candidates)


def find_ellipses(mask, min_area, *, backend):
    """Find connected regions; return the list of their ellipses. Arguments as for `find_regions`."""
    regions = find_regions(mask, min_area, backend=backend)
    return [] if regions is None else [regions.ellipse(index) for index in range(len(regions))]


def draw_ellipse(x, y, axis1, axis2, angle, shape):
    """Draw a filled ellipse into a part of an image.

    Parameters
    ----------
    x, y : float, pixels
        Centre, within the image; rounded to a pixel.
    axis1, axis2 : float, pixels
        Full lengths of the axes; half of each is rounded to a pixel. For a half of zero nothing is drawn, and little or
        nothing for axes that are negative or not finite.
    angle : float, degrees
        Orientation of ``axis2``, as in `Ellipse`.
    shape : (int, int)
        Shape of the image.

    Returns
    -------
    rows, columns : slice
        The part of the image.
    inside : bool array
        Its pixels inside the ellipse.

    Notes
    -----
    Source: ``draw.ellipse`` of scikit-image 0.26, and stcal 1.20, ``ellipse_subim``, which fails for axes that are
    not finite or far below zero.
    """
    nothing = slice(0), slice(0), np.zeros((0, 0), bool)
    if not (math.isfinite(axis1) and math.isfinite(axis2)):
        return nothing
    semi = round(min(axis2, _LONGEST) / 2), round(min(axis1, _LONGEST) / 2)
    margin = max(semi) + 2
    if 0 in semi or margin < 0:
        return nothing
    centre = np.array([round(y), round(x)])
    corner = np.maximum(centre - margin, 0)
    end = np.minimum(centre + margin + 1, shape)
    # in pixels of this part of the image, as in stcal, so that all sums are rounded equally
    centre = centre - corner
    # as in scikit-image, modulo pi twice: an angle just below zero first becomes pi
    rotation = np.radians(angle) % np.pi
    sine, cosine = np.sin(rotation), np.cos(rotation)
    reach = np.array([abs(semi[0] * cosine) + semi[1] * sine, semi[0] * sine + abs(semi[1] * cosine)])
    low = np.maximum(np.ceil(centre - reach).astype(int), 0)
    high = np.minimum(np.floor(centre + reach).astype(int), end - corner - 1)
    if (high < low).any():
        return nothing
    rotation %= np.pi
    sine, cosine = np.sin(rotation), np.cos(rotation)
    row, column = (np.arange(size, dtype=np.float64) for size in high - low + 1)
    row, column = (row - (centre - low)[0])[:, np.newaxis], column - (centre - low)[1]
    across, along = (row * cosine + column * sine) / semi[0], (row * sine - column * cosine) / semi[1]
    rows, columns = map(slice, (corner + low).tolist(), (corner + high + 1).tolist())
    return rows, columns, across**2 + along**2 < 1


def flag_ellipses(groupdq, group, ellipses, *, factor, longest, n_later=0, backend):
    """Set JUMP_DET in expanded ellipses in a group and in those after it, in place, where nothing is saturated.

    A pixel that is saturated in one of these groups is not flagged in later ones either.

    Parameters
    ----------
    groupdq : (ngroups, ny, nx) uint8
        Flags of one integration, on the device of the backend.
    group : int
        The first group.
    ellipses : iterable of Ellipse
    factor : float
        The minor axis is longer by this factor, and the major axis by as many pixels.
    longest : float, pixels
        Limit of both axes.
    n_later : int
        Groups after the first one.
    backend : Backend

    Notes
    -----
    Source: stcal 1.20, ``extend_ellipses`` and ``compute_axes``.
    """
    for ellipse in ellipses:
        axes = ellipse.minor * factor, ellipse.major + (factor - 1.0) * ellipse.minor
        axis1, axis2 = (min(axis, longest) for axis in axes)
        rows, columns, inside = draw_ellipse(ellipse.x, ellipse.y, axis1, axis2, ellipse.angle, groupdq.shape[1:])
        if not inside.any():
            continue
        inside = backend.to_device(inside)
        for flags in groupdq[group : group + n_later + 1]:
            part = flags[rows, columns]
            inside = inside & ((part & SATURATED) == 0)
            part |= inside * part.dtype.type(JUMP_DET)


def _find_runs(where, nx):
    """Join neighbours in a row: return row, first and last column of each run, of sorted indices of pixels."""
    row = where // nx
    breaks = (where[1:] != where[:-1] + 1) | (row[1:] != row[:-1])
    starts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    ends = np.concatenate([starts[1:], [len(where)]]) - 1
    row = row[starts]
    return row, where[starts] - row * nx, where[ends] - row * nx


def _label_runs(row, first, last, nx):
    """Number the connected regions of runs: the number of each run's region, in the order of their first runs."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    # in wider rows, the end of a row does not touch the beginning of the next one
    width = nx + 2
    start, end = row * width + first, row * width + last
    # runs in the next row that touch this one, corners included
    lowest = np.searchsorted(end, start + width - 1)
    counts = np.searchsorted(start, end + width + 1, side="right") - lowest
    offsets = np.concatenate([[0], np.cumsum(counts)])
    touching = np.arange(offsets[-1]) + np.repeat(lowest - offsets[:-1], counts)
    links = csr_array((np.ones(len(touching), np.int8), touching, offsets), shape=(len(row), len(row)))
    return connected_components(links, directed=False)[1]


def _select(runs, labels, chosen):
    """Make `Regions` of the chosen labels, ``chosen`` being a bool array; None if there are none."""
    is_chosen = chosen[labels]
    labels = labels[is_chosen]
    if not len(labels):
        return None
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    ends = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1, [len(labels)]])
    return Regions([values[is_chosen][order] for values in runs], ends)


def _filled_area(image):
    """Return the number of pixels of a region with its holes filled."""
    from scipy.ndimage import binary_fill_holes

    return np.count_nonzero(binary_fill_holes(image, np.ones((3, 3))))


@lru_cache(_MOST_REMEMBERED)
def _measure_bytes(content, shape):
    return _measure(np.frombuffer(content, bool).reshape(shape))


def _measure(image):
    """Return the axes and the angle of a region: the lengths less one pixel, and degrees.

    Notes
    -----
    Source: ``regionprops`` of scikit-image 0.26: ``axis_minor_length``, ``axis_major_length`` and ``orientation``. The
    sums are those of scikit-image, because in symmetric regions the angle depends on their rounding.
    """
    pixels = image.astype(np.float64)
    orders = np.arange(4, dtype=np.float64)
    y, x = (np.arange(size, dtype=np.float64) for size in image.shape)
    area = pixels.sum()
    y, x = (y - (pixels.sum(axis=1) * y).sum() / area), (x - (pixels.sum(axis=0) * x).sum() / area)
    moments = np.einsum(pixels, [2, 1], y[:, np.newaxis] ** orders, [2, 3], [3, 1], optimize="greedy")
    moments = np.einsum(moments, [0, 2], x[:, np.newaxis] ** orders, [2, 3], [0, 3], optimize="greedy")
    both = moments[2, 0] + moments[0, 2]
    a, b, c = (both - moments[2, 0]) / area, -moments[1, 1] / area, (both - moments[0, 2]) / area
    small, large = np.clip(np.linalg.eigvalsh([[a, b], [b, c]]), 0, None)
    orientation = 0.5 * math.atan2(-2 * b, c - a)
    if a == c:
        orientation = math.pi / 4 if b < 0 else -math.pi / 4
    return 4 * math.sqrt(small) - 1, 4 * math.sqrt(large) - 1, float(np.degrees(orientation))
