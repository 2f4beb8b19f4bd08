"""The command line: ``gpucoron run | batch | demo | info | report``. Nothing heavy is imported before it is needed."""

import argparse
import logging
import sys
import time
from pathlib import Path

from gpucoron import __version__
from gpucoron.errors import GpucoronError, ParameterError


def main(arguments=None):
    """Run the command line; return the exit code: 0, or 2 where a file could not be reduced."""
    options = _parser().parse_args(arguments)
    _log_to_stderr(options)
    try:
        return options.function(options)
    except GpucoronError as error:
        print(f"gpucoron: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpucoron: interrupted; nothing was left half-written", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="gpucoron", description="JWST coronagraphy stage 1: *_uncal.fits to *_rateints.fits and *_rate.fits."
    )
    parser.add_argument("--version", action="version", version=f"gpucoron {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="reduce files", description="Reduce uncal (or ramp) files.")
    run.add_argument("files", nargs="+", metavar="FILE", help="*_uncal.fits or *_ramp.fits")
    _add_common(run)
    run.add_argument("--overwrite", action="store_true", help="replace products that exist")
    run.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="memory that the process may take, all told, or the exposure on the GPU, for example 4G (default: what "
        "is free); an exposure that needs more goes by chunks of rows, on the CPU from a scratch file in the output "
        "folder",
    )
    run.set_defaults(function=_run)

    from gpucoron import cli_batch

    cli_batch.add_parser(commands, _add_common)

    demo = commands.add_parser(
        "demo",
        help="simulate and reduce one NIRCam and one MIRI exposure, offline",
        description="Simulate one NIRCam and one MIRI exposure with the references that belong to them, reduce both "
        "without network, and compare with the known truth.",
    )
    demo.add_argument("-o", "--output-dir", default="demo", metavar="DIR", help="default: ./demo")
    demo.add_argument("--seed", type=int, default=1, help="of the simulation (default: 1)")
    _add_backend(demo)
    _add_verbosity(demo)
    demo.set_defaults(function=_demo)

    info = commands.add_parser("info", help="versions, backends, CRDS", description="Tell what gpucoron would use.")
    _add_verbosity(info)
    info.set_defaults(function=_info)

    report = commands.add_parser(
        "report",
        help="one HTML page of a batch or of a single exposure",
        description="Write one self-contained HTML page of a batch, of a folder of products or of a single product.",
    )
    report.add_argument("folder", metavar="DIR", help="where the products are; or one *_rate.fits")
    report.add_argument("-o", "--output", metavar="FILE", help="the page (default: report.html in DIR)")
    _add_verbosity(report)
    report.set_defaults(function=_report)
    return parser


def _add_common(parser):
    """Add what every reduction understands."""
    parser.add_argument("-o", "--output-dir", required=True, metavar="DIR", help="for the products; made if need be")
    _add_backend(parser)
    parser.add_argument(
        "--profile",
        default="jwst",
        choices=("jwst", "spaceklip"),
        help="whose defaults to start from; jwst's include CRDS's parameter files (default: jwst)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="STEP.PARAMETER=VALUE",
        help="set a parameter, for example jump.rejection_threshold=5; may be repeated",
    )
    parser.add_argument("--skip", action="append", default=[], metavar="STEP", help="leave a step out; may be repeated")
    parser.add_argument("--save-calibrated-ramp", action="store_true", default=None, help="save the ramp as fitted")
    parser.add_argument("--save-intermediates", action="store_true", default=None, help="save the result of every step")
    parser.add_argument("--stage-1overf", choices=("groups", "ints"), help="where 1/f noise is removed (default: ints)")
    parser.add_argument(
        "--rate-int-outliers", action="store_true", default=None, help="refit outliers over integrations"
    )
    _add_verbosity(parser)


def memory_size(text):
    """Turn a size such as 4G, 500M or 2e9 into bytes."""
    units = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    number = text.strip().upper().removesuffix("B")
    factor = units.get(number[-1:], 1)
    try:
        size = float(number if factor == 1 else number[:-1]) * factor
    except ValueError:
        size = 0
    if not 0 < size < 1e18:
        msg = f"expected a size such as 4G, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(size)


