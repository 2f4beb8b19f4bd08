"""What parameters name by file: arrays, flags, files that jwst's own code opens, names for what is written.

Files are checked before any work. Arrays and flags are read for the steps, which read no files themselves.
"""

import logging
import os
import stat
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpucoron.errors import InputError, ParameterError
from gpucoron.files import first_line
from gpucoron.io.fits_layout import check_regular, read_layout
from gpucoron.parameters import FROM_FILES

log = logging.getLogger(__name__)

#: kind of file -> how it begins, and how it is made
_BEGINS = {"FITS": (b"SIMPLE  =", b"\x1f\x8b"), "ASDF": (b"#ASDF",), "NPY": (b"\x93NUMPY",)}
#: what stands for no file
_NO_FILE = "N/A"
#: longest name of a file, bytes: what most file systems take, less what products append
_LONGEST_NAME = 200


def check_files(table, parameters):
    """Check the files that parameters name, before any work: that those to be read are there, and of their kind.

    Parameters
    ----------
    table : mapping
        name -> Step.
    parameters : mapping
        step -> its parameters, settled. Files of a step that is skipped are not looked at.

    Raises
    ------
    ParameterError
        A file is missing, a folder, a device, empty, unreadable, or of another kind; or a name cannot be written.
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
    wanted = f"give {' or '.join(parameter.reads)}, or do without {owner}"
    try:
        found = os.stat(path)
        what = "" if stat.S_ISREG(found.st_mode) else "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        if not what:
            with open(path, "rb") as file:
                begin = file.read(16)
            kinds = [kind for kind in parameter.reads if begin.startswith(_BEGINS[kind])]
            what = "" if kinds else f"no {' or '.join(parameter.reads)} file" if begin else "empty"
        problem = what and f"it is {what}"
    except FileNotFoundError:
        problem = "" if parameter.may_be_missing and path.strip() else "there is no such file"
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
    if problem:
        msg = f"{owner}: {path!r}: {problem}; {wanted}"
        raise ParameterError(msg)


def _check_name(path, owner, in_folder):
    names = os.path.expandvars(os.path.expanduser(path)).split(os.sep)
    if any(len(os.fsencode(name)) > _LONGEST_NAME for name in names):
        msg = f"{owner}: {path[:40]!r}...: no file can have so long a name; the longest is of {_LONGEST_NAME} bytes"
        raise ParameterError(msg)
    folder = os.path.dirname(path) or "."
    if in_folder and not os.access(folder, os.W_OK | os.X_OK):
        msg = f"{owner}: {path!r}: there is no folder {folder} to write to; make it, or name another file"
        raise ParameterError(msg)
    if in_folder and os.path.exists(path) and not os.path.isfile(path):
        msg = f"{owner}: {path!r}: it is there, and no file; name another"
        raise ParameterError(msg)


def read_files(steps, parameters, exposure):
    """Read what parameters name by file, for all steps and before any of them, and check their arrays.

    Parameters
    ----------
    steps : iterable of Step
    parameters : mapping
        step -> its parameters, settled. Not changed.
    exposure : Exposure

    Returns
    -------
    dict
        step -> its parameters, for the steps that are not skipped.

    Raises
    ------
    InputError
        An array, or a file, does not go with the exposure.
    ParameterError
        A file cannot be read, or holds something else.
    """
    read = {}
    for step in steps:
        if parameters[step.name].skip:
            continue
        settings = read[step.name] = with_files_read(step, parameters[step.name], exposure)
        for name, parameter in step.known.items():
            if parameter.holds and getattr(settings, name):
                _check_model(getattr(settings, name), parameter, step)
        if step.checks is not None:
            try:
                step.checks(settings, exposure.data.shape)
            except ValueError as error:
                msg = f"{exposure.name}: {step.name}: {error}"
                raise InputError(msg) from error
    return read


def _check_model(path, parameter, step):
    """Refuse a file of which jwst's own code could not take its array, when the step's turn has come."""
    from stdatamodels.jwst import datamodels

    try:
        with warnings.catch_warnings(action="ignore"), datamodels.open(path) as model:
            np.array(getattr(model, parameter.holds)).astype(bool)
    except Exception as error:  # a damaged file shows as almost any error
        hint = "; ".join(hint for name, _kind, hint in step.hints if name == parameter.name)
        msg = f"{step.name}.{parameter.name}: {path}: jwst cannot read it ({first_line(error)}); {hint}"
        raise ParameterError(msg) from error


def with_files_read(step, settings, exposure):
    """Replace the paths in a step's settings by what the files hold, as the kind of each parameter says.

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
        The same with arrays in the place of paths.

    Raises
    ------
    InputError
        Flags do not cover the exposure's pixels.
    ParameterError
        A file cannot be read, or holds something else.
    """
    read = {
        name: _READERS[parameter.kind](getattr(settings, name), f"{step.name}.{name}", exposure)
        for name, parameter in step.known.items()
        if parameter.kind in FROM_FILES and getattr(settings, name) is not None
    }
    return replace(settings, **read) if read else settings


def _read_flags(path, owner, exposure):
    """Read the flags that a user supplies: the first image of a FITS file, (ny, nx) uint32, cut to the subarray."""
    from astropy.io import fits

    try:
        check_regular(Path(path))
        read_layout(Path(path), strict=False)  # before its headers are believed
        flags, header = fits.getdata(path, header=True)
        header = {**fits.getheader(path), **header}
    except Exception as error:  # a damaged file shows as almost any error
        msg = (
            f"{path}: the flags of {owner} cannot be read ({first_line(error)}); give a FITS file with an image of "
            f"DQ flags, or do without {owner}"
        )
        raise ParameterError(msg) from error
    if flags is None or flags.dtype.kind not in "biuf":
        msg = f"{path}: {owner}: the first extension with data is no image; give a FITS file with an image of DQ flags"
        raise ParameterError(msg)
    flags = _cut(flags, header, path, owner, exposure)
    # comparisons with NaN are false
    fits_in = (flags >= 0) & (flags < 2**32) & (np.floor(flags) == flags) if flags.dtype.kind != "b" else flags >= 0
    if not fits_in.all():
        y, x = np.argwhere(~fits_in)[0]
        msg = (
            f"{path}: {owner}: DQ flags are whole numbers from 0 to {2**32 - 1}, and {(~fits_in).sum()} pixels are "
            f"not, the first of them {flags[y, x]}; give an image of integers, with 0 for good pixels"
        )
        raise ParameterError(msg)
    return np.array(flags, dtype=np.uint32)


def _cut(flags, header, path, owner, exposure):
    """Cut flags to an exposure's subarray, by jwst's rule for references.

    Flags of the exposure's own shape are taken as they are, as in jwst. Others begin where SUBSTRT1 and SUBSTRT2 say;
    without these keywords they must be a full frame.
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
                "%s: %s: the flags are of another subarray, from %s; they are taken as those of %s, from %s",
                path, owner, start, exposure.name, here,
            )  # fmt: skip
        return flags
    if None in start and flags.shape == facts.full_frame:
        start = 1, 1
    advice = f"give an image of {ny} x {nx} pixels, or of the full frame, {' x '.join(map(str, facts.full_frame))}"
    what = f"{path}: {owner}: the flags have the shape {flags.shape}"
    if flags.ndim != 2 or None in start:
        msg = (
            f"{what}, {exposure.name} has {(ny, nx)}, and no SUBSTRT1 and SUBSTRT2 say where they begin; {advice}, or "
            "set these keywords"
        )
        raise InputError(msg)
    if None in here:
        msg = f"{exposure.name}: SUBSTRT1 or SUBSTRT2 is missing, so that {path} cannot be cut to it; {advice}"
        raise InputError(msg)
    x, y = here[0] - start[0], here[1] - start[1]
    if x < 0 or y < 0 or x + nx > flags.shape[1] or y + ny > flags.shape[0]:
        msg = (
            f"{what} from {start} (SUBSTRT1, SUBSTRT2), which does not hold the {(ny, nx)} from {here} of "
            f"{exposure.name}; {advice}"
        )
        raise InputError(msg)
    return flags[y : y + ny, x : x + nx]


def _read_array(value, owner, exposure):
    """Read an array that a parameter names by file (``.npy``), or take the array that it is."""
    if not isinstance(value, (str, Path)):
        return value
    try:
        check_regular(Path(value))
        array = np.load(value)
    except Exception as error:  # a damaged file shows as almost any error
        msg = f"{value}: {owner} cannot be read as an array ({first_line(error)}); save it with numpy.save"
        raise ParameterError(msg) from error
    if not isinstance(array, np.ndarray):
        msg = f"{value}: {owner} holds several arrays; save one with numpy.save"
        raise ParameterError(msg)
    return array


_READERS = {"array": _read_array, "flags": _read_flags}
