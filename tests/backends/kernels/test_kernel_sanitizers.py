"""The kernels under the sanitizers of g++: no access out of bounds, no undefined behaviour, no race between threads.

Each sanitizer must also detect a deliberate fault.
"""

import os
import subprocess
import sys

import pytest

from gpucoron.backends.devices import build
from tests.cases.paths import ROOT

EXERCISE = ROOT / "tests" / "tools" / "exercise_kernels.py"
#: -fsanitize -> libraries that Python must load first
LIBRARIES = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}

pytestmark = pytest.mark.slow


def run_exercise(what, sanitize):
    """Run the exercise in a process with the sanitizer's libraries; skip if they are missing, but not in CI."""
    usable, compiler = build.host_available()
    libraries = []
    if usable:
        for name in LIBRARIES[sanitize]:
            command = [compiler, f"-print-file-name={name}"]
            libraries.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    if not libraries or not all(os.path.isabs(library) for library in libraries):
        reason = compiler if not usable else f"g++ has no {LIBRARIES[sanitize]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries),
        "GPUCORON_HOST_SANITIZE": sanitize,
        # Python itself leaks memory, and its allocator would hide small arrays from the address sanitizer.
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "TSAN_OPTIONS": "exitcode=66",
        "PYTHONPATH": str(ROOT),
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, str(EXERCISE), what], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("sanitize", LIBRARIES)
def test_no_fault_is_found(sanitize):
    result = run_exercise("all", sanitize)
    assert result.returncode == 0, result.stderr[-5000:]
    assert "ERROR" not in result.stderr
    assert "WARNING: ThreadSanitizer" not in result.stderr
    assert "runtime error" not in result.stderr


@pytest.mark.parametrize(
    ("what", "sanitize", "words"),
    [("overrun", "address,undefined", "heap-buffer-overflow"), ("race", "thread", "data race")],
)
def test_a_fault_on_purpose_is_found(what, sanitize, words):
    result = run_exercise(what, sanitize)
    assert result.returncode != 0
    assert words in result.stderr
