"""The command line: the demo as a newcomer runs it, info, several files at once."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gpucoron
from gpucoron.cli import main
from gpucoron.cli.options import parse_settings


def test_demo(tmp_path, capsys):
    assert main(["demo", "-o", str(tmp_path), "--backend", "cpu"]) == 0
    printed = capsys.readouterr().out
    medians = [float(text) for text in re.findall(r"median ([+-][0-9.]+)", printed)]
    assert len(medians) == 2
    assert all(abs(median) < 0.05 for median in medians)
    named = [Path(name.rstrip(":")) for name in re.findall(r"^wrote (\S+)", printed, re.M)]
    assert sorted(path.name.rsplit("_", 1)[-1] for path in named) == sorted(
        ["demo.png", "rate.fits", "rate.fits", "rateints.fits", "rateints.fits"]
    )
    assert all(path.stat().st_size > 10_000 for path in named)
    for step in ("saturation", "linearity", "jump", "ramp_fit"):
        assert re.search(rf"^{step} +COMPLETE +[0-9.]+", printed, re.M)


def test_info(exposures, capsys):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32))
    with case.cache.activate():
        assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert gpucoron.__version__ in printed
    assert case.cache.context in printed
    assert str(case.cache.path) in printed
    assert re.search(r"cuda: (usable|not usable) \(.{5,}\)", printed)


def test_one_bad_file_does_not_stop_the_others(exposures, tmp_path, capsys):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32))
    bad = tmp_path / "bad_uncal.fits"
    bad.write_text("no")
    output = tmp_path / "out"
    with case.cache.activate():
        assert main(["run", str(bad), str(case.path), "-o", str(output), "--backend", "cpu", "-q"]) == 2
    assert "1 of 2 files failed" in capsys.readouterr().err
    assert len(list(output.glob("*_rate.fits"))) == 1


def test_an_unavailable_backend_is_refused_with_its_reason(exposures, tmp_path, capsys):
    from gpucoron.backends import backend_status

    usable, reason = backend_status()["cuda"]
    if usable:
        return  # the backend is available, so it is not refused
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(24, 32))
    with case.cache.activate():
        assert main(["run", str(case.path), str(case.path), "-o", str(tmp_path), "--backend", "cuda"]) == 2
    message = capsys.readouterr().err
    assert message.count(reason) == 1
    assert "backend='cpu'" in message


def test_a_batch_that_cannot_start_restores_the_handler_of_sigterm(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["batch", str(tmp_path), "-o", str(tmp_path / "out"), "--workers", "0"]) == 2
    assert "workers must be a whole number" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_every_backend_of_the_table_can_be_asked_for(capsys):
    from gpucoron.backends import NAMES

    for command in ("run", "batch", "demo"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "{" + ",".join(NAMES) + "}" in capsys.readouterr().out


def test_settings():
    steps = parse_settings(["jump.rejection_threshold=5", "ramp_fit.algorithm=LIKELY"], ["ipc"])
    assert steps == {
        "jump": {"rejection_threshold": "5"},
        "ramp_fit": {"algorithm": "LIKELY"},
        "ipc": {"skip": True},
    }


@pytest.mark.parametrize("command", ["run", "demo", "info"])
def test_help(command):
    done = subprocess.run([sys.executable, "-m", "gpucoron.cli", command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: gpucoron {command}")
