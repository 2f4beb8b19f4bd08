"""Steps and searches that are off by default: every ramp and product is that of jwst's pipeline."""

import numpy as np
import pytest
from astropy.io import fits

import gpucoron
from gpucoron.simulate import Effects
from tests.cases.pipelines import SLOPE_ARRAYS, assert_same_flags, assert_same_values, run_jwst, run_ours

pytestmark = pytest.mark.parity

NIRCAM = (("NIRCAM", "SUB320A335R", "RAPID", 8, 2), {"shape": (40, 320)})
MIRI = (("MIRI", "MASK1550", "FASTR1", 20, 2), {"shape": (40, 288), "effects": Effects(emi=True)})

CASES = {
    "emicorr": (*MIRI, {"emicorr": {"skip": False}}),
    "clean_flicker_noise": (*NIRCAM, {"clean_flicker_noise": {"skip": False}}),
    "likely": (*NIRCAM, {"ramp_fit": {"algorithm": "LIKELY"}}),
    "snowballs": (*NIRCAM, {"jump": {"expand_large_events": True, "min_jump_area": 3.0, "edge_size": 10}}),
    "showers": (*MIRI, {"jump": {"find_showers": True, "extend_min_area": 20}}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_ramp_and_product_is_jwsts(name, exposures):
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
