"""Savitzky-Golay smoothing of a line with holes; leaving out more samples later is fast.

The value at each sample is that of a cubic fit to a window around it: a product of the window with a vector. A block of
neighbouring outputs is a small matrix product, with the same matrix for all blocks. The samples are rounded to integers
of a small unit, and the weights are integers over a common number, so that all sums are exact: the kernel in
`kernels/cpu/subtract_1overf_frames.cpp` computes them in another way, with the same bits.
"""

import math
from functools import lru_cache

import numpy as np

ORDER = 3
#: Window of the smoothing at the sides of holes.
BRIDGE = 33
#: Samples of a piece; holes are bridged again in whole pieces.
_PIECE = 80
#: Outputs of a block.
_BLOCK = 32
#: Multiplications of one product: the block stays in the cache, and BLAS uses one thread even where nothing limits it.
_FEW = 2**18
#: Most bits of the largest good sample as an integer, and of a sum: bridges may be larger than all good samples.
_SAMPLE_BITS, _SUM_BITS = 26, 50


@lru_cache(32)
def cubics(window):
    """Return orthonormal cubics at the samples of a window, (window, 4) float64; fewer columns for short windows."""
    q, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, window), ORDER + 1))
    return q


@lru_cache(32)
def projection(window):
    """Return the matrix (window, window) of a cubic fit to a window's samples; row i is for the value at sample i."""
    return cubics(window) @ cubics(window).T


@lru_cache(32)
def bridge_weights(window):
    """Return the rows of `projection`, (window, 33) float32: after the window they are 0."""
    weights = np.zeros((window, BRIDGE), np.float32)
    weights[:, :window] = projection(window)
    return weights


def centre_weights(window):
    """Return the middle row of `projection` as integers (window,), and the number by which to multiply them."""
    half = window // 2
    steps = np.arange(-half, half + 1)
    norm = (2 * half - 1) * (2 * half + 1) * (2 * half + 3)
    return 3 * half**2 + 3 * half - 1 - 5 * steps**2, 3 / norm


@lru_cache(32)
def bits_of_samples(window):
    """Return the bits of the largest good sample as an integer, with which sums are exact."""
    weights, _ = centre_weights(window)
    return min(_SAMPLE_BITS, _SUM_BITS - math.frexp(np.abs(weights).sum())[1])


@lru_cache(32)
def _block_matrix(window):
    """Return the matrix (block + window - 1, block) that maps the samples of a block with margins to its outputs."""
    weights, _ = centre_weights(window)
    matrix = np.zeros((_BLOCK + window - 1, _BLOCK))
    for j in range(_BLOCK):
        matrix[j : j + window, j] = weights
    return matrix


def odd_window(window, length):
    """Return a window for lines of ``length``: odd, and at least five samples if the line is long enough."""
    window = min(max(window, ORDER + 2), length)
    return window if window % 2 else window - 1


def _windows(samples, window):
    """Return a view of all windows of a line, (n - window + 1, window); NumPy's function for this is slower to call."""
    step = samples.strides[0]
    return np.ndarray((len(samples) - window + 1, window), samples.dtype, samples, strides=(step, step))


