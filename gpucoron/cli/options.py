"""What the commands share: options, and the settings that texts stand for."""

import argparse

from gpucoron.backends import BACKENDS, NAMES, sizes
from gpucoron.errors import ParameterError


def add_common(parser):
    """Add what every reduction understands."""
    parser.add_argument("-o", "--output-dir", required=True, metavar="DIR", help="for the products; made if need be")
    add_backend(parser)
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
    parser.add_argument(
        "--pars",
        action="append",
        metavar="FILE",
        help="a parameter file of your own (ASDF, of a step or a pipeline): overrules CRDS's, and --set overrules it; "
        "may be repeated",
    )
    parser.add_argument(
        "--no-pars",
        dest="use_pars",
        action="store_const",
        const=False,
        help="leave CRDS's parameter files out, as STPIPE_DISABLE_CRDS_STEPPARS=true does",
    )
    parser.add_argument("--skip", action="append", default=[], metavar="STEP", help="leave a step out; may be repeated")
    parser.add_argument("--save-calibrated-ramp", action="store_true", default=None, help="save the ramp as fitted")
    parser.add_argument("--save-intermediates", action="store_true", default=None, help="save the result of every step")
    parser.add_argument("--stage-1overf", choices=("groups", "ints"), help="where 1/f noise is removed (default: ints)")
    parser.add_argument(
        "--rate-int-outliers", action="store_true", default=None, help="refit outliers over integrations"
    )
    add_verbosity(parser)


def memory_size(text):
    """Turn a size such as 4G, 500M or 2e9 into bytes, as argparse wants it."""
    try:
        return sizes.memory_size(text, "size")
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_backend(parser):
    parser.add_argument(
        "--backend",
        default="auto",
        choices=NAMES,
        help="auto: a GPU where there is one, else cpu (default); cpu: native where there is a compiler, else numpy; "
        + "; ".join(f"{name}: {kind.meaning}" for name, kind in BACKENDS.items()),
    )


def add_verbosity(parser):
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step, and jwst's and CRDS's remarks")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


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
