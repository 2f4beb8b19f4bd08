"""The ring over which ratios are averaged in the search for showers."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

#: Bound of the rounding of a transform in float32, as a fraction of the root of the sum of squares: ten times the
#: largest one that was found for noise, single bright pixels, steps and patterns.
TRANSFORM_ERROR = 6e-7
#: Bound of the rounding of the difference of two running sums in float64, as a fraction of the sum of a row.
SUM_ERROR = 1e-13


@dataclass(frozen=True, eq=False)
class Ring:
    """A normalized ring of pixels.

    Attributes
    ----------
    kernel : (n, n) float64
        The weight of each pixel, with an odd ``n``; their sum is 1, or 0 without any pixel.
    """

    kernel: np.ndarray

    @property
    def reach(self):
        """The number of rows or columns on each side of the middle."""
        return len(self.kernel) // 2

    @cached_property
    def n_pixels(self):
        """The number of pixels of the ring."""
        return int(np.count_nonzero(self.kernel))

    @cached_property
    def runs(self):
        """Neighbouring pixels of the ring, as (row, first column, column after the last)."""
        runs = []
        for row, weights in enumerate(self.kernel):
            edges = np.flatnonzero(np.diff(np.concatenate([[False], weights > 0, [False]])))
            runs += [(row, int(first), int(after)) for first, after in edges.reshape(-1, 2)]
        return runs

    def block(self, length):
        """Return the size, and the distance, of blocks along an axis in `scipy.signal.oaconvolve`.

        Parameters
        ----------
        length : int
            Length of the axis.

        Returns
        -------
        (int, int)
            A single block counts as one of the whole axis.
        """
        size = len(self.kernel)
        if size == 1 or length == 1 or 2 * size >= length:
            return length + size - 1, length
        block = _block_size(size)
        return (block, block - size + 1) if block < length else (length + size - 1, length)


@lru_cache(maxsize=8)
def make_ring(inner_radius, width):
    """Make the ring of the pixels whose centres are from ``inner_radius`` to ``inner_radius + width`` from the middle.

    Notes
    -----
    Source: astropy 8.0, ``Ring2DKernel``, with the same rounding.
    """
    inner, outer = np.float64(inner_radius), np.float64(inner_radius) + np.float64(width)
    reach = math.ceil(2 * outer) // 2
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    square = offsets**2 + offsets[:, np.newaxis] ** 2
    weight = 1.0 / (np.pi * (float(outer) ** 2 - float(inner) ** 2))
    kernel = np.where((square >= inner**2) & (square <= outer**2), weight, 0.0)
    total = kernel.sum()
    return Ring(kernel / total if total else kernel)


@lru_cache(maxsize=8)
def _block_size(size):
    """Return the size of the transforms in which scipy convolves a long axis with a kernel of this size."""
    from scipy.fft import next_fast_len
    from scipy.special import lambertw

    overlap = size - 1
    return next_fast_len(math.ceil(-overlap * lambertw(-1 / (2 * math.e * overlap), k=-1).real))


def ring_sums(xp, values, ring, outside):
    """Sum each pixel's surroundings over a ring.

    Parameters
    ----------
    xp : module
        Namespace of the array.
    values : (..., ny, nx) array
    ring : Ring
    outside : number
        Value of all pixels outside the image.

    Returns
    -------
    (..., ny, nx) array of the same dtype
    """
    reach, (ny, nx) = ring.reach, values.shape[-2:]
    padded = xp.full((*values.shape[:-2], ny + 2 * reach, nx + 2 * reach + 1), outside, values.dtype)
    # a sum up to a column does not include it
    padded[..., 0] = 0
    padded[..., reach : reach + ny, reach + 1 : reach + 1 + nx] = values
    xp.cumsum(padded, axis=-1, out=padded)
    sums = xp.zeros(values.shape, values.dtype)
    for row, first, after in ring.runs:
        rows = padded[..., row : row + ny, :]
        sums += rows[..., after : after + nx]
        sums -= rows[..., first : first + nx]
    return sums


def sums_margin(ratio, ring):
    """Return how far rounding can move a ring sum of stcal's, which are convolutions by transforms in float32.

    Parameters
    ----------
    ratio : (ny, nx) float32
        Finite values.
    ring : Ring

    Returns
    -------
    (ny, nx) float64

    Notes
    -----
    By Parseval's and Schwarz's inequalities, the error of a convolution with a kernel of unit sum and ``n`` equal
    weights is at most that of the transform, as a root of a sum of squares, over the root of ``n``; a ring sum is ``n``
    times as large. A pixel depends on its block of the transforms, and where they overlap also on the previous one.
    """
    steps = [ring.block(length)[1] for length in ratio.shape]
    square = ratio.astype(np.float64) ** 2
    for axis, step in enumerate(steps):
        square = np.add.reduceat(square, np.arange(0, ratio.shape[axis], step), axis=axis)
    around = np.pad(np.sqrt(square), 1)
    for axis, step in enumerate(steps):
        # a pixel's place in the whole convolution, which starts before the image
        place = np.arange(ratio.shape[axis]) + ring.reach
        block = np.minimum(place // step, around.shape[axis] - 2)
        overlaps = np.expand_dims(place - block * step < 2 * ring.reach, 1 - axis)
        around = np.take(around, block + 1, axis) + np.where(overlaps, np.take(around, block, axis), 0)
    margin = TRANSFORM_ERROR * np.sqrt(ring.n_pixels) * around
    return margin + SUM_ERROR * np.abs(ratio).sum(axis=1, dtype=np.float64).max()
