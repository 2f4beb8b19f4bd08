"""The steps that still run jwst's code: in gpucoron's engine they give the results of jwst's pipeline."""

import logging

import asdf
import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.errors import GpucoronError, InputError
from gpucoron.simulate import Effects
from tests.cases.pipelines import SLOPE_ARRAYS, assert_same_flags, assert_same_values, run_jwst, run_ours

pytestmark = pytest.mark.parity

NIRCAM = (("NIRCAM", "SUB320A335R", "RAPID", 8, 2), {"shape": (40, 320)})
MIRI = (("MIRI", "MASK1550", "FASTR1", 20, 2), {"shape": (40, 288), "effects": Effects(emi=True)})

CASES = {
    "emicorr": (*MIRI, {"emicorr": {"skip": False}}),  # a step of gpucoron, here for the whole pipeline
    # a step of gpucoron, here for the whole pipeline
    "clean_flicker_noise": (*NIRCAM, {"clean_flicker_noise": {"skip": False}}),
    "persistence": (*NIRCAM, {"persistence": {"skip": False, "persistence_time": 100, "dn_threshold": 20000.0}}),
    "likely": (*NIRCAM, {"ramp_fit": {"algorithm": "LIKELY"}}),  # a step of gpucoron, here for the whole pipeline
    "snowballs": (*NIRCAM, {"jump": {"expand_large_events": True, "min_jump_area": 3.0, "edge_size": 10}}),
    "showers": (*MIRI, {"jump": {"find_showers": True, "extend_min_area": 20}}),
}


@pytest.mark.parametrize("name", CASES)
def test_borrowed_steps_give_jwsts_answer(name, exposures):
    arguments, options, steps = CASES[name]
    case = exposures(*arguments, **options)
    with case.cache.activate():
        theirs, ours = run_jwst(case.path, steps), run_ours(case.path, steps)
    for step, arrays in theirs.ramps.items():
        for key in ("groupdq", "pixeldq"):
            assert_same_flags(ours.ramps[step][key], arrays[key], f"{step} {key}")
        assert_same_values(ours.ramps[step]["data"], arrays["data"], 2e-6, step)
    # the recursions of LIKELY are summed in another order than stcal's: the tolerance is 1e-5
    rtol = 1e-5 if name == "likely" else 2e-6
    for product in ("rate", "rateints"):
        assert_same_flags(getattr(ours, product)["dq"], getattr(theirs, product)["dq"], product)
        for key in set(SLOPE_ARRAYS) - {"dq"}:
            assert_same_values(getattr(ours, product)[key], getattr(theirs, product)[key], rtol, f"{product} {key}")
    status = {record.name: record.status for record in ours.run.records}
    for step, values in steps.items():
        if "skip" in values:
            assert status[step] == getattr(theirs.model.meta.cal_step, step)


def test_the_full_frame_is_jwsts(exposures):
    case = exposures("NIRCAM", "FULL", "RAPID", 2, 1, shape=(2048, 2048), effects=Effects(one_over_f=0.0))
    off = {name: {"skip": True} for name in ("ipc", "linearity", "dark_current", "jump", "ramp_fit", "gain_scale")}
    with case.cache.activate():
        theirs, ours = run_jwst(case.path, off), run_ours(case.path, off)
    np.testing.assert_array_equal(ours.ramps["refpix"]["data"], theirs.ramps["refpix"]["data"])
    assert not np.array_equal(ours.ramps["refpix"]["data"], ours.ramps["superbias"]["data"])


@pytest.mark.parametrize("opt_name", ["", "mine.fits"])
def test_the_chi_square_of_likely_is_jwsts(exposures, tmp_path, monkeypatch, opt_name):
    """Chi-square of gpucoron's fit, with jwst's file name."""

    case = exposures(*NIRCAM[0], **NIRCAM[1])
    steps = {"ramp_fit": {"algorithm": "LIKELY", "save_opt": True, "opt_name": opt_name}}
    with case.cache.activate():
        gpucoron.reduce_file(case.path, tmp_path / "ours", backend="cpu", steps=steps)
        if not opt_name:
            monkeypatch.chdir(tmp_path)
            run_jwst(case.path, steps)
    (found,) = (tmp_path / "ours").glob("*_likely_chisq.fits")
    assert not opt_name or found.name == "mine_likely_chisq.fits"
    if not opt_name:
        (expected,) = (*tmp_path.glob("*_likely_chisq.fits"), *case.path.parent.glob("*_likely_chisq.fits"))
        assert found.name == expected.name
        mine, theirs = fits.getdata(found), fits.getdata(expected)
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
        assert mine.dtype == theirs.dtype
        assert np.nanmedian(mine) > 1


def test_the_optional_product_is_jwsts(exposures, tmp_path):

    case = exposures(*NIRCAM[0], **NIRCAM[1])
    with case.cache.activate():
        gpucoron.reduce_file(case.path, tmp_path, backend="cpu", steps={"ramp_fit": {"save_opt": True}})
    with fits.open(next(tmp_path.glob("*_fitopt.fits"))) as hdus:
        assert hdus["SLOPE"].data.shape[-2:] == (40, 320)


