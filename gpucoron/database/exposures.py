"""Find exposures, sort them into concatenations, and determine their types: SCI, REF, TA, BG."""

import glob
import logging
import os

import numpy as np

from gpucoron.errors import InputError, ParameterError
from gpucoron.io.observations import read_observation
from gpucoron.io.products import product_path
from gpucoron.parameters import refuse_unknown

log = logging.getLogger(__name__)


class Selection:
    """The criteria by which exposures are selected.

    Parameters
    ----------
    programs, observations : tuple of int
        Numbers to select; empty selects all.
    names : dict
        Selecting keywords of `create_database`: sca, filt, ...
    """

    def __init__(self, programs=(), observations=(), names=None):
        names = {name: value for name, value in (names or {}).items() if value is not None}
        supported = ("sca", "filt", "file_type", "exp_type", "vst_grp_act", "apername", "apername_pps")
        for name in names:
            if name not in supported:
                refuse_unknown("keyword", name, supported)
        self.programs, self.observations = programs, observations
        self.file_type = names.pop("file_type", None)
        self.names = {name: str(value).upper() for name, value in names.items()}

    def selects(self, observation):
        """Return whether an observation is selected."""
        row, (program, number) = observation.row, observation.visit
        if self.programs and not (program.isdigit() and int(program) in self.programs):
            return False
        if self.observations and not (number.isdigit() and int(number) in self.observations):
            return False
        is_narrower = row["PUPIL"].startswith("F") and row["PUPIL"].endswith(("N", "M"))
        matches = {
            "sca": lambda value: row["DETECTOR"].endswith(value.replace("A5", "ALONG").replace("B5", "BLONG")),
            "filt": lambda value: value == row["PUPIL" if is_narrower else "FILTER"],
            "exp_type": lambda value: row["EXP_TYPE"] == value,
            "vst_grp_act": lambda value: observation.activity.upper() == value,
            "apername": lambda value: row["APERNAME"] == value,
            "apername_pps": lambda value: row["PPS_APER"] == value,
        }
        return all(matches[name](value) for name, value in self.names.items())


def to_integers(name, value):
    """Convert a number, a list of numbers, or None to a tuple of integers."""
    values = [] if value is None else [value] if isinstance(value, str | int | np.integer) else list(value)
    try:
        return tuple(int(one) for one in values if one is not None)
    except (TypeError, ValueError):
        msg = f"{name}: expected a number, got {value!r}"
        raise ParameterError(msg) from None


def find_exposures(paths, chosen):
    """Find exposures and read their headers: real path -> Observation."""
    found = {}
    for path, is_named in _expand([paths] if isinstance(paths, str | os.PathLike) else paths):
        if chosen.file_type and chosen.file_type.strip("*_") not in os.path.basename(path):
            continue
        observation = read_observation(path)
        if observation is None and is_named:
            msg = f"{path}: not an exposure of stages 0 to 2; leave it out"
            raise InputError(msg)
        is_raw = observation is not None and observation.row["DATAMODL"] == "STAGE0"
        if observation is not None and (is_raw or is_named or chosen.file_type) and chosen.selects(observation):
            found.setdefault(os.path.realpath(path), observation)
    return found


def _expand(paths):
    """Yield files: (path, whether it was given by name or pattern)."""
    for path in map(os.fspath, paths):
        if os.path.isdir(path):
            names = sorted(name for name in os.listdir(path) if name.endswith((".fits", ".fits.gz")))
            yield from ((os.path.join(path, name), False) for name in names if not name.startswith("."))
        elif os.path.exists(path):
            yield path, True
        elif glob.has_magic(path) and (matches := sorted(glob.glob(path, recursive=True))):
            yield from ((match, True) for match in matches if not os.path.isdir(match))
        else:
            msg = f"{path}: no such file or folder"
            raise InputError(msg)


def refuse_same_products(paths):
    """Refuse two files whose products would have the same name."""
    made = {}
    for path in paths:
        other = made.setdefault(product_path(path, "", "rateints").name, path)
        if other is not path:
            msg = f"{other} and {path}: their products would have the same name; leave one of them out"
            raise InputError(msg)


