"""Growing of masks by shifts, for NumPy and CuPy arrays."""


def grow_square(mask, n_pixels):
    """Grow a mask by ``n_pixels`` to all sides, corners included.

    Parameters
    ----------
    mask : (..., ny, nx) bool or unsigned integer
        In integers each bit grows separately.
    n_pixels : int
        Nothing grows below 1.

    Returns
    -------
    (..., ny, nx) array of the mask's dtype
        A new array: the dilation by a square of ``2 n_pixels + 1``.

    Notes
    -----
    The result of stcal's ``_adjacent_pixels``, but also for images smaller than ``2 n_pixels``, where that fails.
    """
    grown = mask.copy()
    for shift in range(1, n_pixels + 1):
        grown[..., shift:, :] |= mask[..., :-shift, :]
        grown[..., :-shift, :] |= mask[..., shift:, :]
    if n_pixels < 1:
        return grown
    # Rows and columns separately need far fewer shifts than a square.
    rows = grown.copy()
    for shift in range(1, n_pixels + 1):
        grown[..., shift:] |= rows[..., :-shift]
        grown[..., :-shift] |= rows[..., shift:]
    return grown


def carry_on(mask):
    """Mark also everything after the first marked item along the second axis, in place.

    Parameters
    ----------
    mask : (n, m, ...) bool
    """
    for item in range(1, mask.shape[1]):
        mask[:, item] |= mask[:, item - 1]


def grow_cross(mask, n_pixels=1):
    """Grow a mask to its four neighbours, ``n_pixels`` times; arguments and result as in `grow_square`.

    Notes
    -----
    The result is a diamond: all pixels within ``n_pixels`` steps up, down, left or right.
    """
    grown = mask.copy()
    for step in range(n_pixels):
        source = mask if step == 0 else grown.copy()
        grown[..., 1:, :] |= source[..., :-1, :]
        grown[..., :-1, :] |= source[..., 1:, :]
        grown[..., 1:] |= source[..., :-1]
        grown[..., :-1] |= source[..., 1:]
    return grown
