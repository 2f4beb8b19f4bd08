"""The profile ``recommended``: its settings, their precedence, and reductions of both instruments."""

import json

import numpy as np
import pytest
from astropy.io import fits

from gpucoron.cli import main
from gpucoron.engine import check_request, plan, reduce_file, settle
from gpucoron.io.exposure import Exposure
from gpucoron.parameters import PROFILES, changed, resolve
from gpucoron.simulate import Effects
from gpucoron.steps import STEPS

NIRCAM = {
    "saturation": {"grow_diagonal": False},
    "refpix": {"nlower": -1, "nupper": -1, "keep_light": True},
    "subtract_1overf": {"skip": False, "model_type": "kriging"},
}
MIRI = {"ramp_fit": {"algorithm": "LIKELY", "jump_rules": "sound"}}


@pytest.mark.parametrize(
    ("instrument", "subarray", "settings"),
    [
        ("NIRCAM", "SUB320A335R", NIRCAM),
        ("NIRCAM", "FULL", {"saturation": NIRCAM["saturation"]}),
        ("MIRI", "MASK1550", MIRI),
        ("MIRI", "FULL", MIRI),
        ("NIRISS", "SUB80", {}),
    ],
)
def test_settings(instrument, subarray, settings):
    """All settings that differ from jwst's defaults; docs/recommended.md gives the measurement behind each."""
    assert changed(STEPS, resolve(STEPS, "recommended", instrument=instrument, subarray=subarray)) == settings


def test_it_overrides_crds_and_the_user_overrides_it():
    from_crds = {"refpix": {"nlower": 2}, "jump": {"rejection_threshold": 5.0}, "saturation": {"n_pix_grow_sat": 0}}
    from_files = {"refpix": {"nupper": 3}, "jump": {"rejection_threshold": 6.0}}
    steps = {"subtract_1overf": {"skip": True}, "refpix": {"keep_light": False}}
    found = resolve(STEPS, "recommended", from_crds=from_crds, from_files=from_files, steps=steps)
    refpix = found["refpix"]
    assert (refpix.nlower, refpix.nupper, refpix.keep_light) == (-1, 3, False)
    assert found["jump"].rejection_threshold == 6.0
    assert found["saturation"].n_pix_grow_sat == 0
    assert found["subtract_1overf"].skip
    # spaceKLIP's profile stays below the files of CRDS
    assert resolve(STEPS, "spaceklip", from_crds=from_crds)["refpix"].nlower == 2
    for profile in PROFILES:
        assert resolve(STEPS, profile, from_crds=from_crds)["jump"].rejection_threshold == 5.0


@pytest.fixture(scope="module")
def nircam(exposures):
    pars = {"pars-jumpstep": {"rejection_threshold": 5.0}, "pars-saturationstep": {"n_pix_grow_sat": 0}}
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 3, shape=(48, 64), pars=pars, seed=3)


@pytest.fixture(scope="module")
def miri(exposures):
    pars = {"pars-emicorrstep": {"skip": False}}
    return exposures("MIRI", "MASK1550", "FASTR1", 12, 3, shape=(48, 64), pars=pars, effects=Effects(emi=True), seed=3)


def test_parameter_files_of_crds_apply(nircam, monkeypatch):
    with nircam.cache.activate():
        exposure = Exposure.read_headers(nircam.path)
        parameters, _, files = settle(exposure, profile="recommended")
        assert len(files) == 2
        assert (parameters["jump"].rejection_threshold, parameters["saturation"].grow_diagonal) == (5.0, False)
        assert settle(exposure, profile="recommended", use_pars=False)[2] == []
        monkeypatch.setenv("STPIPE_DISABLE_CRDS_STEPPARS", "true")
        assert settle(exposure, profile="recommended")[2] == []
    assert check_request(profile="recommended")[1]["refpix"].keep_light


def test_the_stage_of_its_model(nircam, tmp_path):
    """The stage is a parameter of the run as a whole."""
    assert settle(profile="recommended")[1].stage_1overf == "groups"
    assert settle(profile="recommended", pipeline={"stage_1overf": "ints"})[1].stage_1overf == "ints"
    assert settle(profile="jwst")[1].stage_1overf == settle(profile="spaceklip")[1].stage_1overf == "ints"
    with nircam.cache.activate():
        run = plan(Exposure.read(nircam.path), profile="recommended", backend="cpu")
    assert run.order.index("subtract_1overf") < run.order.index("ramp_fit")


def explicit(settings, **more):
    return {"steps": {**settings, **more}}


def test_nircam_is_the_jwst_profile_with_its_settings(nircam, tmp_path):
    with nircam.cache.activate():
        arguments = ["run", str(nircam.path), "-o", str(tmp_path), "--profile", "recommended", "--backend", "cpu", "-q"]
        assert main(arguments) == 0
        of_profile = explicit(NIRCAM) | {"stage_1overf": "groups"}
        _, expected, _ = reduce_file(nircam.path, tmp_path, backend="cpu", save_results=False, **of_profile)
        _, plain, _ = reduce_file(nircam.path, tmp_path, backend="cpu", save_results=False)
    (path,) = tmp_path.glob("*_rate.fits")
    with fits.open(path) as product:
        np.testing.assert_array_equal(product["SCI"].data, expected["rate"].data)
        np.testing.assert_array_equal(product["ERR"].data, expected["rate"].err)
        assert "profile recommended" in "".join(product[0].header["HISTORY"])
    assert not np.array_equal(expected["rate"].data, plain["rate"].data, equal_nan=True)


def test_miri_is_the_jwst_profile_with_its_settings(miri, tmp_path):
    with miri.cache.activate():
        run, models, _ = reduce_file(miri.path, tmp_path, profile="recommended", backend="cpu", save_results=False)
        _, expected, _ = reduce_file(miri.path, tmp_path, backend="cpu", save_results=False, **explicit(MIRI))
    status = {record.name: record.status for record in run.records}
    assert status["emicorr"] == status["ramp_fit"] == "COMPLETE"
    np.testing.assert_array_equal(models["rate"].data, expected["rate"].data)
    np.testing.assert_array_equal(models["rate"].err, expected["rate"].err)


def test_a_batch_repeats_it(nircam, tmp_path, capsys):
    arguments = ["batch", str(nircam.path), "-o", str(tmp_path), "--profile", "recommended", "--workers", "1", "-q"]
    with nircam.cache.activate():
        assert main(arguments) == 0
        assert main([*arguments[:-1], "--dry-run"]) == 0
        assert main(["report", str(tmp_path)]) == 0
    (record,) = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()][-1:]
    assert record["profile"] == "recommended"
    assert "recommended" in (tmp_path / "report.html").read_text()


def test_plan_takes_it(miri):
    with miri.cache.activate():
        run = plan(Exposure.read(miri.path), profile="recommended", backend="cpu")
    assert (run.profile, run.parameters["ramp_fit"].algorithm) == ("recommended", "LIKELY")
