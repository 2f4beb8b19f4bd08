"""Kriging: 1/f noise from noisy samples of it and its power spectrum, where no scene is mixed with it.

Of all linear estimates, N = C (C + V)^-1 y has the smallest error, with the covariances C of the 1/f noise, which is
diagonal in the frequencies of a series, and V of all other noise, which is diagonal in its samples. It is solved as
(1 + B^T W B) z = B^T W y, N = B z, with W = V^-1 and B B^T = C, in which samples without a value have weight 0.
"""

import numpy as np

from gpucoron.backends.operations.subtract_1overf.iterations import (
    BETWEEN,
    MOST,
    NoiseSystem,
    has_kernels,
    solve_by_kernels,
)

#: stop at r^T M^-1 r of this fraction of the number of pixels; it bounds the error of N relative to its uncertainty
TOLERANCE = 1e-4


def conjugate_gradients(apply, right, precondition, limit, *, start=None):
    """Solve symmetric positive definite systems at the same time on the host, each with its own steps.

    Parameters
    ----------
    apply : callable
        ``apply(x)`` returns the products of the matrices with ``x``.
    right : (..., n) float32
        Right-hand sides.
    precondition : callable
        ``precondition(r)`` returns the products of approximate inverses M^-1.
    limit : float
        Stop when r^T M^-1 r of the remainders r is below; an absolute limit.
    start : (..., n) float32, optional
        The first guess of the solutions.

    Returns
    -------
    (..., n) float32

    Notes
    -----
    Source: Hestenes and Stiefel (1952, J. Res. Natl. Bur. Stand. 49, 409).
    """

    def dot(a, b):
        return (a * b).sum(axis=-1, dtype=np.float64)

    x = np.zeros_like(right) if start is None else start.copy()
    r = right.copy() if start is None else right - apply(start)
    z = precondition(r)
    p, remainder = z.copy(), dot(r, z)
    for iteration in range(MOST):
        if iteration % BETWEEN == 0 and not bool((remainder > limit).any()):
            break
        q = apply(p)
        curvature = dot(p, q)
        # a system that is solved takes no more steps
        going = (remainder > limit) & (curvature > 0)
        step = np.where(going, remainder / np.where(going, curvature, 1), 0).astype(np.float32)[..., None]
        x += step * p
        r -= step * q
        z = precondition(r)
        new = dot(r, z)
        ratio = np.where(going, new / np.where(going, remainder, 1), 0).astype(np.float32)[..., None]
        p *= ratio
        p += z
        remainder = new
    return x


class Sources:
    """White noise z and the 1/f noise B z that is made of it: one for all outputs, and one for each of several.

    z are the amplitudes of the frequencies of a series, real and imaginary parts in turn, in a basis of norm 1. There,
    C is diagonal, so that one transform makes the noise of z.

    Parameters
    ----------
    powers : sequence of (n // 2 + 1,) float64
        Power of the samples: of the noise common to all outputs, and, for several outputs, of that of each.
    readout : Readout
    device : Device

    Attributes
    ----------
    n : int
        Number of series z.
    length : int
        Amplitudes of a series.
    """

    def __init__(self, powers, readout, device):
        self.readout, self.xp, self._fft = readout, device.xp, device.fft
        self.has_own = readout.noutputs > 1
        roots = [np.sqrt(powers[0])]
        if self.has_own:
            roots += [np.sqrt(powers[1])] * readout.noutputs
        roots = np.array(roots)
        self.n, self.length = len(roots), 2 * roots.shape[1]
        # two real amplitudes share the variance of a frequency; the first and, for an even length, the last are real
        norms = np.full(roots.shape[1], np.sqrt(readout.n / 2))
        norms[0] = np.sqrt(readout.n)
        if readout.n % 2 == 0:
            norms[-1] = np.sqrt(readout.n)
        self.to_series = device.to_device((roots * norms).astype(np.float32))
        self.from_series = device.to_device((roots / norms).astype(np.float32))
        self._powers = device.to_device((roots**2).astype(np.float32))

    def noise(self, z):
        """Return B z, the series of all outputs (..., noutputs, n), from white noise (..., self.n, self.length)."""
        parts = self.make(self.scale(z))
        return parts[..., :1, :] + parts[..., 1:, :] if self.has_own else parts

    def white(self, series):
        """Return B^T of series (..., noutputs, n)."""
        if self.has_own:
            series = self.xp.concatenate([series.sum(axis=-2, keepdims=True), series], axis=-2)
        amplitudes = self._fft.rfft(series, axis=-1)
        amplitudes *= self.from_series
        return amplitudes.view(np.float32)

    def scale(self, z):
        """Return the amplitudes of series (..., self.n, self.length) from white noise."""
        return (z.view(np.complex64) * self.to_series).view(np.float32)

    def make(self, amplitudes):
        """Return the series of amplitudes, (..., self.n, n)."""
        return self._fft.irfft(amplitudes.view(np.complex64), self.readout.n, axis=-1)

    def transform(self, series):
        """Return the amplitudes of series (..., self.n, n)."""
        return self._fft.rfft(series, axis=-1).view(np.float32)

    def response(self, weights):
        """Return 1 / (1 + C w), for the mean weight of the samples, (..., self.n, self.length): a preconditioner.

        Parameters
        ----------
        weights : (..., noutputs, n) float32
        """
        mean = weights.mean(axis=-1, keepdims=True)
        if self.has_own:
            mean = self.xp.concatenate([mean.sum(axis=-2, keepdims=True), mean], axis=-2)
        return self.xp.repeat(1 / (1 + self._powers * mean), 2, axis=-1)