def concatenate(observations, library, backgrounds, by_name):
    """Sort observations into concatenations, and determine the type of each.

    Parameters
    ----------
    observations : dict
        Real path -> Observation.
    library : set of str, or None
        Real paths of the references; None uses the headers.
    backgrounds : set of str
        Real paths of backgrounds, regardless of the headers.
    by_name : bool
        Whether acquisitions and backgrounds are assigned by the names of targets.

    Returns
    -------
    dict
        Key -> list of (type, Observation), references last, both parts sorted by name.

    Raises
    ------
    InputError
        The headers do not determine which exposures are references.
    """
    ordered = sorted(observations.items(), key=lambda item: (os.path.basename(item[1].path), item[1].path))
    groups = {}
    science = [one for one in observations.values() if not one.is_acquisition]
    for real, one in ordered:
        key = _find_mask_key(one, science) if one.is_acquisition else one.key
        groups.setdefault(key, []).append((real, one))
    return {key: _find_types(key, groups[key], library, backgrounds, by_name) for key in sorted(groups)}


def _find_mask_key(acquisition, science):
    """Return the key of the concatenation with the mask of an acquisition; for MIRI, with its subarray."""
    row = acquisition.row
    candidates = set()
    for other in science:
        same = all(row[name] == other.row[name] for name in ("TELESCOP", "INSTRUME", "DETECTOR", "PUPIL"))
        names = ("SUBARRAY",) if "NONE" in (row["CORONMSK"], other.row["CORONMSK"]) else ("CORONMSK",)
        if same and all(row[name] == other.row[name] for name in names):
            # prefer the same observation, then alphabetical order
            candidates.add((acquisition.visit != other.visit, other.key))
    if not candidates:
        log.warning(
            "%s: no exposure with the mask of this target acquisition; it forms a concatenation alone", acquisition.path
        )
        return acquisition.key
    return min(candidates)[1]


def _find_types(key, group, library, backgrounds, by_name):
    is_reference = _find_references(key, group, library)
    types = {}
    for real, one in group:
        suffix = "_TA" if one.is_acquisition else "_BG" if one.is_background else ""
        if real in backgrounds:
            suffix = "_BG"
        types[real] = ("REF" if is_reference[real] else "SCI") + suffix
    for real, one in group:
        if types[real].endswith("_BG"):
            types[real] = _match_times(one, types[real], [(types[other], row) for other, row in group])
    if by_name:
        for real, one in group:
            if types[real].endswith(("_TA", "_BG")):
                types[real] = _match_names(one, types[real], [(types[other], row) for other, row in group])
    ordered = sorted(group, key=lambda item: is_reference[item[0]])  # the sort is stable: names stay ordered
    return [(types[real], one) for real, one in ordered]


def _find_references(key, group, library):
    """Find the references: by the list of the user, by IS_PSF, or because only they are dithered."""
    if library is not None:
        return {real: real in library for real, _one in group}
    plain = [one for _real, one in group if not one.is_acquisition and not one.is_background]
    unknown = [one for _real, one in group if not one.is_acquisition and one.is_psf is None]
    if not unknown:
        return {real: bool(one.is_psf) and not one.is_acquisition for real, one in group}
    points = {one.row["NUMDTHPT"] for one in plain}
    if len(points) == 2 and min(points) == 1:
        return {real: one in plain and one.row["NUMDTHPT"] > 1 for real, one in group}
    msg = (
        f"{unknown[0].path}: keyword IS_PSF is missing, and the dithers of {key} do not distinguish science from "
        "reference; give the references, psflibpaths=[...] (an empty list: there are none)"
    )
    raise InputError(msg)


def _match_times(background, type_, group):
    """Assign a background to exposures with the same duration and number of integrations."""

    def exposure(one):
        return round(one.row["EFFINTTM"], 3), one.row["NINTS"]

    role = type_.removesuffix("_BG")
    other = {"SCI": "REF", "REF": "SCI"}[role]
    for candidate in (role, other):
        if any(kind == candidate and exposure(one) == exposure(background) for kind, one in group):
            return f"{candidate}_BG"
    log.warning("%s: no exposure has the duration and the number of integrations of this background", background.path)
    return type_


def _match_names(one, type_, group):
    """Assign an acquisition or background to the longest target name that its name contains."""
    role, suffix = type_.split("_")
    longest = {"SCI": 0, "REF": 0}
    for kind, other in group:
        if kind in longest and other.row["TARGPROP"] in one.row["TARGPROP"]:
            longest[kind] = max(longest[kind], len(other.row["TARGPROP"]))
    if longest["SCI"] != longest["REF"]:
        role = max(longest, key=longest.get)
    return f"{role}_{suffix}"
