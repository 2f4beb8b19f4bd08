"""The persistence step's ASDF file, as jwst writes it: for each detector, when the persistence of its pixels ends."""

import hashlib
import logging
import os
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import numpy as np

from gpucoron.errors import InputError, ParameterError
from gpucoron.files import appearing, first_line, writing
from gpucoron.io.asdf_trees import copy_tree

log = logging.getLogger(__name__)

#: entries that ASDF adds to a tree
_OF_ASDF = ("asdf_library", "history")

#: parameter of the step -> path: files that replace those that the user has named
_stand_ins: ContextVar[dict[str, str]] = ContextVar("stand_ins")


@contextmanager
def standing_in(files):
    """Let the step read and write other files than those that its parameters name; products name the latter.

    Parameters
    ----------
    files : dict
        ``persistence_array_file`` and ``save_persistence`` -> path; the user's file is used for those that are missing.
    """
    token = _stand_ins.set(files)
    try:
        yield
    finally:
        _stand_ins.reset(token)


def read_ends(settings, facts, shape, name):
    """Read when the persistence of the pixels of an exposure ends.

    Parameters
    ----------
    settings
        The parameters of the step, with the path of the file.
    facts : Facts
        Of the exposure.
    shape : (ny, nx)
    name : str
        Name of the exposure, for messages.

    Returns
    -------
    (ny, nx) float64, s
        Seconds since 1970; 0 for pixels without persistence. All are 0 if the file is missing, has no entry for the
        detector, or was made with another ``persistence_time``, as in jwst.

    Raises
    ------
    InputError
        The file has pixels outside the exposure.
    ParameterError
        The file cannot be read, or its entry is incomplete.
    """
    path = _stand_ins.get({}).get("persistence_array_file", settings.persistence_array_file)
    ends = np.zeros(shape, np.float64)
    entry = read_entries(path).get(facts.detector)
    if entry is None:
        log.info("%s: %s has no persistence of %s", name, path, facts.detector)
        return ends
    owner = f"{name}: persistence.persistence_array_file: {path}"
    try:
        if entry["pers_time"] != settings.persistence_time:
            log.warning(
                "%s: made with persistence_time=%s, not %s: not used", owner, entry["pers_time"],
                settings.persistence_time,
            )  # fmt: skip
            return ends
        for axis in ("rows", "cols"):
            if np.asarray(entry[axis]).dtype.kind not in "biu":
                msg = f"{axis} are not integers"
                raise TypeError(msg)
        ends[entry["rows"], entry["cols"]] = entry["vals"]
    except IndexError as error:
        msg = (
            f"{owner}: it has pixels outside the {shape[0]} x {shape[1]} pixels of the exposure ({first_line(error)}); "
            "the rows and columns in the file may be those of a larger subarray: give a file that was written by "
            "exposures of this subarray only"
        )
        raise InputError(msg) from error
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{owner}: the entry of {facts.detector} is incomplete or damaged ({error!r}); give another, or remove it"
        raise ParameterError(msg) from error
    return ends


def write_later(run, settings, ends):
    """Call `write_ends` after the last step of a run.

    If the file is also the one that the step has read, an exposure that starts again must find it unchanged.
    """
    run.after_steps.append(partial(write_ends, settings, run.exposure, ends))


def write_ends(settings, exposure, ends):
    """Write when the persistence of the pixels of an exposure ends; entries of other detectors are kept.

    Parameters
    ----------
    settings
        The parameters of the step.
    exposure : Exposure
    ends : (ny, nx) float64, s
        Only pixels other than 0 are stored.

    Raises
    ------
    OutputError, ParameterError
        The file cannot be written, or an existing one cannot be read.
    """
    path = written_path(_stand_ins.get({}).get("save_persistence", settings.save_persistence))
    rows, columns = np.nonzero(ends)
    entry = {
        "filename": exposure.meta.meta.filename,
        "rows": rows,
        "cols": columns,
        "vals": ends[rows, columns],
        "pers_time": settings.persistence_time,
    }
    write_entries(path, {**read_entries(path), exposure.facts.detector: entry})


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

    target = os.path.realpath(path)  # a link stays one
    with writing(path), appearing(target) as (draft,):
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
