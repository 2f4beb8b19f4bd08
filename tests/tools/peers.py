"""Packages to compare with that one environment cannot hold: several versions of NVRTC, and CuPy without a driver.

``python -m tests.tools.peers`` unpacks each into a separate folder in ``<prefix>/peers``; ``make test`` calls it.
Nothing there is imported or linked by accident.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "peers"

#: extra -> NVRTC's distribution, and the versions with which the kernels are compiled in addition to the newest, which
#: is installed in the environment; the first is the oldest that the extra allows
NVRTC = {
    "cuda12": ("nvidia-cuda-nvrtc-cu12", ("12.4.127", "12.9.86")),
    "cuda13": ("nvidia-cuda-nvrtc", ("13.0.88",)),
}

#: folder -> packages that are unpacked there
REQUIREMENTS = {
    "cupy": ("cupy-cuda13x>=14.1,<15", "cuda-pathfinder>=1.3.4,<2"),
    **{f"nvrtc-{number}": (f"{name}=={number}",) for name, numbers in NVRTC.values() for number in numbers},
}


def find(name):
    """Find the folder of a package.

    If it is missing, the test is skipped, or fails in CI.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        miss(f"{folder} is missing: {sys.executable} -m tests.tools.peers brings it")
    return folder


def miss(reason):
    """Skip a test without its package; fail in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def fetch():
    """Unpack missing packages; print which are not available."""
    for name, requirements in REQUIREMENTS.items():
        folder = FOLDER / name
        if folder.is_dir():
            continue
        part = folder.with_name(f".{name}-{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(part), *requirements], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            part.rename(folder)
        else:
            print(f"{name} cannot be had here, the tests with it are left out: {done.stderr.strip()[-300:]}")


if __name__ == "__main__":
    fetch()
