"""The local engine: worker processes that each reduce one exposure after the other.

Workers are plain subprocesses that talk JSON lines over pipes: nothing of the caller's is imported again, so that no
``__main__`` guard is needed, and a worker that dies takes nobody with it. A worker ends when its batch does, however
that ends. Workers can be started before there are jobs: they import meanwhile.
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

from gpucoron.batch.job import now, who
from gpucoron.errors import BackendUnavailableError, GpucoronError

#: an exposure whose worker died is given to another one, so many times in all
ATTEMPTS = 2
#: a last look at a worker's words, characters
_TAIL = 2000


def start_workers(options, descriptors=()):
    """Start workers before their jobs are known; who starts them has to `kill` them in the end.

    Parameters
    ----------
    options : list of dict
        One per worker, as `run_locally` is expected to be given them.
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
        See `gpucoron.batch.job.reduce_job`. They are taken out; who deals with a result may put further ones in.
    options : list of dict
        One per worker: its ``backend_options``.
    descriptors : sequence of int
        File descriptors that the workers inherit, which keeps a lock until the last of them is gone.
    early : iterable of Worker
        What `start_workers` has started: they are taken where they fit, the others are killed.

    Yields
    ------
    ('step', job, name) or ('result', job, record)

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
                    if message["event"] == "step":
                        yield "step", worker.job, message["step"]
                        continue
                    failures, job = 0, worker.job
                    worker.give(waiting, len(workers))  # before the answer is dealt with
                    if message["event"] == "result":
                        yield "result", job, message["record"]
                    if worker.is_idle:  # that may have let another one begin
                        worker.give(waiting, len(workers))
                if messages is None or worker.is_idle:
                    selector.unregister(worker.answers)
                    workers.remove(worker)
                if messages is None:
                    failures += not worker.was_ready
                    if failures >= ATTEMPTS:
                        raise BackendUnavailableError(worker.obituary("cannot start"))
                    yield from _after_death(worker, waiting)
                    if waiting:
                        start(worker.backend_options)
                elif worker.is_idle:
                    worker.stop()
        if waiting:
            msg = f"{len(waiting)} exposures are left, and no worker"
            raise GpucoronError(msg)
    finally:
        for worker in workers:
            worker.kill()
        selector.close()


def _after_death(worker, waiting):
    """Give a dead worker's exposure to another one, or report it."""
    worker.kill()
    if worker.reserved is not None:
        waiting.appendleft(worker.reserved)
    job = worker.job
    if job is None:
        return
    if job["attempt"] < ATTEMPTS:
        waiting.appendleft({**job, "attempt": job["attempt"] + 1})
        return
    message = worker.obituary(f"died on {job['about']['exposure']}, for the {job['attempt']}nd time")
    error = {"type": "WorkerDied", "message": message, "traceback": ""}
    moments = {"started": now(), "finished": now(), "attempt": job["attempt"]}
    record = {**job["about"], **who(), **moments, "status": "failed", "outputs": {}, "error": error}
    yield "result", job, {**record, "pid": worker.process.pid, "seconds": {}}


class Worker:
    """One worker process: ``job`` is what it works on, ``reserved`` what it will get next."""

    def __init__(self, backend_options, descriptors):
        self.backend_options = backend_options
        self.n_threads = _n_threads(backend_options)
        self.job = self.reserved = None
        self.was_ready = False
        self._rest = b""
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the worker
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gpucoron.batch.job"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=_environment(self.n_threads),
            pass_fds=descriptors,
            start_new_session=True,  # an interrupt from the terminal is for the batch
        )
        self.answers = self.process.stdout

    @property
    def is_idle(self):
        """Whether it is ready, and there was nothing more for it."""
        return self.was_ready and self.job is None

    def read(self):
        """Read what it has to say: a list of messages, or None where it is dead."""
        data = os.read(self.answers.fileno(), 2**20)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def give(self, waiting, n_workers):
        """Give it the next job, and tell it what will follow, so that it can read ahead."""
        self.was_ready = True
        self.job, self.reserved = self.reserved, None
        if self.job is None and waiting:
            self.job = waiting.popleft()
        if self.job is None:
            return
        self._say({**self.job, "backend_options": self.backend_options})
        if len(waiting) > n_workers:  # near the end whoever is free first takes what is left
            self.reserved = waiting.popleft()
            self._say({"next": self.reserved["path"]})

    def _say(self, message):
        with contextlib.suppress(BrokenPipeError):  # its death shows at the other pipe
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def obituary(self, what):
        """Say how it died, with its last words."""
        code = self.process.wait()
        self._words.seek(max(0, self._words.seek(0, os.SEEK_END) - _TAIL))
        words = self._words.read().decode(errors="replace").strip()
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += ", perhaps because memory ran out: use fewer --workers"
        else:
            how = f"exit code {code}"
        return f"a worker process {what} ({how})" + (f"; its last words: {words}" if words else "")

    def stop(self):
        """Let it go."""
        self.process.stdin.close()
        self.process.wait()
        self.answers.close()

    def kill(self):
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.answers.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def _n_threads(backend_options):
    return backend_options.get("n_threads", 1)


def _environment(n_threads):
    """Make the workers find this very package, and share the cores among them."""
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(n_threads))
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
