"""Kriging by kernels: conjugate gradients, and sums over rings and bands. The bits are those of NumPy."""

import numpy as np

from gpucoron.backends.devices.launch import geometry

#: iterations between two looks at the remainder, and largest number of iterations
BETWEEN, MOST = 4, 400
#: threads of a block that sum rows: few, so that they work on many multiprocessors
_ROWS_OF_BLOCK = 32


def has_kernels(device):
    """Return whether a device runs kernels."""
    return hasattr(device, "launch")


def solve_by_kernels(system, right, z, limit, *, start=None, rest=None):
    """Solve as `conjugate_gradients`, with few operations in each iteration.

    Parameters
    ----------
    system
        With ``device``, ``sources`` (`Sources`), ``factors``, flat, of all values that are preconditioned alone, and
        ``n_knots``, the number of the others; ``multiply(amplitudes, direction, product)`` returns the transformed
        series and the sums over rings, or None, of a product of the matrix with a direction, and sets its values in
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


def sum_rings(device, images, ring, n_rings):
    """Return the sums of images over the pixels of each ring in each row.

    Parameters
    ----------
    device : Device
    images : (n, ny, nx) float32
    ring : (ny, nx) int32
    n_rings : int

    Returns
    -------
    (n, ny, n_rings) float64
    """
    n, ny, nx = images.shape
    sums = device.xp.empty((n, ny, n_rings), np.float64)
    values = {"images": images, "ring": ring, "sums": sums, "n_images": n, "ny": ny, "nx": nx, "n_rings": n_rings}
    device.launch("sum_rings", *geometry(ny, _ROWS_OF_BLOCK, n), values)
    return sums


def sum_bands(device, values, starts):
    """Return the sums of values (n, n_values) float64 over bands between ``starts``, (n, n_bands) float64."""
    sums = device.xp.empty((len(values), len(starts) - 1), np.float64)
    arguments = {"values": device.xp.ascontiguousarray(values), "starts": starts, "sums": sums}
    arguments |= {"n_series": len(values), "n_values": values.shape[1], "n_bands": sums.shape[1]}
    device.launch("sum_bands", *geometry(sums.shape[1], device.block_threads, len(values)), arguments)
    return sums


def spread_rings(device, radius, middles, values, counts, fewest):
    """Interpolate values of rings to the radii of pixels.

    Parameters
    ----------
    device : Device
    radius : (ny, nx) float32
    middles : (n_rings,) float64
    values, counts : (n_rings,)
    fewest : int
        Pixels that a ring must have.

    Returns
    -------
    (ny, nx) float32
    """
    spread = device.xp.empty(radius.shape, np.float32)
    arguments = {"radius": radius, "middles": middles, "values": values.astype(np.float64), "counts": counts}
    arguments |= {"spread": spread, "n_pixels": radius.size, "n_rings": len(middles), "fewest": fewest}
    device.launch("spread_rings", *geometry(radius.size, device.block_threads), arguments)
    return spread


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


class SlopeSystem:
    """The linear system of `slopes.krige_slopes`, of `slopes._System`."""

    def __init__(self, system, device):
        xp = device.xp
        self.sources, self.device, self._system = system.sources, device, system
        self.n_knots = system.rings.n
        self.factors = xp.concatenate([system.of_sources.reshape(-1), *system.of_blobs])
        image, readout = system.weights.shape, self.sources.readout
        self._sigmas = xp.stack(system.sigmas)
        self._fields, self._weighted = (xp.empty(self._sigmas.shape, np.float32) for _ in range(2))
        self._shares = xp.empty((2, *image), np.float32)
        self._series = xp.zeros((self.sources.n, readout.n), np.float32)
        self._values = {
            "fields": self._fields, "sigmas": self._sigmas, "ring": system.rings.ring, "share": system.rings.share,
            "sees": system.sees, "weights": system.weights, "weighted": self._weighted, "shares": self._shares,
            "series": self._series, "n_fields": len(system.blobs), "n_parts": self.sources.n, "n_samples": readout.n,
            "ny": image[0], "nx": image[1], "n_bins": readout.n_bins, "period": readout.period,
        }  # fmt: skip

    def multiply(self, amplitudes, direction, product):
        device, system = self.device, self._system
        of_blobs = list(zip(system.blobs, system.parts[1:-1], strict=True))
        for (blobs, part), field in zip(of_blobs, self._fields, strict=True):
            blobs.field(direction[part], out=field)
        values = {**self._values, "parts": self.sources.make(amplitudes), "profile": direction[system.parts[-1]]}
        device.launch("weigh_model", *geometry(values["ny"] * values["n_bins"], device.block_threads), values)
        for (blobs, part), image in zip(of_blobs, self._weighted, strict=True):
            blobs.project(image, out=product[part])
        sums = sum_rings(device, self._shares, system.rings.ring, self.n_knots)
        return self.sources.transform(self._series), sums

    def finish(self, rest, z, products):
        last = self._system.parts[-1]
        self.device.xp.matmul(self._system.of_profile, rest[last], out=z[last])
        self.device.xp.multiply(rest[last], z[last], out=products[last])
