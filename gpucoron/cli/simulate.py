"""``gpucoron simulate``: simulate one exposure, with the references that reduce it."""

import argparse
from dataclasses import replace
from math import isfinite
from pathlib import Path
from shlex import quote

from gpucoron.cli.options import add_verbosity
from gpucoron.errors import ArgumentError, OutputError, ParameterError

_USUAL = {"NIRCAM": ("MASKA335R", "SHALLOW4"), "MIRI": ("4QPM_1550", "FASTR1")}

#: argument of `simulate` -> option of the command
_OPTIONS = {
    "instrument": "INSTRUMENT",
    "subarray": "--mask",
    "readpatt": "--pattern",
    "ngroups": "--groups",
    "ngroups, nints": "--groups, --ints, --exposure-time",
    "exposure_time": "--exposure-time",
    "companion": "--separation, --angle",
    "roll and offset": "--roll, --offset",
    "filter": "--filter",
    "magnitude": "--magnitude",
    "dither": "--dither",
    "shape": "--shape",
    "role": "--role",
    "scene": "--magnitude, --star, --contrast, --background",
    "scene.star": "--star",
    "scene.companion_contrast": "--contrast",
    "scene.background": "--background",
    "effects.one_over_f": "--one-over-f",
    "effects.cosmic_rays": "--cosmic-rays",
}
#: arguments whose options have the same name
_SAME = ("detector", "nints", "target", "program", "observation", "exposure", "seed", "roll", "offset")
_OPTIONS |= {name: f"--{name}" for name in _SAME} | {"nints": "--ints"}

#: option -> the only instrument that has the effect
_ONLY = {
    "one_over_f": ("NIRCAM", "the simulated MIRI has no 1/f noise"),
    "emi": ("MIRI", "only MIRI has this interference"),
}


def add_parser(commands):
    """Add the command to the command line."""
    parser = commands.add_parser(
        "simulate",
        help="simulate an exposure, with the references that reduce it",
        description="Simulate one coronagraphic exposure, and write it with its CRDS references. Exposures that are "
        "simulated into the same folder share the references: run the command once for each roll and for the "
        "reference star, with another --observation.",
    )
    parser.add_argument("instrument", nargs="?", type=str.upper, metavar="INSTRUMENT", help="NIRCAM or MIRI")
    parser.add_argument("-o", "--output-dir", type=Path, metavar="DIR", help="folder for the exposure and crds/")
    parser.add_argument("--list", action="store_true", help="list instruments, masks, filters and read patterns")

    detector = parser.add_argument_group("instrument")
    detector.add_argument("--mask", help="mask or subarray (default: MASKA335R, 4QPM_1550)")
    detector.add_argument("--filter", help="filter (default: the usual one of the mask)")
    detector.add_argument("--detector", help="NRCALONG or NRCA2, for the NIRCam subarray FULL")
    detector.add_argument("--pattern", help="read pattern (default: SHALLOW4, FASTR1)")
    detector.add_argument("--groups", type=_positive, metavar="N", help="groups per integration")
    detector.add_argument("--ints", type=_positive, metavar="N", help="integrations")
    detector.add_argument(
        "--exposure-time", type=float, metavar="S", help="effective exposure time, s, instead of --groups or --ints"
    )
    detector.add_argument("--shape", type=_shape, metavar="NYxNX", help="cut the subarray, for example 80x96")

    sky = parser.add_argument_group("star and companion")
    light = sky.add_mutually_exclusive_group()
    light.add_argument("--magnitude", type=float, metavar="MAG", help="Vega magnitude of the star in the filter")
    light.add_argument("--star", type=_not_negative, metavar="E/S", help="star without the mask, e-/s")
    sky.add_argument("--contrast", type=_not_negative, metavar="C", help="flux of the companion / flux of the star")
    sky.add_argument("--separation", type=_not_negative, metavar="ARCSEC", help="separation of the companion")
    sky.add_argument("--angle", type=float, metavar="DEG", help="position angle of the companion, east of north")
    sky.add_argument("--background", type=_not_negative, metavar="E/S", help="background, e-/s per pixel")
    sky.add_argument("--target", metavar="NAME", help="name of the target (default: SIMULATED, REFERENCE)")

    visit = parser.add_argument_group("exposure")
    visit.add_argument(
        "--role", type=str.upper, default="SCI", choices=("SCI", "REF", "TA", "BG"),
        help="science, PSF reference, target acquisition or background (default: SCI)",
    )  # fmt: skip
    visit.add_argument("--roll", type=float, default=0.0, metavar="DEG", help="position angle of V3 (default: 0)")
    visit.add_argument("--dither", type=_position, default=(1, 1), metavar="N/M", help="position N of M of a dither")
    visit.add_argument(
        "--offset",
        type=_pair,
        default=(0.0, 0.0),
        metavar="X,Y",
        help="offset of the star by the dither, arcsec; if X is negative, write --offset=-0.01,0.02",
    )
    visit.add_argument("--program", type=_positive, default=1386, metavar="N", help="programme (default: 1386)")
    visit.add_argument(
        "--observation", type=_positive, default=1, metavar="N", help="observation, in the file name (default: 1)"
    )
    visit.add_argument("--exposure", type=_positive, default=1, metavar="N", help="exposure, in the file name")
    visit.add_argument("--overwrite", action="store_true", help="replace an exposure of this name")

    effects = parser.add_argument_group("noise and detector effects")
    effects.add_argument(
        "--seed", type=int, metavar="N", help="seed of the noise (default: differs for each observation and exposure)"
    )
    effects.add_argument(
        "--one-over-f", type=_not_negative, metavar="F", help="NIRCam: 1/f noise, 1 is usual (default: 1)"
    )
    effects.add_argument("--cosmic-rays", type=_not_negative, metavar="F", help="cosmic rays, 1 is usual (default: 1)")
    effects.add_argument(
        "--emi", action="store_true", default=None, help="MIRI: electromagnetic interference at 390 Hz"
    )
    add_verbosity(parser)
    parser.set_defaults(function=_run)


