"""Previews: the images and numbers of an exposure in a report, small enough to store thousands beside the products.

The images are the rate, the flagged pixels, and the mean 1/f noise that was removed. They are averaged over square
blocks, so that no side is longer than 128 pixels, and stored as 8-bit levels for a PNG.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from gpucoron.backends.statistics import MAD_TO_SIGMA
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.errors import InputError
from gpucoron.files import write_whole

LONGEST_SIDE = 128
#: rounded as in the previews that are already saved
_MAD_TO_SIGMA = round(MAD_TO_SIGMA, 4)
#: categories of flagged pixels by increasing severity; a pixel is counted in its most severe category
CATEGORIES = {"jump": JUMP_DET, "saturated": SATURATED, "do not use": DO_NOT_USE}
_FLAG_NAMES = {"JUMP_DET": JUMP_DET, "SATURATED": SATURATED, "DO_NOT_USE": DO_NOT_USE}


@dataclass
class Preview:
    """The preview of an exposure. Missing images are None.

    Attributes
    ----------
    rate : (h, w) uint8 or None
        0 for blocks without a rate; 1 to 255 from ``rate_range[0]`` to ``rate_range[1]``, asinh-stretched.
    rate_range : (2,) float64, DN/s
    flags : (3, h, w) uint8 or None
        Fraction of the pixels of each block in each of the `CATEGORIES`; 255 means all.
    noise : (h, w) uint8 or None
        Like ``rate``, but linear from ``-noise_limit`` (1) to ``+noise_limit`` (255).
    noise_limit : float
    noise_unit : str
    jump_fraction, saturated_fraction : (ngroups,) float32 or None
        Fraction of pixels with the flag in each group, over all integrations.
    flag_fractions : (3,) float64 or None
        Fraction of pixels of the rate with JUMP_DET, SATURATED, DO_NOT_USE.
    binning : int
        Side of a block in pixels.
    """

    rate: np.ndarray | None = None
    rate_range: np.ndarray | None = None
    flags: np.ndarray | None = None
    noise: np.ndarray | None = None
    noise_limit: float = 0.0
    noise_unit: str = ""
    jump_fraction: np.ndarray | None = None
    saturated_fraction: np.ndarray | None = None
    flag_fractions: np.ndarray | None = None
    binning: int = 1

    def named_flags(self):
        """Return flag -> fraction of flagged pixels; empty if they are unknown."""
        if self.flag_fractions is None:
            return {}
        return dict(zip(_FLAG_NAMES, (float(value) for value in self.flag_fractions), strict=True))


def preview_path(folder, exposure):
    """Return the path of the preview of an exposure: ``folder/previews/<exposure>.npz``."""
    return Path(folder) / "previews" / f"{exposure}.npz"


def save_preview(run, path):
    """Write the preview of a reduced exposure, completely or not at all.

    Parameters
    ----------
    run : gpucoron.engine.Run
        After its last step. Its arrays are not changed.
    path : str or Path
        Path of the ``.npz``; see `preview_path`. Its folder is created, and an existing file is replaced.

    Returns
    -------
    Preview

    Raises
    ------
    OutputError
        The preview cannot be written.
    """
    exposure, to_host = run.exposure, run.backend.to_host
    preview = Preview()
    if exposure.rate is not None:
        preview = preview_of_rate(to_host(exposure.rate.rate), to_host(exposure.rate.dq))
    if exposure.removed_1overf is not None:
        unit = "DN" if run.run_parameters.stage_1overf == "groups" else "DN/s"
        _add_noise(preview, to_host(exposure.removed_1overf), unit)
    preview.jump_fraction = group_fractions(exposure.groupdq, JUMP_DET, run.backend.xp)
    preview.saturated_fraction = group_fractions(exposure.groupdq, SATURATED, run.backend.xp)

    def write(file):
        values = {field.name: getattr(preview, field.name) for field in fields(preview)}
        np.savez_compressed(file, **{name: value for name, value in values.items() if value is not None})

    write_whole(path, write)
    return preview


def load_preview(path):
    """Read a preview that `save_preview` wrote.

    Raises
    ------
    InputError
        The file does not exist, or is not a preview.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            values = {field.name: stored[field.name] for field in fields(Preview) if field.name in stored.files}
        preview = Preview(**values)
        preview.noise_limit, preview.noise_unit = float(preview.noise_limit), str(preview.noise_unit)
        preview.binning = int(preview.binning)
    except Exception as error:  # a damaged archive can raise almost anything
        msg = f"{path}: not a readable preview ({error}); delete it, so that the report uses the rate product"
        raise InputError(msg) from error
    return preview


