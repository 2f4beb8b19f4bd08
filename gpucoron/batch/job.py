"""Reduce one exposure of a batch, on any engine; and the main function of a worker process.

``python -m gpucoron.batch.job`` reads jobs from standard input and writes results to standard output, one JSON object
per line. It exits when its input closes, so that no worker outlives its batch.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path

from gpucoron.batch.progress import place_of
from gpucoron.batch.record import DIGESTS, describe_error, log_to, process_info, run_fields, utc_now
from gpucoron.files import is_disk_full
from gpucoron.interactive import full_tracebacks

log = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()


def reduce_job(job, notify=None):
    """Reduce one exposure into its staging folder and return its record; never raise.

    Parameters
    ----------
    job : dict
        ``path``, ``stage`` (folder for the products), ``output_dir`` (where they will be moved to), ``log``,
        ``attempt``, ``record_fields`` (fields of the record that are known in advance), ``profile``, ``steps``,
        ``run_parameters``, ``use_pars``, ``pars``, ``backend``, ``backend_options``, ``environment`` (of CRDS);
        ``persistence``, the files that its persistence step reads and writes instead of the user's, or empty.
    notify : callable, optional
        Called as ``notify("begin", name, number, count)`` before each step, see
        `gpucoron.batch.progress.Silent.begin_step`, and as ``notify("step", name)`` after it.

    Returns
    -------
    dict
        The record for the manifest, and ``disk_full`` if the exposure failed because the disk is full.
    """
    with _one_at_a_time:
        return _reduce(job, notify)


@full_tracebacks()
def _reduce(job, notify):
    from gpucoron.backends.process_memory import peak_memory, reset_peak_memory
    from gpucoron.engine import reduce_file
    from gpucoron.io.crds_cache import use_environment
    from gpucoron.io.persistence_file import standing_in
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

    def before_step(run, name):
        place = None if notify is None else place_of(run, name)
        if place is not None:
            notify("begin", name, *place)

    def after_step(run, step):
        if notify is not None:
            notify("step", step.name)

    staged = (str(stage), job.get("output_dir", str(stage)))
    with log_to(job["log"], append=job["attempt"] > 1, staged=staged):
        try:
            use_environment(job["environment"])
            record["input_sha256"] = DIGESTS.sha256(job["path"])
            backend = _backend(job["backend"], tuple(sorted(job["backend_options"].items())))
            persistence = job.get("persistence") or {}
            _make_room(persistence.get("save_persistence"))
            with standing_in(persistence):
                run, _models, paths = reduce_file(
                    job["path"],
                    stage,
                    profile=job["profile"],
                    steps=job["steps"],
                    backend=backend,
                    overwrite=True,
                    before_step=before_step,
                    after_step=after_step,
                    use_pars=job.get("use_pars"),
                    pars=job.get("pars"),
                    **job["run_parameters"],
                )
            record |= run_fields(run, paths, record["exposure"], stage)
            save_preview(run, preview_path(stage, record["exposure"]), record["product_date"])
            record["status"] = "done" if paths else "no rate"
        except (Exception, SystemExit) as error:  # the next exposure may succeed
            log.error("%s failed: %s", record["exposure"], error)
            error_fields = {name: text.replace(*staged) for name, text in describe_error(error).items()}
            record |= {"status": "failed", "outputs": {}, "error": error_fields}
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


def is_caused_by_full_disk(error):
    """Return whether an exception, or one that caused it, reports a full disk."""
    while error is not None:
        if is_disk_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False


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
        if "gpucoron.backends.devices.compilations" in sys.modules:
            sys.modules["gpucoron.backends.devices.compilations"].stop()
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
        record = reduce_job(jobs.get(), lambda event, *of_step: answer(event=event, step=of_step))
        answer(event="result", record=record)


if __name__ == "__main__":
    main()
