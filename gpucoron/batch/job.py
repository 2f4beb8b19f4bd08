"""Reduce one exposure of a batch, on any engine; and the main function of a worker process.

``python -m gpucoron.batch.job`` reads jobs from standard input and writes results to standard output, one JSON object
per line. It exits when its input closes, so that no worker outlives its batch.
"""

import contextlib
import json
import logging
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from gpucoron import __version__
from gpucoron.files import file_digest

log = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()


def reduce_job(job, notify=None):
    """Reduce one exposure into its staging folder and return its record; never raise.

    Parameters
    ----------
    job : dict
        ``path``, ``stage`` (folder for the products), ``log``, ``attempt``, ``record_fields`` (fields of the record
        that are known in advance), ``profile``, ``steps``, ``run_parameters``, ``use_pars``, ``pars``, ``backend``,
        ``backend_options``, ``environment`` (of CRDS); ``persistence``, the files that its persistence step reads and
        writes instead of the user's, or empty.
    notify : callable, optional
        Called as ``notify(step_name)`` after each step.

    Returns
    -------
    dict
        The record for the manifest, and ``disk_full`` if the exposure failed because the disk is full.
    """
    with _one_at_a_time:
        return _reduce(job, notify)


def _reduce(job, notify):
    from gpucoron.backends.process_memory import peak_memory, reset_peak_memory
    from gpucoron.borrowed import standing_in
    from gpucoron.engine import reduce_file
    from gpucoron.io.crds_cache import use_environment
    from gpucoron.records.observed import observed_fields
    from gpucoron.records.previews import preview_path, save_preview

    start = time.perf_counter()
    stage = Path(job["stage"])
    record = {
        **job["record_fields"],
        **process_info(),
        "input_path": os.path.abspath(job["path"]),
        "attempt": job["attempt"],
        "started": utc_now(),
        "status": "failed",
        "outputs": {},
    }
    reset_peak_memory()

    def after_step(run, step):
        if notify is not None:
            notify(step.name)

    with _log_to(job["log"], append=job["attempt"] > 1):
        try:
            use_environment(job["environment"])
            record["input_sha256"] = DIGESTS.sha256(job["path"])
            backend = _backend(job["backend"], tuple(sorted(job["backend_options"].items())))
            persistence = job.get("persistence") or {}
            _make_room(persistence.get("save_persistence"))
            with standing_in({"persistence": persistence}):
                run, _models, paths = reduce_file(
                    job["path"],
                    stage,
                    profile=job["profile"],
                    steps=job["steps"],
                    backend=backend,
                    overwrite=True,
                    after_step=after_step,
                    use_pars=job.get("use_pars"),
                    pars=job.get("pars"),
                    **job["run_parameters"],
                )
            record |= _run_fields(run, paths, record["exposure"], stage)
            save_preview(run, preview_path(stage, record["exposure"]))
            record |= observed_fields(run)
            record["status"] = "done" if paths else "no rate"
        except (Exception, SystemExit) as error:  # the next exposure may succeed
            log.error("%s failed: %s", record["exposure"], error)
            record |= {"status": "failed", "outputs": {}, "error": describe_error(error)}
            record["disk_full"] = is_caused_by_full_disk(error)
    record["seconds"] = {**(record.get("seconds") or {}), "total": round(time.perf_counter() - start, 4)}
    record["peak_memory"] = peak_memory()
    record["finished"] = utc_now()
    return record


def _make_room(path):
    """Make the folder of the persistence file that the exposure writes; delete a file of a failed attempt."""
    if path:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _backend(name, options):
    from gpucoron.backends import get_backend

    return get_backend(name, **dict(options))


def process_info():
    """Return the record fields that describe this process: versions, host and process ID."""
    versions = {name: version(name) for name in ("jwst", "numpy", "crds")}
    return {"versions": {"gpucoron": __version__, **versions}, "host": platform.node(), "pid": os.getpid()}


def utc_now():
    """Return the current time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe_error(error):
    """Return an exception as it is stored in the manifest."""
    text = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": text}


def _run_fields(run, paths, exposure, stage):
    from gpucoron.batch.decision import product_name
    from gpucoron.batch.request import changed_parameters
    from gpucoron.io.products import backends_of

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
    return {
        "outputs": {_product_kind(stem, exposure): product_name(path, stage) for stem, path in paths.items()},
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
    }


def _product_kind(stem, exposure):
    """Return the kind of a product: its name without the name of the exposure."""
    return stem[len(exposure) + 1 :] if stem.startswith((f"{exposure}_", f"{exposure}-")) else stem


def count_flags(run):
    """Count DQ flags: name -> fraction of the samples (group flags) or of the pixels (all other flags)."""
    from gpucoron import dq

    names = {value: name for name, value in vars(dq).items() if name.isupper() and value}
    counts = {}
    for plane in run.exposure.groupdq:
        # bits above the highest flag need no count
        for value in (2**bit for bit in range(int(plane.max()).bit_length())):
            counts[value] = counts.get(value, 0) + int(run.backend.xp.count_nonzero(plane & value))
    flags = {names[value]: count / run.exposure.groupdq.size for value, count in sorted(counts.items()) if count}
    if run.exposure.rate is not None:
        pixels = run.backend.to_host(run.exposure.rate.dq)
        for value in (2**bit for bit in range(8, 32)):
            count = int(((pixels & value) != 0).sum())
            if count:
                flags[names[value]] = count / pixels.size
    return {name: float(f"{fraction:.6g}") for name, fraction in flags.items()}


def is_caused_by_full_disk(error):
    """Return whether an exception, or one that caused it, reports a full disk."""
    from gpucoron.io.boundary import is_disk_full

    while error is not None:
        if is_disk_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _log_to(path, append):
    """Write all log records to the log file of an exposure; ignore a log file that cannot be written."""
    from gpucoron.io.logs import shown

    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError  # opening a pipe would wait for a reader
        handler = logging.FileHandler(path, mode="a" if append else "w")
    except OSError:
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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


DIGESTS = InputDigests()


def main():
    """Reduce jobs until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the batch stops its workers itself
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # text that libraries print must not mix with the results
    jobs = queue.Queue()

    def listen():
        for line in sys.stdin:
            message = json.loads(line)
            if "next" in message:
                DIGESTS.prepare(message["next"])
            else:
                jobs.put(message)
        os._exit(0)

    def answer(**event):
        answers.write(json.dumps(event, default=str) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    logging.getLogger("CRDS").setLevel(logging.ERROR)
    # imported before the first job arrives, so that no exposure's time includes it
    from gpucoron import engine  # noqa: F401
    from gpucoron.io.warm_up import warm_up
    from gpucoron.records import previews  # noqa: F401

    warm_up()
    answer(event="ready", pid=os.getpid())
    while True:
        answer(event="result", record=reduce_job(jobs.get(), lambda step: answer(event="step", step=step)))


if __name__ == "__main__":
    main()
