"""Previews: what a report shows of an exposure, small enough to keep thousands of them beside the products.

Images are averaged over square blocks until no side is longer than 128 pixels and stored as 8-bit levels, ready for a
PNG: the rate, which pixels are flagged, and the mean 1/f noise that was removed.
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
#: what a pixel can be, the graver later: a pixel is counted as the gravest that it is
CATEGORIES = {"jump": JUMP_DET, "saturated": SATURATED, "do not use": DO_NOT_USE}
_FLAG_NAMES = {"JUMP_DET": JUMP_DET, "SATURATED": SATURATED, "DO_NOT_USE": DO_NOT_USE}


@dataclass
class Preview:
    """An exposure at a glance. Images are None where there is nothing to show.

    Attributes
    ----------
    rate : (h, w) uint8 or None
        0 where no pixel of the block has a rate; 1 to 255 from ``rate_range[0]`` to ``rate_range[1]``, asinh-stretched.
    rate_range : (2,) float64, DN/s
    flags : (3, h, w) uint8 or None
        The share of each block that is of each of the `CATEGORIES`, 255 = all of it.
    noise : (h, w) uint8 or None
        As ``rate``, but linear, from ``-noise_limit`` (1) to ``+noise_limit`` (255).
    noise_limit : float
    noise_unit : str
    jump_fraction, saturated_fraction : (ngroups,) float32 or None
        The share of all pixels, over all integrations, that has the flag in each group.
    flag_fractions : (3,) float64 or None
        The share of the rate's pixels with JUMP_DET, SATURATED, DO_NOT_USE.
    binning : int
        Pixels along a block's side.
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
        """Give the shares of flagged pixels by the flag's name; empty where no flags are known."""
        if self.flag_fractions is None:
            return {}
        return dict(zip(_FLAG_NAMES, (float(value) for value in self.flag_fractions), strict=True))


def preview_path(folder, exposure):
    """Say where an exposure's preview lies: ``folder/previews/<exposure>.npz``."""
    return Path(folder) / "previews" / f"{exposure}.npz"


def save_preview(run, path):
    """Write the preview of an exposure that has been through the engine; it appears whole or not at all.

    Parameters
    ----------
    run : gpucoron.engine.Run
        After its last step; its arrays are only read.
    path : str or Path
        Of the ``.npz``; see `preview_path`. The folder is made if it does not exist, a file of that name replaced.

    Returns
    -------
    Preview

    Raises
    ------
    OutputError
        It cannot be written.
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
        known = {field.name: getattr(preview, field.name) for field in fields(preview)}
        np.savez_compressed(file, **{name: value for name, value in known.items() if value is not None})

    write_whole(path, write)
    return preview


def load_preview(path):
    """Read what `save_preview` wrote.

    Raises
    ------
    InputError
        There is no such file, or it is no preview.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            known = {field.name: stored[field.name] for field in fields(Preview) if field.name in stored.files}
        preview = Preview(**known)
        preview.noise_limit, preview.noise_unit = float(preview.noise_limit), str(preview.noise_unit)
        preview.binning = int(preview.binning)
    except Exception as error:  # a damaged archive raises what zipfile, zlib or numpy please
        msg = f"{path}: not a readable preview ({error}); delete it, and the report falls back on the rate product"
        raise InputError(msg) from error
    return preview


def preview_of_product(path):
    """Make a preview from a ``rate`` product: no 1/f noise and no groups, but the rate and its flags.

    Raises
    ------
    InputError
        The file cannot be read, or holds no image with flags.
    """
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            return preview_of_rate(hdus["SCI"].data, hdus["DQ"].data)
    except Exception as error:  # astropy meets a damaged file with many kinds
        msg = f"{path}: not a readable rate product ({error})"
        raise InputError(msg) from error