def _add_backend(parser):
    parser.add_argument(
        "--backend",
        default="auto",
        choices=("auto", "cpu", "cuda", "host"),
        help="auto: a GPU where there is one, else the CPU (default); host: the GPU's kernels on the CPU, for tests",
    )


def _add_verbosity(parser):
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step, and jwst's and CRDS's remarks")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def _log_to_stderr(options):
    level = logging.INFO if options.verbose else logging.ERROR if options.quiet else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
    # CRDS logs through its own logger, set up to chatter
    logging.getLogger("CRDS").setLevel(max(level, logging.INFO) if options.verbose else logging.ERROR)


def parse_settings(settings, skip=()):
    """Turn ``STEP.PARAMETER=VALUE`` texts and names of steps to skip into step -> parameter -> value."""
    steps = {}
    for text in settings:
        name, equals, value = text.partition("=")
        step, dot, parameter = name.partition(".")
        if not (equals and dot):
            msg = f"--set {text}: expected STEP.PARAMETER=VALUE, for example jump.rejection_threshold=5"
            raise ParameterError(msg)
        steps.setdefault(step.strip(), {})[parameter.strip()] = value.strip()
    for step in skip:
        steps.setdefault(step, {})["skip"] = True
    return steps


def of_run_parameters(options):
    """Collect the parameters of the run as a whole that were given."""
    names = ("save_calibrated_ramp", "save_intermediates", "stage_1overf", "rate_int_outliers")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _run(options):
    from gpucoron import summary
    from gpucoron.parameters import resolve
    from gpucoron.warm_up import warm_up

    steps = parse_settings(options.settings, options.skip)
    resolve(options.profile, steps=steps)  # a misspelt parameter is no matter of the file
    of_run = of_run_parameters(options)
    warm_up()
    from gpucoron.engine import reduce_file

    failed = 0
    for path in options.files:
        start = time.perf_counter()
        try:
            run, _models, paths = reduce_file(
                path,
                options.output_dir,
                profile=options.profile,
                steps=steps,
                backend=options.backend,
                overwrite=options.overwrite,
                max_memory=options.max_memory,
                **of_run,
            )
        except GpucoronError as error:
            print(f"gpucoron: {error}", file=sys.stderr)
            failed += 1
            continue
        if not options.quiet:
            print(summary.headline(run))
            print(summary.step_table(run))
            if not paths:
                print("no product: there was no ramp that could be fitted")
            for written in paths.values():
                print(f"wrote {written}")
            print(f"{time.perf_counter() - start:.1f} s from file to file\n")
    if failed and len(options.files) > 1:
        print(f"gpucoron: {failed} of {len(options.files)} files failed", file=sys.stderr)
    return 2 if failed else 0


def _demo(options):
    from gpucoron.demo import demo

    return demo(Path(options.output_dir), seed=options.seed, backend=options.backend, quiet=options.quiet)


def _info(options):
    import os
    from importlib.metadata import PackageNotFoundError, version

    from gpucoron.backends import backend_status

    print(f"gpucoron {__version__}, Python {sys.version.split()[0]}")
    for package in ("jwst", "stcal", "stdatamodels", "crds", "numpy", "scipy", "astropy"):
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package}: not installed")
    print("backends")
    for name, (usable, reason) in backend_status().items():
        print(f"  {name}: {'usable' if usable else 'not usable'} ({reason})")
    print("CRDS")
    print(f"  CRDS_PATH {os.environ.get('CRDS_PATH', 'not set (CRDS takes /grp/crds/cache)')}")
    print(f"  CRDS_SERVER_URL {os.environ.get('CRDS_SERVER_URL', 'not set (CRDS works from its cache alone)')}")
    try:
        from gpucoron.references import crds_context

        print(f"  context {crds_context()[0]}")
    except GpucoronError as error:
        print(f"  context: none ({error})")
    return 0


def _report(options):
    from gpucoron.report import write_report

    path = write_report(options.folder, options.output)
    if not options.quiet:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
