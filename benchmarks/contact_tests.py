"""First contact: run the tests that need a device, and the kernels under compute-sanitizer."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from contact_part import NotDone, Wrong

from tests.tools import sanitize_gpu

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"

#: tests that measure the memory of the device: nothing else may run in parallel
ALONE = "backends/devices/test_gpu.py"

#: files whose tests are short on the host build
REHEARSED = ("steps/test_emicorr.py", "backends/devices/test_upload.py", "backends/kernels/test_kernels.py")

#: pytest's exit status if no test was selected
NO_TESTS = 5

#: workers that share the device
N_WORKERS = 4


def environment():
    """Return the environment in which a child process can import the project."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_memory_tests(part):
    """Run the tests of the device's memory, one after another."""
    run_pytest(part, [TESTS / ALONE])


def run_device_tests(part):
    """Run all other tests that need a device, in parallel if pytest-xdist is installed."""
    chosen = [TESTS / name for name in REHEARSED] if part.rehearse else [TESTS, f"--ignore={TESTS / ALONE}"]
    beside = ["-n", str(N_WORKERS)] if find_spec("xdist") and not part.rehearse else []
    # Drawn tests have more examples in CI; here all tests share a limited time.
    beside += ["--hypothesis-profile=few"] if find_spec("hypothesis") else []
    part.say("     side by side" if "-n" in beside else "     one after the other")
    run_pytest(part, [*chosen, *beside])


def run_pytest(part, arguments):
    """Run pytest on the tests that need the device; each failed test is a failed check."""
    outcomes = part.scratch / f"outcomes-{os.getpid()}.jsonl"
    device = "host" if part.rehearse else "cuda"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "--color=no"]
    command += ["--require-gpu", f"--device={device}", f"--outcomes={outcomes}", *map(str, arguments)]

    def run():
        try:
            limit = part.seconds_left()
            status = subprocess.run(command, cwd=ROOT, env=environment(), timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired:
            status = f"not finished in {limit:.0f} s"
        counts = keep_outcomes(part, outcomes)
        message = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no test ran"
        if status == NO_TESTS and part.rehearse:
            raise NotDone("the host build has no such tests")
        # 1: some tests failed; each is reported as a check.
        if status not in (0, 1) or not counts:
            raise Wrong(f"{message}; pytest: {status}")
        return message

    part.check("the tests run", run)


def keep_outcomes(part, path):
    """Record the failed tests and the reasons of skips; return outcome -> count."""
    # An interrupted run may have written an incomplete line.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    ended = [json.loads(line) for line in lines]
    counts = Counter(one["outcome"] for one in ended)
    skips = Counter(one["told"].removeprefix("Skipped: ") for one in ended if one["outcome"] == "skipped")
    part.keep(outcomes=dict(counts), skipped=dict(skips.most_common()))
    for reason, count in skips.most_common():
        part.say(f"     {count} skipped: {reason}")
    for one in ended:
        if one["outcome"] == "failed":
            part.note(one["test"], False, one["told"], 0.0)
    return counts


def run_sanitizers(part):
    """Run every kernel under memcheck and racecheck; each must also detect a deliberate error."""
    if part.rehearse:
        part.check("every kernel is exercised", lambda: exercise(part, "host"))
        return
    sanitizer = sanitize_gpu.find_sanitizer()
    if sanitizer is None:
        part.say("     compute-sanitizer is missing; it comes with the CUDA toolkit")
        part.check("every kernel is exercised", lambda: exercise(part, "cuda"))
        part.end("absent")
        return
    for tool in sanitize_gpu.TOOLS:
        for is_sound, name in ((False, "finds the fault made on purpose"), (True, "every kernel is clean")):

            def check(tool=tool, is_sound=is_sound):
                problem = sanitize_gpu.find_problem(sanitizer, tool, is_sound, part.seconds_left())
                if problem is not None:
                    raise Wrong(problem)

            part.check(f"{tool}: {name}", check)


def exercise(part, backend):
    command = [sys.executable, str(TESTS / "tools" / "exercise_kernels.py"), "all", "--backend", backend]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=part.seconds_left(), check=False
    )
    if done.returncode != 0:
        raise Wrong(f"exit status {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return f"on {backend}, without a sanitizer"
