# PYTHON_ARGCOMPLETE_OK
"""The command line: ``gpucoron run | batch | ramp | ...``, one module each. Large libraries are imported late."""

import argparse
import logging
import sys

from gpucoron import __version__
from gpucoron.cli import batch, cache, compare, demo, info, ramp, report, run, simulate, steps
from gpucoron.cli.completion import complete
from gpucoron.errors import GpucoronError
from gpucoron.files import on_one_line
from gpucoron.io.versions import check_versions

#: commands that reduce data and need the right versions of jwst and others; `info` lists the versions instead
_REDUCING = ("run", "batch", "ramp", "simulate", "demo")


def main(arguments=None):
    """Run the command line; return the exit code: 0, or 2 if a file could not be reduced."""
    parser = _parser()
    complete(parser)
    options = parser.parse_args(arguments)
    _log_to_stderr(options)
    try:
        if options.command in _REDUCING:
            check_versions()
        return options.function(options)
    except GpucoronError as error:
        print(f"gpucoron: {on_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpucoron: interrupted; no product is incomplete", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="gpucoron", description="JWST coronagraphy stage 1: *_uncal.fits to *_rateints.fits and *_rate.fits."
    )
    parser.add_argument("--version", action="version", version=f"gpucoron {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (run, batch, ramp, report, compare, steps, cache, simulate, demo, info):
        command.add_parser(commands)
    return parser


def _log_to_stderr(options):
    level = logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    # its own level: the log file of an exposure needs more messages
    handler.setLevel(level)
    logging.basicConfig(handlers=[handler], level=level, format="%(levelname)s %(name)s: %(message)s")
    _CRDS.level = level if options.verbose else logging.ERROR
    logging.getLogger("CRDS").addFilter(_CRDS)


class _FromLevel(logging.Filter):
    """Pass log records of ``level`` and above."""

    level = logging.ERROR

    def filter(self, record):
        return record.levelno >= self.level


#: a filter, because CRDS sets its logger to the lowest level when it is imported
_CRDS = _FromLevel()