def preview_of_product(path):
    """Make a preview from a ``rate`` product, with the rate and its flags but without 1/f noise and groups.

    Raises
    ------
    InputError
        The file cannot be read, or lacks an image with flags.
    """
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            return preview_of_rate(hdus["SCI"].data, hdus["DQ"].data)
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{path}: not a readable rate product ({error})"
        raise InputError(msg) from error


def preview_of_rate(rate, dq):
    """Make a preview from the rate and its flags.

    Parameters
    ----------
    rate : (ny, nx) float32, DN/s
    dq : (ny, nx) uint32

    Returns
    -------
    Preview
    """
    if rate.ndim != 2 or dq.shape != rate.shape:
        msg = f"rate and dq must have the same shape (ny, nx), not {rate.shape} and {dq.shape}"
        raise ValueError(msg)
    binning = _binning(rate.shape)
    levels, limits = _stretch(block_average(rate, binning))
    shares, more_severe = [], np.zeros(rate.shape, bool)
    for flag in reversed(CATEGORIES.values()):
        is_flagged = (dq & flag) != 0
        shares.append(block_average(is_flagged & ~more_severe, binning))
        more_severe |= is_flagged
    # rounded up, so that a single pixel of a large block is visible
    flags = np.ceil(255 * np.array(shares[::-1])).astype(np.uint8)
    fractions = np.array([np.count_nonzero(dq & flag) / dq.size for flag in _FLAG_NAMES.values()])
    return Preview(rate=levels, rate_range=limits, flags=flags, flag_fractions=fractions, binning=binning)


def block_average(image, binning):
    """Average the finite pixels of square blocks.

    Parameters
    ----------
    image : (ny, nx) float32 or bool
    binning : int
        Side of a block in pixels; the last blocks of an axis may be smaller.

    Returns
    -------
    (ceil(ny / binning), ceil(nx / binning)) float64
        NaN for blocks without finite pixels.

    Examples
    --------
    >>> block_average(np.array([[1, 2, 3], [3, np.nan, 5]]), 2)
    array([[2., 4.]])
    """
    is_finite = np.isfinite(image)
    starts = [np.arange(0, size, binning) for size in image.shape]

    def add(values):
        rows = np.add.reduceat(values, starts[0], axis=0, dtype=np.float64)
        return np.add.reduceat(rows, starts[1], axis=1)

    count = add(is_finite)
    return np.where(count > 0, add(np.where(is_finite, image, 0)) / np.maximum(count, 1), np.nan)


def group_fractions(groupdq, flag, xp=np):
    """Compute the fraction of flagged pixels in each group.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    flag : int
    xp : module
        Array namespace of groupdq.

    Returns
    -------
    (ngroups,) float32
        Fraction of pixels with the flag, over all integrations.
    """
    nints, ngroups, ny, nx = groupdq.shape
    counts = np.zeros(ngroups)
    for integration in groupdq:
        # a single plane fits into the CPU cache
        counts += [int(xp.count_nonzero((plane & flag) != 0)) for plane in integration]
    return (counts / (nints * ny * nx)).astype(np.float32)


def _binning(shape):
    return -(-max(shape) // LONGEST_SIDE)


def _stretch(image):
    """Convert an image to levels 1 to 255, linear near the median and logarithmic far from it; NaN becomes 0."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8), np.zeros(2)
    low, middle, high = np.percentile(finite, (0.5, 50, 99.8))
    noise = _MAD_TO_SIGMA * np.median(np.abs(finite - middle))
    soft = noise if noise > 0 else max(high - low, 1e-30)
    bottom, top = np.arcsinh((np.array([low, high]) - middle) / soft)
    return _levels((np.arcsinh((image - middle) / soft) - bottom) / max(top - bottom, 1e-30)), np.array([low, high])


def _add_noise(preview, noise, unit):
    preview.binning = _binning(noise.shape)
    image = block_average(noise, preview.binning)
    finite = np.abs(image[np.isfinite(image)])
    limit = float(np.percentile(finite, 99.5)) if finite.size else 0.0
    preview.noise = _levels(0.5 + 0.5 * image / limit if limit > 0 else 0.5 + 0 * image)
    preview.noise_limit, preview.noise_unit = limit, unit


def _levels(image):
    """Map values from 0 to 1 to levels from 1 to 255, and NaN to 0."""
    is_finite = np.isfinite(image)
    return np.where(is_finite, 1 + np.rint(254 * np.clip(np.where(is_finite, image, 0), 0, 1)), 0).astype(np.uint8)
