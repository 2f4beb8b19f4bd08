"""Files given by parameters: check that they can be read or written, and read arrays and flags for the steps.

All files are checked before any work. Steps read no files themselves.
"""

import logging
import os
import stat
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpucoron.errors import InputError, ParameterError, ReferenceFileError, UserFileError
from gpucoron.files import first_line
from gpucoron.io.fits_layout import check_regular, read_layout
from gpucoron.io.persistence_file import read_ends
from gpucoron.io.references import read_reference
from gpucoron.parameters import FROM_FILES

log = logging.getLogger(__name__)

#: kind of file -> its first bytes
_BEGINS = {"FITS": (b"SIMPLE  =", b"\x1f\x8b"), "ASDF": (b"#ASDF",), "NPY": (b"\x93NUMPY",)}
#: value that means no file
_NO_FILE = "N/A"
#: maximum bytes of a file name: the limit of most file systems, minus the suffixes of products
_LONGEST_NAME = 200


def check_files(table, parameters):
    """Check, before any work, that files in parameters exist and are of the right kind.

    Parameters
    ----------
    table : mapping
        name -> Step.
    parameters : mapping
        step -> its resolved parameters. Files of skipped steps are not checked.

    Raises
    ------
    UserFileError
        A file is missing, not a regular file, empty, unreadable, or of the wrong kind; or a file cannot be written.
    """
    for step_name, settings in parameters.items():
        if settings.skip:
            continue
        for name, parameter in table[step_name].known.items():
            value, owner = getattr(settings, name), f"{step_name}.{name}"
            if not isinstance(value, str) or not (parameter.reads or parameter.names):
                continue
            if parameter.names and value:
                _check_name(value, owner, parameter.in_folder)
            elif parameter.reads and not (name.startswith("override_") and value.strip() == _NO_FILE):
                _check_file(value, parameter, owner)


def _check_file(path, parameter, owner):
    advice = f"give {' or '.join(parameter.reads)}, or do without {owner}"
    try:
        mode = os.stat(path).st_mode
        fault = "" if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        if not fault:
            with open(path, "rb") as file:
                begin = file.read(16)
            kinds = [kind for kind in parameter.reads if begin.startswith(_BEGINS[kind])]
            fault = "" if kinds else f"not in {' or '.join(parameter.reads)} format" if begin else "empty"
        problem = fault and f"it is {fault}"
    except FileNotFoundError:
        problem = "" if parameter.may_be_missing and path.strip() else "there is no such file"
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
    if problem:
        msg = f"{owner}: {path!r}: {problem}; {advice}"
        raise UserFileError(msg)


def _check_name(path, owner, in_folder):
    names = os.path.expandvars(os.path.expanduser(path)).split(os.sep)
    if any(len(os.fsencode(name)) > _LONGEST_NAME for name in names):
        msg = f"{owner}: {path[:40]!r}...: the file name is too long; the maximum is {_LONGEST_NAME} bytes"
        raise UserFileError(msg)
    folder = os.path.dirname(path) or "."
    if in_folder and not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{owner}: {path!r}: there is no writable folder {folder}; create it, or give another file"
        raise UserFileError(msg)
    if in_folder and os.path.exists(path) and not os.path.isfile(path):
        msg = f"{owner}: {path!r}: this is not a file; give another path"
        raise UserFileError(msg)


def read_files(steps, parameters, exposure):
    """Read the files in parameters of all steps before the first step runs, and check their arrays.

    Parameters
    ----------
    steps : iterable of Step
    parameters : mapping
        step -> its resolved parameters. Not changed.
    exposure : Exposure

    Returns
    -------
    dict
        step -> its parameters with arrays instead of paths, for steps that are not skipped.

    Raises
    ------
    InputError
        An array does not fit the exposure.
    ParameterError
        A file cannot be read, or has the wrong contents.
    """
    read = {}
    for step in steps:
        if parameters[step.name].skip:
            continue
        settings = read[step.name] = with_files_read(step, parameters[step.name], exposure)
        if step.checks is not None:
            try:
                step.checks(settings, exposure.data.shape)
            except ValueError as error:
                msg = f"{exposure.name}: {step.name}: {error}"
                raise InputError(msg) from error
    return read


def with_files_read(step, settings, exposure):
    """Replace the paths in the parameters of a step by the arrays, flags and references in the files.

    Parameters
    ----------
    step : Step
    settings
        The step's parameters.
    exposure : Exposure
        Flags are cut to its subarray.

    Returns
    -------
    settings
        The same with the contents instead of paths.

    Raises
    ------
    InputError
        Flags do not cover the pixels of the exposure.
    ParameterError
        A file cannot be read, or has the wrong contents.
    """
    read = {
        name: _READERS[parameter.kind](getattr(settings, name), f"{step.name}.{name}", exposure)
        for name, parameter in step.known.items()
        if parameter.kind in FROM_FILES and getattr(settings, name) is not None
    }
    for name, parameter in step.known.items():
        if parameter.holds == "ends" and getattr(settings, name):
            read[name] = read_ends(settings, exposure.facts, exposure.data.shape[-2:], exposure.name)
        elif parameter.holds and getattr(settings, name):
            read[name] = _read_mask(getattr(settings, name), parameter, step)
    read |= {
        name: _read_as_reference(getattr(settings, name), f"{step.name}.{name}", parameter.reference, exposure)
        for name, parameter in step.known.items()
        if parameter.reference and getattr(settings, name) is not None
    }
    return replace(settings, **read) if read else settings


