"""Conjugate gradients by kernels, with the bits of `gpucoron.backends.operations.subtract_1overf.kriging`."""

import numpy as np

from gpucoron.backends.devices.launch import geometry

#: iterations between two looks at the remainder, and largest number of iterations
BETWEEN, MOST = 4, 400


def has_kernels(device):
    """Return whether a device runs kernels."""
    return hasattr(device, "launch")


def solve_by_kernels(system, right, z, limit, *, start=None, rest=None):
    """Solve as `conjugate_gradients`, with few operations in each iteration.

    Parameters
    ----------
    system
        With ``device``, ``sources`` (`Sources`), ``factors``, flat, of all values that are preconditioned alone, and
        ``n_knots``, the number of the others; ``multiply(amplitudes, direction, product)`` returns the transformed series
        and the sums over rings, or None, of a product of the matrix with a direction, and sets its values in
        between; ``finish(rest, z, products)`` preconditions the last ones.
    right : (..., n) float32
    z : (..., n) float32
        The preconditioned remainders of the first guess.
    limit : float
    start, rest : (..., n) float32, optional
        The first guess, and its remainders; by default zeros, and the right-hand sides. Changed in place.

    Returns
    -------
    (..., n) float32
    """
    device, sources, xp = system.device, system.sources, system.device.xp
    size = right.shape[-1]
    n_systems, n_amplitudes = right.size // size, sources.n * sources.length
    solution = xp.zeros_like(right) if start is None else start
    rest = right.copy() if rest is None else rest
    direction, product, products = z.copy(), xp.empty_like(right), xp.multiply(rest, z)
    amplitudes = sources.scale(direction[..., :n_amplitudes].reshape(*right.shape[:-1], sources.n, sources.length))

    def total():
        return products.sum(axis=-1, dtype=np.float64, keepdims=True)

    over_values = geometry(size, device.block_threads, n_systems)
    sizes = {"n_systems": n_systems, "size": size}
    tables = {"from_series": sources.from_series, "n_amplitudes": n_amplitudes, "products": products}
    tables |= {"product": product, "direction": direction, "n_knots": system.n_knots, "ny": sources.readout.ny}
    step = {"direction": direction, "product": product, "factors": system.factors, "solution": solution, "rest": rest}
    step |= {"z": z, "products": products, "n_factors": size - system.n_knots, "limit": limit, **sizes}
    turn = {"z": z, "to_series": sources.to_series, "direction": direction, "amplitudes": amplitudes, "limit": limit}
    turn |= {"n_amplitudes": n_amplitudes, **sizes}
    remainders = total()
    for iteration in range(MOST):
        if iteration % BETWEEN == 0 and not bool((remainders > limit).any()):
            break
        white, sums = system.multiply(amplitudes, direction, product)
        device.launch("finish_product", *over_values, {**tables, **sizes, "white": white, "sums": sums})
        known = {"remainders": remainders, "curvatures": total()}
        device.launch("step_solution", *over_values, {**step, **known})
        system.finish(rest, z, products)
        new = total()
        device.launch("turn_direction", *over_values, {**turn, **known, "new_remainders": new})
        remainders = new
    return solution


class NoiseSystem:
    """The linear systems of `kriging.krige`: (1 + B^T W B) z.

    Parameters
    ----------
    sources : Sources
    weights : (..., noutputs, n) float32
    response : (..., sources.n, sources.length) float32
        See `Sources.response`.
    device : Device
    """

    n_knots = 0

    def __init__(self, sources, weights, response, device):
        self.sources, self.device, self._weights = sources, device, weights
        self.factors = device.xp.ascontiguousarray(response)
        self._series = device.xp.empty((*weights.shape[:-2], sources.n, weights.shape[-1]), np.float32)

    def multiply(self, amplitudes, direction, product):
        device, n_samples = self.device, self._series.shape[-1]
        n_systems = self._series.size // (self.sources.n * n_samples)
        values = {"parts": self.sources.make(amplitudes), "weights": self._weights, "series": self._series}
        values |= {"n_systems": n_systems, "n_parts": self.sources.n, "n_samples": n_samples}
        device.launch("weigh_noise", *geometry(n_samples, device.block_threads, n_systems), values)
        return self.sources.transform(self._series), None

    def finish(self, rest, z, products):
        """Do nothing: all values have factors."""
