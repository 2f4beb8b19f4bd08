"""Pixel scales and angles: offsets on the sky, in the frame of an aperture, and in pixels."""

from dataclasses import replace

import numpy as np

#: aperture -> arcsec per pixel in x and y (SIAF, PRDOPSSOC-075)
PIXEL_SCALE = {
    "NRCA2_MASK210R": (0.030533, 0.0308138),
    "NRCA2_FULL_MASK210R": (0.030533, 0.0308138),
    "NRCA5_MASK335R": (0.0620165, 0.0628319),
    "NRCA5_FULL_MASK335R": (0.0620165, 0.0628319),
    "NRCA5_MASK430R": (0.0620553, 0.0628871),
    "NRCA5_MASKLWB": (0.0623562, 0.0630809),
    "NRCA4_MASKSWB": (0.0306243, 0.0309101),
    "NRCA2_TAMASK210R": (0.0305757, 0.0308031),
    "NRCA5_TAMASK335R": (0.0620691, 0.0627775),
    "NRCA5_TAMASK430R": (0.0620763, 0.0628222),
    "NRCA5_TAMASKLWBL": (0.0622981, 0.0629957),
    "NRCA4_TAMASKSWBS": (0.0306119, 0.0308936),
    "MIRIM_MASK1065": (0.1102096, 0.109101),
    "MIRIM_MASK1140": (0.1102459, 0.1106553),
    "MIRIM_MASK1550": (0.1100977, 0.1109661),
    "MIRIM_MASKLYOT": (0.1097492, 0.1102616),
    "MIRIM_FULL": (0.1104981, 0.1113359),
}


def v3_angle(subarray):
    """Return the angle from V3 to the y axis of the aperture, degrees (V3I_YANG)."""
    return 0.0 if subarray.instrument == "NIRCAM" else 4.45


def rotation(subarray, roll):
    """Return the matrix PC of the WCS, (2, 2): the y axis is at the angle roll + V3I_YANG east of north.

    The x axis is mirrored (VPARITY is -1).
    """
    angle = np.radians(roll + v3_angle(subarray))
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([[-cosine, sine], [sine, cosine]])


def _matrix(subarray, roll):
    """Return the matrix from pixels to arcsec east and north, (2, 2); rows are scaled as CDELT scales them."""
    return np.array(PIXEL_SCALE[subarray.aperture])[:, None] * rotation(subarray, roll)


def to_sky(subarray, roll, offset):
    """Convert an offset (dx, dy) in pixels to (east, north) in arcsec."""
    return _matrix(subarray, roll) @ np.asarray(offset, float)


def to_pixels(subarray, roll, offset):
    """Convert an offset (east, north) in arcsec to (dx, dy) in pixels."""
    return np.linalg.solve(_matrix(subarray, roll), np.asarray(offset, float))


def place(scene, subarray, roll, offset, companion=None):
    """Return the scene as the detector sees it: rolled, and shifted by a dither.

    Parameters
    ----------
    scene : Scene
        Its ``companion_offset`` is that at roll 0, and turns as on square pixels.
    subarray : Subarray
    roll : float
        Degrees.
    offset : (float, float)
        Displacement of the star in x and y of the aperture, arcsec.
    companion : (float, float) or None
        Separation, arcsec, and position angle, degrees east of north, instead of ``companion_offset``.
    """
    if companion is not None:
        separation, angle = companion[0], np.radians(companion[1])
        x, y = to_pixels(subarray, roll, (separation * np.sin(angle), separation * np.cos(angle)))
        scene = replace(scene, companion_offset=(float(x), float(y)))
    elif roll:
        scene = scene.turned(roll)
    if any(offset):
        xscale, yscale = PIXEL_SCALE[subarray.aperture]
        shift = scene.shift[0] + offset[0] / xscale, scene.shift[1] + offset[1] / yscale
        scene = replace(scene, shift=shift)
    return scene
