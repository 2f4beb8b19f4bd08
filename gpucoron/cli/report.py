"""``gpucoron report``: write one HTML page of a batch or a product."""

from gpucoron.cli.options import add_verbosity


def add_parser(commands):
    """Add the command to the command line."""
    report = commands.add_parser(
        "report",
        help="write an HTML page about a batch or a single exposure",
        description="Write one self-contained HTML page about a batch, a folder of products or a single product.",
    )
    report.add_argument("folder", metavar="DIR", help="folder of the products, or one *_rate.fits")
    report.add_argument("-o", "--output", metavar="FILE", help="path of the page (default: report.html in DIR)")
    add_verbosity(report)
    report.set_defaults(function=_run)


def _run(options):
    from gpucoron.report import write_report

    path = write_report(options.folder, options.output)
    if not options.quiet:
        print(f"wrote {path}")
    return 0
