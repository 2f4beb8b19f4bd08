"""Recognise the products that a batch has written: by size and date, and if these differ by the header.

A product may be cut by a full disk or a broken transfer, or be replaced by another one.
"""

import os

from gpucoron.errors import InputError
from gpucoron.io.fits_layout import read_layout


def describe_outputs(outputs, folder):
    """Describe products that were just written, for their record.

    Parameters
    ----------
    outputs : dict
        Kind of product -> file name, relative to the folder or absolute.
    folder : Path

    Returns
    -------
    dict
        File name -> [size in bytes, modification time in ns, keyword DATE]. Files that cannot be read are left out.
    """
    found = {}
    for name in outputs.values():
        try:
            stat = os.stat(folder / name)
        except OSError:
            continue
        found[name] = [stat.st_size, stat.st_mtime_ns, _header_date(folder / name) or ""]
    return found


def is_untouched(record, name, folder):
    """Return whether a product exists with the size and date in its record; records of older versions have none."""
    try:
        stat = os.stat(folder / name)
    except OSError:
        return False
    known = _known(record, name)
    return os.path.isfile(folder / name) and (known is None or known[:2] == [stat.st_size, stat.st_mtime_ns])


def is_damaged(record, name, folder):
    """Return whether a product is no longer a whole FITS file."""
    return not _is_intact(record, name, folder) and _header_date(folder / name) is None


def is_replaced(record, name, folder):
    """Return whether a product is another whole FITS file than the one in its record."""
    if _is_intact(record, name, folder):
        return False
    size, _time, date = _known(record, name)
    found = _header_date(folder / name)
    return found is not None and (os.stat(folder / name).st_size != size or found != date)


def _is_intact(record, name, folder):
    """Return whether a product needs no look at its contents; only FITS files are looked at."""
    return not name.endswith(".fits") or _known(record, name) is None or is_untouched(record, name, folder)


def _known(record, name):
    """Return what a record has about a product; None if it has nothing, or was edited."""
    files = record.get("output_files")
    known = files.get(name) if isinstance(files, dict) else None
    return known if isinstance(known, list) and len(known) == 3 else None


def read_date(path):
    """Return the keyword DATE of a FITS file without looking at what follows its first header; None as below."""
    return _header_date(path, until="PRIMARY")


def _header_date(path, until=""):
    """Return the keyword DATE of a FITS file; None if the file is damaged or cannot be read."""
    try:
        return str(read_layout(path, until=until, strict=False).parts[0].value("DATE", ""))
    except InputError:
        return None
