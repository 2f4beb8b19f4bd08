"""Print results and errors; a reader that ends early, such as ``head``, stops no reduction and causes no traceback."""

import os
import sys
import tempfile
import traceback

from gpucoron.errors import InternalError
from gpucoron.files import first_line, on_one_line

#: exit code of a command whose output nobody reads, as after SIGPIPE
NO_READER = 141


def say(text):
    """Print a result. Without a reader, drop this and all later output, so that the work goes on."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output(sys.stdout)


def complain(text):
    """Print a line to stderr, or drop it if nobody reads."""
    try:
        print(f"gpucoron: {on_one_line(text)}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        drop_output(sys.stderr)


def drop_output(stream):
    """Redirect a stream without a reader to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def flush_output():
    """Flush stdout and stderr; return whether the results, on stdout, had a reader to the end."""
    are_read = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # a process may have none
                stream.flush()
        except BrokenPipeError:
            drop_output(stream)
            are_read = are_read and stream is not sys.stdout
    return are_read


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
