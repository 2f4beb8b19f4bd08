"""Print results and errors. No reduction stops because its output has no reader, as after ``| head``, or no room."""

import os
import sys
import tempfile
import traceback

from gpucoron.errors import InternalError
from gpucoron.files import first_line, on_one_line

#: exit code of a command whose output nobody reads, as after SIGPIPE
NO_READER = 141


#: exit code of a command whose output could not be written
UNWRITTEN = 2


def prepare_streams():
    """Replace closed streams by the null device, and print characters that stdout cannot encode as escapes."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent has closed it
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):  # tests and notebooks have others
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text):
    """Print a result. If it cannot be written, drop this and all later output, so that the work goes on."""
    try:
        print(text, flush=True)
    except OSError as error:
        _give_up(sys.stdout, error)


def complain(text):
    """Print a line to stderr, or drop it if it cannot be written."""
    try:
        print(f"gpucoron: {on_one_line(text)}", file=sys.stderr, flush=True)
    except OSError as error:
        _give_up(sys.stderr, error)


def _give_up(stream, error):
    """Redirect a stream to the null device, because it cannot be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    if not isinstance(error, BrokenPipeError):
        complain(f"the output cannot be written: {error.strerror}")


def flush_output():
    """Flush stdout and stderr; return 0, or the exit code if the results, on stdout, were not all written."""
    code = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _give_up(stream, error)
            if stream is sys.stdout:
                code = NO_READER if isinstance(error, BrokenPipeError) else UNWRITTEN
    return code


def report_error(error, *, verbose, log=""):
    """Print the message of a failure; of an internal error, also where its traceback is.

    Parameters
    ----------
    error : Exception
    verbose : bool
        The log on stderr has the tracebacks of exposures.
    log : str or Path, optional
        Log file with the traceback; without it, a new file is written.
    """
    if isinstance(error, InternalError):
        complain(
            f"{error}; " + ("its traceback is above" if verbose else f"traceback: {log or _save_traceback(error)}")
        )
    else:
        complain(error)


def report_crash(error, *, verbose):
    """Report an exception that no part of gpucoron expects."""
    if verbose:
        traceback.print_exception(error)
    where = "above" if verbose else f"in {_save_traceback(error)}"
    complain(
        f"an internal error of gpucoron ({type(error).__name__}: {first_line(error)}); please report it with your "
        f"command and the traceback {where}"
    )


def _save_traceback(error):
    """Write the traceback of an error to a new file, and return its path."""
    with tempfile.NamedTemporaryFile("w", prefix="gpucoron-error-", suffix=".log", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name
