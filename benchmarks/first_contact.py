"""First contact with a GPU: find out in at most nine minutes what works, what fails, and where the time is spent.

It needs CuPy, NumPy, SciPy and pytest; no astropy, no jwst, no network. Each part runs in a new process, because a CUDA
error persists until its process exits, and has a time budget. It prints while it runs, the most important parts first,
and writes the results again after each part. The exit status is the number of errors.

python benchmarks/first_contact.py [--output FOLDER] [--parts compile steps ...]
python benchmarks/first_contact.py --rehearse --output FOLDER    small cases, on the host build of the kernels, no GPU
"""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from itertools import chain, count
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import bench_gpu  # noqa: E402
import provenance  # noqa: E402
from contact_part import SPOILED, Part, read_record  # noqa: E402

#: seconds of the whole run
DEADLINE = 530

#: a rehearsal measures nothing; its budgets only stop a part that hangs
REHEARSAL_FACTOR = 10

#: number of output lines that are saved if a part does not end normally
TAIL = 60

#: largest exit status that shells do not interpret as a signal
MOST = 100


@dataclass(frozen=True)
class Plan:
    """A part: its function, its question, and its budget in seconds.

    A ``long`` part also gets the time that earlier parts did not use.
    """

    function: str
    asks: str
    budget: float
    long: bool = False


PARTS = {
    "machine": Plan("contact_machine:describe_machine", "what machine is this", 15),
    "compile": Plan("contact_machine:compile_everything", "does every kernel compile and load", 60),
    "operations": Plan("contact_machine:try_operations", "do CuPy's operations agree with NumPy's, at what cost", 25),
    "steps": Plan("contact_answers:check_steps", "do the default steps agree with NumPy", 60, long=True),
    "kernels": Plan("contact_answers:check_operations", "does every operation agree with NumPy", 60, long=True),
    "chunks": Plan("contact_answers:check_chunks", "do chunks of rows give the same bits as the whole", 20),
    "timing": Plan("contact_times:measure_device", "where is the time spent", 100),
    "cpu": Plan("contact_times:measure_cpu", "how fast is this machine's CPU", 40, long=True),
    "memory-tests": Plan("contact_tests:run_memory_tests", "is device memory limited and freed", 25),
    "tests": Plan("contact_tests:run_device_tests", "do the tests for a device pass", 75, long=True),
    "sanitizers": Plan("contact_tests:run_sanitizers", "do memcheck and racecheck find nothing", 50, long=True),
}


class Run:
    """Runs the parts, each in a new process, and collects their results."""

    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.began = time.time()
        self.ends = self.began + options.deadline * (REHEARSAL_FACTOR if options.rehearse else 1)
        self.machine = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": provenance.commit(),
            "backend": "host" if options.rehearse else "cuda",
        }
        self.parts = {}
        self.path, self.unwritten = None, None

    def seconds_for(self, name):
        """Return the seconds for a part: its budget; for a ``long`` part, all time that later parts do not need."""
        left = self.ends - time.time()
        if name in self.options.budget:
            return min(self.options.budget[name], left)
        later = self.options.parts[self.options.parts.index(name) + 1 :]
        own = self._budget(name)
        return min(left, max(own, left - sum(map(self._budget, later))) if PARTS[name].long else own)

    def _budget(self, name):
        factor = REHEARSAL_FACTOR if self.options.rehearse else 1
        return self.options.budget.get(name, PARTS[name].budget * factor)

    def run(self, name):
        """Run a part until its end, its limit or a crash; continue after a crash; save the result."""
        limit = self.seconds_for(name)
        print(f"\n== {name}: {PARTS[name].asks}? ({max(limit, 0):.0f} s)", flush=True)
        start, record, printed = time.time(), self.scratch / f"{name}.json", deque(maxlen=TAIL)
        while True:
            known = read_record(record)
            left = limit - (time.time() - start)
            exit_status = self._run_process(name, record, left, printed) if left > 0 else None
            found = read_record(record)
            if exit_status == 0 or exit_status is None:
                break
            if found["running"]:
                died = f"the process died during it ({_name_exit(exit_status)})"
                found["checks"].append({"name": found["running"], "ok": False, "told": died, "seconds": None})
                print(f"BAD  {found['running']}: {died}", flush=True)
                found["running"] = None
                record.write_text(json.dumps(found))
            if len(found["checks"]) == len(known["checks"]):
                break
        self.parts[name] = self._judge(found, exit_status, limit, time.time() - start, printed)
        self.machine |= found["figures"].get("machine", {})
        self.write()

    def _run_process(self, name, record, limit, printed):
        """Run the process of a part and print its output; return its exit status, None if it was stopped."""
        command = [sys.executable, str(HERE / "first_contact.py"), "--part", name, "--record", str(record)]
        command += ["--scratch", str(self.scratch), "--limit", str(limit), "--began", str(self.began)]
        command += ["--cut-at", str(time.time() + limit)]
        command += ["--rehearse"] if self.options.rehearse else []
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1,
            start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip

        def pass_on():
            for line in process.stdout:
                print(line, end="", flush=True)
                printed.append(line.rstrip("\n"))

        reader = threading.Thread(target=pass_on, daemon=True)
        reader.start()
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Also end the processes that it has started.
            _end_group(process)
            reader.join(5)

    def _judge(self, found, exit_status, limit, seconds, printed):
        checks = found["checks"]
        n_wrong = sum(check["ok"] is False for check in checks)
        if exit_status is None:
            status = f"cut after {limit:.0f} s" if seconds > 0.01 else "no time was left for it"
            status += f", in {found['running']!r}" if found["running"] else ""
        elif exit_status != 0:
            status = f"crashed ({_name_exit(exit_status)})"
        elif n_wrong:
            status = "wrong"
        else:
            is_done = any(check["ok"] is not None for check in checks)
            status = found["status"] or ("ok" if is_done else "not done")
        broken = exit_status != 0
        if broken:
            print(f"BAD  the part: {status}", flush=True)
        judged = {
            "status": status, "wrong": n_wrong + broken, "seconds": round(seconds, 2), "budget": round(limit, 2),
            "checks": checks, "figures": found["figures"],
        }  # fmt: skip
        return judged | ({"printed": list(printed)} if broken else {})

    @property
    def n_wrong(self):
        return sum(part["wrong"] for part in self.parts.values()) + (self.unwritten is not None)

    def write(self):
        """Write all results to a file named after the device; never replace results of an earlier run."""
        if self.path is None:
            first = bench_gpu.result_path(self.options.output, self.machine, "first-contact")
            names = (first.with_stem(f"{first.stem}-{number}") for number in count(2))
            self.path = next(path for path in chain([first], names) if not path.exists())
        seconds = round(time.time() - self.began, 1)
        message = {"machine": self.machine, "seconds": seconds, "wrong": self.n_wrong, "parts": self.parts}
        half = self.path.with_suffix(".half")
        try:
            half.write_text(json.dumps(message, indent=1) + "\n")
            half.replace(self.path)
            self.unwritten = None
        except OSError as error:
            # Continue with the other parts: they are printed, too, and the next one writes again.
            self.unwritten = f"{self.path} cannot be written: {error}"
            print(f"BAD  {self.unwritten}", flush=True)
            with suppress(OSError):
                half.unlink(missing_ok=True)

    def summarize(self):
        """Print one line for each part, then all errors."""
        print(f"\n{'part':<14} {'seconds':>8} {'checks':>7} {'wrong':>6}  status")
        for name, part in self.parts.items():
            print(f"{name:<14} {part['seconds']:8.1f} {len(part['checks']):7} {part['wrong']:6}  {part['status']}")
        print(f"\n{self.n_wrong} wrong in {time.time() - self.began:.0f} s")
        print(self.unwritten or f"figures in {self.path}")
        for name, part in self.parts.items():
            if part["status"].startswith(("cut", "crashed", "no time")):
                print(f"  {name}: {part['status']}")
            for check in part["checks"]:
                if check["ok"] is False:
                    print(f"  {name}: {check['name']}: {check['told'][:300]}")


