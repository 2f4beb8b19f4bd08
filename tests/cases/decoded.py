"""Decode the images of a report as the page does, from their JSON alone."""

import base64
import zlib

import numpy as np


def decode_levels(image):
    """Return the 16 bits of each pixel: (h, w) int."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(image["data"])), np.uint8)
    half = image["w"] * image["h"]
    return (planes[:half] + 256 * planes[half:].astype(int)).reshape(image["h"], image["w"])


def decode(image):
    """Return the values: (h, w) float64, NaN for pixels without a value."""
    levels = decode_levels(image)
    values = image["centre"] + image["soft"] * np.sinh((levels - image["zero"]) * image["step"])
    return np.where(levels == 0, np.nan, values)


def decode_flags(image):
    """Return name of a flag -> (h, w) bool."""
    bits = decode_levels(image)
    return {name: (bits >> number & 1).astype(bool) for number, name in enumerate(image["names"])}
