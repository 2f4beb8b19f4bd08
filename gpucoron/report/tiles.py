"""Tiles: scripts beside the page with the images that are too many for it, which the page loads when it shows them.

A script has all integrations of an exposure at full resolution, and its rate and flags if the page has averaged them.
"""

import json
import logging
from pathlib import Path
from urllib.parse import quote

from gpucoron.errors import InputError
from gpucoron.files import write_whole
from gpucoron.records.measures import usable
from gpucoron.records.quantised import QuantisedImage
from gpucoron.report.exposures import choose_sides, find_exposure

log = logging.getLogger(__name__)

#: first line of a script; another line is written again
_MARK = "// gpucoron tiles 1"
#: step of the levels: to 1 %
_STEP = 0.02


def tiles_address(page, exposure, longest):
    """Return the address of the script of an exposure, relative to the page; None if it has none.

    Parameters
    ----------
    page : str or Path
        The page; the scripts are in the folder ``<stem of the page>_tiles`` beside it.
    exposure : gpucoron.report.exposures.ExposureFiles
    longest : int
        Longest side of the images in the page; a script has larger ones at full resolution.
    """
    if "rateints" not in exposure.products and exposure.averaged(longest) is None:
        return None
    path = _path(page, exposure.record["exposure"])
    return f"{quote(path.parent.name)}/{quote(path.name)}"


def write_tiles(page, exposure, longest):
    """Write the script of an exposure, unless it exists and is newer than the product.

    Parameters
    ----------
    page, exposure, longest
        See `tiles_address`.

    Returns
    -------
    str or None
        See `tiles_address`; also None if the product is damaged.

    Raises
    ------
    OutputError
        The script cannot be written.
    """
    address = tiles_address(page, exposure, longest)
    if address is None:
        return None
    name, product = exposure.record["exposure"], exposure.products.get("rateints")
    path, preview = _path(page, name), exposure.averaged(longest)
    mark = f"{_MARK}{' full' if preview is not None else ''}\n".encode()
    if not _is_current(path, mark, product):
        try:
            write_whole(path, lambda file: _write(file, mark, name, product, preview))
        except InputError as error:
            log.warning("%s", error)
            return None
    return address


def write_tiles_named(page, found, name):
    """Write the script that a served page asks for.

    Parameters
    ----------
    page : str or Path
    found : gpucoron.report.found.Found
    name : str
        Its path relative to the page.

    Returns
    -------
    Path or None
        None if no exposure of the report has a script of this name.
    """
    for record in found.records.values():
        path = _path(page, record["exposure"])
        if f"{path.parent.name}/{path.name}" == name:
            exposure = find_exposure(found.folder, record)
            longest = choose_sides(found.folder, found.records.values()).images
            return path if write_tiles(page, exposure, longest) else None
    return None


def _path(page, name):
    page = Path(page)
    return page.with_name(f"{page.stem}_tiles") / f"{Path(name).name}_tiles.js"


def _is_current(path, mark, product):
    try:
        with path.open("rb") as file:
            is_ours = file.readline() == mark
        return is_ours and (product is None or path.stat().st_mtime >= product.stat().st_mtime)
    except OSError:
        return False


def _write(file, mark, exposure, product, preview):
    """Write one integration at a time, to save memory."""
    file.write(mark)
    file.write(f'gpucoronTiles({json.dumps(exposure)},{{"unit":"DN/s","images":['.encode())
    for number, image in enumerate(_images_of(product) if product is not None else ()):
        file.write(b"," if number else b"")
        file.write(json.dumps(image.to_json(), separators=(",", ":")).encode())
    file.write(b"]")
    if preview is not None:
        images = {kind: getattr(preview, kind) for kind in ("rate", "flags", "removed")}
        full = {kind: image.to_json() for kind, image in images.items() if image is not None}
        file.write(f',"full":{json.dumps(full, separators=(",", ":"))}'.encode())
    file.write(b"});\n")


def _images_of(product):
    """Yield the integrations of a ``rateints`` product, without unusable pixels."""
    from astropy.io import fits

    try:
        with fits.open(product, memmap=False) as hdus:
            rate, dq = (hdus[name].section for name in ("SCI", "DQ"))
            if len(rate.shape) != 3:
                msg = f"SCI has {len(rate.shape)} axes, not 3"
                raise ValueError(msg)
            for number in range(rate.shape[0]):
                yield QuantisedImage.of(usable(rate[number], dq[number]), step=_STEP)
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{product}: not a readable rateints product ({error}); the report has no images of its integrations"
        raise InputError(msg) from error
