"""Run the kernels on a GPU under compute-sanitizer: no access out of bounds, no hazard in shared memory.

Each tool must also find a fault that is made on purpose, or its silence would mean nothing. Part of ``make gpu``; it
fails where there is no GPU or no compute-sanitizer.

Usage: sanitize_gpu.py
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FAULT = 66
#: tool -> (the fault that it must find, words of its report)
TOOLS = {"memcheck": ("overrun", "Invalid __global__"), "racecheck": ("race", "hazard")}


def find_sanitizer():
    """Find compute-sanitizer: on the path, or in the toolkit's usual place; None where it is missing."""
    toolkit = os.environ.get("CUDA_PATH", "/usr/local/cuda")
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=f"{toolkit}/bin")


def run(sanitizer, tool, what):
    """Run an exercise under a tool; return its exit status and what was printed."""
    command = [
        sanitizer,
        "--tool",
        tool,
        "--error-exitcode",
        str(FAULT),
        sys.executable,
        str(HERE / "exercise_kernels.py"),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([*command, what, "--backend", "cuda"], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main():
    sanitizer = find_sanitizer()
    if sanitizer is None:
        return "compute-sanitizer is missing: it comes with the CUDA toolkit"
    for tool, (fault, words) in TOOLS.items():
        status, said = run(sanitizer, tool, fault)
        if status != FAULT or words not in said:
            return f"{tool} does not find the {fault} made on purpose (exit status {status}):\n{said[-3000:]}"
        status, said = run(sanitizer, tool, "all")
        if status != 0:
            return f"{tool}: exit status {status}\n{said[-6000:]}"
        print(f"{tool}: the kernels are clean, and the {fault} made on purpose is found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
