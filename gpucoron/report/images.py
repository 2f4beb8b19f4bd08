"""The images of a page: thumbnails as PNG in ``data:`` URLs, and quantised images that the page decodes."""

import base64
from io import BytesIO

import numpy as np

from gpucoron.records.previews import block_average
from gpucoron.records.quantised import FlagImage, QuantisedImage

#: colours of good pixels and of the categories of previews, also in the legend of the page
GOOD_COLOUR = (18, 22, 28)
CATEGORY_COLOURS = {"jump": (57, 135, 229), "saturated": (235, 104, 52), "do not use": (150, 154, 163)}
#: colours of a palette; more would be indistinguishable at this size and compress worse
_SHADES = 48
_NO_VALUE = (128, 128, 128)


def draw_thumbs(preview):
    """Draw the thumbnails of a preview.

    Parameters
    ----------
    preview : gpucoron.records.previews.Preview

    Returns
    -------
    dict
        'rate', 'flags' and 'noise' -> ``data:image/png;base64,...``, without missing ones. Row 0 is at the bottom.
    """
    draw = {
        "rate": lambda levels: _with_palette(levels, "inferno"),
        "flags": lambda flags: _data_url(encode_png(colour_flags(flags)[::-1])),
        "noise": lambda levels: _with_palette(levels, "RdBu_r"),
    }
    return {kind: draw[kind](image) for kind, image in preview.thumbs().items()}


def images_of(preview, longest):
    """Return the images of a preview for the page: 'rate', 'flags', 'removed' -> JSON, without missing ones.

    Parameters
    ----------
    preview : gpucoron.records.previews.Preview
    longest : int
        Longest side in pixels; larger images are averaged over square blocks, and flags combined.
    """
    images = {}
    for kind in ("rate", "flags", "removed"):
        image = getattr(preview, kind)
        if image is not None:
            images[kind] = fit_image(image, longest).to_json()
    return images


def fit_image(image, longest):
    """Average an image over square blocks, so that no side is longer; combine flags."""
    binning = binning_of(image.shape, longest)
    if binning == 1:
        return image
    if isinstance(image, FlagImage):
        return image.binned(binning)
    averages = block_average(image.values(), binning)
    return QuantisedImage.of(averages, image.unit, image.step, binning, repeats=True)


def binning_of(shape, longest):
    """Return the side of the blocks over which an image is averaged in the page."""
    return -(-max(shape) // longest)


def colour_flags(flags):
    """Mix the colours of the categories in each block, weighted by the square roots of their fractions.

    The square roots make single pixels visible.

    Parameters
    ----------
    flags : (3, h, w) uint8
        ``flags_thumb`` of `gpucoron.records.previews.Preview`.

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
