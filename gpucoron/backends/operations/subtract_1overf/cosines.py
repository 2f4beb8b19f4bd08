"""A masked Fourier fit along rows: slow cosines through the background pixels, by least squares.

Based on NSClean (Rauscher 2024, PASP 136, 015001). The cosines are the Fourier series of the row and its mirror image,
so that the two ends of a row may differ.
"""

from functools import lru_cache

import numpy as np

#: Periods (pixels) down to which cosines are kept, and at which their weight reaches 0.
_KEPT, _GONE = 128, 64
#: Regularization of all terms but the mean, relative to a complete row: 1 % there, more in rows with few good pixels.
_PULL = 0.01


@lru_cache(8)
def cosine_tables(nx):
    """Return the cosines (nx, n_modes), their products (nx, n_modes^2), their weights in the model, and the pull."""
    n_modes = 1 + 2 * nx // _GONE
    phase = np.pi * (np.arange(nx) + 0.5) / nx
    modes = np.cos(phase[:, None] * np.arange(n_modes)) * np.sqrt(np.where(np.arange(n_modes) > 0, 2, 1))
    frequency = np.arange(n_modes) / (2 * nx)
    beyond = np.clip((frequency - 1 / _KEPT) / (1 / _GONE - 1 / _KEPT), 0, 1)
    share = (1 + np.cos(np.pi * beyond)) / 2
    pull = np.full(n_modes, _PULL * nx)
    pull[0] = 1e-6
    return modes, (modes[:, :, None] * modes[:, None, :]).reshape(nx, -1), share, np.diag(pull)


def fit_cosines(values, good, tables=None, *, xp=np):
    """Return a model of each row's noise at low frequencies.

    Parameters
    ----------
    values : (..., ny, nx) float32
        Any value, including NaN, where not good.
    good : (..., ny, nx) bool
    tables : tuple, optional
        `cosine_tables` on the device of the arrays.
    xp : module
        Namespace of the arrays.

    Returns
    -------
    (..., ny, nx) float32
        0 in rows without a good pixel.
    """
    modes, products, share, pull = cosine_tables(values.shape[-1]) if tables is None else tables
    normal = (good.astype(np.float64) @ products).reshape(*values.shape[:-1], *pull.shape)
    normal += pull
    right = xp.where(good, values, np.float32(0)).astype(np.float64) @ modes
    amplitudes = xp.linalg.solve(normal, right[..., None])[..., 0]
    return ((amplitudes * share) @ modes.T).astype(np.float32)
