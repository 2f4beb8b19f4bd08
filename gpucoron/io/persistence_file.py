"""The ASDF file in which jwst's persistence step stores, for each detector, when the persistence of its pixels ends."""

import hashlib
import os
from pathlib import Path

import numpy as np

from gpucoron.errors import ParameterError
from gpucoron.files import appearing, first_line, writing
from gpucoron.io.asdf_trees import copy_tree

#: entries that ASDF adds to a tree
_OF_ASDF = ("asdf_library", "history")


def written_path(name):
    """Return the absolute path that jwst's step writes to if ``save_persistence`` is ``name``: always ``*.asdf``."""
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
        Detector -> entry: ``rows``, ``cols`` (integers from 0), ``vals`` (float64, the end of persistence of each
        pixel in seconds since 1970), ``pers_time`` (s), ``filename``. Empty if the file does not exist.

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
            return copy_tree(tree)
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{path}: the persistence file cannot be read as ASDF ({first_line(error)}); give another, or remove it"
        raise ParameterError(msg) from error


def write_entries(path, entries):
    """Write a persistence file completely or not at all; raise OutputError if that fails."""
    import asdf

    with writing(path), appearing(path) as (draft,):
        asdf.AsdfFile(entries).write_to(draft)


def entry_digest(entry):
    """Return a digest of the pixels in an entry, or of None if there is no entry."""
    if entry is None:
        return "none"
    try:
        arrays = [np.asarray(entry[name], dtype) for name, dtype in (("rows", "<i8"), ("cols", "<i8"), ("vals", "<f8"))]
        texts = [str(entry["pers_time"]).encode(), *(array.tobytes() for array in arrays)]
    except (KeyError, TypeError, ValueError):
        texts = [repr(entry).encode()]
    return hashlib.sha256(b"|".join(texts)).hexdigest()
