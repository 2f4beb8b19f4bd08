"""Find the input files of a batch, read their headers, and group them by exposure."""

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpucoron import get_by_old_name
from gpucoron.errors import GpucoronError, InputError
from gpucoron.files import Paths, list_tree
from gpucoron.interactive import Shown, public

CORONAGRAPHY = ("NRC_CORON", "MIR_4QPM", "MIR_LYOT")

#: keywords that, besides the date, may select the references and parameters of an exposure
_DECIDING = (
    "INSTRUME", "DETECTOR", "CHANNEL", "MODULE", "BAND", "FILTER", "PUPIL", "CORONMSK", "GRATING", "EXP_TYPE",
    "TSOVISIT", "SUBARRAY", "SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2", "FASTAXIS", "SLOWAXIS", "READPATT",
    "NGROUPS", "NINTS", "NFRAMES", "GROUPGAP", "FRMDIVSR", "TFRAME", "TGROUP", "NOUTPUTS", "ZEROFRAM", "DRPFRMS1",
    "GAINFACT", "NRS_NORM", "NSPRSTRP", "INTSTART", "INTEND",
)  # fmt: skip

_INPUTS = ("_uncal.fits", "_uncal.fits.gz")


@dataclass(repr=False)
class Input(Shown):
    """One input file of a batch and the contents of its headers.

    Attributes
    ----------
    name : str
        Name of the exposure.
    group : str
        Part of the name that is common to its segments and detectors.
    record_fields : dict
        Fields of its manifest record.
    deciding : tuple
        Header values by which references and parameters are selected.
    start : tuple or None
        When it started, see `start_time`.
    region : tuple
        SUBSTRT1, SUBSTRT2, and the number of rows and columns.
    error : Exception or None
        Why it cannot be read.
    """

    name: str
    group: str
    path: Path
    n_bytes: int
    record_fields: dict = field(default_factory=dict)
    shape: tuple = ()
    has_zeroframe: bool = False
    deciding: tuple = ()
    date: tuple = ()
    start: tuple | None = None
    region: tuple = ()
    error: Exception | None = None

    def _summary(self):
        size = " x ".join(map(str, self.shape)) or "unknown size"
        return f"{self.name}: {size}{f', {self.error}' if self.error else ''}"

    def __getattr__(self, name):
        return get_by_old_name("gpucoron.batch.inputs.Input", name, self)


@public
def find_files(paths: Paths) -> list[Path]:
    """Find the input files.

    Parameters
    ----------
    paths : str, Path, or a sequence of them
        Files, folders (searched recursively for ``*_uncal.fits`` and ``*_uncal.fits.gz``), patterns, and ``@list`` for
        a text file with one of these per line.

    Returns
    -------
    list of Path
        Absolute paths, sorted by name, without duplicates.

    Raises
    ------
    InputError
        Paths do not exist, no file was found, or a list is not a text file.
    """
    found: dict[str, Path] = {}
    given = [paths] if isinstance(paths, (str, Path)) or not isinstance(paths, Iterable) else list(paths)
    if not all(isinstance(path, (str, Path)) for path in given):
        msg = f"expected one or several files, folders, patterns or @list, as str or Path; got {type(paths).__name__}"
        raise InputError(msg)
    missing: list[str] = []
    for path in given:
        for file in _expand(str(path), missing):
            found.setdefault(os.path.realpath(file), Path(os.path.abspath(file)))
    if missing:
        msg = f"{', '.join(missing)}: no such file or folder; give files, folders, patterns in quotes, or @LIST"
        raise InputError(msg)
    if not found:
        msg = f"{', '.join(map(str, given))}: no *_uncal.fits found"
        raise InputError(msg)
    return sorted(found.values(), key=lambda file: (file.name, str(file)))


def refuse_duplicates(inputs):
    """Set an error on files whose products would have the same names."""
    messages = describe_same_names(found.path for found in inputs)
    for found in inputs:
        if found.name in messages:
            found.error = found.error or InputError(messages[found.name])


def describe_same_names(paths):
    """Find files whose products would have the same names: name of the exposure -> message."""
    by_name = {}
    for path in paths:
        by_name.setdefault(exposure_name(path), []).append(str(path))
    return {
        name: f"{' and '.join(same)} would write products of the same name; give only one of them"
        for name, same in by_name.items()
        if len(same) > 1
    }


