"""Kernels are compiled in the background: NumPy works meanwhile, with the same bits, and nothing is left behind."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices import build, compilations, native_device
from gpucoron.backends.kernel_files import SOURCES
from tests.cases.backends import usable_backend
from tests.cases.linearity import linearity_case
from tests.cases.waiting import wait_for

#: a compiler that notes that it runs, and waits for permission; it knows its version at once
_COMPILER = """#!/bin/sh
case " $* " in *" -E "*) exec g++ "$@";; esac
echo $$ >> {folder}/started
while [ ! -e {folder}/go ]; do
  # what it has written so far
  for last; do :; done; echo half > "$last"
  sleep 0.05
done
exec g++ "$@"
"""
#: a process that begins to compile and ends, or waits for its kernels
_PROCESS = """
import sys
from gpucoron.backends import get_backend
from gpucoron.backends.devices import compilations
from gpucoron.backends.kernel_files import SOURCES
from tests.cases.waiting import wait_for
from pathlib import Path

backend = get_backend("native", n_threads=1)
if sys.argv[1] == "end":
    wait_for(Path(sys.argv[2]).exists)
else:
    compilations.wait()
    assert compilations.are_ready([(source, False) for source in SOURCES if source.startswith("cpu/")])
"""


@pytest.fixture
def folder(request, monkeypatch, tmp_path):
    """A process that has compiled nothing, with an empty cache, and a compiler that waits for a file ``go``."""
    usable_backend("native", request.config)
    compiler = tmp_path / "compiler"
    compiler.write_text(_COMPILER.format(folder=tmp_path))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(build.SWITCH, "1")
    forget = (compilations.forget, build.library.cache_clear, build._target.cache_clear)
    for each in forget:
        each()
    yield tmp_path
    (tmp_path / "go").touch()
    compilations.wait()
    for each in forget:
        each()


@pytest.fixture
def launched(monkeypatch):
    """Names of the native kernels that were launched."""
    names, launch = [], native_device.NativeKernels.launch

    def note(self, name, *arguments):
        names.append(name)
        launch(self, name, *arguments)

    monkeypatch.setattr(native_device.NativeKernels, "launch", note)
    return names


def linearized(backend):
    data, groupdq, coeffs, _ = linearity_case(np.random.default_rng(3), 5)
    backend.linearity(data, groupdq, coeffs)
    return data, groupdq


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_numpy_works_until_the_kernels_are_compiled(folder, launched, caplog):
    expected = linearized(get_backend("numpy", n_threads=1))
    with caplog.at_level(logging.INFO):
        native = get_backend("native", n_threads=1)
        wait_for((folder / "started").exists)
        for _ in range(3):
            assert_same(linearized(native), expected)
    assert launched == []
    told = [message for message in caplog.messages if "linearity_strips.cpp are compiled in the background" in message]
    assert len(told) == 1
    (folder / "go").touch()
    compilations.wait()
    assert_same(linearized(native), expected)
    assert launched == ["correct_strips"]


def test_kernels_of_particular_exposures_are_compiled_when_they_are_needed(folder):
    (folder / "go").touch()
    get_backend("native", n_threads=1)
    compilations.wait()
    assert not build.native_path("linearity.cu", True).exists()
    assert not compilations.are_ready([("linearity.cu", True), ("emicorr.cu", False)])
    compilations.wait()
    assert build.native_path("linearity.cu", True).exists()
    assert compilations.are_ready([("linearity.cu", True), ("emicorr.cu", False)])


def test_a_failure_is_logged_once(folder, launched, caplog):
    (folder / "compiler").write_text('#!/bin/sh\ncase " $* " in *" -E "*) exec g++ "$@";; esac\necho no >&2; exit 1\n')
    native = get_backend("native", n_threads=1)
    compilations.wait()
    expected = linearized(get_backend("numpy", n_threads=1))
    for _ in range(3):
        assert_same(linearized(native), expected)
    (failure,) = [message for message in caplog.messages if "NumPy replaces" in message]
    assert "linearity_strips.cpp" in failure
    assert failure.endswith("no\n")
    assert launched == []


def run_process(folder, what):
    """Start a process in the same environment."""
    command = [sys.executable, "-c", _PROCESS, what, str(folder / "started")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=os.getcwd(), env=os.environ.copy())


def is_running(number):
    """Return whether a process runs; one that has ended and was not yet waited for does not."""
    try:
        with open(f"/proc/{number}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="this system has no /proc")
def test_a_process_that_ends_stops_its_compilers(folder):
    process = run_process(folder, "end")
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    numbers = [int(number) for number in (folder / "started").read_text().split()]
    assert numbers
    wait_for(lambda: not any(is_running(number) for number in numbers))
    # neither a half-written library nor the folder in which it was written
    left = [path.suffix for path in (folder / "cache").iterdir()]
    assert set(left) <= {".lock"}


def test_processes_do_not_compile_the_same_library(folder):
    processes = [run_process(folder, "wait") for _ in range(3)]
    wait_for((folder / "started").exists)
    (folder / "go").touch()
    assert [process.communicate(timeout=300)[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    libraries = [path for path in (folder / "cache").iterdir() if path.suffix == ".so"]
    sources = [source for source in SOURCES if source.startswith("cpu/")]
    assert len((folder / "started").read_text().split()) == len(libraries) == len(sources)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_has_no_compilations(folder):
    """Its parent's threads do not exist there, and it must not stop its parent's compilers."""
    get_backend("native", n_threads=1)
    wait_for((folder / "started").exists)
    child = os.fork()
    if child == 0:
        is_clean = not compilations._begun and not build._compilers
        compilations.stop()
        os._exit(0 if is_clean else 1)
    assert os.waitpid(child, 0)[1] == 0
    (folder / "go").touch()
    compilations.wait()
    assert compilations.are_ready([("cpu/linearity_strips.cpp", False)])


def test_the_switch_asks_to_wait(folder, monkeypatch, launched):
    monkeypatch.setenv(build.SWITCH, "wait")
    (folder / "go").touch()
    native = get_backend("native", n_threads=1)
    assert not (folder / "cache").exists()
    linearized(native)
    assert launched == ["correct_strips"]
