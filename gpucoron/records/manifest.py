"""The manifest of a batch: one JSON object per line, appended whole or not at all, by one batch at a time.

``manifest.jsonl`` is a whole folder's, ``manifest-I-of-N.jsonl`` a shard's. The file is also the lock: a batch holds it
as long as it, or any process that it started, lives.

Before the products of an exposure are moved into place, a record with the status ``started`` names them; the record of
what came of it follows. So a batch that is killed in between knows its own products again.
"""

import fcntl
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from gpucoron.errors import OutputError

#: what each line holds, in this order
FIELDS = (
    "exposure", "input", "input_bytes", "input_sha256", "outputs", "status", "started", "finished", "versions",
    "context", "profile", "parameters", "parameters_digest", "backend", "steps", "seconds", "peak_memory", "flags",
    "instrument", "detector", "subarray", "exp_type", "filter", "coronmsk", "target", "shape", "error", "host", "pid",
    "attempt", "persistence", "asked", "input_date",
)  # fmt: skip

#: what a record tells only when the exposure is finished
_OF_THE_END = ("finished", "steps", "seconds", "peak_memory", "flags", "error")

#: the status of an exposure whose products are being moved into place
STARTED = "started"
#: how long the processes of a killed batch may take to notice, seconds
PATIENCE = 10.0


def manifest_name(shard=(1, 1)):
    """Name the manifest of a shard, ``(i, n)``."""
    return "manifest.jsonl" if shard[1] == 1 else f"manifest-{shard[0]}-of-{shard[1]}.jsonl"


class Manifest:
    """The manifest that a batch writes; a context manager that holds the lock.

    Parameters
    ----------
    folder : Path
        It must exist.
    shard : (int, int)
        Shards share the folder with each other; a batch without shards has it for itself.
    patience : float
        Seconds to wait for another batch before giving up.

    Raises
    ------
    OutputError
        On entering: another batch works in the folder, or it cannot be written to.
    """

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
        """Descriptors that hold the lock; a process that inherits them holds it too."""
        return tuple(self._descriptors)

    def close(self):
        """Give the lock back."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def start(self, record, outputs):
        """Append that an exposure's products are about to be written: ``outputs``, kind -> name.

        Parameters
        ----------
        record : dict
            The exposure's record as far as it is known.
        outputs : dict

        Returns
        -------
        dict
            As it was appended.
        """
        begun = {name: value for name, value in record.items() if name not in _OF_THE_END}
        begun |= {"status": STARTED, "outputs": outputs}
        self.append(begun)
        return begun

    def append(self, record):
        """Append one record, in one write, and see it on the disk."""
        line = (json.dumps({name: record.get(name) for name in FIELDS}, default=str) + "\n").encode()
        descriptor = self._descriptors[-1]
        if not _is_file_at(descriptor, self.path):
            msg = f"{self.path}: was removed or replaced while the batch was at work; run it again to go on"
            raise OutputError(msg)
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                msg = "the disk is full"
                raise OSError(msg)
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, before)
            msg = f"{self.path}: {record.get('exposure')} cannot be recorded ({error}); make room and run it again"
            raise OutputError(msg) from error

    def _lock(self, path, kind):
        give_up = time.monotonic() + self.patience
        while True:
            descriptor = _open(path)
            self._descriptors.append(descriptor)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    msg = (
                        f"{path}: another batch is at work in this folder; wait for it, choose another folder, or let "
                        "both take a part of the work with --shard"
                    )
                    raise OutputError(msg) from None
                time.sleep(0.1)
            except OSError as error:
                msg = f"{path}: cannot be locked ({error.strerror}); choose an output folder on another file system"
                raise OutputError(msg) from None
            else:
                if _is_file_at(descriptor, path):
                    return
            # somebody may have removed the file and made another one meanwhile: that is the one to hold
            os.close(self._descriptors.pop())

    def _end_last_line(self):
        """Drop a last line that a crash of the machine has torn; a whole record without a line's end gets it."""
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
        msg = f"{path}: cannot write there ({error.strerror}); choose another output folder"
        raise OutputError(msg) from None


def _is_file_at(descriptor, path):
    """Tell whether a path still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


@dataclass
class Past:
    """What the manifests of a folder tell.

    Attributes
    ----------
    last : dict
        Exposure -> its last record, whatever came of it.
    made : dict
        Exposure -> the last record that may have left products.
    makers : dict
        Name of a product -> the record that made it last.
    n_damaged : int
        Lines that are no records. An unfinished last line is not counted: somebody may be writing it.
    """

    last: dict = field(default_factory=dict)
    made: dict = field(default_factory=dict)
    makers: dict = field(default_factory=dict)
    n_damaged: int = 0

    def add(self, record):
        """Take note of one more record, which is younger than all of its file."""
        self.last[record["exposure"]] = record
        if record["status"] != "failed" or record["outputs"]:
            self.made[record["exposure"]] = record
            self.makers |= dict.fromkeys(record["outputs"].values(), record)

    def merge(self, other):
        """Take note of another manifest: of two records, the one that is younger counts."""
        for ours, theirs in ((self.last, other.last), (self.made, other.made), (self.makers, other.makers)):
            for key, record in theirs.items():
                if key not in ours or _when(record) >= _when(ours[key]):
                    ours[key] = record
        self.n_damaged += other.n_damaged


def read_past(folder):
    """Read what ``manifest.jsonl`` and the shards' ``manifest-I-of-N.jsonl`` tell of a folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Past
        Of several manifests, the record that finished last counts.

    Raises
    ------
    OutputError
        A manifest cannot be read.
    """
    folder, past = Path(folder), Past()
    for path in sorted([*folder.glob("manifest.jsonl"), *folder.glob("manifest-*-of-*.jsonl")]):
        of_file = Past()
        try:
            *lines, unfinished = path.read_bytes().split(b"\n")
        except OSError as error:
            msg = f"{path}: the manifest cannot be read ({error.strerror}); see to it, or choose another output folder"
            raise OutputError(msg) from error
        for line in lines:
            record = _parse(line)
            if record is not None:
                of_file.add(record)
            elif line.strip():
                of_file.n_damaged += 1
        record = _parse(unfinished)
        if record is not None:
            of_file.add(record)
        past.merge(of_file)
    return past


def read_manifests(folder):
    """Read ``manifest.jsonl`` and the shards' ``manifest-I-of-N.jsonl``.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    records : dict
        Exposure -> its last record. Of several manifests, the one that finished last counts.
    n_damaged : int
        Lines that are no records. An unfinished last line is not counted: somebody may be writing it.
    """
    past = read_past(folder)
    return past.last, past.n_damaged


def _parse(line):
    """Read one line, with what every record must have in order; None where it holds no record.

    Other versions may write other fields, and a manifest may have been edited.
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
    """Tell whether a file can have this name."""
    return isinstance(name, str) and "\0" not in name and all(len(part) < 256 for part in name.split("/"))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _when(record):
    return str(record.get("finished") or record.get("started") or "")
