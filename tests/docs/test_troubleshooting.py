"""The messages of the page on troubleshooting are those that users see."""

import fcntl
import os
import re
import shutil
from pathlib import Path

import pytest
from astropy.io import fits

from tests.cases.paths import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(32, 64))


@pytest.fixture
def folder(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(case.path, "x_uncal.fits")
    with case.cache.activate():
        yield tmp_path


def _run(*arguments):
    return ["run", "x_uncal.fits", "-o", "stage1", *arguments]


def _truncate(monkeypatch):
    os.truncate("x_uncal.fits", 20000)
    return _run()


def _give_a_product():
    shutil.copy("x_uncal.fits", "x_rate.fits")
    return ["run", "x_rate.fits", "-o", "stage1"]


def _give_a_rate(monkeypatch):
    fits.HDUList(
        [fits.PrimaryHDU(header=fits.getheader("x_uncal.fits")), fits.ImageHDU([[1.0, 2.0]], name="SCI")]
    ).writeto("x_uncal.fits", overwrite=True)
    return _run()


def _cut(monkeypatch):
    with fits.open("x_uncal.fits", mode="update") as file:
        file[0].header["NGROUPS"] = 4
    return _run()


def _without_cache(monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/nowhere")
    return _run()


def _other_context(monkeypatch):
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_1234.pmap")
    return _run()


def _copy_cache(monkeypatch):
    """Copy the cache, so that a reference can be damaged; return the path of one of its references."""
    shutil.copytree(os.environ["CRDS_PATH"], "crds")
    monkeypatch.setenv("CRDS_PATH", os.path.abspath("crds"))
    (path,) = Path("crds").rglob("*readnoise*.fits")
    return path


def _missing_reference(monkeypatch):
    _copy_cache(monkeypatch).unlink()
    return _run()


def _damaged_reference(monkeypatch):
    os.truncate(_copy_cache(monkeypatch), 9000)
    return _run()


def _existing(monkeypatch):
    Path("stage1").mkdir()
    for product in ("rate", "rateints"):
        Path(f"stage1/x_{product}.fits").touch()
    return _run()


def _existing_for_a_batch(monkeypatch):
    _existing(monkeypatch)
    return ["batch", "x_uncal.fits", "-o", "stage1", "--dry-run"]


def _below_a_file(monkeypatch):
    return ["run", "x_uncal.fits", "-o", "x_uncal.fits/stage1"]


def _in_use(monkeypatch):
    Path("stage1").mkdir()
    # held until the process ends, as by another batch; the descriptor is not closed on purpose
    fcntl.flock(os.open("stage1/manifest.jsonl", os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
    return _run()


def _without_a_gpu(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    return _run("--backend", "cuda")


#: message of the page -> the command that prints it, or a function that prepares and returns it
PROVOKED = {
    "no such file": lambda _: ["run", "y_uncal.fits", "-o", "stage1"],
    "is a folder; use gpucoron batch": lambda _: ["run", ".", "-o", "stage1"],
    "truncated: ... bytes; download it again": _truncate,
    "a product without ramps": lambda _: _give_a_product(),
    "SCI has 2 axes, a ramp has 4": _give_a_rate,
    "no *_uncal.fits found": lambda _: ["batch", "raw*", "-o", "stage1"],
    "NGROUPS is ..., but SCI holds ... groups": _cut,
    "CRDS cannot determine its context": _without_cache,
    "CRDS context ... cannot be read": _other_context,
    "not in the cache, and the download failed": _missing_reference,
    "the readnoise reference of ... is damaged": _damaged_reference,
    "there is no parameter of jump ...; did you mean": lambda _: _run("--set", "jump.rejection_treshold=5"),
    "expected STEP.PARAMETER=VALUE": lambda _: _run("--set", "jump"),
    "expected float, at least 0": lambda _: _run("--set", "jump.rejection_threshold=-1"),
    "there is no such file; give FITS or ASDF": lambda _: _run("--set", "linearity.override_linearity=mine.fits"),
    "exists already; use --overwrite": _existing,
    "exist, and no manifest in this folder lists them": _existing_for_a_batch,
    "cannot write in this folder": _below_a_file,
    "batch is running in this folder": _in_use,
    "backend 'cuda' cannot run here": _without_a_gpu,
}
#: messages that take more than a command: the test that provokes them, and the part of the message that it looks for
ELSEWHERE = {
    "other parameters (...); use --overwrite": ("batch/test_batch_resume.py", "other parameters"),
    "the disk is full": ("batch/test_batch_faults.py", "the disk is full"),
    "perhaps because memory ran out": ("batch/test_batch_faults.py", "memory ran out"),
    "but this exposure needs at least": ("backends/test_host_memory.py", "but this exposure needs at least"),
    "is installed, gpucoron needs": ("io/test_versions.py", "is installed, gpucoron needs"),
    "an internal error of gpucoron": ("io/test_damaged_files.py", "an internal error of gpucoron"),
}


def messages():
    """List the messages of the page."""
    return re.findall(r"^### `(.*)`$", PAGE.read_text(), flags=re.MULTILINE)


def pattern_of(message):
    return ".*".join(map(re.escape, message.split("...")))


def test_every_message_is_tested():
    assert sorted(messages()) == sorted([*PROVOKED, *ELSEWHERE])


@pytest.mark.parametrize("message", list(PROVOKED))
def test_message(message, folder, monkeypatch, capfd):
    from gpucoron.cli import main

    arguments = PROVOKED[message](monkeypatch)
    assert main(arguments) == 2
    printed = "".join(capfd.readouterr())
    assert re.search(pattern_of(message), printed), printed


@pytest.mark.parametrize(("message", "test", "part"), [(message, *where) for message, where in ELSEWHERE.items()])
def test_message_of_another_test(message, test, part):
    """The message is in the package, and the other test looks for it."""
    assert part in message
    sources = "".join(path.read_text() for path in (ROOT / "gpucoron").rglob("*.py"))
    assert [piece for piece in message.split("...") if piece.strip("() ") not in sources] == []
    assert part in (ROOT / "tests" / test).read_text()
