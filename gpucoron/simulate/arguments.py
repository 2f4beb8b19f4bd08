"""Check the arguments of ``simulate``: a table of allowed values, and checks of arguments that depend on each other."""

import math
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np

from gpucoron.backends.process_memory import free_memory
from gpucoron.errors import ArgumentError
from gpucoron.interactive import text_of
from gpucoron.simulate.camera import Effects
from gpucoron.simulate.keywords import integration_time
from gpucoron.simulate.scenes import Scene

#: the column group_number of the GROUP table has 16 bits with a sign
MOST_GROUPS = 32767
#: a limit of the simulator: an exposure of this many shortest integrations lasts hours
MOST_INTEGRATIONS = 65535
#: s; 11.6 days, far longer than a visit of JWST
LONGEST_EXPOSURE = 1e6
#: e-/s per pixel; it fills a pixel in a microsecond, and the Poisson generator accepts the light of 200 s
MOST_LIGHT = 1e12
#: times the usual strength of cosmic rays and 1/f noise; at 1000 a NIRCam pixel is hit every 15 s
STRONGEST = 1000
#: bytes per pixel hit by a cosmic ray: the arrays while it is drawn, and one row of the truth
_BYTES_DRAWN, _BYTES_HIT = 150, 24


class _Check(NamedTuple):
    """The values that an argument accepts, in words and as a function."""

    expected: str
    accepts: Callable[[Any], bool]


def _is_whole(value):
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool)


def _whole(low, high=None):
    words = f"of {low} or more" if high is None else f"from {low} to {high}"
    return _Check(f"a whole number {words}", lambda value: _is_whole(value) and low <= value <= (high or math.inf))


def _number(low, high, unit=""):
    words = f"a number from {low:g} to {high:g}{unit and ' '}{unit}"
    return _Check(words, lambda value: _is_number(value) and low <= value <= high)


def _two(check, words):
    def accepts(value):
        return isinstance(value, (tuple, list, np.ndarray)) and len(value) == 2 and all(map(check.accepts, value))

    return _Check(f"{words}, each {check.expected}", accepts)


def _optional(check):
    return _Check(check.expected, lambda value: value is None or check.accepts(value))


_TEXT = _Check("a text", lambda value: isinstance(value, str))
_SWITCH = _Check(
    "True or False", lambda value: isinstance(value, (bool, np.bool_)) or (_is_whole(value) and value in (0, 1))
)
_SCALE = _number(0, STRONGEST)
_FACTOR = _Check(f"{_SCALE.expected}, where 1 is usual", lambda value: isinstance(value, bool) or _SCALE.accepts(value))
_NAME = _Check(
    "at most 68 printable ASCII characters, for a FITS header",
    lambda value: isinstance(value, str) and value.isascii() and value.isprintable() and len(value) <= 68,
)
_PIXELS = _two(_number(-1e5, 1e5, "pixels"), "(dx, dy)")

#: argument of `simulate` -> its allowed values; `scene` and `effects` have their own tables
ARGUMENTS = {
    "instrument": _TEXT,
    "subarray": _TEXT,
    "readpatt": _TEXT,
    "role": _TEXT,
    "detector": _optional(_TEXT),
    "filter": _optional(_TEXT),
    "target": _optional(_NAME),
    "ngroups": _optional(_whole(1, MOST_GROUPS)),
    "nints": _optional(_whole(1, MOST_INTEGRATIONS)),
    "first_integration": _whole(1, MOST_INTEGRATIONS),
    "total_nints": _optional(_whole(1, MOST_INTEGRATIONS)),
    "exposure_time": _optional(
        _Check(
            f"seconds above 0, at most {LONGEST_EXPOSURE:g}",
            lambda value: _is_number(value) and 0 < value <= LONGEST_EXPOSURE,
        )
    ),
    "seed": _whole(0),
    "detector_seed": _whole(0),
    "shape": _optional(_two(_whole(1), "(ny, nx)")),
    "zeroframe": _SWITCH,
    # five, three and five digits in the file name
    "program": _whole(1, 99999),
    "observation": _whole(1, 999),
    "exposure": _whole(1, 99999),
    "roll": _number(-360, 360, "degrees"),
    "dither": _two(_whole(0), "(position, number of positions)"),
    "offset": _two(_number(-1000, 1000, "arcsec"), "(x, y)"),
    "magnitude": _optional(_number(-10, 60, "mag")),
    "companion": _optional(
        _Check(
            "(separation, position angle), from 0 to 1000 arcsec and from -360 to 360 degrees",
            lambda value: _two(_number(-1000, 1000), "").accepts(value) and value[0] >= 0 and -360 <= value[1] <= 360,
        )
    ),
}
#: field of a Scene -> its allowed values
SCENE = {
    "star": _number(0, 1e15, "e-/s"),
    "halo": _number(0, 1),
    "slope": _number(0, 10),
    "speckle": _number(0, 100),
    "companion_contrast": _number(0, 1e6),
    "companion_offset": _PIXELS,
    "background": _number(0, 1e9, "e-/s"),
    "center": _optional(_PIXELS),
    "seed": _whole(0),
    "shift": _PIXELS,
}
#: field of Effects -> its allowed values, if it is not a switch
EFFECTS = {"one_over_f": _FACTOR, "cosmic_rays": _FACTOR, "ipc": _optional(_SWITCH)}