def _expand(text, missing, lists=()):
    """Yield the files that one argument stands for; append to ``missing`` what does not exist."""
    if text.startswith("@"):
        name = os.path.realpath(text[1:])
        if name in lists:
            msg = f"{text[1:]}: the list contains itself"
            raise InputError(msg)
        for line in _read_list(text[1:]):
            yield from _expand(line, missing, (*lists, name))
    elif os.path.isdir(text):
        yield from (path for path in list_tree(text) if path.endswith(_INPUTS))
    elif os.path.lexists(text):  # a broken link is reported as an error of that file
        yield text
    elif glob.has_magic(text):
        for match in sorted(glob.glob(text, recursive=True)):
            if os.path.isdir(match):
                yield from _expand(match, missing)
            else:
                yield match
    else:
        missing.append(text)


def _read_list(path):
    """Read a list of files, one per line; skip comments."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        msg = f"{path}: the list cannot be read ({error.strerror})"
        raise InputError(msg) from None
    if any("\0" in line for line in lines):
        msg = f"{path}: not a list; give a text file with one file, folder or pattern per line"
        raise InputError(msg)
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def exposure_name(path):
    """Return the name of an exposure and its products: ``x`` for ``x_uncal.fits`` or ``x_jump.fits``."""
    from gpucoron.io.names import split_name

    return split_name(path)[0]


def group_name(name):
    """Return the part of an exposure's name that is common to its segments and detectors."""
    without_segment = re.sub(r"-seg\d+", "", name)
    match = re.match(r"(jw\d+_[a-z0-9]+_\d+)_[a-z0-9]+$", without_segment)
    return match.group(1) if match else without_segment


def read_input(path: Path) -> Input:
    """Read the headers of one file; store an error in the result, so that the other files can be reduced."""
    from gpucoron.io.boundary import converted_errors
    from gpucoron.io.fits_layout import read_layout

    name = exposure_name(path)
    found = Input(name, group_name(name), path, 0)
    header = {}
    try:
        with converted_errors(path, reading=True):
            found.n_bytes = path.stat().st_size if path.exists() else 0
            layout = read_layout(path, until="SCI")
            if layout.find("SCI") is None:
                msg = f"{path}: no SCI extension; a batch reads *_uncal.fits"
                raise InputError(msg)
            found.shape = layout.find("SCI").shape
            header = layout.parts[0].values
            found.start = start_time(header)
            found.deciding = (*(header.get(keyword) for keyword in _DECIDING), found.shape)
            if layout.compression is None:  # checking a compressed file would decompress all of it
                read_layout(path)
    except GpucoronError as error:
        found.error = error
    words = {"instrument": "INSTRUME", "detector": "DETECTOR", "subarray": "SUBARRAY", "exp_type": "EXP_TYPE"}
    words |= {"filter": "FILTER", "coronmsk": "CORONMSK", "target": "TARGNAME"}
    found.record_fields = {field: header.get(keyword) for field, keyword in words.items()}
    found.record_fields |= {
        "exposure": name,
        "input": str(path),
        "input_bytes": found.n_bytes,
        "shape": list(found.shape) or None,
    }
    found.has_zeroframe = bool(header.get("ZEROFRAM"))
    found.date = (header.get("DATE-OBS"), header.get("TIME-OBS"))
    found.region = (header.get("SUBSTRT1"), header.get("SUBSTRT2"), *found.shape[-2:])
    return found


def start_time(header):
    """Return when the integrations of a file started.

    Parameters
    ----------
    header : mapping
        The primary header. EXPSTART is used, else DATE-OBS and TIME-OBS; INTSTART orders the segments of an exposure.

    Returns
    -------
    (float, int) or None
        MJD of the start of the exposure, and the number of the first integration.
    """
    start, first = header.get("EXPSTART"), header.get("INTSTART")
    if not isinstance(start, (int, float)):
        try:
            moment = np.datetime64(f"{header['DATE-OBS']}T{header['TIME-OBS']}")
        except (KeyError, ValueError):
            return None
        start = (moment - np.datetime64("1858-11-17")) / np.timedelta64(1, "D")
    return float(start), first if isinstance(first, int) and first else 1


def is_selected(found, include_all):
    """Return whether an exposure belongs to the batch; an unreadable file does, so that its error is reported."""
    return include_all or found.error is not None or found.record_fields["exp_type"] in CORONAGRAPHY


def select_shard(inputs, shard):
    """Return every n-th exposure, starting with the i-th; ``shard`` is (i, n), counted from 1."""
    index, count = shard
    return inputs[index - 1 :: count]