def _run(options):
    if options.list:
        print(list_choices())
        return 0
    if options.instrument is None or options.output_dir is None:
        msg = "give an instrument and a folder, for example gpucoron simulate NIRCAM -o sim; --list lists the masks"
        raise ParameterError(msg)
    from gpucoron.files import check_folder
    from gpucoron.simulate import simulate, write_references

    try:
        name, arguments = _arguments_of(options)
        path = options.output_dir / name
        if path.exists() and not options.overwrite:
            msg = f"{path} exists; give another --observation or --exposure, or --overwrite"
            raise OutputError(msg)
        check_folder(options.output_dir)
        simulation = simulate(**arguments)
    except ArgumentError as error:
        raise ParameterError(_with_option(str(error))) from None
    crds = options.output_dir / "crds"
    try:
        cache = write_references(simulation, crds)
    except ArgumentError as error:
        msg = f"-o {options.output_dir}: {error}"
        raise ParameterError(msg) from None
    simulation.write(options.output_dir)
    if not options.quiet:
        print(describe(simulation, path, cache))
    return 0


def _arguments_of(options):
    """Return the file name and the arguments of `simulate`."""
    from gpucoron.simulate import Effects
    from gpucoron.simulate.arguments import check_arguments
    from gpucoron.simulate.detectors import find_mask, find_subarray
    from gpucoron.simulate.exposures import file_name, number_names
    from gpucoron.simulate.scenes import usual_scene

    if options.instrument not in _USUAL:
        msg = f"instrument: no {options.instrument!r}; known: {', '.join(_USUAL)}"
        raise ArgumentError(msg)
    mask, pattern = _USUAL[options.instrument]
    subarray = find_mask(options.instrument, options.mask or mask, options.detector)
    detector = find_subarray(options.instrument, subarray, options.detector).detector
    if (options.separation is None) != (options.angle is None):
        msg = "companion: give both, or none"
        raise ArgumentError(msg)
    for name, (instrument, reason) in _ONLY.items():
        if getattr(options, name) is not None and options.instrument != instrument:
            msg = f"--{name.replace('_', '-')}: {reason}; leave it out"
            raise ParameterError(msg)
    ngroups, nints = options.groups, options.ints
    if options.exposure_time is None:
        ngroups, nints = ngroups or 10, nints or 2
    elif ngroups is None and nints is None:
        ngroups = 10
    changes = {"star": options.star, "companion_contrast": options.contrast, "background": options.background}
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.role == "BG" and set(changes) - {"background"}:
        msg = "--role BG: a background has no star and no companion; leave --star and --contrast out"
        raise ParameterError(msg)
    if options.role == "BG" and options.magnitude is not None:
        msg = "magnitude: a background has no star"
        raise ArgumentError(msg)
    effects = {name: getattr(options, name) for name in ("one_over_f", "cosmic_rays", "emi")}
    effects = {name: value for name, value in effects.items() if value is not None}
    companion = None if options.separation is None else (options.separation, options.angle)
    arguments = {
        "instrument": options.instrument,
        "subarray": subarray,
        "readpatt": options.pattern or pattern,
        "ngroups": ngroups,
        "nints": nints,
        "exposure_time": options.exposure_time,
        "scene": replace(usual_scene(options.instrument, options.role), **changes) if changes else None,
        "effects": Effects(**effects),
        "companion": companion,
        "seed": options.seed if options.seed is not None else 1000 * options.observation + options.exposure,
    }
    same = ("filter", "detector", "shape", "magnitude", "role", "target", "roll", "dither", "offset")
    same += ("program", "observation", "exposure")
    arguments |= {name: getattr(options, name) for name in same}
    check_arguments(arguments)  # before the folder is made
    names = number_names(options.program, options.observation, options.exposure)
    return file_name(detector, **names), arguments


