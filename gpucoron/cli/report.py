"""``gpucoron report``: write one HTML page of a batch or a product, or show it in a browser."""

import argparse
import contextlib
import signal
import sys
import threading

from gpucoron.cli.options import add_verbosity
from gpucoron.errors import ParameterError


def add_parser(commands):
    """Add the command to the command line."""
    report = commands.add_parser(
        "report",
        help="write an HTML page about a batch or a single exposure",
        description="Write one HTML page about a batch, a folder of products or a single product. The page needs no "
        "network. With --serve, nothing is written into the folder: the page is shown in a browser on this machine, "
        "and a click on a pixel shows its ramp.",
    )
    report.add_argument("folder", metavar="DIR", help="folder of the products, or one *_rate.fits")
    report.add_argument(
        "-o", "--output", metavar="FILE", help="path of the page (default: report.html in DIR); not with --serve"
    )
    report.add_argument(
        "--serve",
        action="store_true",
        help="show the page at an address of this machine (127.0.0.1) that only this command prints; Ctrl-C ends it",
    )
    report.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help="port for --serve, from 1 to 65535 (default: a free one); for a remote machine, forward it with "
        "ssh -L N:127.0.0.1:N HOST",
    )
    add_verbosity(report)
    report.set_defaults(function=_run)


def _port(text):
    """Convert the number of a port, for argparse."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        msg = f"{text!r}: expected a number from 1 to 65535"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _run(options):
    if options.serve:
        return _serve(options)
    if options.port is not None:
        msg = "--port: only with --serve; leave it out, or add --serve"
        raise ParameterError(msg)
    from gpucoron.report import write_report

    path = write_report(options.folder, options.output)
    if not options.quiet:
        print(f"wrote {path}")
    return 0


def _serve(options):
    """Serve the report until Ctrl-C, or until the process is asked to end."""
    from gpucoron.report.serve import serving

    if options.output is not None:
        msg = "--output: not with --serve, which writes no page; leave one of them out"
        raise ParameterError(msg)
    before = signal.signal(signal.SIGTERM, _interrupt)
    if not options.quiet:
        print(f"reading {options.folder}", flush=True)
    try:
        with serving(options.folder, options.port or 0) as server:
            # flushed, so that a program that starts this one can read the address
            print(f"the report is at {server.url}\nCtrl-C ends it", flush=True)
            threading.Thread(target=_prepare, daemon=True).start()
            server.serve_forever()
    except KeyboardInterrupt:
        print("", file=sys.stderr)  # after the ^C of the terminal
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _prepare():
    """Import what the first ramp needs, while the user looks at the page."""
    from gpucoron.io.warm_up import warm_up

    with contextlib.suppress(Exception):  # the first ramp reports what is wrong
        warm_up()
        from gpucoron.report import ramp  # noqa: F401


def _interrupt(number, frame):
    raise KeyboardInterrupt