def _read_mask(path, parameter, step):
    """Read a mask, an array of bool, from a file that jwst can open as a model."""
    from stdatamodels.jwst import datamodels

    owner = f"{step.name}.{parameter.name}"
    try:
        if str(path).endswith(".fits"):
            read_layout(Path(path), strict=False)  # refuses damaged files before jwst allocates memory
        with warnings.catch_warnings(action="ignore"), datamodels.open(path) as model:
            return np.array(getattr(model, parameter.holds)).astype(bool)
    except Exception as error:  # a damaged file can raise almost anything
        hint = step.hints.get(parameter.name, "")
        msg = f"{owner}: {path}: jwst cannot read it ({first_line(error)}); {hint}"
        raise ParameterError(msg) from error


def _read_as_reference(path, owner, reftype, exposure):
    """Read a calibration reference that a parameter names."""
    try:
        return read_reference(reftype, path, exposure)
    except ReferenceFileError as error:
        msg = f"{owner}: {error}"
        raise ParameterError(msg) from error


def _read_flags(path, owner, exposure):
    """Read DQ flags from the first image of a FITS file, cut to the subarray: (ny, nx) uint32."""
    from astropy.io import fits

    try:
        read_layout(Path(path), strict=False)  # refuses damaged files before astropy allocates memory
        flags, header = fits.getdata(path, header=True)
        header = {**fits.getheader(path), **header}
    except Exception as error:  # a damaged file can raise almost anything
        msg = (
            f"{path}: the flags of {owner} cannot be read ({first_line(error)}); give a FITS file with an image of "
            f"DQ flags, or do without {owner}"
        )
        raise ParameterError(msg) from error
    if flags is None or flags.dtype.kind not in "biuf":
        msg = f"{path}: {owner}: the first extension with data is not an image; give a FITS file with an image of flags"
        raise ParameterError(msg)
    flags = _cut(flags, header, path, owner, exposure)
    # comparisons with NaN are false
    fits_in = (flags >= 0) & (flags < 2**32) & (np.floor(flags) == flags) if flags.dtype.kind != "b" else flags >= 0
    if not fits_in.all():
        y, x = np.argwhere(~fits_in)[0]
        msg = (
            f"{path}: {owner}: DQ flags are whole numbers from 0 to {2**32 - 1}, but {(~fits_in).sum()} pixels have "
            f"other values, first {flags[y, x]}; give an image of integers, with 0 for good pixels"
        )
        raise ParameterError(msg)
    return np.array(flags, dtype=np.uint32)


def _cut(flags, header, path, owner, exposure):
    """Cut flags to the subarray of an exposure, by jwst's rule for references.

    As in jwst, flags with the shape of the exposure are used unchanged. SUBSTRT1 and SUBSTRT2 are the first pixel of
    other flags, which must be a full frame if these keywords are missing.
    """
    facts, (ny, nx) = exposure.facts, exposure.data.shape[-2:]
    start = header.get("SUBSTRT1"), header.get("SUBSTRT2")
    if not all(first is None or (isinstance(first, int) and not isinstance(first, bool)) for first in start):
        msg = f"{path}: {owner}: SUBSTRT1, SUBSTRT2 are {start}; set them to whole numbers, or remove them"
        raise ParameterError(msg)
    here = facts.xstart, facts.ystart
    if flags.shape == (ny, nx):
        if None not in (*start, *here) and start != here:
            log.warning(
                "%s: %s: the flags are from another subarray, at %s, but are used for %s, at %s",
                path, owner, start, exposure.name, here,
            )  # fmt: skip
        return flags
    if None in start and flags.shape == facts.full_frame:
        start = 1, 1
    advice = f"give an image of {ny} x {nx} pixels, or of the full frame, {' x '.join(map(str, facts.full_frame))}"
    problem = f"{path}: {owner}: the flags have the shape {flags.shape}"
    if flags.ndim != 2 or None in start:
        msg = (
            f"{problem}, {exposure.name} has {(ny, nx)}, and SUBSTRT1 and SUBSTRT2 are missing; {advice}, or set these "
            "keywords"
        )
        raise InputError(msg)
    if None in here:
        msg = (
            f"{exposure.name}: SUBSTRT1 or SUBSTRT2 is missing, so that {path} cannot be cut to its subarray; {advice}"
        )
        raise InputError(msg)
    x, y = here[0] - start[0], here[1] - start[1]
    if x < 0 or y < 0 or x + nx > flags.shape[1] or y + ny > flags.shape[0]:
        msg = (
            f"{problem} from {start} (SUBSTRT1, SUBSTRT2), which does not cover the {(ny, nx)} from {here} of "
            f"{exposure.name}; {advice}"
        )
        raise InputError(msg)
    return flags[y : y + ny, x : x + nx]


def _read_array(value, owner, exposure):
    """Read an array from a ``.npy`` file; return an array unchanged."""
    if not isinstance(value, (str, Path)):
        return value
    try:
        check_regular(Path(value))
        array = np.load(value)
    except Exception as error:  # a damaged file can raise almost anything
        msg = f"{value}: {owner} cannot be read as an array ({first_line(error)}); save it with numpy.save"
        raise ParameterError(msg) from error
    if not isinstance(array, np.ndarray):
        msg = f"{value}: {owner} holds several arrays; save one with numpy.save"
        raise ParameterError(msg)
    return array


_READERS = {"array": _read_array, "flags": _read_flags}