def _of_another_detector_size(folder):
    entry = {"filename": "x", "rows": np.array([500]), "cols": np.array([5]), "vals": np.array([1.7e9])}
    asdf.AsdfFile({"NRCALONG": {**entry, "pers_time": 100}}).write_to(folder / "large.asdf")
    return str(folder / "large.asdf")


def _half_an_entry(folder):
    asdf.AsdfFile({"NRCALONG": {"filename": "x", "rows": np.array([5])}}).write_to(folder / "half.asdf")
    return str(folder / "half.asdf")


_HAUNTED = {"skip": False, "persistence_time": 100, "dn_threshold": 2e4}

#: case -> step, function that makes its parameters in a folder, part of the error message, type of the error
FAULTS = {
    "pixels beyond": (
        "persistence", lambda folder: {**_HAUNTED, "persistence_array_file": _of_another_detector_size(folder)},
        "may be those of a larger subarray", InputError,
    ),
    "half an entry": (
        "persistence", lambda folder: {**_HAUNTED, "persistence_array_file": _half_an_entry(folder)},
        "persistence_array_file", InputError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_errors_of_jwsts_code_name_the_exposure_and_the_step(name, exposures, tmp_path, caplog):
    step, parameters, words, kind = FAULTS[name]
    case = exposures(*NIRCAM[0], **NIRCAM[1])
    with case.cache.activate(), caplog.at_level(logging.DEBUG, "gpucoron.borrowed"), pytest.raises(kind) as caught:
        gpucoron.reduce_file(case.path, tmp_path / "out", backend="cpu", steps={step: parameters(tmp_path)})
    message = str(caught.value)
    assert case.path.name in message
    assert f"{step}: jwst's own code" in message
    assert f"{step}.skip=True" in message
    assert words in message
    assert "\n" not in message
    assert not isinstance(caught.value.__cause__, GpucoronError)
    assert "Traceback" in caplog.text
    assert not list(tmp_path.glob("out/*.fits"))


@pytest.mark.parametrize(
    ("helper", "name", "target", "way"),
    [
        ("large_events", "jump", "stcal.jump.jump.flag_large_events", "jump.expand_large_events=False"),
        ("optional_fit", "ramp_fit", "stcal.ramp_fitting.ramp_fit.ramp_fit", "ramp_fit.save_opt=False"),
        ("full_frame", "refpix", "jwst.refpix.reference_pixels.correct_model", "refpix.skip=True"),
        ("jwsts_own", "picture_frame", "jwst.picture_frame.picture_frame_step.PictureFrameStep.process", "skip=True"),
    ],
)
def test_every_borrowed_step_has_the_same_boundary(helper, name, target, way, exposures, monkeypatch):
    """Each call of jwst's and stcal's code, with an unexpected error."""
    from gpucoron.borrowed import HELPERS
    from gpucoron.engine import plan
    from gpucoron.io.exposure import Exposure
    from gpucoron.steps import STEPS

    def fail(*args, **kwargs):
        raise RuntimeError("of a kind of its own")

    monkeypatch.setattr(target, fail)
    case = exposures(*NIRCAM[0], **NIRCAM[1])
    with case.cache.activate():
        run = plan(Exposure.read(case.path), backend="cpu", steps={"jump": {"expand_large_events": True}})
    image = np.ones(run.exposure.data.shape[2:], np.float32)
    arrays = run.exposure.data, run.exposure.groupdq, run.exposure.pixeldq, image, image
    arguments = {
        "large_events": (*arrays, run.parameters["jump"], run.exposure.facts),
        "full_frame": (run.exposure, {}, run.parameters["refpix"]),
    }
    with pytest.raises(InputError, match=f"{case.path.name}: {name}: .*of a kind of its own.*{way}"):
        HELPERS[helper](run, STEPS[name])(*arguments.get(helper, ()))
    assert set(HELPERS) == {"large_events", "optional_fit", "full_frame", "jwsts_own"}


def test_the_other_files_of_a_command_go_on(exposures, tmp_path, capsys):
    from gpucoron import cli

    small = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 32))
    large = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(64, 64), observation=2)
    memory = tmp_path / "memory.asdf"
    entry = {"filename": "x", "rows": np.array([50]), "cols": np.array([5]), "vals": np.array([1.7e9])}
    asdf.AsdfFile({"NRCALONG": {**entry, "pers_time": 100}}).write_to(memory)
    settings = {"skip": False, "persistence_time": 100, "persistence_array_file": memory}
    command = ["run", str(small.path), str(large.path), "-o", str(tmp_path / "out"), "--backend", "cpu"]
    for name, value in settings.items():
        command += ["--set", f"persistence.{name}={value}"]
    with large.cache.activate():
        assert cli.main(command) == 2
    stderr = capsys.readouterr().err
    assert small.path.name in stderr
    assert "Traceback" not in stderr
    assert [path.name for path in (tmp_path / "out").glob("*_rate.fits")] == [
        large.path.name.replace("_uncal", "_rate")
    ]
