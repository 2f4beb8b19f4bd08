"""Masks of known sources, which are excluded from the fit of 1/f noise."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron.steps.arguments import IMAGE, Array, BackendLike, on_arrays
from gpucoron.steps.values import Kind, Number, check_numbers


def _check_shape(shape):
    for size in shape:
        Number(whole=True, minimum=1).take("shape", size)
    check_numbers(shape, 2)


_SHAPE = Kind("(ny, nx)", _check_shape)
_COMPANIONS = Kind("numbers x1, y1, x2, y2, ..., in pixels", check_numbers)


@on_arrays(
    mask=Array(IMAGE, "bool"),
    shape=_SHAPE,
    companions=_COMPANIONS,
    radius=Number("pixels", minimum=0),
)
def protect_sources(
    shape: tuple[int, int],
    companions: Any = (),
    radius: float = 5.0,
    mask: ArrayLike | None = None,
    *,
    backend: BackendLike = None,
) -> NDArray[np.bool_] | None:
    """Mark the pixels that are excluded from the fit.

    Parameters
    ----------
    shape : (ny, nx)
    companions : sequence of float
        x1, y1, x2, y2, ...: pixel coordinates in the subarray, from 0.
    radius : float, pixels
        Radius of the circle around each companion.
    mask : (ny, nx) bool, optional
        True for further pixels to exclude.
    backend : str or Backend, optional
        Device of the result; the default is the device of the mask.

    Returns
    -------
    (ny, nx) bool or None
        None if no pixels are excluded.
    """
    check_sources(shape, companions, mask)
    if not len(companions) and mask is None:
        return None
    xp = backend.xp
    protected = xp.zeros(shape, bool) if mask is None else mask
    y, x = xp.arange(shape[0])[:, None], xp.arange(shape[1])
    for x0, y0 in zip(companions[::2], companions[1::2], strict=True):
        protected = protected | ((x - x0) ** 2 + (y - y0) ** 2 <= radius**2)
    return protected


def check_sources(shape, companions, mask):
    """Refuse sources that do not fit an image: an odd number of coordinates, or a mask of another shape.

    Raises
    ------
    ValueError
    """
    if len(companions) % 2:
        msg = f"companions must be pairs x, y, not {len(companions)} numbers"
        raise ValueError(msg)
    if mask is not None and mask.shape != tuple(shape):
        msg = f"user_mask must be of shape {tuple(shape)}, not {mask.shape}"
        raise ValueError(msg)
    if mask is not None and mask.dtype.kind not in "biu":
        msg = f"user_mask must be true or false for each pixel, not {mask.dtype}"
        raise ValueError(msg)
