# PYTHON_ARGCOMPLETE_OK
"""The command line: ``gpucoron run | batch | ramp | ...``, one module each. Large libraries are imported late."""

import argparse
import logging
import sys

from gpucoron import __version__
from gpucoron.cli import batch, cache, compare, demo, info, ramp, report, run, simulate, steps
from gpucoron.cli.completion import complete
from gpucoron.cli.output import NO_READER, complain, flush_output, report_crash, report_error
from gpucoron.errors import GpucoronError
from gpucoron.files import is_disk_full, on_one_line
from gpucoron.io.versions import check_versions

#: commands that reduce data and need the right versions of jwst and others; `info` lists the versions instead
_REDUCING = ("run", "batch", "ramp", "simulate", "demo")

EXIT_CODES = """\
exit codes:
  0    success
  1    an internal error of gpucoron; compare: the reductions differ; cache verify: a file is damaged
  2    wrong usage, an exposure failed or was refused, or the disk is full
  130  interrupted (Ctrl-C)
  141  nobody reads the output, as after "| head"; run, batch and demo instead finish
       their work and return their usual code
"""


def main(arguments=None):
    """Run the command line; return the exit code, see `EXIT_CODES`."""
    try:
        code = _run(arguments)
    except SystemExit:  # argparse has printed a help text or an error
        code = flush_output()
        if code:
            return code
        raise
    except BrokenPipeError:
        flush_output()
        return NO_READER
    return flush_output() or code


def _run(arguments):
    parser = _parser()
    complete(parser)
    options = parser.parse_args(arguments)
    _log_to_stderr(options)
    try:
        if options.command in _REDUCING:
            check_versions()
        return options.function(options)
    except GpucoronError as error:
        report_error(error, verbose=options.verbose)
        return 2
    except KeyboardInterrupt:
        complain("interrupted; no product is incomplete")
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if is_disk_full(error):
            complain(f"the disk is full ({on_one_line(error)}); free disk space, or choose another folder")
            return 2
        report_crash(error, verbose=options.verbose)
        return 1


def _parser():
    parser = argparse.ArgumentParser(
        prog="gpucoron",
        description="JWST coronagraphy stage 1: *_uncal.fits to *_rateints.fits and *_rate.fits.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gpucoron {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (run, batch, ramp, report, compare, steps, cache, simulate, demo, info):
        command.add_parser(commands)
    return parser


def _log_to_stderr(options):
    level = logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    handler = _ToStderr()
    # its own level: the log file of an exposure needs more messages
    handler.setLevel(level)
    if not options.verbose:
        # tracebacks of internal errors: the log file has them, or `report_error` writes them to a file
        handler.addFilter(lambda record: record.name != "gpucoron.io.boundary")
    logging.basicConfig(handlers=[handler], level=level, format="%(levelname)s %(name)s: %(message)s")
    _CRDS.level = level if options.verbose else logging.ERROR
    logging.getLogger("CRDS").addFilter(_CRDS)


class _ToStderr(logging.StreamHandler):
    """Print to the current ``sys.stderr``, which a display of progress replaces for a time."""

    @property
    def stream(self):
        return sys.stderr

    @stream.setter
    def stream(self, value):
        pass


class _CrdsFilter(logging.Filter):
    """Pass log records of CRDS of ``level`` and above, each text once: CRDS repeats some for every look-up."""

    level = logging.ERROR

    def __init__(self):
        super().__init__()
        self._passed = set()

    def filter(self, record):
        text = record.getMessage()
        if record.levelno < self.level or text in self._passed:
            return False
        self._passed.add(text)
        return True


#: a filter, because CRDS sets its logger to the lowest level when it is imported
_CRDS = _CrdsFilter()
