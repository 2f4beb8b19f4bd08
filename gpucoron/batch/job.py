"""One exposure of a batch, on whatever engine; and the process that reduces one after the other.

``python -m gpucoron.batch.job`` reads jobs from its standard input and answers on its standard output, one JSON
object per line. It ends when its input does, so that nothing outlives the batch that started it.
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
    """Reduce one exposure into its own folder of the stage, and tell what came of it; never raises.

    Parameters
    ----------
    job : dict
        ``path``, ``stage`` (where the products go), ``log``, ``attempt``, ``about`` (fields of the record that are
        known before), ``profile``, ``steps``, ``of_run``, ``use_pars``, ``pars``, ``backend``, ``backend_options``,
        ``environment`` (of CRDS); ``persistence``, the files that its persistence step reads and writes in place of
        the user's, if it does.
    notify : callable, optional
        Called as ``notify(step_name)`` when a step is done.

    Returns
    -------
    dict
        The record for the manifest; besides, ``disk_full`` where that was the trouble.
    """
    with _one_at_a_time:
        return _reduce(job, notify)


def _reduce(job, notify):
    from gpucoron.backends.process_memory import forget_high_water, high_water
    from gpucoron.borrowed import standing_in
    from gpucoron.engine import reduce_file
    from gpucoron.io.crds_cache import use_environment
    from gpucoron.records.previews import preview_path, save_preview

    start = time.perf_counter()
    stage = Path(job["stage"])
    record = {**job["about"], **who(), "attempt": job["attempt"], "started": now(), "status": "failed", "outputs": {}}
    forget_high_water()

    def after_step(run, step):
        if notify is not None:
            notify(step.name)

    with _log_to(job["log"], append=job["attempt"] > 1):
        try:
            use_environment(job["environment"])
            record["input_sha256"] = HASHES.sha256(job["path"])
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
                    **job["of_run"],
                )
            record |= _what_was_done(run, paths, record["exposure"], stage)
            save_preview(run, preview_path(stage, record["exposure"]))
            record["status"] = "done" if paths else "no rate"
        except (Exception, SystemExit) as error:  # whatever it is, the next exposure may be well
            log.error("%s failed: %s", record["exposure"], error)
            record |= {"status": "failed", "outputs": {}, "error": describe_error(error)}
            record["disk_full"] = came_of_full_disk(error)
    record["seconds"] = {**(record.get("seconds") or {}), "total": round(time.perf_counter() - start, 4)}
    record["peak_memory"] = high_water()
    record["finished"] = now()
    return record


def _make_room(path):
    """Make the folder for the persistence file that the exposure leaves; a first attempt may have left half of one."""
    if path:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _backend(name, options):
    from gpucoron.backends import get_backend

    return get_backend(name, **dict(options))


def who():
    """Tell where and with what this process works."""
    versions = {name: version(name) for name in ("jwst", "numpy", "crds")}
    return {"versions": {"gpucoron": __version__, **versions}, "host": platform.node(), "pid": os.getpid()}


def now():
    """Tell the time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe_error(error):
    """Write an exception as the manifest holds it."""
    text = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": text}


def _what_was_done(run, paths, exposure, stage):
    from gpucoron.batch.asked import parameters_of
    from gpucoron.batch.decision import product_name
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
        "outputs": {_kind_of(stem, exposure): product_name(path, stage) for stem, path in paths.items()},
        "context": run.context[0],
        "parameters": parameters_of(run),
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


def _kind_of(stem, exposure):
    """Take the exposure's name off that of a product."""
    return stem[len(exposure) + 1 :] if stem.startswith((f"{exposure}_", f"{exposure}-")) else stem


def count_flags(run):
    """Count DQ flags: name -> fraction of the samples (flags of groups) or of the pixels (all other flags)."""
    from gpucoron import dq

    names = {value: name for name, value in vars(dq).items() if name.isupper() and value}
    counts = {}
    for plane in run.exposure.groupdq:
        # The highest flag bounds what is worth a count.
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


def came_of_full_disk(error):
    """Tell whether an exception, or one that led to it, says that there is no room."""
    from gpucoron.io.boundary import is_disk_full

    while error is not None:
        if is_disk_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def _log_to(path, append):
    """Write everything that is logged to an exposure's own file; a log that cannot be written is no trouble."""
    from gpucoron.io.logs import shown

    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise OSError  # a pipe would wait for a reader
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
        with contextlib.suppress(OSError):  # what is left in the buffer does not fit either
            handler.close()


class Hashes:
    """SHA-256 of inputs. That of the next one is made beside the work, which also brings the file into memory."""

    def __init__(self):
        self._made = {}

    def prepare(self, path):
        """Begin with a file that will be asked for soon."""
        answer = []
        thread = threading.Thread(target=self._make, args=(path, answer), daemon=True)
        while len(self._made) > 1:  # what was prepared here and then reduced by another process
            self._made.pop(next(iter(self._made)), None)
        self._made[path] = (thread, _stamp(path), answer)
        thread.start()

    @staticmethod
    def _make(path, answer):
        with contextlib.suppress(OSError):
            answer.append(file_digest(path))

    def sha256(self, path):
        """Give the SHA-256 of a file; None where it cannot be read."""
        thread, stamp, answer = self._made.pop(path, (None, None, []))
        if thread is not None:
            thread.join()
        if answer and stamp == _stamp(path):
            return answer[0]
        try:
            return file_digest(path)
        except OSError:
            return None


def _stamp(path):
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


HASHES = Hashes()


def main():
    """Take jobs until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the batch decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    jobs = queue.Queue()

    def listen():
        for line in sys.stdin:
            message = json.loads(line)
            if "next" in message:
                HASHES.prepare(message["next"])
            else:
                jobs.put(message)
        os._exit(0)

    def answer(**event):
        answers.write(json.dumps(event, default=str) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    logging.getLogger("CRDS").setLevel(logging.ERROR)
    # before the first exposure is timed, and perhaps before there is one
    from gpucoron import engine  # noqa: F401
    from gpucoron.io.warm_up import warm_up
    from gpucoron.records import previews  # noqa: F401

    warm_up()
    answer(event="ready", pid=os.getpid())
    while True:
        answer(event="result", record=reduce_job(jobs.get(), lambda step: answer(event="step", step=step)))


if __name__ == "__main__":
    main()
