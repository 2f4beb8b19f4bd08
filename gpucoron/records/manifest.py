"""The manifest of a batch: one JSON object per line, appended completely or not at all, by one batch at a time.

``manifest.jsonl`` is the manifest of a folder, ``manifest-I-of-N.jsonl`` that of a shard. The file is also a lock: the
batch holds it until the batch and all processes that it started have ended.

Before the products of an exposure are moved into place, a record with the status ``started`` names them. The final
record follows. So after a kill in between, the next batch recognizes these products as its own.

``runs.jsonl`` holds the records of single runs (`gpucoron.records.runs`). Reports read it, batches do not.
"""

import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpucoron.errors import OutputError
from gpucoron.files import AnyPath
from gpucoron.interactive import public

#: fields of each line, in this order
FIELDS = (
    "exposure", "input", "input_bytes", "input_sha256", "outputs", "status", "started", "finished", "versions",
    "context", "profile", "parameters", "parameters_digest", "backend", "steps", "seconds", "peak_memory", "flags",
    "instrument", "detector", "subarray", "exp_type", "filter", "coronmsk", "target", "shape", "error", "host", "pid",
    "attempt", "persistence", "asked", "input_date", "input_path", "observed", "references", "product_date",
    "output_files",
)  # fmt: skip

#: fields of finished exposures only
_OF_THE_END = ("finished", "steps", "seconds", "peak_memory", "flags", "error", "output_files")

#: the file with the records of single runs, which batches do not read
RUNS = "runs.jsonl"
#: the status of an exposure whose products are being moved into place
STARTED = "started"
#: seconds in which the processes of a killed batch should end
PATIENCE = 10.0


def manifest_name(shard=(1, 1)):
    """Return the file name of the manifest of shard ``(i, n)``."""
    return "manifest.jsonl" if shard[1] == 1 else f"manifest-{shard[0]}-of-{shard[1]}.jsonl"


class Manifest:
    """The manifest that a batch writes; a context manager that holds its lock.

    Parameters
    ----------
    folder : Path
        It must exist.
    shard : (int, int)
        Several shards may use a folder at the same time; a batch without shards excludes all others.
    patience : float
        Seconds to wait for another batch before giving up.

    Raises
    ------
    OutputError
        On entry: another batch is using the folder, or the folder cannot be written to.
    """

    #: advice to the user after an error
    _again = "run the batch again"

    def __init__(self, folder, shard=(1, 1), patience=PATIENCE):
        self.folder, self.shard, self.patience = Path(folder), shard, patience
        self.path = self.folder / manifest_name(shard)
        self._descriptors = []

    def __enter__(self):
        try:
            if self.shard[1] > 1:
                self._lock(self.folder / manifest_name(), fcntl.LOCK_SH)
            self._lock(self.path, fcntl.LOCK_EX)
            self._end_last_line()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def descriptors(self):
        """File descriptors that hold the lock; a process that inherits them also holds it."""
        return tuple(self._descriptors)

    def close(self):
        """Release the lock."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def start(self, record, outputs):
        """Append a record with the status ``started``, before the products of an exposure are moved into place.

        Parameters
        ----------
        record : dict
            The record of the exposure so far.
        outputs : dict
            Kind of product -> file name.

        Returns
        -------
        dict
            The appended record.
        """
        begun = {name: value for name, value in record.items() if name not in _OF_THE_END}
        begun |= {"status": STARTED, "outputs": outputs}
        self.append(begun)
        return begun

    def append(self, record):
        """Append one record in a single write, and flush it to the disk."""
        line = (json.dumps({name: record.get(name) for name in FIELDS}, default=str) + "\n").encode()
        descriptor = self._descriptors[-1]
        if not _is_file_at(descriptor, self.path):
            msg = f"{self.path}: was removed or replaced meanwhile; {self._again}"
            raise OutputError(msg)
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                msg = "the disk is full"
                raise OSError(msg)
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, before)
            exposure = record.get("exposure")
            msg = f"{self.path}: {exposure} cannot be recorded ({error}); free disk space and {self._again}"
            raise OutputError(msg) from error

    def _lock(self, path, kind):
        deadline = time.monotonic() + self.patience
        while True:
            descriptor = _open(path)
            self._descriptors.append(descriptor)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OutputError(self._describe_holder(path)) from None
                time.sleep(0.1)
            except OSError as error:
                msg = f"{path}: cannot be locked ({error.strerror}); choose an output folder on another file system"
                raise OutputError(msg) from None
            else:
                if _is_file_at(descriptor, path):
                    return
            # the file was replaced meanwhile: lock the new one
            os.close(self._descriptors.pop())

    def _describe_holder(self, path):
        return (
            f"{path}: another batch is running in this folder; wait for it, choose another folder, or divide the work "
            "with --shard"
        )

    def _end_last_line(self):
        """Remove an incomplete last line that a crash left; complete a record that lacks only the newline."""
        text = self.path.read_bytes()
        if text and not text.endswith(b"\n"):
            start = text.rfind(b"\n") + 1
            if _parse(text[start:]) is None:
                os.ftruncate(self._descriptors[-1], start)
            else:
                os.write(self._descriptors[-1], b"\n")


def _open(path):
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        msg = f"{path}: cannot be written ({error.strerror}); choose another output folder"
        raise OutputError(msg) from None


def _is_file_at(descriptor, path):
    """Return whether a path still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


