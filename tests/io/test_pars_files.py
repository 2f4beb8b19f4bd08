"""Parameter files: from CRDS and from the user, applied as in jwst."""

import asdf
import numpy as np
import pytest

import gpucoron
from gpucoron.batch.job import reduce_job
from gpucoron.batch.persistence import PersistenceChains
from gpucoron.batch.plan import make_plan
from gpucoron.batch.run import _job
from gpucoron.cli import main
from gpucoron.engine import plan, settle
from gpucoron.errors import ParameterError
from gpucoron.io.exposure import Exposure
from gpucoron.io.parameter_files import DISABLED_BY, parameters_from_files, takes_crds_pars
from gpucoron.parameters import PROFILES
from tests.cases.pipelines import SLOPE_ARRAYS

JUMP = "jwst.jump.jump_step.JumpStep"
DETECTOR1 = "jwst.pipeline.calwebb_detector1.Detector1Pipeline"


@pytest.fixture(scope="module")
def case(exposures):
    pars = {
        "pars-jumpstep": {"rejection_threshold": 5.0, "min_jump_to_flag_neighbors": 12.0},
        "pars-detector1pipeline": {"save_calibrated_ramp": True, "steps": {"ipc": {"skip": True}}},
    }
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40), pars=pars)


@pytest.fixture(scope="module")
def newer(exposures):
    """Make an exposure with a parameter file that sets unknown parameters."""
    pars = {"pars-jumpstep": {"rejection_threshold": 5.0, "sigma_clip_twice": True}}
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(16, 24), pars=pars)


@pytest.fixture
def write(tmp_path):
    """Write parameter files as in CRDS."""

    def write_file(name, class_, parameters, steps=(), step_name=None):
        head = {"class": class_, "name": step_name or class_.rpartition(".")[2]}
        entries = [{"class": "", "name": step, "parameters": values} for step, values in dict(steps).items()]
        tree = {**head, "parameters": parameters, **({"steps": entries} if entries else {})}
        asdf.AsdfFile(tree).write_to(tmp_path / name)
        return tmp_path / name

    return write_file


def planned(case, **options):
    with case.cache.activate():
        return plan(Exposure.read(case.path), backend="numpy", **options)


def history(path):
    from astropy.io import fits

    return "".join(fits.getheader(path)["HISTORY"])


# where CRDS parameter files apply


@pytest.mark.parametrize("value", ["true", "True", "t", "yes", "y", "TRUE", "1", "on", "false", "no", ""])
def test_the_variable_reads_as_stpipe_reads_it(value, monkeypatch, caplog):
    from stpipe.step import get_disable_crds_steppars

    monkeypatch.setenv(DISABLED_BY, value)
    assert takes_crds_pars("jwst") is not get_disable_crds_steppars()
    assert takes_crds_pars("recommended") is takes_crds_pars("jwst")
    assert not takes_crds_pars("spaceklip")
    # parameters given directly have priority
    assert takes_crds_pars("jwst", True)
    assert not takes_crds_pars("jwst", False)
    assert bool(caplog.records) is (value in ("TRUE", "1", "on"))


@pytest.mark.parametrize("how", ["the variable", "--no-pars"])
@pytest.mark.parametrize("command", ["run", "batch"])
def test_crds_files_left_out(how, command, case, tmp_path, monkeypatch):
    if how == "the variable":
        monkeypatch.setenv(DISABLED_BY, "true")
    arguments = [command, str(case.path), "-o", str(tmp_path), "--backend", "numpy", "-q"]
    if command == "batch":
        arguments += ["--workers", "1"]
    with case.cache.activate():
        assert main([*arguments, *(["--no-pars"] if how == "--no-pars" else [])]) == 0
    assert not list(tmp_path.glob("*_ramp.fits"))
    text = history(next(tmp_path.glob("*_rate.fits")))
    assert "rejection_threshold" not in text
    assert "parameter files" not in text


