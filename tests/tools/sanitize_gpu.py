"""Run the kernels on a GPU under compute-sanitizer: no access out of bounds, no hazard in shared memory.

Each tool must also detect a deliberate fault. Part of ``make gpu``; alone it fails without a GPU or compute-sanitizer.

Usage: python -m tests.tools.sanitize_gpu
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FAULT = 66
#: tool -> (the fault that it must detect, text of its report)
TOOLS = {"memcheck": ("overrun", "Invalid __global__"), "racecheck": ("race", "hazard")}


def find_sanitizer():
    """Find compute-sanitizer: in PATH, or in the usual folder of the toolkit; None if it is missing."""
    toolkit = os.environ.get("CUDA_PATH", "/usr/local/cuda")
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=f"{toolkit}/bin")


def run(sanitizer, tool, what, timeout=None):
    """Run an exercise under a tool; return its exit status and output."""
    script = [sys.executable, str(HERE / "exercise_kernels.py"), what, "--backend", "cuda"]
    command = [sanitizer, "--tool", tool, "--error-exitcode", str(FAULT), *script]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"") + (error.stderr or b"")
        return f"none after {timeout:.0f} s", printed.decode(errors="replace")
    return done.returncode, done.stdout + done.stderr


def find_problem(sanitizer, tool, is_sound, timeout=None):
    """Run a tool on the kernels, or without ``is_sound`` on a deliberate fault; return None, or the problem."""
    fault, words = TOOLS[tool]
    status, printed = run(sanitizer, tool, "all" if is_sound else fault, timeout)
    if is_sound:
        return None if status == 0 else f"{tool}: exit status {status}\n{printed[-6000:]}"
    if status == FAULT and words in printed:
        return None
    return f"{tool} does not find the {fault} made on purpose (exit status {status}):\n{printed[-3000:]}"


def main():
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return "compute-sanitizer is missing: it comes with the CUDA toolkit"
    for tool, (fault, _) in TOOLS.items():
        for is_sound in (False, True):
            problem = find_problem(sanitizer, tool, is_sound)
            if problem is not None:
                return problem
        print(f"{tool}: the kernels are clean, and the {fault} made on purpose is found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