def _with_option(message):
    """Replace the name of the argument at the start of an error message by that of the option."""
    name, colon, rest = message.partition(":")
    return f"{_OPTIONS.get(name, name)}{colon}{rest}"


def describe(simulation, path, cache):
    """Describe a simulation, and how to reduce it, as text."""
    nints, ngroups, ny, nx = simulation.data.shape
    taken = f"{simulation.subarray_name} {simulation.filter} {simulation.readpatt}"
    lines = [
        f"wrote {path}",
        f"{taken}, {ngroups} groups x {nints} integrations, {nx} x {ny} pixels, {simulation.role}, "
        f"roll {simulation.roll:g}",
        *describe_saturation(simulation.saturation, simulation),
        *describe_noise(simulation.noise),
        f"references in {cache.path}; to reduce the exposure:",
        *(f"  export {name}={quote(cache.environment[name])}" for name in ("CRDS_PATH", "CRDS_SERVER_URL")),
        f"  gpucoron run {quote(str(path))} -o {quote(str(path.parent / 'stage1'))}",
    ]
    return "\n".join(lines)


def describe_saturation(saturation, simulation):
    """Describe when pixels saturate: a list of lines."""
    when = _when(saturation.first_seconds, saturation.first_group, saturation.ngroups)
    x, y = saturation.brightest
    lines = [f"saturation: {when} at the brightest pixel, {x}, {y}; {saturation.count} pixels saturate"]
    if saturation.companion is not None:
        when = _when(saturation.companion_seconds, saturation.companion_group, saturation.ngroups)
        lines.append(f"            {when} at the companion")
    elif simulation.truth.companion_rate > 0:
        lines.append("the companion is outside of the array")
    return lines


def _when(seconds, group, ngroups):
    inside = f"in group {group + 1} of {ngroups}" if group < ngroups else "after the last group"
    return f"after {seconds:.4g} s ({inside})"


def describe_noise(noise):
    """Describe the expected noise: a list of lines."""
    places = {"background": noise.background, "companion": noise.companion}
    places = {name: pixel for name, pixel in places.items() if pixel is not None}
    missing = [name for name, pixel in places.items() if not isfinite(pixel.total)]
    lines = [
        f"{'noise of the rate:' if name == 'background' else '':<19}{pixel.total:.3g} DN/s per pixel in the {name} "
        f"(read noise {pixel.read:.3g}, photons {pixel.photon:.3g})"
        for name, pixel in places.items()
        if name not in missing
    ]
    if missing:
        lines.append(
            f"no slope, and no noise of the rate, in the {' and the '.join(missing)}: fewer than two unsaturated groups"
        )
    if noise.signal_to_noise is not None:
        lines.append(
            f"companion: {noise.signal:.4g} DN/s within {noise.radius:.2g} pixels, S/N {noise.signal_to_noise:.3g} "
            "with photon and read noise alone"
        )
    return lines


def list_choices():
    """List instruments, masks, subarrays, filters and read patterns, as text."""
    from gpucoron.facts import READ_PATTERNS
    from gpucoron.simulate.detectors import SUBARRAYS
    from gpucoron.simulate.photometry import list_filters

    lines = [f"{'instrument':<11}{'subarray':<16}{'mask':<11}{'detector':<10}{'pixels':<12}{'frame, s':<10}filters"]
    for (instrument, name, *_), sub in SUBARRAYS.items():
        size, others = f"{sub.nx} x {sub.ny}", [one for one in list_filters(sub) if one != sub.filter]
        filters = " ".join([f"{sub.filter}*", *others]) if others else sub.filter
        lines.append(
            f"{instrument:<11}{name:<16}{sub.coronagraph:<11}{sub.detector:<10}{size:<12}{sub.frame_time:<10.5g}{filters}"
        )
    lines.append("* default")
    lines += [f"read patterns of {name}: {', '.join(patterns)}" for name, patterns in READ_PATTERNS.items()]
    return "\n".join(lines)


def _positive(text):
    value = int(text)
    if value < 1:
        msg = f"expected 1 or more, not {text}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _not_negative(text):
    value = float(text)
    if not 0 <= value < float("inf"):
        msg = f"expected a number of 0 or more, not {text}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _shape(text):
    return _two(text, "x", _positive, "NYxNX, for example 80x96")


def _position(text):
    return _two(text, "/", _positive, "N/M, for example 2/5")


def _pair(text):
    return _two(text, ",", float, "X,Y in arcsec, for example 0.015,-0.015")


def _two(text, separator, convert, expected):
    """Convert a text of two numbers, for argparse."""
    try:
        first, second = (convert(part) for part in text.split(separator))
    except (ValueError, argparse.ArgumentTypeError):
        msg = f"expected {expected}, not {text}"
        raise argparse.ArgumentTypeError(msg) from None
    return first, second