def preview_of_rate(rate, dq):
    """Make a preview of a rate alone.

    Parameters
    ----------
    rate : (ny, nx) float32, DN/s
    dq : (ny, nx) uint32

    Returns
    -------
    Preview
    """
    if rate.ndim != 2 or dq.shape != rate.shape:
        msg = f"rate and dq must be of one shape (ny, nx), not {rate.shape} and {dq.shape}"
        raise ValueError(msg)
    binning = _binning(rate.shape)
    levels, limits = _stretch(block_average(rate, binning))
    shares, graver = [], np.zeros(rate.shape, bool)
    for flag in reversed(CATEGORIES.values()):
        has_it = (dq & flag) != 0
        shares.append(block_average(has_it & ~graver, binning))
        graver |= has_it
    # rounded up, so that one pixel of a large block still counts
    flags = np.ceil(255 * np.array(shares[::-1])).astype(np.uint8)
    fractions = np.array([np.count_nonzero(dq & flag) / dq.size for flag in _FLAG_NAMES.values()])
    return Preview(rate=levels, rate_range=limits, flags=flags, flag_fractions=fractions, binning=binning)


def block_average(image, binning):
    """Average the finite pixels of square blocks.

    Parameters
    ----------
    image : (ny, nx) float32 or bool
    binning : int
        Pixels along a block's side; the last blocks of an axis may be smaller.

    Returns
    -------
    (ceil(ny / binning), ceil(nx / binning)) float64
        NaN where a block has no finite pixel.

    Examples
    --------
    >>> block_average(np.array([[1, 2, 3], [3, np.nan, 5]]), 2)
    array([[2., 4.]])
    """
    known = np.isfinite(image)
    starts = [np.arange(0, size, binning) for size in image.shape]

    def add(values):
        rows = np.add.reduceat(values, starts[0], axis=0, dtype=np.float64)
        return np.add.reduceat(rows, starts[1], axis=1)

    count = add(known)
    return np.where(count > 0, add(np.where(known, image, 0)) / np.maximum(count, 1), np.nan)


def group_fractions(groupdq, flag, xp=np):
    """Count a flag group by group.

    Parameters
    ----------
    groupdq : (nints, ngroups, ny, nx) uint8
    flag : int
    xp : module
        Namespace of the array.

    Returns
    -------
    (ngroups,) float32
        The share of all integrations' pixels that has the flag.
    """
    nints, ngroups, ny, nx = groupdq.shape
    counts = np.zeros(ngroups)
    for integration in groupdq:
        # a plane at a time stays in the cache
        counts += [int(xp.count_nonzero((plane & flag) != 0)) for plane in integration]
    return (counts / (nints * ny * nx)).astype(np.float32)


def _binning(shape):
    return -(-max(shape) // LONGEST_SIDE)


def _stretch(image):
    """Put an image on levels 1 to 255: linear near its median, logarithmic far above the noise; 0 is NaN."""
    known = image[np.isfinite(image)]
    if not known.size:
        return np.zeros(image.shape, np.uint8), np.zeros(2)
    low, middle, high = np.percentile(known, (0.5, 50, 99.8))
    noise = _MAD_TO_SIGMA * np.median(np.abs(known - middle))
    soft = noise if noise > 0 else max(high - low, 1e-30)
    bottom, top = np.arcsinh((np.array([low, high]) - middle) / soft)
    return _levels((np.arcsinh((image - middle) / soft) - bottom) / max(top - bottom, 1e-30)), np.array([low, high])


def _add_noise(preview, noise, unit):
    preview.binning = _binning(noise.shape)
    image = block_average(noise, preview.binning)
    known = np.abs(image[np.isfinite(image)])
    limit = float(np.percentile(known, 99.5)) if known.size else 0.0
    preview.noise = _levels(0.5 + 0.5 * image / limit if limit > 0 else 0.5 + 0 * image)
    preview.noise_limit, preview.noise_unit = limit, unit


def _levels(image):
    """Map 0 to 1 onto the levels 1 to 255, and NaN onto 0."""
    known = np.isfinite(image)
    return np.where(known, 1 + np.rint(254 * np.clip(np.where(known, image, 0), 0, 1)), 0).astype(np.uint8)
