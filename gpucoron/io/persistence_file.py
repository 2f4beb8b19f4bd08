"""The ASDF file in which jwst's persistence step keeps, for each detector, until when its pixels persist."""

import hashlib
import os
from pathlib import Path

import numpy as np

from gpucoron.errors import OutputError, ParameterError
from gpucoron.files import appearing, first_line

#: what ASDF itself puts into a tree
_OF_ASDF = ("asdf_library", "history")


def written_path(name):
    """Say which file jwst's step writes, absolute, if its ``save_persistence`` is ``name``: always ``*.asdf``."""
    path = Path(os.path.abspath(name))
    return path if path.suffix == ".asdf" else path.with_name(f"{path.stem}.asdf")


def read_entries(path):
    """Read a persistence file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        Detector -> its entry: ``rows``, ``cols`` (integers, counted from 0), ``vals`` (float64, the end of each
        pixel's window in seconds since 1970), ``pers_time`` (s), ``filename``. Empty where there is no file.

    Raises
    ------
    ParameterError
        The file cannot be read as ASDF.
    """
    import asdf

    if not os.path.exists(path):
        return {}
    try:
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            tree = {name: value for name, value in file.tree.items() if name not in _OF_ASDF}
            return {name: _plain(value) for name, value in tree.items()}
    except Exception as error:  # a damaged file shows as almost any error
        msg = f"{path}: the persistence file cannot be read as ASDF ({first_line(error)}); give another, or remove it"
        raise ParameterError(msg) from error


def _plain(entry):
    """Copy an entry: what is left does not need the open file."""
    if hasattr(entry, "items"):
        return {str(name): _plain(value) for name, value in entry.items()}
    if isinstance(entry, (list, tuple)):
        return [_plain(value) for value in entry]
    return np.array(entry) if hasattr(entry, "dtype") and np.ndim(entry) else entry


def write_entries(path, entries):
    """Write a persistence file, whole or not at all.

    Raises
    ------
    OutputError
    """
    import asdf

    try:
        with appearing(path) as (draft,):
            asdf.AsdfFile(entries).write_to(draft)
    except OSError as error:
        msg = f"{path}: the persistence file could not be written ({error.strerror or error}); choose another folder"
        raise OutputError(msg) from error


def entry_digest(entry):
    """Digest what an entry says of the pixels; None, no entry, has a digest too."""
    if entry is None:
        return "none"
    try:
        arrays = [np.asarray(entry[name], dtype) for name, dtype in (("rows", "<i8"), ("cols", "<i8"), ("vals", "<f8"))]
        texts = [str(entry["pers_time"]).encode(), *(array.tobytes() for array in arrays)]
    except (KeyError, TypeError, ValueError):
        texts = [repr(entry).encode()]
    return hashlib.sha256(b"|".join(texts)).hexdigest()
