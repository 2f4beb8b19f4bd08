"""What parameters name by file: arrays and flags. They are read for the steps, which read no files themselves."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gpucoron.errors import ParameterError, ReferenceFileError
from gpucoron.files import first_line
from gpucoron.parameters import FROM_FILES


def with_files_read(step, settings):
    """Replace the paths in a step's settings by what the files hold, as the kind of each parameter says.

    Parameters
    ----------
    step : Step
    settings : namespace
        Not changed.

    Returns
    -------
    namespace
    """
    read = {
        name: _READERS[parameter.kind](getattr(settings, name), f"{step.name}.{name}")
        for name, parameter in step.known.items()
        if parameter.kind in FROM_FILES and getattr(settings, name) is not None
    }
    return SimpleNamespace(**{**vars(settings), **read}) if read else settings


def _read_flags(path, owner):
    """Read the flags that a user supplies: the first image of a FITS file, (ny, nx) uint32."""
    from astropy.io import fits

    try:
        flags = fits.getdata(path)
    except Exception as error:  # a damaged file shows as almost any error
        msg = f"{path}: the flags of {owner} cannot be read ({first_line(error)})"
        raise ReferenceFileError(msg) from error
    return np.array(flags, dtype=np.uint32)


def _read_array(value, owner):
    """Read an array that a parameter names by file (``.npy``), or take the array that it is."""
    if not isinstance(value, (str, Path)):
        return value
    try:
        return np.load(value)
    except (OSError, ValueError) as error:
        msg = f"{value}: cannot be read as an array ({first_line(error)}); save it with numpy.save"
        raise ParameterError(msg) from error


_READERS = {"array": _read_array, "flags": _read_flags}
