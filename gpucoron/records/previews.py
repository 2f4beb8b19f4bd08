"""Previews: the images and numbers of an exposure in a report, small enough to store thousands beside the products.

The rate, its flags and the removed 1/f noise are stored at full resolution, quantised to half a percent and
compressed; thumbnails of them, averaged over square blocks, in 8 bits. A preview of version 1 had thumbnails only.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from gpucoron import dq as dq_values
from gpucoron.backends.statistics import MAD_TO_SIGMA
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.errors import InputError
from gpucoron.files import AnyPath, write_whole
from gpucoron.interactive import Shown, public
from gpucoron.records.measures import (
    Integrations,
    jump_rate,
    measure_exposure,
    measure_integrations,
    read_noise_of_ramps,
)
from gpucoron.records.observed import find_star, headers_of_run
from gpucoron.records.quantised import FlagImage, QuantisedImage

VERSION = 2
#: longest side of a thumbnail, pixels
LONGEST_SIDE = 64
#: categories of flagged pixels by increasing severity; a pixel is counted in its most severe category
CATEGORIES = {"jump": JUMP_DET, "saturated": SATURATED, "do not use": DO_NOT_USE}
_FLAG_NAMES = {"JUMP_DET": JUMP_DET, "SATURATED": SATURATED, "DO_NOT_USE": DO_NOT_USE}
#: all flags of a pixel
FLAGS = dq_values.flags_by_name()
_IMAGES = {"rate": QuantisedImage, "flags": FlagImage, "removed": QuantisedImage}
_THUMBS = {"rate": "rate_thumb", "flags": "flags_thumb", "noise": "noise_thumb"}


@dataclass(repr=False)
class Preview(Shown):
    """The preview of an exposure. Missing images and numbers are None.

    Attributes
    ----------
    rate : QuantisedImage or None
        DN/s
    flags : FlagImage or None
        Flags of the rate.
    removed : QuantisedImage or None
        Mean of the 1/f noise that was removed: DN/s, or DN where it was removed from the groups.
    rate_thumb : (h, w) uint8 or None
        0 for blocks without a rate; 1 to 255 from the 0.5th to the 99.8th percentile, asinh-stretched.
    flags_thumb : (3, h, w) uint8 or None
        Fraction of the pixels of each block in each of the `CATEGORIES`; 255 means all.
    noise_thumb : (h, w) uint8 or None
        Like ``rate_thumb``, but linear and symmetric: 128 is zero.
    jump_fraction, saturated_fraction : (ngroups,) float32 or None
        Fraction of pixels with the flag in each group, over all integrations.
    flag_fractions : (3,) float64 or None
        Fraction of pixels of the rate with JUMP_DET, SATURATED, DO_NOT_USE.
    exposure : dict or None
        Numbers of the exposure, see `gpucoron.records.measures.measure_exposure`; also ``read_noise`` (DN) and
        ``row_noise`` (DN/s), medians over the integrations, and ``jump_rate`` (per s and cm^2).
    integrations : dict or None
        Lists of numbers, one per integration, see `gpucoron.records.measures.measure_integrations`.
    product_date : str or None
        Keyword DATE of the rate product that it belongs to.
    """

    rate: QuantisedImage | None = None
    flags: FlagImage | None = None
    removed: QuantisedImage | None = None
    rate_thumb: np.ndarray | None = None
    flags_thumb: np.ndarray | None = None
    noise_thumb: np.ndarray | None = None
    jump_fraction: np.ndarray | None = None
    saturated_fraction: np.ndarray | None = None
    flag_fractions: np.ndarray | None = None
    exposure: dict | None = None
    integrations: dict | None = None
    product_date: str | None = None

    @property
    def is_complete(self):
        """Whether it has the images and numbers that can be made from the products."""
        return self.rate is not None and self.exposure is not None

    @property
    def n_bytes(self):
        """Bytes of the images in a page, where they are encoded as base64."""
        images = (self.rate, self.flags, self.removed)
        return sum(len(image.packed) * 4 // 3 for image in images if image is not None)

    def thumbs(self):
        """Return the thumbnails that exist: 'rate', 'flags', 'noise' -> array."""
        found = {kind: getattr(self, name) for kind, name in _THUMBS.items()}
        return {kind: image for kind, image in found.items() if image is not None}

    def named_flags(self):
        """Return flag -> fraction of flagged pixels; empty if they are unknown."""
        if self.flag_fractions is None:
            return {}
        return dict(zip(_FLAG_NAMES, (float(value) for value in self.flag_fractions), strict=True))

    def completed_by(self, other):
        """Return a preview with everything of this one, and what it lacks from another of the same exposure."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Preview(**{name: getattr(other, name) if value is None else value for name, value in values.items()})