def test_a_job_uses_the_parameters_of_the_batch(case, tmp_path, monkeypatch):
    """The variable is set where the batch starts, but not where its worker runs (Dask)."""
    monkeypatch.setenv(DISABLED_BY, "true")
    asked = {"profile": "jwst", "steps": {}, "run_parameters": {}, "use_pars": takes_crds_pars("jwst"), "pars": []}
    pool = {"backend": "numpy", "max_memory": None, "scratch_dir": str(tmp_path), "workers": 1, "devices": None}
    with case.cache.activate():
        found = make_plan([case.path], tmp_path)
        (tmp_path / "logs").mkdir()
        job = _job(
            found.exposures[0], found, tmp_path / "stage", asked, {**pool, "engine": "local"}, PersistenceChains(found)
        )
        monkeypatch.delenv(DISABLED_BY)
        record = reduce_job(job)
    assert record["status"] == "done", record
    assert found.exposures[0].parameters == record["parameters"] == {}
    assert "rejection_threshold" not in history(next((tmp_path / "stage").rglob("*_rate.fits")))


@pytest.mark.parametrize("how", ["the variable", "--disable-crds-steppars", None])
def test_strun_leaves_them_out(how, case, tmp_path, monkeypatch):
    arguments = ["gpucoron.pipeline.Coron1Pipeline", str(case.path), "--backend=numpy", f"--output_dir={tmp_path}"]
    if how == "the variable":
        monkeypatch.setenv(DISABLED_BY, "true")
    elif how is not None:
        arguments.append(how)
    with case.cache.activate():
        pipeline = gpucoron.Coron1Pipeline.from_cmdline(arguments)
        klip = gpucoron.Coron1Pipeline_spaceKLIP.get_config_from_reference(str(case.path))
    assert pipeline.jump.rejection_threshold == (5.0 if how is None else 4.0)
    assert ("pars-jumpstep" in history(next(tmp_path.glob("*_rate.fits")))) is (how is None)
    assert not any(klip["steps"].values())


@pytest.mark.parametrize("profile", PROFILES)
def test_use_pars_applies_crds_files_in_any_profile(profile, case):
    run = planned(case, profile=profile, use_pars=True)
    assert run.parameters["jump"].rejection_threshold == 5.0
    assert run.parameters["ipc"].skip
    assert run.run_parameters.save_calibrated_ramp
    assert len(run.pars_files) == 2
    assert planned(case, profile="spaceklip").pars_files == []


def test_call_names_the_files_too(case, write, tmp_path):
    own = write("own.asdf", "gpucoron.pipeline.Coron1Pipeline", {}, {"jump": {"rejection_threshold": 6.0}})
    options = {"backend": "numpy", "output_dir": str(tmp_path), "save_results": True, "config_file": str(own)}
    with case.cache.activate():
        gpucoron.Coron1Pipeline.call(str(case.path), **options)
        run = plan(Exposure.read(case.path), backend="numpy", pars=own)
    text = history(next(tmp_path.glob("*_rate.fits")))
    assert f"parameter files: {', '.join(run.pars_files)}" in text
    assert len(run.pars_files) == 3
    assert '"rejection_threshold": 6.0' in text


# the user's file


def test_precedence(case, write):
    step = write("one.asdf", JUMP, {"rejection_threshold": 6.0, "sat_required_snowball": False})
    pipeline = write("two.asdf", DETECTOR1, {"save_calibrated_ramp": False}, {"ipc": {"skip": False}})
    run = planned(case, pars=[step, pipeline], steps={"jump": {"sat_required_snowball": True}})
    jump = run.parameters["jump"]
    assert (jump.rejection_threshold, jump.min_jump_to_flag_neighbors, jump.sat_required_snowball) == (6.0, 12.0, True)
    assert not run.parameters["ipc"].skip
    assert not run.run_parameters.save_calibrated_ramp
    assert run.pars_files[-2:] == [str(step), str(pipeline)]
    last = planned(case, pars=[step, write("three.asdf", JUMP, {"rejection_threshold": 7.0})], use_pars=False)
    assert last.parameters["jump"].rejection_threshold == 7.0
    assert last.parameters["jump"].min_jump_to_flag_neighbors == 10.0
    klip = planned(case, pars=step, profile="spaceklip")
    assert klip.parameters["jump"].rejection_threshold == 6.0
    assert klip.pars_files == [str(step)]


