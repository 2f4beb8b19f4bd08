"""Ramps to linearize."""

import numpy as np

from gpucoron.dq import SATURATED


def linearity_case(rng, n_coeffs, shape=(3, 6, 5, 37)):
    """Make ramps, flags, coefficients and inverse coefficients: NaN, saturation anywhere, all groups saturated."""
    data = (np.arange(1, shape[1] + 1)[:, None, None] * rng.gamma(1, 3000, (shape[0], 1, *shape[2:]))).astype(
        np.float32
    )
    data[rng.random(shape) < 0.02] = np.nan
    since = rng.integers(0, 2 * shape[1], (shape[0], 1, *shape[2:]))
    groupdq = np.where(np.arange(shape[1])[:, None, None] >= since, SATURATED, 0).astype(np.uint8)
    groupdq[rng.random(shape) < 0.05] ^= SATURATED
    groupdq |= rng.choice([0, 1, 4, 64], size=shape).astype(np.uint8)
    coeffs = rng.normal(1, 0.2, (n_coeffs, *shape[2:])) * (10.0 ** -(5 * np.arange(n_coeffs)))[:, None, None]
    coeffs[1] = rng.normal(1, 0.01, shape[2:])
    inverse = coeffs.copy()
    inverse[2:] *= -1
    return data, groupdq, coeffs.astype(np.float32), inverse.astype(np.float32)