def krige(values, weights, powers, readout, device):
    """Estimate the 1/f noise of images without a scene.

    Parameters
    ----------
    values : (..., ny, nx) float32
        Finite, with mean 0, in the order of readout.
    weights : (..., ny, nx) float32
        Inverse variances without 1/f noise; 0 where the value is unknown.
    powers : sequence of (n // 2 + 1,) float64
        See `Sources`.
    readout : Readout
    device : Device

    Returns
    -------
    (..., ny, nx) float32
    """
    xp = device.xp
    sources = Sources(powers, readout, device)
    weight = readout.gather(weights, xp)
    right = sources.white(readout.gather(weights * values, xp))
    shape = right.shape
    flat = (*shape[:-2], shape[-2] * shape[-1])
    response = sources.response(weight)
    limit = TOLERANCE * values.shape[-1] * values.shape[-2]

    if has_kernels(device):
        system = NoiseSystem(sources, weight, response, device)
        z = solve_by_kernels(system, right.reshape(flat), (right * response).reshape(flat), limit)
        return readout.interpolate(sources.noise(z.reshape(shape)), xp)

    def apply(z):
        white = z.reshape(shape)
        return z + sources.white(weight * sources.noise(white)).reshape(flat)

    z = conjugate_gradients(
        apply,
        right.reshape(flat),
        lambda r: (r.reshape(shape) * response).reshape(flat),
        limit,
    )
    return readout.interpolate(sources.noise(z.reshape(shape)), xp)


def row_means(values, weights, xp):
    """Estimate one value for each row: its weighted mean without the lowest and highest 2 %.

    Parameters
    ----------
    values, weights : (..., ny, nx) float32
        As for `krige`; ``nx`` pixels of one output.

    Returns
    -------
    (..., ny, 1) float32
        0 in rows without a known value.
    """
    known = weights > 0
    count = known.sum(axis=-1, keepdims=True)
    ordered = xp.sort(xp.where(known, values, np.float32(np.inf)), axis=-1)
    cut = (CLIPPED * count).astype(int)
    lowest = xp.take_along_axis(ordered, cut, axis=-1)
    highest = xp.take_along_axis(ordered, xp.maximum(count - 1 - cut, 0), axis=-1)
    weights = xp.where((values >= lowest) & (values <= highest), weights, 0)
    total = weights.sum(axis=-1, keepdims=True)
    return (weights * values).sum(axis=-1, keepdims=True) / xp.where(total > 0, total, 1)


def means_of_rows(values, weights, noutputs, xp):
    """Return images (..., ny, nx) of `row_means`, those of each output by itself."""
    parts = (*values.shape[:-1], noutputs, values.shape[-1] // noutputs)
    means = row_means(values.reshape(parts), weights.reshape(parts), xp)
    return xp.ascontiguousarray(xp.broadcast_to(means, parts).reshape(values.shape))


#: fraction of the pixels of a row that is left out at each end
CLIPPED = 0.02
