"""Kernels are compiled in the background: NumPy works meanwhile, with the same bits, and nothing is left behind."""

import logging
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from gpucoron.backends import get_backend, kernel_cache
from gpucoron.backends.devices import build, compilations
from tests.cases.backends import usable_backend
from tests.cases.linearity import linearity_case
from tests.cases.waiting import wait_for

#: a compiler that makes a temporary file, notes that it runs, and waits for permission; it knows its version at once
_COMPILER = """#!/bin/sh
case " $* " in *" -E "*) exec g++ "$@";; esac
mktemp > /dev/null
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
from tests.cases.waiting import wait_for
from pathlib import Path

backend = get_backend("native", n_threads=1)
if sys.argv[1] == "end":
    wait_for(Path(sys.argv[2]).exists)
else:
    compilations.wait()
    assert compilations.are_ready([(source, False) for source in compilations.COMMON])
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


def test_what_an_earlier_process_did_not_finish_is_awaited(folder, launched):
    """Otherwise processes that end soon would never get their kernels."""
    process = run_process(folder, "end")
    assert process.communicate(timeout=120)[1] == ""
    (folder / "go").touch()
    linearized(get_backend("native", n_threads=1))
    assert launched == ["correct_strips"]


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


@pytest.mark.parametrize("in_background", [True, False])
def test_a_message_in_any_encoding_is_shown(folder, monkeypatch, in_background):
    """Temporary files that the compiler leaves are removed."""
    temporary = folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    # version and message are not UTF-8
    (folder / "compiler").write_text(
        "#!/bin/sh\nmktemp >/dev/null; printf 'caf\\351' >&2\n"
        'case " $* " in *" -E "*) rm "$TMPDIR"/*; exit 0;; esac; exit 1\n'
    )
    assert build.native_available()[0]
    with pytest.raises(RuntimeError, match="could not compile ipc.cu:\ncaf\N{REPLACEMENT CHARACTER}$"):
        build.compile_natively("ipc.cu", False, in_background=in_background)
    assert list(temporary.iterdir()) == []
    assert {path.suffix for path in (folder / "cache").iterdir()} == {".lock"}


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


def compilers_of(folder):
    """Return the numbers of the processes of the compilers that were started."""
    return [int(number) for number in (folder / "started").read_text().split()]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="this system has no /proc")
def test_a_process_that_ends_stops_its_compilers(folder, monkeypatch):
    temporary = folder / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    process = run_process(folder, "end")
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    numbers = compilers_of(folder)
    assert numbers
    wait_for(lambda: not any(is_running(number) for number in numbers))
    # neither a half-written library nor the folder in which it was written
    left = [path.suffix for path in (folder / "cache").iterdir()]
    assert set(left) <= {".lock"}
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="this system has no /proc")
def test_what_a_killed_process_leaves_is_removed_with_the_kernels(folder):
    process = run_process(folder, "wait")
    n_compilers = min(len(compilations.COMMON), compilations._MOST_AT_A_TIME)
    wait_for(lambda: (folder / "started").exists() and len(compilers_of(folder)) == n_compilers)
    kernel_cache.remove_kernels(())
    drafts = list((folder / "cache").glob(f"*{build.DRAFT}"))
    assert len(drafts) == n_compilers  # they are in use
    process.kill()
    process.communicate()
    for number in compilers_of(folder):
        os.killpg(number, signal.SIGKILL)
        wait_for(lambda number=number: not is_running(number))
    assert all(draft.exists() for draft in drafts)
    kernel_cache.remove_kernels(())
    assert list((folder / "cache").iterdir()) == []


def test_a_compilation_removes_what_an_earlier_one_has_left(folder):
    (folder / "go").touch()
    path = build.native_path("ipc.cu", False)
    draft = path.parent / f"{path.stem}-killed{build.DRAFT}"
    draft.mkdir(parents=True)
    (draft / "temporary.s").touch()
    assert build.compile_natively("ipc.cu", False) == path
    assert {found.suffix for found in path.parent.iterdir()} == {".so", ".lock"}


def test_the_lock_of_a_removed_file_is_not_held(folder):
    """Otherwise two processes might compile one library, and remove the drafts of each other."""
    path = folder / "library.so"
    with build._locked(path):
        path.with_suffix(".lock").unlink()
        with build._locked(path, waits=False), pytest.raises(BlockingIOError), build._locked(path, waits=False):
            pass


def test_processes_do_not_compile_the_same_library(folder):
    processes = [run_process(folder, "wait") for _ in range(3)]
    wait_for((folder / "started").exists)
    (folder / "go").touch()
    assert [process.communicate(timeout=300)[1] for process in processes] == [""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    libraries = [path for path in (folder / "cache").iterdir() if path.suffix == ".so"]
    assert len((folder / "started").read_text().split()) == len(libraries) == len(compilations.COMMON)


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


def test_a_folder_that_cannot_be_written_is_named_once(folder, monkeypatch, caplog):
    (folder / "file").touch()
    monkeypatch.setenv("GPUCORON_CACHE", str(folder / "file" / "cache"))
    monkeypatch.setenv(build.SWITCH, "wait")
    (folder / "go").touch()
    with caplog.at_level(logging.WARNING):
        assert not any(compilations.are_ready([(source, False)]) for source in compilations.COMMON)
    (message,) = [message for message in caplog.messages if "NumPy replaces" in message]
    assert f"{folder}/file/cache: cannot write" in message
    assert "set GPUCORON_CACHE to another folder" in message