def _name_exit(status):
    if status == SPOILED:
        return "the device no longer responded"
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _end_group(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # Do not wait for a process that the system cannot end because the device does not respond.
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


def run_part(options):
    """Run a part in this process."""
    import logging
    import warnings

    import numpy as np

    faulthandler.enable()
    # Print where a hanging part is before it is stopped; on a busy machine it starts long after its launch.
    faulthandler.dump_traceback_later(max(options.cut_at - time.time() - 1, 0.1))
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore", RuntimeWarning)
    np.seterr(all="ignore")
    module, _, function = PARTS[options.part].function.partition(":")
    part = Part(options.record, options.scratch, options.limit, options.began, options.rehearse)
    getattr(import_module(module), function)(part)
    faulthandler.cancel_dump_traceback_later()


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="parts: " + ", ".join(f"{n} ({p.budget} s)" for n, p in PARTS.items()),
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the JSON (default except in a rehearsal: benchmarks/results)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help="default: all")
    parser.add_argument("--budget", nargs="+", default=[], metavar="PART=SECONDS", help="override the budgets of parts")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help=f"seconds in total (default: {DEADLINE})")
    parser.add_argument("--rehearse", action="store_true", help="run small cases on the host build of the kernels")
    hidden = {"part": str, "record": Path, "scratch": Path, "limit": float, "began": float, "cut-at": float}
    for name, kind in hidden.items():
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    budgets = {}
    for text in options.budget:
        name, _, seconds = text.partition("=")
        if name not in PARTS:
            parser.error(f"--budget {text}: there is no part {name!r}")
        try:
            budgets[name] = float(seconds)
        except ValueError:
            parser.error(f"--budget {text}: {seconds!r} is not a number of seconds")
    options.budget = budgets
    if options.part is None and options.output is None and options.rehearse:
        parser.error("a rehearsal needs --output: it writes nothing to benchmarks/results")
    # Always in this order; without the machine's description no figure is useful.
    options.parts = [name for name in PARTS if name == "machine" or name in options.parts]
    options.output = options.output or bench_gpu.RESULTS
    return options


def main(arguments=None):
    options = parse(arguments)
    if options.part is not None:
        run_part(options)
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    # When this process is ended, also end the process of the part, which may use the device.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if "GPUCORON_CACHE" in os.environ:
        # The tests run in a different folder.
        os.environ["GPUCORON_CACHE"] = os.path.abspath(os.environ["GPUCORON_CACHE"])
    with tempfile.TemporaryDirectory(prefix="gpucoron-contact-") as scratch:
        run = Run(options, Path(scratch))
        for name in options.parts:
            run.run(name)
            if name == "machine" and "machine" not in run.parts[name]["figures"]:
                print("the device cannot be used: no other part can run", flush=True)
                break
        run.summarize()
    return min(run.n_wrong, MOST)


if __name__ == "__main__":
    sys.exit(main())
