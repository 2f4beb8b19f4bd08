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

log = logging.getLogger(__name__)

#: first line of a script; another line is written again
_MARK = "// gpucoron tiles 1"
#: step of the levels: to 1 %
_STEP = 0.02


def write_tiles(page, exposure, product, preview=None):
    """Write the script of an exposure, unless it exists and is newer than the product.

    Parameters
    ----------
    page : Path
        The page; the scripts are in the folder ``<stem of the page>_tiles`` beside it.
    exposure : str
    product : Path or None
        Its ``*_rateints.fits``, or None if there is none.
    preview : gpucoron.records.previews.Preview, optional
        Given if the page has averaged its images: the script then has them at full resolution.

    Returns
    -------
    str or None
        Address of the script, relative to the page; None if there is nothing to write, or if the product is damaged.

    Raises
    ------
    OutputError
        The script cannot be written.
    """
    if product is None and preview is None:
        return None
    folder = page.with_name(f"{page.stem}_tiles")
    path = folder / f"{Path(exposure).name}_tiles.js"
    mark = f"{_MARK}{' full' if preview is not None else ''}\n".encode()
    if not _is_current(path, mark, product):
        try:
            write_whole(path, lambda file: _write(file, mark, exposure, product, preview))
        except InputError as error:
            log.warning("%s", error)
            return None
    return f"{quote(folder.name)}/{quote(path.name)}"


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