@dataclass
class Past:
    """The contents of the manifests of a folder.

    Attributes
    ----------
    last : dict
        Exposure -> its last record of any status.
    made : dict
        Exposure -> its last record that may have produced files.
    makers : dict
        Name of a product -> the last record that wrote it.
    n_damaged : int
        Number of lines that are not records. An unfinished last line is not counted: a batch may be writing it.
    """

    last: dict = field(default_factory=dict)
    made: dict = field(default_factory=dict)
    makers: dict = field(default_factory=dict)
    n_damaged: int = 0

    def add(self, record):
        """Add the next record of a file."""
        self.last[record["exposure"]] = record
        if record["status"] != "failed" or record["outputs"]:
            self.made[record["exposure"]] = record
            self.makers |= dict.fromkeys(record["outputs"].values(), record)

    def merge(self, other):
        """Add another manifest; the newer one of two records is kept."""
        for ours, theirs in ((self.last, other.last), (self.made, other.made), (self.makers, other.makers)):
            for key, record in theirs.items():
                if key not in ours or _when(record) >= _when(ours[key]):
                    ours[key] = record
        self.n_damaged += other.n_damaged


def read_past(folder):
    """Read ``manifest.jsonl`` of a folder, and the ``manifest-I-of-N.jsonl`` of shards.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Past
        If several manifests have a record, the one that finished last is used.

    Raises
    ------
    OutputError
        A manifest cannot be read.
    """
    folder, past = Path(folder), Past()
    for path in _manifests(folder):
        past.merge(_read(path))
    return past


def _manifests(folder):
    return sorted([*folder.glob("manifest.jsonl"), *folder.glob("manifest-*-of-*.jsonl")])


def _read(path):
    """Read the records of one file."""
    past = Past()
    try:
        *lines, unfinished = path.read_bytes().split(b"\n")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); check its permissions, or choose another output folder"
        raise OutputError(msg) from error
    for line in lines:
        record = _parse(line)
        if record is not None:
            past.add(record)
        elif line.strip():
            past.n_damaged += 1
    record = _parse(unfinished)
    if record is not None:
        past.add(record)
    return past


def read_reductions(folder):
    """Read the records of a folder for a report: of batches and of single runs.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Past
    problems : list of str
        Messages about files that cannot be read, which are left out.
    """
    folder, past, problems = Path(folder), Past(), []
    for path in [*_manifests(folder), folder / RUNS]:
        if os.path.lexists(path):
            try:
                past.merge(_read(path))
            except OutputError as error:
                problems.append(f"{path}: cannot be read ({error.__cause__.strerror})")
    return past, problems


@public
def read_manifests(folder: AnyPath) -> tuple[dict[str, dict[str, Any]], int]:
    """Read the last record of each exposure from the manifests of a folder and from the records of single runs.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    records : dict
        Exposure -> its last record. If several files have one, the one that finished last is used.
    n_damaged : int
        Number of lines that are not records, except an unfinished last line.

    Raises
    ------
    OutputError
        A file cannot be read.
    """
    past = read_past(folder)
    if (Path(folder) / RUNS).exists():
        past.merge(_read(Path(folder) / RUNS))
    return past.last, past.n_damaged


def refuse_in_use(folder):
    """Raise an error if a batch is running in a folder. No file is created, and no lock is kept.

    Parameters
    ----------
    folder : str or Path
        It need not exist.

    Raises
    ------
    OutputError
        A batch, or a shard of one, holds the lock of its manifest.
    """
    folder = Path(folder)
    for path in _manifests(folder):
        try:
            with path.open("rb") as file:
                # shared: a shard locks the folder's manifest in the same way, and its own manifest exclusively
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = (
                f"{folder}: a batch is running in this folder ({path.name} is locked); wait until it ends, or choose "
                "another output folder"
            )
            raise OutputError(msg) from None
        except OSError:  # it cannot be read or locked, so no batch can use it either
            continue


def _parse(line):
    """Parse one line and set required fields that are missing or invalid; None if the line is not a record.

    Other versions may write other fields, and users may edit a manifest.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("exposure"), str):
        return None
    if not isinstance(record.get("status"), str):
        record["status"] = ""
    for name in ("outputs", "versions", "parameters", "seconds"):
        if not isinstance(record.get(name), dict):
            record[name] = {}
    record["outputs"] = {kind: name for kind, name in record["outputs"].items() if _is_name(name)}
    record["seconds"] = {what: time for what, time in record["seconds"].items() if _is_number(time)}
    if not isinstance(record.get("shape"), list) or not all(map(_is_number, record["shape"])):
        record["shape"] = []
    return record


def _is_name(name):
    """Return whether a file can have this name."""
    return isinstance(name, str) and "\0" not in name and all(len(part) < 256 for part in name.split("/"))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _when(record):
    return str(record.get("finished") or record.get("started") or "")
