"""Run a batch in worker processes on this machine; each worker reduces one exposure after another.

Workers are subprocesses that exchange JSON lines over pipes. They do not import the user's script, so it needs no
``__main__`` guard, and if one worker dies, the others continue. A worker exits when its batch ends for any reason.
Workers can be started before there are jobs; they load their libraries in the meantime.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

from gpucoron.batch.record import process_info, utc_now
from gpucoron.errors import BackendUnavailableError, GpucoronError

#: how often an exposure is tried in total if its worker dies
ATTEMPTS = 2
#: how much of a worker's stderr an error message quotes, bytes
_TAIL = 2000


def start_workers(options, descriptors=()):
    """Start workers before their jobs are known; the caller has to `kill` them at the end.

    Parameters
    ----------
    options : list of dict
        The expected options of each worker, see `run_locally`.
    descriptors : sequence of int

    Returns
    -------
    list of Worker
    """
    return [Worker(backend_options, descriptors) for backend_options in options]


def run_locally(jobs, options, descriptors=(), early=()):
    """Reduce jobs in worker processes.

    Parameters
    ----------
    jobs : deque of dict
        See `gpucoron.batch.job.reduce_job`. Jobs are removed when they are assigned; the caller may append more after
        each result.
    options : list of dict
        The ``backend_options`` of each worker.
    descriptors : sequence of int
        File descriptors that the workers inherit; so the lock of the batch is held until the last worker exits.
    early : iterable of Worker
        Workers from `start_workers`. Those with the right number of threads are used, the others are killed.

    Yields
    ------
    ('begin', job, (name, number, count)), ('step', job, (name,)) or ('result', job, record)
        What happens to a job; see `gpucoron.batch.progress.Silent` for the first two.

    Raises
    ------
    GpucoronError
        Workers cannot start.
    """
    waiting, early = jobs, deque(early)
    selector = selectors.DefaultSelector()
    workers, failures = [], 0

    def start(backend_options):
        fits = bool(early) and early[0].n_threads == _n_threads(backend_options)
        worker = early.popleft() if fits else Worker(backend_options, descriptors)
        worker.backend_options = backend_options
        workers.append(worker)
        selector.register(worker.answers, selectors.EVENT_READ, worker)

    try:
        for backend_options in options[: len(waiting)]:
            start(backend_options)
        while early:
            early.popleft().kill()
        while workers:
            for key, _events in selector.select():
                worker = key.data
                messages = worker.read()
                for message in messages or ():
                    if message["event"] in ("begin", "step"):
                        yield message["event"], worker.job, message["step"]
                        continue
                    failures, job = 0, worker.job
                    # before the result is yielded, so that the worker need not wait for the caller
                    worker.assign_next(waiting, len(workers))
                    if message["event"] == "result":
                        yield "result", job, message["record"]
                    if worker.is_idle:  # the caller may have appended a job
                        worker.assign_next(waiting, len(workers))
                if messages is None or worker.is_idle:
                    selector.unregister(worker.answers)
                    workers.remove(worker)
                if messages is None:
                    failures += not worker.was_ready
                    if failures >= ATTEMPTS:
                        raise BackendUnavailableError(worker.describe_death("cannot start"))
                    yield from _handle_dead_worker(worker, waiting)
                    if waiting:
                        start(worker.backend_options)
                elif worker.is_idle:
                    worker.stop()
        if waiting:
            msg = f"{len(waiting)} exposures were not reduced: no worker is left"
            raise GpucoronError(msg)
    finally:
        for worker in workers:
            worker.kill()
        selector.close()


def _handle_dead_worker(worker, waiting):
    """Queue the exposure of a dead worker again, or report it as failed after the last attempt."""
    worker.kill()
    if worker.reserved is not None:
        waiting.appendleft(worker.reserved)
    job = worker.job
    if job is None:
        return
    if job["attempt"] < ATTEMPTS:
        waiting.appendleft({**job, "attempt": job["attempt"] + 1})
        return
    message = worker.describe_death(f"died on {job['record_fields']['exposure']} (attempt {job['attempt']})")
    error = {"type": "WorkerDied", "message": message, "traceback": ""}
    moments = {"started": utc_now(), "finished": utc_now(), "attempt": job["attempt"]}
    record = {**job["record_fields"], **process_info(), **moments, "status": "failed", "outputs": {}, "error": error}
    yield "result", job, {**record, "pid": worker.process.pid, "seconds": {}}


class Worker:
    """One worker process, with its current ``job`` and the next one, ``reserved``."""

    def __init__(self, backend_options, descriptors):
        self.backend_options = backend_options
        self.n_threads = _n_threads(backend_options)
        self.job = self.reserved = None
        self.was_ready = False
        self._rest = b""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open while the worker exists
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gpucoron.batch.job"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(self.n_threads),
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C in the terminal goes to the batch process only
        )
        self.answers = self.process.stdout

    @property
    def is_idle(self):
        """Whether the worker is ready and has no job."""
        return self.was_ready and self.job is None

    def read(self):
        """Read the worker's messages; return None if it is dead."""
        data = os.read(self.answers.fileno(), 2**20)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def assign_next(self, waiting, n_workers):
        """Send the next job, and announce the one after that, so that it can read ahead."""
        self.was_ready = True
        self.job, self.reserved = self.reserved, None
        if self.job is None and waiting:
            self.job = waiting.popleft()
        if self.job is None:
            return
        self._send({**self.job, "backend_options": self.backend_options})
        if len(waiting) > n_workers:  # near the end nothing is reserved: the first free worker gets the next job
            self.reserved = waiting.popleft()
            self._send({"next": self.reserved["path"]})

    def _send(self, message):
        with contextlib.suppress(BrokenPipeError):  # a dead worker is detected when its messages are read
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def describe_death(self, what):
        """Return a message with the worker's exit code or signal and the end of its stderr."""
        code = self.process.wait()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _TAIL))
        output = self._stderr.read().decode(errors="replace").strip()
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += ", perhaps because memory ran out: use fewer --workers"
        else:
            how = f"exit code {code}"
        return f"a worker process {what} ({how})" + (f"; the end of its output: {output}" if output else "")

    def stop(self):
        """Close the worker's input, so that it exits."""
        self.process.stdin.close()
        self.process.wait()
        self.answers.close()

    def kill(self):
        """Kill the worker."""
        self.process.kill()
        self.process.wait()
        self.answers.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def _n_threads(backend_options):
    return backend_options.get("n_threads", 1)


def _environment(n_threads):
    """Return the environment of a worker: it imports this copy of the package and uses ``n_threads`` threads."""
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(n_threads))
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