def check_arguments(given):
    """Check the types and ranges of arguments of `simulate`, one by one.

    Parameters
    ----------
    given : dict
        Argument -> value; all or some of them.

    Raises
    ------
    ArgumentError
        The message starts with the name of the argument, or of the field ('scene.star').
    """
    values = {name: (value, ARGUMENTS[name]) for name, value in given.items() if name in ARGUMENTS}
    scene, effects = given.get("scene"), given.get("effects")
    if isinstance(scene, Scene):
        values |= {f"scene.{name}": (getattr(scene, name), check) for name, check in SCENE.items()}
    if effects is not None:
        values["effects"] = effects, _Check("an Effects", lambda value: isinstance(value, Effects))
    if isinstance(effects, Effects):
        values |= {
            f"effects.{one.name}": (getattr(effects, one.name), EFFECTS.get(one.name, _SWITCH))
            for one in fields(effects)
        }
    for name, (value, check) in values.items():
        if not check.accepts(value):
            shown = text_of(value) if isinstance(value, np.ndarray) else text_of(repr(value))
            msg = f"{name}: expected {check.expected}, got {shown}"
            raise ArgumentError(msg)


def read_sky(scene, shape):
    """Convert a scene that is not a Scene to an array, (ny, nx) float32 e-/s.

    Raises
    ------
    ArgumentError
        It is not a number or an array of this shape, or a value is not between 0 and `MOST_LIGHT`.
    """
    try:
        sky = np.asarray(scene)
    except (TypeError, ValueError):  # a list of rows of different lengths
        sky = np.array(None)
    if sky.dtype.kind not in "buif":
        msg = f"scene: expected a Scene, or a number or an array of e-/s, got {text_of(repr(scene))}"
        raise ArgumentError(msg)
    try:
        sky = np.broadcast_to(sky, shape)
    except ValueError:
        msg = f"scene: expected an array of the shape {shape}, got {sky.shape}"
        raise ArgumentError(msg) from None
    check_light(sky)
    return sky.astype(np.float32)


def check_light(sky):
    """Refuse light that is negative, not finite, or too strong for the random generator."""
    if not np.all((sky >= 0) & (sky <= MOST_LIGHT)):
        wrong = sky[~((sky >= 0) & (sky <= MOST_LIGHT))]
        msg = f"scene: expected 0 to {MOST_LIGHT:g} e-/s in each pixel, got {wrong[0]:g}"
        raise ArgumentError(msg)


def refuse_too_large(kind, effects, shape, seconds):
    """Refuse an exposure that needs more memory than is free, before it is simulated.

    Parameters
    ----------
    kind : DetectorKind
    effects : Effects
    shape : (nints, ngroups, ny, nx)
    seconds : float
        Length of an integration.

    Raises
    ------
    ArgumentError
    """
    nints, ngroups, ny, nx = map(int, shape)
    # the counts and their copy in the file; 1/f noise of each group; kTC noise, saturation and zero frame
    per_sample = 4 + (4 if kind.pink_noise * effects.one_over_f else 0)
    needed = nints * ny * nx * (ngroups * per_sample + 12)
    hits = kind.cosmic_ray_rate * effects.cosmic_rays * ny * nx * seconds * kind.cosmic_ray_pixels
    needed += hits * (_BYTES_DRAWN + _BYTES_HIT * nints)
    free = free_memory()
    if free is not None and needed > free:
        msg = (
            f"ngroups, nints: {ngroups} groups x {nints} integrations x {ny} x {nx} pixels need about "
            f"{needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free; simulate fewer or a smaller shape"
        )
        if hits * _BYTES_DRAWN > needed / 2:
            msg += ", or fewer cosmic rays"
        raise ArgumentError(msg)


def count_groups(exposure_time, ngroups, nints, nframes, groupgap, frame_time):
    """Return the numbers of groups and integrations: as given, or those that reach an effective exposure time.

    Raises
    ------
    ArgumentError
        A number is missing, all three are given, or the time needs too many groups or integrations.
    """
    if exposure_time is None:
        if ngroups is None or nints is None:
            msg = "ngroups, nints: give both, or one of them and exposure_time"
            raise ArgumentError(msg)
        return ngroups, nints
    if (ngroups is None) == (nints is None):
        msg = f"exposure_time: give ngroups or nints with it, not {'both' if nints else 'neither'}"
        raise ArgumentError(msg)
    slack = 1e-6  # a time that was printed with fewer digits does not need one more
    if nints is None:
        one = integration_time(ngroups, nframes, groupgap, frame_time)
        nints = math.ceil(exposure_time / one - slack)
    else:
        frames = exposure_time / nints / frame_time
        ngroups = max(math.ceil((frames + groupgap) / (nframes + groupgap) - slack), 1)
    if ngroups > MOST_GROUPS or nints > MOST_INTEGRATIONS:
        msg = (
            f"exposure_time: {exposure_time:g} s are {ngroups} groups x {nints} integrations; at most {MOST_GROUPS} "
            f"groups and {MOST_INTEGRATIONS} integrations are simulated"
        )
        raise ArgumentError(msg)
    return ngroups, nints


def refuse_in_acquisition(**given):
    """Refuse arguments that a target acquisition does not have."""
    for name, value in given.items():
        if value is not None:
            msg = f"{name}: a target acquisition has its own filter and no zero point; give its star in a Scene"
            raise ArgumentError(msg)


def refuse_in_background(scene, **given):
    """Refuse a star in a background, unless there is a scene."""
    for name, value in given.items():
        if value is not None and scene is None:
            msg = f"{name}: a background has no star"
            raise ArgumentError(msg)


def refuse_with_array(**given):
    """Refuse arguments that change a Scene, if the sky is an array."""
    for name, value in given.items():
        if value is not None:
            msg = f"{name}: the scene is an array, which is not changed; give a Scene"
            raise ArgumentError(msg)
