"""The real counterparts that no environment holds side by side: several versions of NVRTC, and CuPy without a driver.

``python -m tests.tools.peers`` unpacks each into a folder of its own below ``<prefix>/peers``; ``make test`` calls it.
Nothing there is imported or linked by accident.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "peers"

#: extra -> NVRTC's distribution, and the versions that the kernels are compiled with besides the newest, which is in
#: the environment itself; the first is the oldest that the extra admits
NVRTC = {
    "cuda12": ("nvidia-cuda-nvrtc-cu12", ("12.4.127", "12.9.86")),
    "cuda13": ("nvidia-cuda-nvrtc", ("13.0.88",)),
}

#: folder -> what is unpacked there
REQUIREMENTS = {
    "cupy": ("cupy-cuda13x>=14.1,<15", "cuda-pathfinder>=1.3.4,<2"),
    **{f"nvrtc-{number}": (f"{name}=={number}",) for name, numbers in NVRTC.values() for number in numbers},
}


def find(name):
    """Find the folder of a counterpart.

    Where it is missing, the test is skipped, but in a run that calls itself CI it fails.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        miss(f"{folder} is missing: {sys.executable} -m tests.tools.peers brings it")
    return folder


def miss(reason):
    """Skip a test that lacks its counterpart; in a run that calls itself CI, fail."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def fetch():
    """Unpack what is missing; tell what cannot be had here."""
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
