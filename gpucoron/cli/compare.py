"""``gpucoron compare``: what changed between two reductions."""

import argparse
import math

from gpucoron.cli.options import add_verbosity

_EPILOG = """\
examples:
  gpucoron compare before after                        two folders of products
  gpucoron compare jwst/x_rate.fits ours/x_rate.fits   a product of jwst and one of gpucoron
  gpucoron compare cpu gpu --rtol 1e-6 -q              only the exit code: 0 the same, 1 different, 2 an error
  gpucoron compare before after -o changes.html        a page with maps
"""


def add_parser(commands):
    """Add the command to the command line."""
    compare = commands.add_parser(
        "compare",
        help="compare two reductions: pixels, flags and headers",
        description="Compare two reductions product by product: values, flags, NaN and headers. The exit code is 0 if\n"
        "nothing differs, 1 if anything does, 2 for an error. Products of jwst can be compared, too.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument("first", metavar="A", help="folder of products, or one *_rate.fits or *_rateints.fits")
    compare.add_argument("second", metavar="B", help="the folder or product to compare it with")
    compare.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write a page (.html), a picture (.png) or a table (.json) instead of text",
    )
    compare.add_argument(
        "--tolerance",
        type=_number,
        default=0.0,
        metavar="X",
        help="ignore differences up to this, in the unit of each array (default: 0, every difference counts)",
    )
    compare.add_argument(
        "--rtol",
        type=_number,
        default=0.0,
        metavar="X",
        help="ignore differences up to this fraction of the larger value",
    )
    compare.add_argument(
        "--data-only", action="store_true", help="differences of headers alone do not change the exit code"
    )
    add_verbosity(compare)
    compare.set_defaults(function=_run)


def _number(text):
    """Convert a tolerance, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        msg = f"{text!r}: expected a number of at least 0, for example 1e-6"
        raise argparse.ArgumentTypeError(msg)
    return value


def _run(options):
    from gpucoron.report.compare import compare_reductions, write_comparison
    from gpucoron.report.compare.text import headline
    from gpucoron.report.compare.written import check_output

    if options.output:
        check_output(options.output)
    with_maps = bool(options.output) and not options.output.lower().endswith(".json")
    compared = compare_reductions(
        options.first, options.second, tolerance=options.tolerance, rtol=options.rtol, maps=with_maps
    )
    if options.output:
        path = write_comparison(compared, options.output)
    if not options.quiet:
        print(f"{headline(compared)}\nwrote {path}" if options.output else compared.as_text())
    return int(compared.data_differ if options.data_only else compared.differs)