def preview_path(folder: AnyPath, exposure: str) -> Path:
    """Return the path of the preview of an exposure: ``folder/previews/<exposure>.npz``."""
    return Path(folder) / "previews" / f"{exposure}.npz"


@public
def save_preview(run: Any, path: AnyPath, product_date: str = "") -> Preview:
    """Write the preview of a reduced exposure, completely or not at all.

    Parameters
    ----------
    run : gpucoron.engine.Run
        After its last step. Its arrays are not changed; those on a device are copied one integration at a time.
    path : str or Path
        Path of the ``.npz``; see `preview_path`. Its folder is created, and an existing file is replaced.
    product_date : str, optional
        Keyword DATE of the rate product, by which a report recognizes that the product was replaced later.

    Returns
    -------
    Preview

    Raises
    ------
    OutputError
        The preview cannot be written.
    """
    preview = preview_of_run(run)
    preview.product_date = product_date or None
    write_preview(preview, path)
    return preview


def write_preview(preview, path):
    """Write a preview; see `save_preview`."""
    values = {"version": np.array(VERSION)}
    for field in fields(preview):
        value = getattr(preview, field.name)
        if field.name in _IMAGES and value is not None:
            values[field.name] = np.frombuffer(value.packed, np.uint8)
            values[f"{field.name}_header"] = np.array(json.dumps(value.header()))
        elif isinstance(value, (dict, str)):
            values[field.name] = np.array(json.dumps(value))
        elif value is not None:
            values[field.name] = value
    write_whole(path, lambda file: np.savez_compressed(file, **values))


