"""Encode the images of a preview as PNG in ``data:`` URLs, small enough for hundreds of them on one page."""

import base64
from io import BytesIO

import numpy as np

#: colours of good pixels and of the categories of previews, also in the legend of the page
GOOD_COLOUR = (18, 22, 28)
CATEGORY_COLOURS = {"jump": (57, 135, 229), "saturated": (235, 104, 52), "do not use": (150, 154, 163)}
#: colours of a palette; more would be indistinguishable at this size and compress worse
_SHADES = 48
_NO_VALUE = (128, 128, 128)


def images_of(preview):
    """Draw the images of a preview.

    Parameters
    ----------
    preview : gpucoron.records.previews.Preview

    Returns
    -------
    dict
        'rate', 'flags' and 'noise' -> ``data:image/png;base64,...``, without missing ones. Row 0 is at the bottom.
    """
    images = {}
    if preview.rate is not None:
        images["rate"] = _with_palette(preview.rate, "inferno")
    if preview.flags is not None:
        images["flags"] = _data_url(encode_png(colour_flags(preview.flags)[::-1]))
    if preview.noise is not None:
        images["noise"] = _with_palette(preview.noise, "RdBu_r")
    return images


def colour_flags(flags):
    """Mix the colours of the categories in each block, weighted by the square roots of their fractions.

    The square roots make single pixels visible.

    Parameters
    ----------
    flags : (3, h, w) uint8
        See `gpucoron.records.previews.Preview`.

    Returns
    -------
    (h, w, 3) uint8
    """
    # 16 levels of each category
    weights = np.rint(15 * np.sqrt(flags / 255)) / 15
    weights /= np.maximum(weights.sum(axis=0), 1)
    colours = np.array(list(CATEGORY_COLOURS.values()), float) - GOOD_COLOUR
    return np.rint(GOOD_COLOUR + np.tensordot(weights, colours, axes=(0, 0))).astype(np.uint8)


def encode_png(image, palette=None):
    """Encode an image as PNG.

    Parameters
    ----------
    image : (h, w) uint8 with a palette, or (h, w, 3) uint8
    palette : (n, 3) uint8, optional
        The colour of each value.

    Returns
    -------
    bytes
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    if palette is not None:
        picture.putpalette(palette.tobytes())
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _with_palette(levels, name):
    """Draw levels 1 to 255 with a colour map of matplotlib, and 0 in grey."""
    from matplotlib import colormaps

    colours = np.rint(255 * colormaps[name](np.linspace(0, 1, _SHADES))[:, :3]).astype(np.uint8)
    shades = np.where(levels > 0, 1 + (levels.astype(int) - 1) * _SHADES // 255, 0).astype(np.uint8)
    return _data_url(encode_png(shades[::-1], np.vstack([np.uint8(_NO_VALUE), colours])))


def _data_url(png):
    return "data:image/png;base64," + base64.b64encode(png).decode()
