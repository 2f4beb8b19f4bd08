"""GAINFACT of the gain reference: rate and rateints are scaled once, also if they hold the same numbers."""

import numpy as np
import pytest

from gpucoron import reduce_file
from tests.cases.parity import LIKELY_RTOL
from tests.cases.pipelines import SLOPE_ARRAYS, run_jwst, run_ours

FACTOR = 2.0
#: factor of an array that is scaled once
SCALE = {"data": FACTOR, "err": FACTOR, "var_poisson": FACTOR**2, "var_rnoise": FACTOR**2, "dq": 1}


@pytest.fixture(scope="module")
def by_algorithm(exposures):
    """Reduce one integration with each algorithm: exposure, jwst's products, gpucoron's, those without gain_scale."""
    arguments = ("NIRCAM", "SUB320A335R", "RAPID", 6, 1)
    case = exposures(*arguments, shape=(16, 24), options={"gain_factor": FACTOR})
    found = {}
    with case.cache.activate():
        for algorithm in ("OLS_C", "LIKELY"):
            steps = {"ramp_fit": {"algorithm": algorithm}}
            unscaled = run_ours(case.path, steps | {"gain_scale": {"skip": True}}, backend="numpy")
            ours = run_ours(case.path, steps, backend="numpy")
            found[algorithm] = case, run_jwst(case.path, steps), ours, unscaled
    return found


@pytest.mark.parity
@pytest.mark.parametrize("product", ["rate", "rateints"])
@pytest.mark.parametrize("algorithm", ["OLS_C", "LIKELY"])
def test_one_integration_is_scaled_once(by_algorithm, algorithm, product):
    _case, theirs, ours, unscaled = by_algorithm[algorithm]
    for name in SLOPE_ARRAYS:
        expected = getattr(unscaled, product)[name] * SCALE[name]
        np.testing.assert_array_equal(getattr(ours, product)[name], expected, err_msg=name)
        if algorithm == "OLS_C":
            np.testing.assert_array_equal(getattr(theirs, product)[name], expected, err_msg=name)


@pytest.mark.parity
def test_jwst_scales_the_only_integration_of_likely_twice(by_algorithm):
    """jwst's rate is a view of its rateints. If this fails, jwst is fixed: remove the line in docs/deviations.md."""
    _case, theirs, ours, _ = by_algorithm["LIKELY"]
    products = {"rate": {name: getattr(theirs.model, name) for name in SLOPE_ARRAYS}, "rateints": theirs.rateints}
    for product, arrays in products.items():
        for name in SLOPE_ARRAYS:
            expected = getattr(ours, product)[name] * SCALE[name]
            np.testing.assert_allclose(arrays[name], expected, rtol=LIKELY_RTOL, err_msg=f"{product} {name}")


@pytest.mark.parametrize("algorithm", ["OLS_C", "LIKELY"])
def test_the_rate_is_the_truths_scaled_once(by_algorithm, algorithm):
    case, _theirs, ours, _ = by_algorithm[algorithm]
    truth, rate = case.simulation.truth.rate, ours.rate["data"]
    bright = truth > np.quantile(truth, 0.8)
    assert np.nanmedian(rate[bright] / truth[bright]) == pytest.approx(FACTOR, rel=0.1)


@pytest.mark.parity
def test_without_rates_nothing_is_scaled(by_algorithm, tmp_path):
    """The ramp is the product; jwst fails. If this fails, jwst is fixed: see docs/deviations.md."""
    case = by_algorithm["OLS_C"][0]
    steps = {"ramp_fit": {"skip": True}}
    with case.cache.activate():
        run, models, _paths = reduce_file(case.path, tmp_path, steps=steps, backend="numpy")
        with pytest.raises(AttributeError, match="err"):
            run_jwst(case.path, steps)
    assert {record.name: record.status for record in run.records}["gain_scale"] == "SKIPPED"
    assert models["ramp"].meta.cal_step.gain_scale == "SKIPPED"
