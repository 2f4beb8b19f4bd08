"""One part of the first contact, run in its own process: checks and figures, saved to a file after each check."""

import json
import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
from compare_arrays import compare, summarize

#: exit status of a process in which the device no longer responds, because CUDA errors persist until it exits
SPOILED = 3

#: seconds before the limit of a part at which it should have ended
MARGIN = 2


class Wrong(Exception):
    """A check found an error."""


class NotDone(Exception):
    """A check is impossible on this machine, which is not an error."""


class Part:
    """The checks and figures of one part.

    A check that is already recorded is skipped: after a crash, a new process continues with the next check.

    Parameters
    ----------
    record : Path
        JSON file of the checks and figures.
    scratch : Path
        A folder that all parts share.
    limit : float
        Seconds for the part.
    began : float
        Start of the whole run, see `time.time`.
    rehearse : bool
        Run small cases on the host build of the kernels.
    """

    def __init__(self, record, scratch, limit, began, rehearse):
        self.scratch, self.rehearse = Path(scratch), rehearse
        self._path, self._began, self._ends = Path(record), began, time.time() + limit
        self._record = read_record(self._path)
        self._backend = None

    @property
    def backend(self):
        """The device's backend or, in a rehearsal, the host build."""
        if self._backend is None:
            from gpucoron.backends import get_backend

            self._backend = get_backend("host" if self.rehearse else "cuda")
        return self._backend

    @property
    def figures(self):
        return self._record["figures"]

    def seconds_left(self):
        """Return the seconds that remain for the part, less a margin to save its results."""
        return self._ends - time.time() - MARGIN

    def say(self, *words):
        print(f"[{time.time() - self._began:6.1f}]", *words, flush=True)

    def keep(self, **figures):
        """Save figures."""
        self.figures.update(figures)
        self._write()

    def check(self, name, call):
        """Run a check, unless it has already been run.

        Parameters
        ----------
        name : str
        call : callable
            Returns a message; raises `Wrong` or any other exception for an error, or `NotDone`.

        Returns
        -------
        bool
            Whether the check found no error.
        """
        for done in self._record["checks"]:
            if done["name"] == name:
                return done["ok"] is not False
        self._record["running"] = name
        self._write()
        start, ok = time.perf_counter(), True
        try:
            message = call()
        except NotDone as reason:
            message, ok = str(reason), None
        except Exception as error:
            message, ok = str(error) if isinstance(error, Wrong) else _describe(error), False
        self._record["running"] = None
        self.note(name, ok, message, time.perf_counter() - start)
        if ok is False and not self._device_answers():
            self.say("the device no longer responds; a new process continues with the next check")
            # Exit without the interpreter's clean-up, in which CuPy would report an error for every remaining array.
            os._exit(SPOILED)
        return ok is not False

    def compare(self, name, run, reference, tolerance=0.0, floors=None, made_by=None):
        """Compare the arrays of a backend with those of a reference backend; save the counts among the figures.

        Parameters
        ----------
        name : str
        run : callable
            ``run(backend)`` returns arrays by name.
        reference : Backend or None
            If None, the check cannot be run.
        tolerance, floors
            See `compare_arrays.compare`.
        made_by : callable, optional
            Function that the reference runs, if not ``run``.
        """

        def call():
            if reference is None:
                raise NotDone("the comparison needs g++ to compile the kernels for the CPU")
            try:
                expected = to_host(reference, (made_by or run)(reference))
            except OSError as error:
                if reference.name != "host":
                    raise
                # The reference is compiled first, into a folder that may not be writable.
                raise NotDone(f"the reference for the comparison cannot be compiled: {error}") from error
            found = to_host(self.backend, run(self.backend))
            counts = compare(found, expected, tolerance, floors)
            self.keep(**{name: {**counts, "against": reference.name, "tolerance": tolerance}})
            message = f"against {reference.name}: {summarize(counts)}"
            if any(counts[key] for key in ("unlike", "different_flags", "different_nan", "beyond")):
                raise Wrong(message)
            return message

        return self.check(name, call)

    def note(self, name, ok, message, seconds):
        """Save and print the result of a check."""
        message = "" if message is None else str(message)
        self._record["checks"].append({"name": name, "ok": ok, "told": message, "seconds": round(seconds, 3)})
        self._write()
        self.say({True: "ok  ", False: "BAD ", None: "--  "}[ok], f"{name:<36} {seconds:7.2f} s ", message)

    def end(self, status):
        """Set the status of the part if its checks do not determine it."""
        self._record["status"] = status
        self._write()

    def _device_answers(self):
        if self._backend is None or self._backend.name != "cuda":
            return True
        try:
            self._backend.synchronize()
        except Exception:
            return False
        return True

    def _write(self):
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._record, indent=1))
        part.replace(self._path)


def read_record(path):
    """Read the results that a part has saved so far."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {"checks": [], "figures": {}, "running": None, "status": None}


def to_host(backend, arrays):
    """Copy arrays by name to the host; leave out None."""
    return {name: np.array(backend.to_host(array)) for name, array in arrays.items() if array is not None}


def host_reference(n_threads=None):
    """Return the host build of the kernels, or None without a compiler."""
    from gpucoron.backends import backend_status, get_backend

    return get_backend("host", n_threads=n_threads) if backend_status()["host"][0] else None


def _describe(error):
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {str(error)[:1500]} (at {where})"