@pytest.mark.parity
def test_as_jwst_takes_them(case, write, tmp_path):
    from jwst.pipeline import Detector1Pipeline
    from stdatamodels.jwst import datamodels

    pipeline = write("two.asdf", DETECTOR1, {}, {"ipc": {"skip": False}, "superbias": {"skip": True}})
    step = write("one.asdf", JUMP, {"rejection_threshold": 3.0, "flag_4_neighbors": False}, step_name="jump")
    arguments = ["run", str(case.path), "-o", str(tmp_path), "--backend", "cpu", "-q"]
    with case.cache.activate():
        theirs = Detector1Pipeline.call(
            str(case.path), config_file=str(pipeline), steps={"jump": {"config_file": str(step)}}
        )
        assert main([*arguments, "--pars", str(pipeline), "--pars", str(step)]) == 0
    (product,) = tmp_path.glob("*_rate.fits")
    with datamodels.open(product) as ours:
        assert ours.meta.cal_step.superbias == theirs.meta.cal_step.superbias == "SKIPPED"
        np.testing.assert_array_equal(ours.dq, theirs.dq)
        for key in SLOPE_ARRAYS:
            np.testing.assert_allclose(getattr(ours, key), getattr(theirs, key), rtol=2e-6, err_msg=key)
    assert str(step) in history(product)


# jwst 2 writes parameters of its older steps
_DETECTOR1 = pytest.param("Detector1Pipeline", marks=pytest.mark.parity)


@pytest.mark.parametrize("kind", ["Coron1Pipeline", _DETECTOR1, "JumpStep", "SubtractKtcStep", "cfg"])
def test_files_that_stpipe_writes(kind, tmp_path, caplog):
    from jwst.jump import JumpStep
    from jwst.pipeline import Detector1Pipeline

    path = tmp_path / "saved.asdf"
    if kind == "JumpStep":
        JumpStep(rejection_threshold=3.5).export_config(path)
    elif kind == "SubtractKtcStep":
        gpucoron.Coron1Pipeline.step_defs["subtract_ktc"](skip=False).export_config(path)
    elif kind == "cfg":
        path.write_text('class = "jwst.jump.JumpStep"\nname = "jump"\nrejection_threshold = 3.5\n')
    else:
        pipeline = (gpucoron.Coron1Pipeline if kind == "Coron1Pipeline" else Detector1Pipeline)()
        pipeline.jump.rejection_threshold, pipeline.save_calibrated_ramp = 3.5, True
        pipeline.export_config(path, include_metadata=True)
    parameters, run_parameters, files = settle(pars=path)
    assert files == [str(path)]
    assert run_parameters.save_calibrated_ramp is ("Pipeline" in kind)
    if kind == "SubtractKtcStep":
        assert not parameters["subtract_ktc"].skip
    else:
        assert parameters["jump"].rejection_threshold == 3.5
    assert not [record for record in caplog.records if record.name.startswith("gpucoron")]


def test_parameters_without_effect_are_reported(write, caplog):
    settle(pars=write("one.asdf", "gpucoron.pipeline.Coron1Pipeline", {"backend": "cuda", "suffix": None}))
    (record,) = caplog.records
    assert "one.asdf: backend='cuda' of a pipeline has no effect" in record.getMessage()


