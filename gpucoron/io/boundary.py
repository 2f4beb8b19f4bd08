"""The one boundary around an exposure: whatever goes wrong with it is told as a GpucoronError that names it."""

import errno
import logging
from contextlib import contextmanager

from gpucoron.errors import GpucoronError, InputError, InternalError, OutputError, TooLittleMemoryError
from gpucoron.files import first_line

log = logging.getLogger(__name__)

#: what damaged or contradictory data lead to, in Python and in the packages that read files
_OF_DATA = (ValueError, ArithmeticError, OSError, EOFError)
_READERS = ("astropy", "asdf", "yaml", "jsonschema", "stdatamodels", "zlib", "crds")
_REPORT = "please report it with the log"


@contextmanager
def told_of(exposure, step="", *, reading=False, advice="", name=None, spared=None):
    """Let what is raised in the block be a GpucoronError of an exposure, with its step and the way out.

    Parameters
    ----------
    exposure : str or Path
        Its file or name.
    step : str, optional
    reading : bool
        The block reads the file: whatever goes wrong is the file's fault.
    advice : str, optional
        What to do about data that cannot be used.
    name : callable, optional
        ``name(error)`` makes the GpucoronError of code whose every failure is one of the exposure: jwst's own.
    spared : callable, optional
        ``spared(error)`` is true for what somebody further up deals with.

    Raises
    ------
    GpucoronError
        As it was raised, or: TooLittleMemoryError; OutputError where the disk is full; InputError for what data lead
        to, with the traceback in the log at level DEBUG; InternalError for all else, a fault of ours, with the
        traceback in the log. What was raised stays as ``__cause__``.
    """
    try:
        yield
    except GpucoronError:
        raise
    except Exception as error:
        if spared is not None and spared(error):
            raise
        if name is not None:
            raise name(error) from error
        raise name_error(error, exposure, step, reading=reading, advice=advice) from error


def name_error(error, exposure, step="", *, reading=False, advice=""):
    """Make the GpucoronError of an exposure that stands for an error of any kind; see `told_of`."""
    owner = f"{exposure}: {step}" if step else f"{exposure}"
    what = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, MemoryError):
        told = f"{owner}: too little memory ({first_line(error)})"
        return TooLittleMemoryError(f"{told}; free some, or give a smaller --max-memory (max_memory)")
    if is_disk_full(error):
        return OutputError(f"{owner}: the disk is full ({first_line(error)}); make room, or choose another folder")
    if reading or is_of_data(error):
        log.debug("%s: this was raised", owner, exc_info=error)
        if reading:
            return InputError(f"{owner}: damaged, or not as jwst's exposures are ({what}); download it again")
        if isinstance(error, ValueError):  # our own steps say what is wrong
            return InputError(f"{owner}: {first_line(error)}{advice}")
        return InputError(f"{owner}: it cannot work on these data ({what}){advice}; check the file and its keywords")
    log.error("%s: an internal error of gpucoron; %s", owner, _REPORT, exc_info=error)
    msg = f"{owner}: an internal error of gpucoron ({what}); {_REPORT}, and leave the file out meanwhile"
    return InternalError(msg)


def is_disk_full(error):
    """Tell whether an error says that there is no room for a file."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def is_of_data(error):
    """Tell whether an error is what data that cannot be used lead to, and no fault of the program."""
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, _OF_DATA) or bool(packages.intersection(_READERS))
