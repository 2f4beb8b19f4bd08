"""What true processes print: with and without a terminal, quietly, and to a reader that ends early."""

import os
import pty
import re
import shlex
import subprocess
import sys
import threading

import pytest

from gpucoron.batch.progress import Bar, PlainLines, choose_progress, showing_steps
from gpucoron.cli.output import NO_READER, UNWRITTEN
from tests.cases.batches import Raw
from tests.cases.waiting import HANG, wait_for

#: a hook that waits for a file
HOOK = """
import time
from pathlib import Path

def hold(model):
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return Raw(tmp_path_factory.mktemp("raw"), 1)


def command(*arguments):
    return [sys.executable, "-m", "gpucoron", *map(str, arguments)]


def without(environment, *names):
    return {name: value for name, value in environment.items() if name not in names}


def run(environment, *arguments, **streams):
    """Run a command; return its exit code and what it prints."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run(command(*arguments), env=environment, text=True, timeout=HANG, **streams)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def unread():
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_output_that_nobody_reads_is_quiet(raw, unread):
    buffered = without(raw.environment(), "PYTHONUNBUFFERED")
    for arguments in (("info",), ("steps",), ("--help",)):
        assert run(buffered, *arguments, stdout=unread) == (NO_READER, None, "")
    assert run(buffered, "steps", stdout=unread, stderr=unread)[0] == NO_READER
    assert run({**buffered, "PYTHONUNBUFFERED": "1"}, "steps", stdout=unread) == (NO_READER, None, "")


def test_output_without_room_is_an_error_and_no_verdict():
    buffered = without(os.environ, "PYTHONUNBUFFERED")
    with open("/dev/full", "w") as full:
        code, _, warned = run(buffered, "--version", stdout=full)
        assert (code, warned) == (UNWRITTEN, "gpucoron: the output cannot be written: No space left on device\n")
        code, _, warned = run({**buffered, "PYTHONUNBUFFERED": "1"}, "steps", stdout=full)
        assert (code, warned.splitlines()[0][:30]) == (2, "gpucoron: the disk is full ([E")


def test_closed_streams_stop_no_reduction(raw, tmp_path):
    arguments = ("batch", raw.path, "-o", tmp_path, "--backend", "cpu", "--workers", "1")
    line = f"exec {shlex.join(command(*arguments))} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], env=raw.environment(), timeout=HANG).returncode == 0
    assert len(list(tmp_path.glob("*_rate.fits"))) == 1


def test_characters_that_stdout_lacks_are_escaped(tmp_path):
    (tmp_path / "é").mkdir()
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code, printed, _ = run({**environment, "CRDS_PATH": str(tmp_path / "é")}, "info")
    assert code == 0
    assert "\\xe9" in printed


def test_an_interruption_while_modules_are_imported_is_one_line():
    code = (
        "import sys, gpucoron.__main__\n"
        "class Interrupt:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name == 'gpucoron.cli':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt)\n"
        "sys.exit(gpucoron.__main__.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "gpucoron: interrupted\n")


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        assert isinstance(choose_progress(False), Bar)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(choose_progress(False), PlainLines)
        with showing_steps("x") as hooks:
            assert hooks == {}
    os.close(ours)


def test_a_reduction_that_nobody_reads_is_finished(raw, unread, tmp_path):
    """Without a terminal there is no progress on stderr."""
    assert run(raw.environment(), "run", *raw.files, "-o", tmp_path, stdout=unread) == (0, None, "")
    assert len(list(tmp_path.glob("*_rate.fits"))) == 1


def test_a_quiet_run_prints_nothing_even_on_a_terminal(raw, tmp_path):
    ours, theirs = pty.openpty()
    assert run(raw.environment(), "run", *raw.files, "-o", tmp_path, "-q", stderr=theirs) == (0, "", None)
    os.close(theirs)
    with pytest.raises(OSError, match="Input/output error"):  # the end of an empty terminal
        os.read(ours, 1)
    os.close(ours)


def test_info_without_crds_prints_no_message_of_crds():
    code, printed, warned = run(without(os.environ, "CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT"), "info")
    assert (code, warned) == (0, "")
    assert "context: none (CRDS cannot determine its context" in printed


def test_the_running_step_is_shown_on_a_terminal(raw, tmp_path):
    (tmp_path / "hooked.py").write_text(HOOK)
    environment = {**raw.environment(tmp_path), "TERM": "xterm-256color", "COLUMNS": "160"}
    arguments = ("run", *raw.files, "-o", tmp_path / "out", "--set", "jump.pre_hooks=hooked.hold")
    ours, theirs = pty.openpty()
    printed = bytearray()

    def read():
        try:
            while data := os.read(ours, 4096):
                printed.extend(data)
        except OSError:  # the process has ended
            return

    process = subprocess.Popen(command(*arguments), env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        # the steps that are not switched off: those of the table
        wait_for(lambda: re.search(rb"jump \((\d+) of (\d+)\)", printed) or process.poll() is not None)
        number, count = map(int, re.search(rb"jump \((\d+) of (\d+)\)", printed).groups())
        assert raw.names[0].encode() in printed
    finally:
        (tmp_path / "go").touch()
        out, _ = process.communicate(timeout=HANG)
        thread.join()
        os.close(ours)
    assert process.returncode == 0
    steps = re.findall(r"^(\w+) +(?:COMPLETE|SKIPPED) ", out, re.MULTILINE)
    assert (steps.index("jump") + 1, len(steps)) == (number, count)


def test_a_batch_without_a_reader_of_its_lines_is_finished(raw, unread, tmp_path):
    code, printed, _ = run(raw.environment(), "batch", raw.path, "-o", tmp_path, "--backend", "cpu", stderr=unread)
    assert code == 0
    assert printed.startswith("1 done; ")
