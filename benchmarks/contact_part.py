"""A part of the first contact, as its own process sees it: checks and figures, written to a file after each of them."""

import json
import os
import time
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
from compare_arrays import compare, tell

#: exit status of a process whose device answers nothing any more: CUDA's errors stay
SPOILED = 3

#: seconds before a part's limit at which it should have ended by itself
MARGIN = 2


class Wrong(Exception):
    """What a check found is wrong."""


class NotDone(Exception):
    """A check cannot be made on this machine; that is no fault."""


class Part:
    """The checks and figures of one part.

    A check that the file knows already is not made again: after a crash, a new process goes on with the next one.

    Parameters
    ----------
    record : Path
        Where the checks and figures are kept, as JSON.
    scratch : Path
        A folder that all parts share.
    limit : float
        Seconds that the part may take.
    began : float
        When the whole run began, as `time.time` tells it.
    rehearse : bool
        Tiny, on the host build of the kernels.
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
        """Tell how long the part may still take, with a moment to put down what it has."""
        return self._ends - time.time() - MARGIN

    def say(self, *words):
        print(f"[{time.time() - self._began:6.1f}]", *words, flush=True)

    def keep(self, **figures):
        """Keep figures."""
        self.figures.update(figures)
        self._write()

    def check(self, name, call):
        """Make a check, unless that was done before.

        Parameters
        ----------
        name : str
        call : callable
            Returns what there is to tell; raises `Wrong` or any other exception, or `NotDone`.

        Returns
        -------
        bool
            Whether nothing is wrong.
        """
        for done in self._record["checks"]:
            if done["name"] == name:
                return done["ok"] is not False
        self._record["running"] = name
        self._write()
        start, ok = time.perf_counter(), True
        try:
            told = call()
        except NotDone as reason:
            told, ok = str(reason), None
        except Exception as error:
            told, ok = str(error) if isinstance(error, Wrong) else _describe(error), False
        self._record["running"] = None
        self.note(name, ok, told, time.perf_counter() - start)
        if ok is False and not self._device_answers():
            self.say("the device answers nothing after that; a new process goes on with the next check")
            # Not by way of the interpreter: CuPy would complain about every array that is left.
            os._exit(SPOILED)
        return ok is not False

    def compare(self, name, run, reference, tolerance=0.0, floors=None, made_by=None):
        """Compare what a backend and another one answer; the counts are kept among the figures.

        Parameters
        ----------
        name : str
        run : callable
            ``run(backend)`` gives arrays by name.
        reference : Backend or None
            Where there is none, the check cannot be made.
        tolerance, floors
            See `compare_arrays.compare`.
        made_by : callable, optional
            What the reference runs, if not the same.
        """

        def call():
            if reference is None:
                raise NotDone("there is no g++ here, and the kernels on the CPU are what this is compared with")
            try:
                expected = to_host(reference, (made_by or run)(reference))
            except OSError as error:
                if reference.name != "host":
                    raise
                # It is compiled first, into a folder that may be closed to it.
                raise NotDone(f"what this is compared with cannot be had here: {error}") from error
            found = to_host(self.backend, run(self.backend))
            counts = compare(found, expected, tolerance, floors)
            self.keep(**{name: {**counts, "against": reference.name, "tolerance": tolerance}})
            told = f"against {reference.name}: {tell(counts)}"
            if any(counts[key] for key in ("unlike", "different_flags", "different_nan", "beyond")):
                raise Wrong(told)
            return told

        return self.check(name, call)

    def note(self, name, ok, told, seconds):
        """Keep a check's outcome, and print it."""
        told = "" if told is None else str(told)
        self._record["checks"].append({"name": name, "ok": ok, "told": told, "seconds": round(seconds, 3)})
        self._write()
        self.say({True: "ok  ", False: "BAD ", None: "--  "}[ok], f"{name:<36} {seconds:7.2f} s ", told)

    def end(self, status):
        """Say by which status the part ends, where its checks do not tell."""
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
    """Read what a part has put down so far."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {"checks": [], "figures": {}, "running": None, "status": None}


def to_host(backend, arrays):
    """Bring arrays by name to the host; None is left out."""
    return {name: np.array(backend.to_host(array)) for name, array in arrays.items() if array is not None}


def host_reference(n_threads=None):
    """The host build of the kernels, or None where there is no compiler."""
    from gpucoron.backends import backend_status, get_backend

    return get_backend("host", n_threads=n_threads) if backend_status()["host"][0] else None


def _describe(error):
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__}: {str(error)[:1500]} (at {where})"
