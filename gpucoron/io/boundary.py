"""Convert every error of an exposure into a GpucoronError that names the exposure."""

import logging
from contextlib import contextmanager

from gpucoron.errors import GpucoronError, InputError, InternalError, OutputError, TooLittleMemoryError
from gpucoron.files import first_line, is_disk_full

log = logging.getLogger(__name__)

#: errors caused by damaged or contradictory data: Python's own, and those of packages that read files
_OF_DATA = (ValueError, ArithmeticError, OSError, EOFError)
_READERS = ("astropy", "asdf", "yaml", "jsonschema", "stdatamodels", "zlib", "crds")
_REPORT = "please report it with the log"


@contextmanager
def converted_errors(exposure, step="", *, reading=False, advice="", passed_on=None, late=None):
    """Convert every exception of the block into a GpucoronError that names the exposure and the step.

    Parameters
    ----------
    exposure : str or Path
        File or name of the exposure.
    step : str, optional
    reading : bool
        The block reads the file, so any failure means that the file is damaged.
    advice : str, optional
        Appended to the message if the data cannot be used.
    passed_on : callable, optional
        ``passed_on(error)`` returns whether to pass an exception on unchanged, because the caller handles it.
    late : callable, optional
        ``late(error)`` returns whether an earlier step may have caused an exception.

    Raises
    ------
    GpucoronError
        The original exception is its ``__cause__``. A GpucoronError is passed on unchanged. Others become
        TooLittleMemoryError; OutputError if the disk is full; InputError if the data are the cause, with the traceback
        in the log at level DEBUG; or InternalError, a bug of gpucoron, with the traceback in the log.
    """
    try:
        yield
    except GpucoronError:
        raise
    except Exception as error:
        if passed_on is not None and passed_on(error):
            raise
        if late is not None and late(error):
            reports = "because a GPU reports errors late (CUDA_LAUNCH_BLOCKING=1 tells which)"
            noticed = step or ("reading" if reading else "a product")
            step, reading = f"{noticed} or a step before it, {reports}", False
        raise convert_error(error, exposure, step, reading=reading, advice=advice) from error


def convert_error(error, exposure, step="", *, reading=False, advice=""):
    """Convert any exception into a GpucoronError; see `converted_errors`."""
    owner = f"{exposure}: {step}" if step else f"{exposure}"
    what = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, MemoryError):
        problem = f"{owner}: too little memory ({first_line(error)})"
        return TooLittleMemoryError(f"{problem}; free memory, or give a smaller --max-memory (max_memory)")
    if is_disk_full(error):
        return OutputError(
            f"{owner}: the disk is full ({first_line(error)}); free disk space, or choose another folder"
        )
    if reading or is_of_data(error):
        log.debug("%s: traceback of the error", owner, exc_info=error)
        if reading:
            return InputError(f"{owner}: damaged, or not a JWST exposure ({what}); download it again")
        if isinstance(error, ValueError):  # the messages of our own steps explain the problem
            return InputError(f"{owner}: {first_line(error)}{advice}")
        return InputError(f"{owner}: these data cannot be processed ({what}){advice}; check the file and its keywords")
    log.error("%s: an internal error of gpucoron; %s", owner, _REPORT, exc_info=error)
    msg = f"{owner}: an internal error of gpucoron ({what}); {_REPORT}, and leave this file out for now"
    return InternalError(msg)


def is_of_data(error):
    """Return whether unusable data, not a bug, caused an exception."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, _OF_DATA) or bool(packages.intersection(_READERS))
