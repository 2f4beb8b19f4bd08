"""Failures of CRDS are one error in every entry point: a missing file that the context names, or a missing context."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.batch import reduce
from gpucoron.cli import main
from gpucoron.engine import plan, run_steps
from gpucoron.errors import ReferenceFileError
from gpucoron.io import crds_lookup
from gpucoron.io.crds_cache import use_environment
from gpucoron.io.exposure import Exposure
from gpucoron.io.parameter_files import parameters_from_crds


@pytest.fixture(scope="module")
def case(exposures):
    """Make an exposure whose parameter file changes the result: with it thousands of jumps are found."""
    pars = {"pars-jumpstep": {"rejection_threshold": 1.0}}
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40), pars=pars)


@pytest.fixture
def copy_of(case, tmp_path):
    """Make copies of the cache with missing files or edited rules."""

    def make(without=(), edit=()):
        folder = shutil.copytree(case.cache.path, tmp_path / "cache")
        for pattern in without:
            found = list(folder.rglob(pattern))
            assert found
            for path in found:
                path.unlink()
        for pattern, old, new in edit:
            _rewrite(next(folder.rglob(pattern)), old, new)
        return replace(case.cache, path=folder)

    return make


def _rewrite(path, old, new):
    """Edit rules; CRDS checks the sha1 of all lines except the one that holds it."""
    text = path.read_text()
    assert old in text
    lines = [line for line in text.replace(old, new).split("\n") if "sha1sum" not in line]
    digest = hashlib.sha1("\n".join(lines).encode()).hexdigest()
    lines.insert(1, f"    'sha1sum': {digest!r},")
    path.write_text("\n".join(lines))


def call(path, folder):
    gpucoron.Coron1Pipeline.call(str(path), backend="cpu", output_dir=str(folder))


def strun(path, folder):
    arguments = ["gpucoron.pipeline.Coron1Pipeline", str(path), "--backend=numpy", f"--output_dir={folder}"]
    gpucoron.Coron1Pipeline.from_cmdline(arguments)


def reduce_file(path, folder):
    gpucoron.reduce_file(path, folder, backend="cpu")


def plan_batch(path, folder):
    from gpucoron.batch.plan import make_plan

    (planned,) = make_plan([path], folder).exposures
    raise planned.error


def configure_a_step(path, folder):
    gpucoron.Coron1Pipeline.step_defs["jump"].get_config_from_reference(str(path))


COATS = [call, strun, reduce_file, plan_batch]


@pytest.mark.parametrize("coat", [*COATS, configure_a_step])
@pytest.mark.parametrize("missing", ["jwst_nircam_pars-jumpstep_9001.asdf", "jwst_nircam_pars-jumpstep_9001.rmap"])
def test_a_parameter_file_that_the_cache_lacks(coat, missing, case, copy_of, tmp_path):
    cache = copy_of(without=[missing])
    with cache.activate(), pytest.raises(ReferenceFileError, match=missing) as caught:
        coat(case.path, tmp_path)
    assert str(cache.path) in str(caught.value)
    assert not list(tmp_path.glob("*_rate*"))


@pytest.mark.parametrize("coat", [*COATS, configure_a_step])
def test_a_damaged_parameter_file(coat, case, copy_of, tmp_path):
    cache = copy_of()
    (path,) = cache.path.rglob("*pars-jumpstep*.asdf")
    path.write_bytes(path.read_bytes()[:400])
    with cache.activate(), pytest.raises(ReferenceFileError, match=f"{path}: damaged"):
        coat(case.path, tmp_path)


@pytest.mark.parametrize("coat", COATS)
def test_a_reference_that_the_cache_lacks(coat, case, copy_of, tmp_path):
    with copy_of(without=["*dark*.fits"]).activate(), pytest.raises(ReferenceFileError, match="jwst_nircam_dark_9001"):
        coat(case.path, tmp_path)
    assert not list(tmp_path.glob("*_rate*"))


@pytest.mark.parity
@pytest.mark.parametrize("missing", ["*pars-jumpstep*.asdf", "*pars-jumpstep*.rmap"])
def test_jwst_continues_with_its_defaults(missing, case, copy_of):
    """A difference listed in docs/deviations.md."""
    from jwst.pipeline import Detector1Pipeline

    with copy_of(without=[missing]).activate():
        assert Detector1Pipeline.get_config_from_reference(str(case.path))["steps"]["jump"] == {}


@pytest.mark.parametrize(
    "edit",
    [
        ("*.imap", "'PARS-JUMPSTEP': 'jwst_nircam_pars-jumpstep_9001.rmap'", "'PARS-JUMPSTEP': 'N/A'"),
        ("*.imap", "'PARS-JUMPSTEP'", "'PARS-ANOTHERSTEP'"),
        ("*pars-jumpstep*.rmap", "2021-01-01", "2099-01-01"),
        ("*pars-jumpstep*.rmap", "'jwst_nircam_pars-jumpstep_9001.asdf'", "'N/A'"),
    ],
    ids=["N/A", "unknown type", "no rule for this date", "N/A by rule"],
)
def test_rules_without_a_file_are_no_fault(edit, case, copy_of):
    """The result is as in jwst, whose reader is called for comparison."""
    from jwst.pipeline import Detector1Pipeline

    with copy_of(without=["*pars-jumpstep*.asdf"], edit=[edit]).activate():
        assert parameters_from_crds(Exposure.read(case.path)) == ({}, {}, [])
        for pipeline in (Detector1Pipeline, gpucoron.Coron1Pipeline):
            assert pipeline.get_config_from_reference(str(case.path))["steps"]["jump"] == {}


def test_missing_files_of_the_cache_are_downloaded(case, copy_of, monkeypatch):
    """Only the missing file is requested from CRDS; a fake server answers."""
    import crds

    cache, asked = copy_of(without=["*pars-jumpstep*.asdf"]), []

    def fetch(about, reftypes, observatory):
        asked.extend(reftypes)
        (source,) = case.cache.path.rglob("*pars-jumpstep*.asdf")
        target = cache.path / source.relative_to(case.cache.path)
        shutil.copy(source, target)
        return {"pars-jumpstep": str(target)}

    monkeypatch.setattr(crds, "getreferences", fetch)
    with cache.activate():
        steps, _run_parameters, _files = parameters_from_crds(Exposure.read(case.path))
    assert asked == ["pars-jumpstep"]
    assert steps == {"jump": {"rejection_threshold": 1.0}}


@pytest.mark.parametrize("command", ["run", "batch"])
@pytest.mark.parametrize("verbosity", ["-q", None])
def test_a_wrong_context_is_one_line(command, verbosity, case, tmp_path, capfd):
    arguments = [command, str(case.path), "-o", str(tmp_path), *([verbosity] if verbosity else [])]
    with replace(case.cache, context="jwst_9999.pmap").activate():
        assert main(arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    for word in ("jwst_9999.pmap", case.cache.context, "CRDS_CONTEXT", str(case.cache.path)):
        assert word in line


def test_a_wrong_context_in_a_new_process(case, tmp_path):
    """The log of CRDS has not been configured in this process."""
    environment = {**os.environ, **case.cache.environment, "CRDS_CONTEXT": "jwst_9999.pmap"}
    command = [sys.executable, "-m", "gpucoron", "run", case.path, "-o", tmp_path, "-q"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr[:2000]


@pytest.mark.parametrize("coat", [call, strun, reduce_file, configure_a_step])
@pytest.mark.parametrize("context", ["jwst_9999.pmap", "jwst_99"])
def test_a_wrong_context_in_python(coat, context, case, tmp_path, capfd):
    with replace(case.cache, context=context).activate(), pytest.raises(ReferenceFileError, match=context):
        coat(case.path, tmp_path)
    lines = capfd.readouterr().err.splitlines()
    assert not [line for line in lines if "Traceback" in line or "CRDS" in line]


def test_a_wrong_context_ends_a_batch_at_once(case, tmp_path):
    with (
        replace(case.cache, context="jwst_9999.pmap").activate(),
        pytest.raises(ReferenceFileError, match=r"jwst_9999\.pmap"),
    ):
        list(reduce([case.path], tmp_path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CRDS_PATH": "{folder}/nowhere"}, "nowhere, which does not exist"),
        ({"CRDS_SERVER_URL": "https://127.0.0.1:9", "CRDS_CONTEXT": "jwst_9999.pmap"}, "Connection refused"),
        ({"CRDS_SERVER_URL": "https://127.0.0.1:9", "CRDS_PATH": "{folder}"}, "https://127.0.0.1:9"),
    ],
    ids=["no cache", "no server for the context", "neither"],
)
def test_a_wrong_cache_or_server_is_one_line(changes, words, case, tmp_path, capfd):
    changes = {name: value.format(folder=tmp_path) for name, value in changes.items()}
    with case.cache.activate():
        use_environment({**case.cache.environment, **changes})
        assert main(["run", str(case.path), "-o", str(tmp_path), "-q"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line


def test_a_full_cache_needs_no_server(case):
    with case.cache.activate():
        use_environment({**case.cache.environment, "CRDS_SERVER_URL": "https://127.0.0.1:9"})
        assert crds_lookup.crds_context()[0] == case.cache.context
        assert parameters_from_crds(Exposure.read(case.path))[0] == {"jump": {"rejection_threshold": 1.0}}


def test_clean_flicker_noise_without_a_read_noise(case, copy_of, tmp_path):
    """jwst makes a draft rate in the step, and fails there; with a user mask it needs no draft."""
    edit = ("*.imap", "'READNOISE': 'jwst_nircam_readnoise_9001.rmap'", "'READNOISE': 'N/A'")
    steps = {"clean_flicker_noise": {"skip": False}, "jump": {"skip": True}, "ramp_fit": {"skip": True}}
    with copy_of(edit=[edit]).activate():
        exposure = Exposure.read(case.path)
        with pytest.raises(ReferenceFileError, match="clean_flicker_noise: CRDS has no readnoise reference.*skip=True"):
            plan(exposure, steps=steps, backend="numpy")
        mask = tmp_path / "mask.fits"
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((32, 40), np.float32), name="SCI")]).writeto(mask)
        steps["clean_flicker_noise"]["user_mask"] = str(mask)
        run = run_steps(plan(exposure, steps=steps, backend="numpy"))
    assert {record.name: record.status for record in run.records}["clean_flicker_noise"] == "COMPLETE"
