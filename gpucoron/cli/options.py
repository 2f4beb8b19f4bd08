"""Options that several commands share, and the parsing of their values."""

import argparse

from gpucoron.backends import BACKENDS, NAMES, sizes
from gpucoron.errors import ParameterError


def add_common(parser):
    """Add the options of all commands that write products."""
    parser.add_argument(
        "-o",
        "--output-dir",
        required=True,
        type=_folder,
        metavar="DIR",
        help="folder for the products; created if needed",
    )
    add_settings(parser)
    parser.add_argument(
        "--save-calibrated-ramp", action="store_true", default=None, help="save the ramp before it is fitted"
    )
    parser.add_argument("--save-intermediates", action="store_true", default=None, help="save the result of every step")


def add_settings(parser, *, backend=True):
    """Add the options that decide on the results of a reduction; without ``backend`` only those that change them."""
    if backend:
        add_backend(parser)
    parser.add_argument(
        "--profile",
        default="jwst",
        choices=("jwst", "spaceklip", "recommended"),
        help="default parameters: of jwst, with CRDS parameter files; of spaceKLIP; or recommended, those of jwst with "
        "the changes that lowered the noise of simulated observations (default: jwst)",
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
        help="ASDF parameter file of a step or pipeline; overrides CRDS parameter files, and --set overrides it; may "
        "be repeated",
    )
    parser.add_argument(
        "--no-pars",
        dest="use_pars",
        action="store_const",
        const=False,
        help="ignore CRDS parameter files, as with STPIPE_DISABLE_CRDS_STEPPARS=true",
    )
    parser.add_argument("--skip", action="append", default=[], metavar="STEP", help="skip a step; may be repeated")
    parser.add_argument(
        "--stage-1overf",
        choices=("groups", "ints"),
        help="remove 1/f noise from groups or rateints (default: ints; with the profile recommended: groups)",
    )
    parser.add_argument(
        "--rate-int-outliers",
        action="store_true",
        default=None,
        help="refit pixels without the integrations in which their rate is an outlier",
    )
    add_verbosity(parser)


def _folder(text):
    # of a shell variable that is not set
    if not text:
        msg = "the name is empty; use . for the current folder"
        raise argparse.ArgumentTypeError(msg)
    return text


def memory_size(text):
    """Convert a size such as 4G, 500M or 2e9 into bytes, for argparse."""
    try:
        return sizes.memory_size(text, "size")
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_backend(parser):
    parser.add_argument(
        "--backend",
        default="auto",
        choices=NAMES,
        help="auto: a GPU if available, else cpu (default); cpu: native if a compiler is available, else numpy; "
        + "; ".join(f"{name}: {kind.meaning}" for name, kind in BACKENDS.items()),
    )


def add_verbosity(parser):
    how = parser.add_mutually_exclusive_group()
    how.add_argument("-v", "--verbose", action="store_true", help="log every step, and the messages of jwst and CRDS")
    how.add_argument("-q", "--quiet", action="store_true", help="print errors only")


#: parameters of the run as a whole that have an option of their own
_OF_RUN = ("save_calibrated_ramp", "save_intermediates", "stage_1overf", "rate_int_outliers")


def parse_settings(settings, skip=()):
    """Convert ``STEP.PARAMETER=VALUE`` texts and names of steps to skip into step -> parameter -> value."""
    steps = {}
    for text in settings:
        name, equals, value = text.partition("=")
        step, dot, parameter = name.partition(".")
        if not (equals and dot):
            msg = f"--set {text}: expected STEP.PARAMETER=VALUE, for example jump.rejection_threshold=5"
            if name.strip() in _OF_RUN:
                msg = f"--set {text}: this is no parameter of a step; use --{name.strip().replace('_', '-')}"
            raise ParameterError(msg)
        steps.setdefault(step.strip(), {})[parameter.strip()] = value.strip()
    for step in skip:
        steps.setdefault(step, {})["skip"] = True
    return steps


def run_parameters_of(options):
    """Return the given options that are parameters of the whole run."""
    # a command that writes no products lacks the options for saving
    given = {name: getattr(options, name, None) for name in _OF_RUN}
    return {name: value for name, value in given.items() if value is not None}
