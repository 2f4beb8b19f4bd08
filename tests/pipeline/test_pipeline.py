"""The entry points: Coron1Pipeline, strun, run_single_file, gpucoron run; and CRDS parameter files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpucoron
from gpucoron.backends import get_backend
from gpucoron.errors import ParameterError
from tests.cases.pipelines import SLOPE_ARRAYS


@pytest.fixture(scope="module")
def case(exposures):
    """Make an exposure whose CRDS cache holds parameter files."""
    pars = {
        "pars-jumpstep": {"rejection_threshold": 5.0, "min_jump_to_flag_neighbors": 12.0},
        "pars-rampfitstep": {"suppress_one_group": False},
        "pars-detector1pipeline": {"steps": {"jump": {"rejection_threshold": 5.5}, "ipc": {"skip": True}}},
    }
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40), pars=pars)


@pytest.fixture(scope="module")
def theirs(case):
    from jwst.pipeline import Detector1Pipeline

    with case.cache.activate():
        return Detector1Pipeline.call(str(case.path), steps={"jump": {"flag_4_neighbors": False}})


def assert_same_rate(ours, theirs):
    for key in SLOPE_ARRAYS:
        np.testing.assert_allclose(getattr(ours, key), getattr(theirs, key), rtol=2e-6, err_msg=key)


@pytest.mark.parity
def test_call_applies_crds_parameter_files_as_jwst_does(case, theirs, tmp_path):
    with case.cache.activate():
        ours = gpucoron.Coron1Pipeline.call(
            str(case.path),
            steps={"jump": {"flag_4_neighbors": False}},
            backend="cpu",
            output_dir=str(tmp_path),
            save_results=True,
        )
    assert_same_rate(ours, theirs)
    assert ours.meta.cal_step.ipc == theirs.meta.cal_step.ipc == "SKIPPED"
    stem = case.path.name.removesuffix("_uncal.fits")
    assert {path.name for path in tmp_path.iterdir()} == {f"{stem}_rate.fits", f"{stem}_rateints.fits"}


@pytest.mark.parity
def test_gpucoron_run_applies_them_too(case, theirs, tmp_path):
    from stdatamodels.jwst import datamodels

    from gpucoron.cli import main

    arguments = ["run", str(case.path), "-o", str(tmp_path), "--backend", "cpu", "-q"]
    with case.cache.activate():
        assert main([*arguments, "--set", "jump.flag_4_neighbors=false"]) == 0
    with datamodels.open(next(tmp_path.glob("*_rate.fits"))) as ours:
        assert_same_rate(ours, theirs)


def test_parameter_files_agree_with_stpipes_reading(case):
    from gpucoron.io.exposure import Exposure
    from gpucoron.io.parameter_files import parameters_from_crds

    with case.cache.activate():
        steps, pipeline, files = parameters_from_crds(Exposure.read(case.path))
        config = gpucoron.Coron1Pipeline.get_config_from_reference(str(case.path))
    theirs = {
        name: {key: value for key, value in values.items() if key not in ("class", "name")}
        for name, values in config["steps"].items()
    }
    assert steps == {name: values for name, values in theirs.items() if values}
    assert steps["jump"] == {"rejection_threshold": 5.5, "min_jump_to_flag_neighbors": 12.0}
    assert pipeline == {}
    assert len(files) == 3


def test_the_product_records_the_parameter_files(case, tmp_path):
    with case.cache.activate():
        gpucoron.reduce_file(case.path, tmp_path, backend="cpu", steps={"jump": {"sat_expand": 3}})
    from astropy.io import fits

    header = fits.getheader(next(tmp_path.glob("*_rate.fits")))
    history = "\n".join(header["HISTORY"])
    assert f"gpucoron {gpucoron.__version__}, backend {get_backend('cpu').name}, profile jwst" in history
    assert "jwst_nircam_pars-jumpstep" in history.replace("\n", "")
    assert '"rejection_threshold": 5.5' in history.replace("\n", "")
    assert '"sat_expand": 3' in history.replace("\n", "")
    assert header["S_RAMP"] == "COMPLETE"
    assert header["R_GAIN"].startswith("crds://jwst_nircam_gain_")
    assert header["CRDS_CTX"] == case.cache.context


def test_strun_finds_the_pipeline(case, tmp_path):
    environment = {**os.environ, **case.cache.environment}
    strun = Path(sys.executable).parent / "strun"
    done = subprocess.run(
        [strun, "calwebb_coron1", case.path, "--backend=cpu", "--steps.jump.rejection_threshold=7"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rate = next(tmp_path.glob("*_rate.fits"))
    from astropy.io import fits

    assert '"rejection_threshold": 7.0' in "".join(fits.getheader(rate)["HISTORY"])


def test_a_parameter_file_with_an_unknown_name_is_refused(exposures, tmp_path):
    pars = {"pars-jumpstep": {"rejection_treshold": 5.0}}
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 4, 2, shape=(16, 24), pars=pars)
    with case.cache.activate(), pytest.raises(ParameterError, match="jump.rejection_treshold"):
        gpucoron.reduce_file(case.path, tmp_path, backend="cpu")


def test_run_does_not_apply_parameter_files(case):
    with case.cache.activate():
        pipeline = gpucoron.Coron1Pipeline()
        pipeline.backend = "cpu"
        model = pipeline.run(str(case.path))
    assert model.meta.cal_step.ipc == "COMPLETE"


def test_call_refuses_unknown_names_with_the_nearest(case):
    with pytest.raises(ParameterError, match="did you mean 'rejection_threshold'"):
        gpucoron.Coron1Pipeline.call(str(case.path), steps={"jump": {"rejection_treshold": 5}})


def test_call_writes_the_same_products_as_run(case, tmp_path):
    """Additional products have the same names and the same values for every entry point."""
    from astropy.io import fits

    steps = {
        "ramp_fit": {"algorithm": "LIKELY", "save_opt": True},
        "dark_current": {"dark_output": "dark", "save_results": True},
    }
    with case.cache.activate():
        gpucoron.Coron1Pipeline.call(
            str(case.path), steps=steps, backend="cpu", output_dir=str(tmp_path / "call"), save_results=True
        )
        gpucoron.reduce_file(case.path, tmp_path / "run", backend="cpu", steps=steps)
    found = {path.name for path in (tmp_path / "call").iterdir()}
    assert found == {path.name for path in (tmp_path / "run").iterdir()}
    assert {name.rsplit("nrcalong_")[-1] for name in found} == {
        "dark.fits", "dark_current.fits", "likely_chisq.fits", "rate.fits", "rateints.fits"
    }  # fmt: skip
    for name in found:
        mine, theirs = (fits.getdata(tmp_path / folder / name) for folder in ("call", "run"))
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


@pytest.mark.parity
def test_an_open_model_is_accepted_and_left_alone(case, theirs):
    from stdatamodels.jwst import datamodels

    with case.cache.activate(), datamodels.RampModel(str(case.path)) as model:
        before = model.data.copy()
        ours = gpucoron.Coron1Pipeline.call(model, steps={"jump": {"flag_4_neighbors": False}}, backend="cpu")
        np.testing.assert_array_equal(model.data, before)
        assert model.meta.cal_step.jump is None
    assert_same_rate(ours, theirs)


def test_run_single_file(case, tmp_path):
    steps = {"jump": {"rejection_threshold": 6.0}}
    keywords = {"save_calibrated_ramp": True, "maximum_cores": "half", "skip_dark": None, "skip_fnoise_vert": True}
    with case.cache.activate():
        rate = gpucoron.run_single_file(case.path, tmp_path, steps=steps, backend="cpu", **keywords)
        cube = gpucoron.run_single_file(
            case.path, tmp_path, steps=steps, backend="cpu", return_rateints=True, **keywords
        )
        plain = gpucoron.run_single_file(
            case.path, tmp_path, steps=steps, backend="cpu", skip_ktc=True, skip_fnoise=True, **keywords
        )
    assert steps == {"jump": {"rejection_threshold": 6.0}}
    assert rate.data.ndim == 2
    assert cube.data.ndim == 3
    assert rate.meta.cal_step.charge_migration == "COMPLETE"
    assert rate.meta.cal_step.dark_sub == "SKIPPED"
    # rows share their 1/f noise: subtracting it reduces the noise
    assert _row_scatter(rate) < _row_scatter(plain)
    assert {path.name.rsplit("_", 1)[1] for path in tmp_path.iterdir()} == {"rate.fits", "rateints.fits", "ramp.fits"}
    with pytest.raises(ParameterError, match="did you mean 'skip_ktc'"):
        gpucoron.run_single_file(case.path, tmp_path, skip_ktcc=True)


def _row_scatter(model):
    return np.std(np.nanmedian(model.data, axis=1))


@pytest.mark.parametrize("instrument", ["NIRCAM", "MIRI"])
def test_every_custom_step_at_once(instrument, exposures, tmp_path):
    """One exposure of each instrument through run_single_file with every custom step that applies."""
    from astropy.io import fits

    shape = (48, 64)
    if instrument == "NIRCAM":
        case = exposures("NIRCAM", "SUB320A335R", "RAPID", 8, 12, shape=shape)
    else:
        case = exposures("MIRI", "MASK1550", "FASTR1", 12, 12, shape=shape)
    late = np.zeros((1, 8 if instrument == "NIRCAM" else 12, 1, 1), bool)
    late[:, -2:] = True
    steps = {
        "mask_groups": {"skip": False, "mask_array": late},
        "saturation": {"flag_rcsat": True},
        "refpix": {"nleft": 4, "nright": 4},
    }
    with case.cache.activate():
        for stage in ("groups", "ints"):
            gpucoron.run_single_file(
                case.path, tmp_path / stage, steps, backend="cpu", stage_1overf=stage, rate_int_outliers=True
            )
        likely = {**steps, "experimental_jumpramp": {"use": True}}
        gpucoron.run_single_file(
            case.path, tmp_path / "likely", likely, backend="cpu", stage_1overf="ints", rate_int_outliers=True
        )
    for stage in ("groups", "ints", "likely"):
        with fits.open(next((tmp_path / stage).glob("*_rate.fits"))) as hdus:
            history = "".join(hdus[0].header["HISTORY"])
            assert np.isfinite(hdus["SCI"].data).mean() > 0.9
            assert (hdus["ERR"].data[np.isfinite(hdus["SCI"].data)] > 0).mean() > 0.9
        expected = {"mask_groups", "apply_rateints_outliers"}
        if instrument == "NIRCAM":
            expected |= {"subtract_ktc", "subtract_1overf"}
        expected |= {"experimental_jumpramp"} if stage == "likely" else set()
        ran = history.split("gpucoron custom steps: ")[1].split("gpucoron")[0]
        assert expected == {name.strip() for name in ran.split(",")}