def test_a_file_that_is_wrong(write, tmp_path, case, capfd):
    (tmp_path / "text.asdf").write_text("threshold four\n")
    (tmp_path / "empty.asdf").write_text("")
    asdf.AsdfFile({"frequencies": {}}).write_to(tmp_path / "emicorr.asdf")
    whole = write("whole.asdf", JUMP, {"rejection_threshold": 6.0})
    (tmp_path / "cut.asdf").write_bytes(whole.read_bytes()[:300])
    wrong = {
        tmp_path / "absent.asdf": "no such parameter file",
        tmp_path / "text.asdf": "not a parameter file",
        tmp_path / "empty.asdf": "not a parameter file",
        tmp_path / "emicorr.asdf": "not a parameter file",
        tmp_path / "cut.asdf": "damaged",
        case.path: "not a parameter file",
        tmp_path: "no such parameter file",
        write("klip.asdf", "jwst.coron.KlipStep", {"truncate": 5}): "not a step of stage 1",
        write(
            "typo.asdf", JUMP, {"rejection_treshold": 6.0}
        ): "jump.rejection_treshold, which does not exist (did you mean 'rejection_threshold'?)",
        write("value.asdf", JUMP, {"rejection_threshold": "high"}): "jump.rejection_threshold: expected float",
        write("run.asdf", DETECTOR1, {"save_all": True}): "sets save_all,",
        write(
            "step.asdf", DETECTOR1, {}, {"jmp": {"skip": True}}
        ): "sets jmp, which does not exist (did you mean 'jump'?)",
    }
    for path, words in wrong.items():
        with pytest.raises(ParameterError) as caught:
            parameters_from_files(path)
        assert words in str(caught.value), path
        assert str(path) in str(caught.value)
        for command in ("run", "batch"):
            assert main([command, str(case.path), "-o", str(tmp_path), "--pars", str(path), "-q"]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert words in line


def test_a_changed_file_is_other_parameters(case, write, tmp_path):
    def by_batch(**options):
        with case.cache.activate():
            return make_plan([case.path], tmp_path / "out", **options).exposures[0]

    path = str(write("one.asdf", JUMP, {"rejection_threshold": 6.0}))
    first = by_batch(pars=[path]).digest
    copy = str(write("two.asdf", JUMP, {"rejection_threshold": 6.0}))
    # the contents of the file count
    same = [{"pars": [path]}, {"pars": [copy]}, {"steps": {"jump": {"rejection_threshold": "6"}}}]
    assert [by_batch(**options).digest for options in same] == [first] * 3
    write("one.asdf", JUMP, {"rejection_threshold": 6.5})
    assert by_batch(pars=[path]).digest != first
    assert by_batch(pars=[path]).parameters["jump"]["rejection_threshold"] == 6.5


# a file of a newer jwst


@pytest.mark.parity
def test_jwst_refuses_unknown_parameters(newer):
    from jwst.pipeline import Detector1Pipeline
    from stpipe.exceptions import ValidationError

    with newer.cache.activate(), pytest.raises(ValidationError, match="sigma_clip_twice"):
        Detector1Pipeline.call(str(newer.path))


@pytest.mark.parametrize("coat", ["call", "reduce_file", "step", "run", "batch"])
def test_a_parameter_of_a_newer_jwst(coat, newer, exposures, tmp_path, capfd):
    with newer.cache.activate():
        if coat == "run":
            assert main(["run", str(newer.path), "-o", str(tmp_path), "-q"]) == 2
            (message,) = capfd.readouterr().err.splitlines()
        elif coat == "batch":
            (planned,) = make_plan([newer.path], tmp_path).exposures
            assert isinstance(planned.error, ParameterError)
            message = str(planned.error)
        else:
            with pytest.raises(ParameterError) as caught:
                if coat == "call":
                    gpucoron.Coron1Pipeline.call(str(newer.path))
                elif coat == "step":
                    gpucoron.Coron1Pipeline.step_defs["jump"].get_config_from_reference(str(newer.path))
                else:
                    gpucoron.reduce_file(newer.path, tmp_path)
            message = str(caught.value)
    for words in ("jwst_nircam_pars-jumpstep_9001.asdf", " jump.sigma_clip_twice,", "--no-pars", DISABLED_BY):
        assert words in message


def test_the_way_on(newer, write, tmp_path):
    """Ignore CRDS parameter files, and give a copy of the refused one."""
    own = write("copy.asdf", JUMP, {"rejection_threshold": 5.0})
    with newer.cache.activate():
        arguments = ["run", str(newer.path), "-o", str(tmp_path), "--backend", "numpy", "-q"]
        assert main([*arguments, "--no-pars", "--pars", str(own)]) == 0
    assert '"rejection_threshold": 5.0' in history(next(tmp_path.glob("*_rate.fits")))


def test_a_batch_continues_with_the_other_exposures(newer, write, tmp_path):
    """The exposure whose parameter file is refused fails; that of the other instrument is reduced."""
    from gpucoron.simulate import simulate
    from gpucoron.simulate.references import write_references

    nircam, miri = newer.simulation, simulate("MIRI", "MASK1550", "FASTR1", 4, 2, shape=(16, 24))
    folder = tmp_path / "raw"
    folder.mkdir()
    paths = [nircam.write(folder), miri.write(folder)]
    write_references(nircam, tmp_path / "crds", pars={"pars-jumpstep": {"sigma_clip_twice": True}})
    with write_references(miri, tmp_path / "crds").activate():
        results = list(gpucoron.batch.reduce(paths, tmp_path / "out", workers=1, backend="numpy"))
    status = {result.input.name: result.status for result in results}
    assert status == {paths[0].name: "failed", paths[1].name: "done"}
    (failed,) = [result for result in results if result.status == "failed"]
    assert "jump.sigma_clip_twice" in failed.message
