"""The record of a reduction, its log file and the digest of its input, for batches and single runs."""

import contextlib
import logging
import os
import platform
import threading
import traceback
from datetime import UTC, datetime

from gpucoron import __version__
from gpucoron.files import file_digest
from gpucoron.io.versions import installed


def process_info():
    """Return the record fields that describe this process: versions, host and process ID."""
    versions = {name: installed(name) for name in ("jwst", "numpy", "crds")}
    return {"versions": {"gpucoron": __version__, **versions}, "host": platform.node(), "pid": os.getpid()}


def utc_now():
    """Return the current time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def date_of(path):
    """Return the modification time of a file, ns; None if it cannot be read."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def describe_error(error):
    """Return an exception as it is stored in the manifest."""
    text = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": text}


def run_fields(run, paths, exposure, folder):
    """Return the record fields that a reduction adds: what it is of, products, parameters, steps, times and flags.

    Parameters
    ----------
    run : Run
        After its last step.
    paths : dict
        Stem of the file name -> path of each product.
    exposure : str
        Its name.
    folder : str or Path
        Folder of the products, without which they are named.
    """
    from gpucoron.batch.decision import product_name
    from gpucoron.batch.outputs import read_date
    from gpucoron.batch.request import changed_parameters
    from gpucoron.io.products import backends_of
    from gpucoron.records.observed import observed_fields

    phases = {name: round(seconds, 4) for name, seconds in run.phases.items()}
    steps = [
        {
            "name": step.name,
            "status": step.status,
            "seconds": round(step.seconds, 4),
            "reason": step.reason,
            "backend": "+".join(step.workers),
            "flagged": {what: int(count) for what, count in step.flagged.items()},
        }
        for step in run.records
    ]
    kinds = {_product_kind(stem, exposure): path for stem, path in paths.items()}
    return {
        "outputs": {kind: product_name(path, folder) for kind, path in kinds.items()},
        "product_date": (read_date(kinds["rate"]) if "rate" in kinds else None) or "",
        "context": run.context[0],
        "parameters": changed_parameters(run),
        "backend": backends_of(run),
        "steps": steps,
        "seconds": {
            "read": phases["read"],
            "plan": phases["plan"],
            "steps": round(run.seconds, 4),
            "write": phases["write"],
        },
        "flags": count_flags(run),
        **observed_fields(run),
    }


def _product_kind(stem, exposure):
    """Return the kind of a product: its name without the name of the exposure."""
    return stem[len(exposure) + 1 :] if stem.startswith((f"{exposure}_", f"{exposure}-")) else stem


def count_flags(run):
    """Count DQ flags: name -> fraction of the samples (group flags) or of the pixels (all other flags)."""
    from gpucoron import dq

    names = {value: name for name, value in dq.flags_by_name().items()}
    counts = run.flag_counts
    flags = {
        names[value]: counts.samples_with(value) / counts.n_samples
        for value in (2**bit for bit in range(8))
        if counts.samples_with(value)
    }
    if run.exposure.rate is not None:
        pixels = run.backend.to_host(run.exposure.rate.dq)
        for value in (2**bit for bit in range(8, 32)):
            count = int(((pixels & value) != 0).sum())
            if count:
                flags[names[value]] = count / pixels.size
    return {name: float(f"{fraction:.6g}") for name, fraction in flags.items()}


@contextlib.contextmanager
def log_to(path, append=False, staged=("", "")):
    """Write all log records to the log file of an exposure; ignore a log file that cannot be written.

    Parameters
    ----------
    path : str or Path
    append : bool
        Keep what the file holds.
    staged : (str, str)
        Folder from which the products will be moved, and the folder to which: the log names the latter.
    """
    from gpucoron.io.logs import shown

    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError  # opening a pipe would wait for a reader
        handler = logging.FileHandler(path, mode="a" if append else "w")
    except OSError:
        yield
        return
    handler.setFormatter(_Formatter(*staged))
    handler.handleError = lambda record: None
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with shown("gpucoron", logging.INFO):
            yield
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # the disk may be too full for the rest of the buffer
            handler.close()


class _Formatter(logging.Formatter):
    """The format of log files, with the final paths of products."""

    def __init__(self, stage, output_dir):
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._stage, self._output_dir = stage, output_dir

    def format(self, record):
        text = super().format(record)
        return text.replace(self._stage, self._output_dir) if self._stage else text


class InputDigests:
    """SHA-256 digests of input files. A thread digests the next file in advance, which also caches the file."""

    def __init__(self):
        self._prepared = {}

    def prepare(self, path):
        """Start to digest a file that will be needed soon."""
        digests = []
        thread = threading.Thread(target=self._digest, args=(path, digests), daemon=True)
        while len(self._prepared) > 1:  # drop files that another process has reduced
            self._prepared.pop(next(iter(self._prepared)), None)
        self._prepared[path] = (thread, _size_and_date(path), digests)
        thread.start()

    @staticmethod
    def _digest(path, digests):
        with contextlib.suppress(OSError):
            digests.append(file_digest(path))

    def sha256(self, path):
        """Return the SHA-256 of a file; None if it cannot be read."""
        thread, size_and_date, digests = self._prepared.pop(path, (None, None, []))
        if thread is not None:
            thread.join()
        if digests and size_and_date == _size_and_date(path):
            return digests[0]
        try:
            return file_digest(path)
        except OSError:
            return None


def _size_and_date(path):
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


#: of this process
DIGESTS = InputDigests()