def _multiply(rows, matrix):
    """Multiply rows (n, k) by a matrix (k, j), a few rows at a time."""
    (n, k), j = rows.shape, matrix.shape[1]
    few = max(1, _FEW // matrix.size)
    stacks = n // few
    whole = stacks * few
    products = np.empty((n, j))
    np.matmul(rows[:whole].reshape(stacks, few, k), matrix, out=products[:whole].reshape(stacks, few, j))
    np.matmul(rows[whole:], matrix, out=products[whole:])
    return products


def bridge_holes(samples, good):
    """Fill each hole with a straight line between the good samples at its sides.

    The line connects values of cubic fits to 33 good neighbours, as if there were no holes. Beyond the outermost
    good samples the line is constant.

    Parameters
    ----------
    samples : (n,) float32
        Any value, including NaN, where not good.
    good : (n,) bool

    Returns
    -------
    (n,) float32
        0 if no sample is good.
    """
    n = len(samples)
    filled = samples.copy()
    holes = (~good).nonzero()[0]
    if not len(holes):
        return filled
    n_kept = n - len(holes)
    if not n_kept:
        filled[:] = 0
        return filled
    # Holes with the same number of good samples before them are in the same run.
    before = holes - np.arange(len(holes))
    is_last = np.ones(len(holes), bool)
    np.not_equal(before[1:], before[:-1], out=is_last[:-1])
    ends = is_last.nonzero()[0]
    lengths = ends.copy()
    lengths[0] += 1
    lengths[1:] -= ends[:-1]
    last = holes[ends]
    first = last - lengths + 1
    before = before[ends]
    low, high = _smooth_sides(samples.compress(good), np.maximum(before - 1, 0), np.minimum(before, n_kept - 1))
    left, right = np.where(before > 0, first - 1, last + 1), np.where(before < n_kept, last + 1, first - 1)
    slope = (high - low) / np.maximum(right - left, 1)
    filled[holes] = low.repeat(lengths) + slope.repeat(lengths) * (holes - left.repeat(lengths))
    return filled


def _smooth_sides(samples, left, right):
    """Return the smooth values of the good samples at both sides of each run of holes: two (n_runs,) float64."""
    n, window = len(samples), odd_window(BRIDGE, len(samples))
    index = np.concatenate([left, right])
    if window < ORDER + 2:
        return samples[index].astype(np.float64).reshape(2, -1)
    half, weights = window // 2, bridge_weights(window)
    if n < 2 * BRIDGE:
        samples = np.concatenate([samples, np.zeros(BRIDGE, np.float32)])
    start = np.minimum(np.maximum(index - half, 0), n - window)
    products = np.ascontiguousarray(_windows(samples, BRIDGE)[start].T)
    # Near the ends the window cannot be centred.
    ends = (index - start != half).nonzero()[0]
    of_ends = products[:, ends] * weights[(index - start)[ends]].T
    products *= weights[half][:, None]
    products[:, ends] = of_ends
    pairs = products[:-1]
    while len(pairs) > 1:
        pairs = pairs[: len(pairs) // 2] + pairs[len(pairs) // 2 :]
    return (pairs[0] + products[-1]).astype(np.float64).reshape(2, -1)


def unit_of(largest, window):
    """Return the unit of samples of up to this size: a power of two."""
    return math.ldexp(1.0, math.frexp(largest)[1] - bits_of_samples(window))


def round_to(unit, samples):
    """Return samples in a unit, rounded to integers, float64."""
    return np.rint(np.multiply(samples, 1 / unit, dtype=np.float64))


def smooth_end(samples, window, rows):
    """Return the values of the cubics in an end window, (rows, ...) float64, where windows cannot be centred.

    Parameters
    ----------
    samples : (window, ...) float32
    window : int
    rows : slice
        The samples to which the values belong.
    """
    # Running sums, because those of NumPy's other functions have no fixed order. They start with a positive zero.
    terms = cubics(window)
    if samples.ndim == 1:
        amplitudes = np.cumsum(samples[:, None] * terms, axis=0)[-1] + 0.0
        return np.cumsum(terms[rows] * amplitudes, axis=1)[:, -1] + 0.0
    values = 0.0
    for term in terms.T:
        amplitude = np.cumsum(samples * term[:, None], axis=0)[-1] + 0.0
        values = values + term[rows, None] * amplitude
    return values


def smooth_columns(image, window):
    """Smooth the columns of an image (ny, nx) without holes by cubics in a window."""
    ny, half = len(image), window // 2
    unit = unit_of(float(np.abs(image).max()), window)
    integers, (_, factor) = round_to(unit, image), centre_weights(window)
    smooth = np.empty(image.shape, np.float32)
    matrix = _block_matrix(window).T
    for start in range(0, ny - 2 * half, _BLOCK):
        n = min(_BLOCK, ny - 2 * half - start)
        sums = matrix[:n, : n + 2 * half] @ integers[start : start + n + 2 * half]
        sums *= factor * unit
        smooth[half + start : half + start + n] = sums
    smooth[:half] = smooth_end(image[:window], window, slice(0, half))
    smooth[ny - half :] = smooth_end(image[ny - window :], window, slice(half + 1, window))
    return smooth


class MaskedLine:
    """A smoothed line with bridged holes (`bridge_holes`); its ends have the values of the cubics in the end windows.

    Parameters
    ----------
    samples : (n,) float32
        Any value, including NaN, where not good.
    good : (n,) bool
    window : int
        Odd, at most n.

    Attributes
    ----------
    model : (n,) float32
        The smoothed line; 0 if no sample is good.

    Notes
    -----
    Source: Savitzky & Golay 1964, Analytical Chemistry 36, 1627; the ends as in SciPy's ``mode='interp'``.
    """

    def __init__(self, samples, good, window):
        n, half = len(samples), window // 2
        self._n, self._window = n, window
        self._unit = unit_of(float(np.abs(samples).max(initial=0, where=good)), window)
        # Padded to complete the last piece and the last block.
        self._n_blocks = -(-(n - 2 * half) // _BLOCK)
        room = max(-(-n // _PIECE) * _PIECE, self._n_blocks * _BLOCK + window - 1)
        room = -(-room // _PIECE) * _PIECE
        self._samples = np.zeros(room, np.float32)
        self._samples[:n] = samples
        self._good = np.zeros(room, bool)
        self._good[:n] = good
        self._filled = np.zeros(room, np.float32)
        self._filled[:n] = bridge_holes(samples, good)
        self._integers = round_to(self._unit, self._filled)
        self.model = np.empty(n, np.float32)
        self.model[half : n - half] = self._smooth(np.arange(self._n_blocks)).reshape(-1)[: n - 2 * half]
        self._smooth_ends()

    def leave_out(self, samples):
        """Leave out more samples, given by their indices, and update the model.

        Returns
        -------
        (m,) int
            Indices of the samples of the model that were computed again; they may repeat.
        """
        self._good[samples] = False
        changed = self._bridge_around(samples)
        half = self._window // 2
        # The blocks of outputs with a changed sample in their windows.
        first = np.maximum(changed - 2 * half, 0) // _BLOCK
        last = np.minimum(changed // _BLOCK, self._n_blocks - 1)
        runs = np.bincount(first, minlength=self._n_blocks + 1) - np.bincount(last + 1, minlength=self._n_blocks + 1)
        blocks = runs[:-1].cumsum().nonzero()[0]
        touched = (blocks[:, None] * _BLOCK + (half + np.arange(_BLOCK))).reshape(-1)
        touched = touched[: np.searchsorted(touched, self._n - half)]
        self.model[touched] = self._smooth(blocks).reshape(-1)[: len(touched)]
        if len(changed) and (changed[0] < self._window or changed[-1] >= self._n - self._window):
            touched = np.concatenate([touched, self._smooth_ends()])
        return touched

    def _bridge_around(self, samples):
        """Bridge the holes near some samples again; return the indices of the changed samples of the line."""
        n_pieces = len(self._good) // _PIECE
        touched = np.zeros(n_pieces, bool)
        touched[samples // _PIECE] = True
        core = _widen(touched)
        pieces = _widen(core)
        # Pieces with enough good samples between the changed ones make them independent; otherwise do all pieces.
        between = self._good.reshape(n_pieces, _PIECE)[pieces & ~touched]
        if len(between) and between.sum(axis=1, dtype=np.uint16).min() <= BRIDGE:
            core[:] = pieces[:] = True
        pieces = pieces.nonzero()[0]

        def take(line):
            return line.reshape(n_pieces, _PIECE)[pieces].reshape(-1)

        filled = bridge_holes(take(self._samples), take(self._good))
        different = filled != take(self._filled)
        at = (different & core[pieces].repeat(_PIECE)).nonzero()[0]
        where = pieces[at // _PIECE] * _PIECE + at % _PIECE
        inside = where < self._n
        where = where[inside]
        self._filled[where] = filled[at[inside]]
        self._integers[where] = round_to(self._unit, self._filled[where])
        return where

    def _smooth(self, blocks):
        """Return blocks of outputs, given by their numbers, (n_blocks, block) float32."""
        windows = _windows(self._integers, _BLOCK + self._window - 1)[blocks * _BLOCK]
        sums = _multiply(windows, _block_matrix(self._window))
        _, factor = centre_weights(self._window)
        sums *= factor * self._unit
        return sums.astype(np.float32)

    def _smooth_ends(self):
        """Compute the ends, where windows cannot be centred; return the indices of their samples."""
        n, window, half = self._n, self._window, self._window // 2
        self.model[:half] = smooth_end(self._filled[:window], window, slice(0, half))
        self.model[n - half :] = smooth_end(self._filled[n - window : n], window, slice(half + 1, window))
        return np.concatenate([np.arange(half), np.arange(n - half, n)])


def _widen(mask):
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    return wide