@public
def load_preview(path: AnyPath) -> Preview:
    """Read a preview that `save_preview` wrote; one of version 1 has thumbnails and shares only.

    Raises
    ------
    InputError
        The file does not exist, or is not a preview.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return _read_preview(stored) if "version" in stored.files else _read_version_1(stored)
    except Exception as error:  # a damaged archive can raise almost anything
        msg = f"{path}: not a readable preview ({error}); delete it, so that the report uses the rate product"
        raise InputError(msg) from error


def _read_preview(stored):
    values = {}
    for field in fields(Preview):
        if field.name not in stored.files:
            continue
        value = stored[field.name]
        if field.name in _IMAGES:
            header = json.loads(str(stored[f"{field.name}_header"]))
            value = _IMAGES[field.name].from_header(header, value.tobytes())
        elif value.dtype.kind == "U":
            value = json.loads(str(value))
        values[field.name] = value
    return Preview(**values)


def _read_version_1(stored):
    """Read a preview whose ``rate``, ``flags`` and ``noise`` are thumbnails of up to 128 pixels a side."""
    values = {
        name: stored[name] for name in ("jump_fraction", "saturated_fraction", "flag_fractions") if name in stored.files
    }
    values |= {name: stored[kind][..., ::2, ::2] for kind, name in _THUMBS.items() if kind in stored.files}
    if not values:
        msg = "it has no images"
        raise ValueError(msg)
    return Preview(**values)


def preview_of_run(run):
    """Make the preview of a reduced exposure; see `save_preview`."""
    exposure, to_host = run.exposure, run.backend.to_host
    primary, science = headers_of_run(run)
    star = find_star(science, exposure.data.shape[-2:])
    preview = Preview()
    if exposure.rate is not None:
        rate, err, dq = (to_host(array) for array in (exposure.rate.rate, exposure.rate.err, exposure.rate.dq))
        preview = preview_of_rate(rate, dq)
        preview.exposure = measure_exposure(rate, err, dq, star)
        preview.exposure["jump_rate"] = jump_rate(primary.get("PRIMECRS"), primary.get("INSTRUME"))
    if exposure.rateints is not None:
        slopes = exposure.rateints
        integrations = Integrations(*(to_host(array) for array in (slopes.rate, slopes.err, slopes.dq)))
        noise = read_noise_of_ramps(exposure.data, exposure.groupdq, exposure.pixeldq, star, run.backend)
        add_integrations(preview, measure_integrations(integrations, star, noise))
    if exposure.removed_1overf is not None:
        in_groups = run.run_parameters.stage_1overf == "groups"
        removed = to_host(exposure.removed_1overf)
        # as precise as the rate to which it is added
        noise = preview.rate.soft if preview.rate is not None and not in_groups else 0.0
        unit, factor = ("DN", 1) if in_groups else ("DN/s", _gain_factor(run))
        preview.removed = QuantisedImage.of(removed * factor, unit, noise=noise, repeats=True)
        preview.noise_thumb = _noise_levels(block_average(removed, _binning(removed.shape)))
    preview.jump_fraction = run.flag_counts.fractions(JUMP_DET)
    preview.saturated_fraction = run.flag_counts.fractions(SATURATED)
    return preview


def _gain_factor(run):
    """Return the factor by which gain_scale has multiplied the rate after the 1/f noise was removed from it."""
    scaled = any(record.name == "gain_scale" and record.status == "COMPLETE" for record in run.records)
    return run.exposure.meta.meta.exposure.gain_factor if scaled else 1


def preview_of_product(path, rateints=None):
    """Make a preview from products: without 1/f noise, groups and read noise, which only the ramps show.

    Parameters
    ----------
    path : str or Path
        ``*_rate.fits``
    rateints : str or Path, optional
        ``*_rateints.fits``, for the numbers of integrations.

    Raises
    ------
    InputError
        A file cannot be read, or lacks an image with flags.
    """
    from astropy.io import fits

    at = path
    try:
        with fits.open(path, memmap=False) as hdus:
            rate, dq = (hdus[name].data for name in ("SCI", "DQ"))
            preview = preview_of_rate(rate, dq)
            star = find_star(hdus["SCI"].header, rate.shape)
            err = hdus["ERR"].data if "ERR" in hdus else np.full(rate.shape, np.nan)
            preview.exposure = measure_exposure(rate, err, dq, star)
            header = hdus[0].header
            preview.exposure["jump_rate"] = jump_rate(header.get("PRIMECRS"), header.get("INSTRUME"))
        if rateints is not None:
            at = rateints
            with fits.open(rateints, memmap=False) as hdus:
                sections = [hdus[name].section for name in ("SCI", "ERR", "DQ")]
                add_integrations(preview, measure_integrations(Integrations(*sections), star))
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{at}: not a readable {'rate' if at is path else 'rateints'} product ({error})"
        raise InputError(msg) from error
    return preview


def add_integrations(preview, measured):
    """Add the numbers of integrations to a preview, and their medians to those of the exposure."""
    preview.integrations = {name: [_rounded(value) for value in values] for name, values in measured.items()}
    if preview.exposure is not None:
        for name in ("read_noise", "row_noise"):
            known = [value for value in preview.integrations[name] if value is not None]
            preview.exposure[name] = float(np.median(known)) if known else None


def _rounded(value):
    """Round to five digits; None for NaN, which JSON does not know."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


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
    dq = np.asarray(dq, np.uint32)
    binning = _binning(rate.shape)
    shares, more_severe = [], np.zeros(rate.shape, bool)
    for flag in reversed(CATEGORIES.values()):
        is_flagged = (dq & np.uint32(flag)) != 0
        shares.append(block_average(is_flagged & ~more_severe, binning))
        more_severe |= is_flagged
    return Preview(
        rate=QuantisedImage.of(rate),
        flags=FlagImage.of(dq, FLAGS),
        rate_thumb=_stretch(block_average(rate, binning)),
        # rounded up, so that a single pixel of a large block is visible
        flags_thumb=np.ceil(255 * np.array(shares[::-1])).astype(np.uint8),
        flag_fractions=np.array([np.count_nonzero(dq & np.uint32(flag)) / dq.size for flag in _FLAG_NAMES.values()]),
    )


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


def _binning(shape):
    return -(-max(shape) // LONGEST_SIDE)


def _stretch(image):
    """Convert an image to levels 1 to 255, linear near the median and logarithmic far from it; NaN becomes 0."""
    finite = image[np.isfinite(image)]
    if not finite.size:
        return np.zeros(image.shape, np.uint8)
    low, middle, high = np.percentile(finite, (0.5, 50, 99.8))
    noise = MAD_TO_SIGMA * np.median(np.abs(finite - middle))
    soft = noise if noise > 0 else max(high - low, 1e-30)
    bottom, top = np.arcsinh((np.array([low, high]) - middle) / soft)
    return _levels((np.arcsinh((image - middle) / soft) - bottom) / max(top - bottom, 1e-30))


def _noise_levels(image):
    """Convert an image to levels 1 to 255, linear and symmetric about zero, which is 128; NaN becomes 0."""
    finite = np.abs(image[np.isfinite(image)])
    limit = float(np.percentile(finite, 99.5)) if finite.size else 0.0
    return _levels(0.5 + 0.5 * image / limit if limit > 0 else 0.5 + 0 * image)


def _levels(image):
    """Map values from 0 to 1 to levels from 1 to 255, and NaN to 0."""
    is_finite = np.isfinite(image)
    return np.where(is_finite, 1 + np.rint(254 * np.clip(np.where(is_finite, image, 0), 0, 1)), 0).astype(np.uint8)
