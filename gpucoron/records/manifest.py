"""The manifest of a batch: one JSON object per line, appended whole or not at all, by one batch at a time.

``manifest.jsonl`` is a whole folder's, ``manifest-I-of-N.jsonl`` a shard's. The file is also the lock: a batch holds it
as long as it, or any process that it started, lives.
"""

import fcntl
import json
import os
import time
from pathlib import Path

from gpucoron.errors import OutputError

#: what each line holds, in this order
FIELDS = (
    "exposure", "input", "input_bytes", "input_sha256", "outputs", "status", "started", "finished", "versions",
    "context", "profile", "parameters", "parameters_digest", "backend", "steps", "seconds", "peak_memory", "flags",
    "instrument", "detector", "subarray", "exp_type", "filter", "coronmsk", "target", "shape", "error", "host", "pid",
    "attempt", "persistence",
)  # fmt: skip

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
        except BaseException:
            self.close()
            raise
        self._cut_torn_line()
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

    def append(self, record):
        """Append one record, in one write, and see it on the disk."""
        line = (json.dumps({name: record.get(name) for name in FIELDS}, default=str) + "\n").encode()
        descriptor = self._descriptors[-1]
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
        try:
            self._descriptors.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666))
        except OSError as error:
            msg = f"{path}: cannot write there ({error.strerror}); choose another output folder"
            raise OutputError(msg) from None
        give_up = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(self._descriptors[-1], kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    msg = (
                        f"{path}: another batch is at work in this folder; wait for it, choose another folder, or let "
                        "both take a part of the work with --shard"
                    )
                    raise OutputError(msg) from None
                time.sleep(0.1)
            else:
                return

    def _cut_torn_line(self):
        """Drop a last line without its end: what a crash of the machine may leave."""
        text = self.path.read_bytes()
        if text and not text.endswith(b"\n"):
            os.ftruncate(self._descriptors[-1], text.rfind(b"\n") + 1)


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
    folder = Path(folder)
    records, n_damaged = {}, 0
    for path in sorted([*folder.glob("manifest.jsonl"), *folder.glob("manifest-*-of-*.jsonl")]):
        *lines, unfinished = path.read_bytes().split(b"\n")
        of_file = {}
        for line in lines:
            if line.strip():
                record = _parse(line)
                if record is None:
                    n_damaged += 1
                else:
                    of_file[record["exposure"]] = record
        record = _parse(unfinished)
        if record is not None:
            of_file[record["exposure"]] = record
        for exposure, record in of_file.items():
            if exposure not in records or _when(record) >= _when(records[exposure]):
                records[exposure] = record
    return records, n_damaged


def _parse(line):
    """Read one line; None where it holds no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("exposure"), str) else None


def _when(record):
    return str(record.get("finished") or "")
