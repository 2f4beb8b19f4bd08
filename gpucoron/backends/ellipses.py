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
#: Regions whose box has at most as many pixels, and ellipses that reach at most as far, are remembered: small hits look
#: alike.
_SMALL_BOX, _SMALL_MARGIN, _MOST_REMEMBERED = 256, 16, 4096
#: More runs of pixels than these are drawn together.
_MANY_RUNS = 50
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
        area = np.add.reduceat(length, starts, dtype=np.int64)
        self.x = np.add.reduceat((first + last) * length // 2, starts, dtype=np.int64) / area
        self.y = np.add.reduceat(row * length, starts, dtype=np.int64) / area
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
        row, first, last = (values[self._ends[index] : self._ends[index + 1]] for values in self._runs)
        row, first, end = row - self._bottom[index], first - self._left[index], last + 1 - self._left[index]
        if len(row) > _MANY_RUNS:
            changes = np.zeros((image.shape[0], image.shape[1] + 1), np.int8)
            changes[row, first], changes[row, end] = 1, -1
            np.cumsum(changes[:, :-1], axis=1, dtype=np.int8, out=image.view(np.int8))
            return image
        for number, start, stop in zip(row.tolist(), first.tolist(), end.tolist(), strict=True):
            image[number, start:stop] = True
        return image

    def ellipse(self, index):
        """Return the `Ellipse` of a region."""
        image = self.image(index)
        is_small = image.size <= _SMALL_BOX
        shape = _measure_bytes(image.tobytes(), image.shape) if is_small else _measure(image)
        return Ellipse(float(self.x[index]), float(self.y[index]), *shape)

    def ellipses(self):
        """Return the list of all ellipses."""
        return [self.ellipse(index) for index in range(len(self))]

    def of_area(self, min_area):
        """Return which regions, with their holes filled, have an area of ``min_area`` or more: (n,) bool."""
        is_large = ~(self._area < min_area)
        height, width = self._shapes
        # a hole divides a row
        may_have_hole = (np.diff(self._ends) > height) & (height * width >= min_area)
        for index in np.flatnonzero(~is_large & may_have_hole):
            is_large[index] = _filled_area(self.image(index)) >= min_area
        return is_large


#: what is found in an empty mask, as it is in most groups
_NO_REGIONS = Regions(3 * [np.zeros(0, int)], np.zeros(1, int))


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
    Regions

    Notes
    -----
    Source: ``label`` and ``regionprops`` of scikit-image 0.26, and stcal 1.20, ``_sk_filter_areas``. Runs of pixels in
    a row are joined to regions.
    """
    # 32 bits are enough for pixels of an image, but not for sums over them
    where = backend.to_host(backend.xp.flatnonzero(mask != 0).astype(np.int32))
    if not len(where) or len(where) < min(min_area, _LEAST_WITH_HOLE):
        return _NO_REGIONS
    runs = _find_runs(where, mask.shape[1])
    labels = _label_runs(*runs, mask.shape[1])
    row, first, last = runs
    area = np.bincount(labels, last - first + 1)
    # only regions with a hole are larger than their pixels
    candidates = ~(area < min_area) | (area >= _LEAST_WITH_HOLE)
    regions = _select(runs, labels, candidates)
    is_large = regions.of_area(min_area)
    if is_large.all():
        return regions
    candidates[candidates] = is_large
    return _select(runs, labels, candidates)


def find_ellipses(mask, min_area, *, backend):
    """Find connected regions; return the list of their ellipses. Arguments as for `find_regions`."""
    return find_regions(mask, min_area, backend=backend).ellipses()


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
        Its pixels inside the ellipse; read-only.

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
    size = np.minimum(centre + margin + 1, shape) - corner
    # in pixels of this part of the image, as in stcal, so that all sums are rounded equally
    draw = _draw_again if margin <= _SMALL_MARGIN else _draw
    low, high, inside = draw(*semi, *(centre - corner).tolist(), *size.tolist(), angle)
    rows, columns = map(slice, (corner + low).tolist(), (corner + high).tolist())
    return rows, columns, inside


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


def _draw(height, width, y, x, ny, nx, angle):
    """Draw an ellipse in an image of (ny, nx) pixels.

    Parameters
    ----------
    height, width : int, pixels
        Semi-axes, before the rotation by ``angle`` in degrees.
    y, x : int, pixels
        Centre.

    Returns
    -------
    low, high : (2,) int array
        First row and column of a part of the image, and those after the last ones.
    inside : bool array
        The pixels of this part inside the ellipse; read-only.
    """
    # as in scikit-image, modulo pi twice: an angle just below zero first becomes pi
    rotation = np.radians(angle) % np.pi
    sine, cosine = np.sin(rotation), np.cos(rotation)
    centre = np.array([y, x])
    reach = np.array([abs(height * cosine) + width * sine, height * sine + abs(width * cosine)])
    low = np.maximum(np.ceil(centre - reach).astype(int), 0)
    high = np.maximum(np.minimum(np.floor(centre + reach).astype(int) + 1, (ny, nx)), low)
    rotation %= np.pi
    sine, cosine = np.sin(rotation), np.cos(rotation)
    row, column = (
        np.arange(size, dtype=np.float64) - start for size, start in zip(high - low, centre - low, strict=True)
    )
    row = row[:, np.newaxis]
    across, along = (row * cosine + column * sine) / height, (row * sine - column * cosine) / width
    inside = across**2 + along**2 < 1
    inside.flags.writeable = False
    return low, high, inside


_draw_again = lru_cache(_MOST_REMEMBERED)(_draw)


def _find_runs(where, nx):
    """Join neighbours in a row: return row, first and last column of each run, of sorted indices of pixels."""
    row = where // nx
    ends = np.append(np.flatnonzero((where[1:] != where[:-1] + 1) | (row[1:] != row[:-1])), len(where) - 1)
    starts = np.append(0, ends[:-1] + 1)
    row = row[starts]
    return row, where[starts] - row * nx, where[ends] - row * nx


def _label_runs(row, first, last, nx):
    """Number the connected regions of runs: the number of each run's region, in the order of their first runs."""
    # in wider rows, the end of a row does not touch the beginning of the next one
    width = nx + 2
    start, end = row * width + first, row * width + last
    # runs in the next row that touch this one, corners included
    lowest = np.searchsorted(end, start + width - 1)
    counts = np.searchsorted(start, end + width + 1, side="right") - lowest
    total = np.cumsum(counts)
    one = np.repeat(np.arange(len(row)), counts)
    other = np.arange(len(one)) + np.repeat(lowest - total + counts, counts)
    # each region is a tree whose root is its first run: join the roots of runs that touch until none differ
    root = np.arange(len(row))
    while True:
        roots = root[one], root[other]
        differ = roots[0] != roots[1]
        if not differ.any():
            break
        one, other = one[differ], other[differ]
        np.minimum.at(root, np.maximum(*roots)[differ], np.minimum(*roots)[differ])
        while ((above := root[root]) != root).any():
            root = above
    return (np.cumsum(root == np.arange(len(row))) - 1)[root]


def _select(runs, labels, chosen):
    """Make `Regions` of the chosen labels, ``chosen`` being a bool array."""
    is_chosen = chosen[labels]
    labels = labels[is_chosen]
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    is_last = np.append(labels[1:] != labels[:-1], True)[: len(labels)]
    ends = np.append(0, np.flatnonzero(is_last) + 1)
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
