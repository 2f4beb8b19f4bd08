"""Models 'kriging' and 'rows' of subtract_1overf in whole reductions: rates and errors beside the simulated truth."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw
from gpucoron.errors import ParameterError
from gpucoron.parameters import resolve
from gpucoron.simulate import Effects, Scene
from gpucoron.steps import STEPS, subtract_1overf
from gpucoron.steps.linear_1overf import clean_rateints, star
from gpucoron.steps.noise_error import NoiseError, add_noise_error
from tests.cases.pipelines import SLOPE_ARRAYS, run_ours

SHAPE = 64, 96
#: seeds of the simulations
SEEDS = 1, 3
EFFECTS = Effects(one_over_f=3.0, cosmic_rays=0, bad_pixels=False, nonlinearity=False, ipc=False)
FAINT = Scene(companion_contrast=0.0, halo=3e-6)
NIRCAM = "NIRCAM", "SUB320A335R", "RAPID"


@pytest.fixture(scope="module")
def reduce(exposures):
    """Reduce simulated exposures, each combination once: ``reduce(nints, seed, stage, **parameters)``."""
    made = {}

    def run(nints, seed, stage, *, steps=None, **parameters):
        key = repr((nints, seed, stage, steps, sorted(parameters.items())))
        if key not in made:
            case = simulate(exposures, nints, seed)
            own = {"subtract_1overf": {"skip": False, **parameters}} if parameters else {}
            with case.cache.activate():
                made[key] = run_ours(case.path, {**own, **(steps or {})}, pipeline={"stage_1overf": stage})
        return made[key]

    return run


def simulate(exposures, nints, seed):
    return exposures(*NIRCAM, 8, nints, shape=SHAPE, effects=EFFECTS, scene=FAINT, seed=seed)


def beyond_star(exposures, nints, seed):
    truth = simulate(exposures, nints, seed).simulation.truth
    y, x = np.indices(SHAPE)
    return truth.rate, np.hypot(x - truth.star[0], y - truth.star[1]) > 20


def measure(exposures, found, nints, seed):
    """Measure the scatter of the rate beyond the star, and the widths of the pulls of the rate and the rateints."""
    rate, far = beyond_star(exposures, nints, seed)
    # the background of the scene is not subtracted exactly: superbias, dark current
    off = [(product["data"] - rate)[..., far] for product in (found.rate, found.rateints)]
    off = [each - np.nanmedian(each, axis=-1, keepdims=True) for each in off]
    pulls = [each / product["err"][..., far] for each, product in zip(off, (found.rate, found.rateints), strict=True)]
    return np.array([np.nanstd(each) for each in (off[0], *pulls)])


@pytest.mark.parametrize(("stage", "nints"), [("groups", 1), ("groups", 3), ("ints", 3)])
def test_rates_and_errors(exposures, reduce, stage, nints):
    """The rates are closer to the truth, and their errors are their scatter, which includes the remaining noise."""
    models = {"none": {}, "rows": {"model_type": "rows"}, "kriging": {"model_type": "kriging"}}
    results = {}
    for name, parameters in models.items():
        found = [reduce(nints, seed, stage, **parameters) for seed in SEEDS]
        results[name] = np.mean(
            [measure(exposures, each, nints, seed) for each, seed in zip(found, SEEDS, strict=True)], axis=0
        )
        for each, seed in zip(found, SEEDS, strict=True):
            plain = reduce(nints, seed, stage)
            np.testing.assert_array_equal(each.rateints["dq"], plain.rateints["dq"])
            np.testing.assert_array_equal(np.isnan(each.rate["data"]), np.isnan(plain.rate["data"]))
            if name == "kriging":
                assert np.nanmedian(each.rate["err"]) > 1.05 * np.nanmedian(plain.rate["err"])
    assert results["kriging"][0] < results["rows"][0] < 0.93 * results["none"][0]
    assert results["none"][1:].min() > 1.25
    np.testing.assert_allclose(results["kriging"][1:], 1, atol=0.05)


def test_a_given_spectrum_is_used(reduce):
    """Of a single integration the spectrum cannot be measured after the fit: the usual one, or that of the user."""
    exposure = reduce(1, 1, "ints").run.exposure
    several = reduce(3, 1, "ints").run.exposure
    backend = get_backend("numpy")

    def used(exposure, **parameters):
        settings = subtract_1overf.STEP.settings(model_type="kriging", **parameters)
        rateints, _, _, (spectrum, is_measured) = clean_rateints(exposure, settings, backend)
        assert is_measured == (exposure is several and not parameters.get("amplitude"))
        return rateints.rate, spectrum

    usual, spectrum = used(exposure)
    assert spectrum.common == PowerLaw(0.14, 1.0)
    given, spectrum = used(exposure, amplitude=1.26, exponent=0.9)
    assert spectrum.common == PowerLaw(pytest.approx(1.26), 0.9)
    assert abs(given - usual).max() > 0.1
    assert used(several, exponent=0.8)[1].common.exponent == 0.8
    # three times the usual noise
    assert used(several, exponent=1.0)[1].common.amplitude == pytest.approx(9 * 0.14, rel=0.5)
    unchanged, _ = used(exposure, amplitude=0.0)
    np.testing.assert_array_equal(unchanged, exposure.rateints.rate)
    most, _ = used(exposure, amplitude=1.26, relaxation=1.0)
    less, _ = used(exposure, amplitude=1.26, relaxation=8.0)
    changes = [(each - exposure.rateints.rate).std() for each in (less, most)]
    assert changes[0] < 0.8 * changes[1]


@pytest.mark.parametrize("stage", ["groups", "ints"])
def test_the_spectrum_is_in_the_header(reduce, stage):
    run = reduce(3, 1, stage, model_type="kriging").run
    (amplitude, _), (exponent, _), (left, _) = (run.keywords[key] for key in ("FNAMP", "FNEXP", "FNLEFT"))
    # three times the usual noise
    assert amplitude == pytest.approx(9 * 0.14, rel=0.6)
    assert exponent == pytest.approx(1, abs=0.2)
    assert left == pytest.approx(np.sqrt(run.exposure.noise_error.rate), rel=1e-3)
    assert (run.keywords["FNMEAS"][0], run.keywords["FNSTAGE"][0]) == (True, stage)


@pytest.mark.parametrize("stage", ["groups", "ints"])
def test_a_given_amplitude_removes_more(exposures, reduce, stage):
    parameters = {"model_type": "kriging", "exponent": 1.0}
    scatter = [
        measure(exposures, reduce(1, 1, stage, amplitude=amplitude, **parameters), 1, 1)[0] for amplitude in (0.0, 1.26)
    ]
    assert scatter[1] < 0.9 * scatter[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("relaxation", 0.5),
        ("relaxation", "word"),
        ("amplitude", -1.0),
        ("amplitude", 1e7),
        ("amplitude", float("nan")),
        ("exponent", 4.0),
        ("exponent", -0.1),
        ("model_type", "krige"),
    ],
)
def test_wrong_values_are_refused_by_name(name, value):
    with pytest.raises(ParameterError, match=f"subtract_1overf.{name}"):
        resolve(STEPS, steps={"subtract_1overf": {name: value}})


@pytest.mark.parametrize("stage", ["groups", "ints"])
@pytest.mark.parametrize("model_type", ["kriging", "rows"])
def test_chunks_give_the_same_bits(exposures, reduce, stage, model_type):
    case = simulate(exposures, 3, 1)
    expected = reduce(3, 1, stage, model_type=model_type)
    steps = {"subtract_1overf": {"skip": False, "model_type": model_type}}
    with case.cache.activate():
        limited = get_backend("numpy").in_chunks(1)
        found = run_ours(case.path, steps, backend=limited, pipeline={"stage_1overf": stage})
    assert found.run.backend.is_in_chunks
    for product in ("rate", "rateints"):
        for key in SLOPE_ARRAYS:
            ours, theirs = (getattr(each, product)[key] for each in (found, expected))
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{product} {key}")


@pytest.mark.parametrize("stage", ["groups", "ints"])
@pytest.mark.parametrize(
    "others",
    [
        {"ramp_fit": {"algorithm": "LIKELY"}},
        {"experimental_jumpramp": {"skip": False, "use": True}},
        {"apply_rateints_outliers": {"skip": False, "sigma_cut": 4.0, "nint_min": 3}},
    ],
    ids=lambda others: next(iter(others)),
)
def test_with_other_steps(exposures, reduce, stage, others):
    """Any fit is used for the slopes, and its errors grow."""
    plain = reduce(3, 1, stage, steps=others)
    found = reduce(3, 1, stage, steps=others, model_type="kriging")
    status = {record.name: record.status for record in found.run.records}
    assert status["subtract_1overf"] == "COMPLETE"
    assert all(status[name] == "COMPLETE" for name in others)
    scatter, pull, of_ints = measure(exposures, found, 3, 1)
    before, _, _ = measure(exposures, plain, 3, 1)
    assert scatter < 0.93 * before
    assert np.nanmedian(found.rateints["err"]) > 1.02 * np.nanmedian(plain.rateints["err"])
    # One exposure: its spectrum is good to 20 %, and the errors of likelihoods are 3 % smaller than those of OLS.
    assert pull == pytest.approx(1, abs=0.12)
    assert of_ints == pytest.approx(1, abs=0.12)


def test_miri_has_no_such_noise(exposures):
    case = exposures("MIRI", "MASK1550", "FASTR1", 8, 2, shape=(24, 32))
    for stage in ("groups", "ints"):
        with case.cache.activate():
            steps = {"subtract_1overf": {"skip": False, "model_type": "kriging"}}
            run = run_ours(case.path, steps, pipeline={"stage_1overf": stage}).run
        record = next(each for each in run.records if each.name == "subtract_1overf")
        assert record.status == "SKIPPED"
        assert "not for MIRI" in record.reason
        assert run.exposure.noise_error is None


def test_the_step_says_what_is_missing(reduce):
    exposure = replace(reduce(1, 1, "ints").run.exposure)
    settings = subtract_1overf.STEP.settings(model_type="kriging")
    backend = get_backend("numpy")
    for name in ("gain", "readnoise"):
        references = {"gain": "there", "readnoise": "there", name: None}
        outcome = subtract_1overf.run(exposure, references, settings, backend, "groups", None)
        assert (outcome.status, outcome.reason) == ("SKIPPED", f"there is no {name} reference")
    exposure.rateints = None
    outcome = subtract_1overf.run(exposure, {}, settings, backend, "ints", None)
    assert (outcome.status, outcome.reason) == ("SKIPPED", "there are no rateints")


def test_the_star_is_the_reference_point(exposures, reduce):
    """Keywords count from 1; a point outside of the image is ignored."""
    facts = reduce(1, 1, "ints").run.exposure.facts
    assert star(facts, SHAPE) == pytest.approx(simulate(exposures, 1, 1).simulation.truth.star)
    assert star(replace(facts, crpix1=90.5, crpix2=2.0), SHAPE) == (89.5, 1.0)
    for place in ((None, 5.0), (5.0, None), (200.0, 5.0), (5.0, 0.0)):
        assert star(replace(facts, crpix1=place[0], crpix2=place[1]), SHAPE) == (47.5, 31.5)


def test_errors_grow_only_where_there_are_errors(reduce):
    exposure = replace(reduce(3, 1, "ints").run.exposure)
    for name in ("rate", "rateints"):
        slopes = getattr(exposure, name)
        setattr(exposure, name, type(slopes)(*(array.copy() for array in vars(slopes).values())))
    exposure.rate.err[3, 4], exposure.rate.err[3, 5] = np.nan, 0
    exposure.noise_error = None
    before = exposure.rate.err.copy(), exposure.rateints.err.copy(), exposure.rate.var_rnoise.copy()
    add_noise_error(exposure, xp=np)
    np.testing.assert_array_equal(exposure.rate.err, before[0])
    exposure.noise_error = NoiseError((0.5, 0.0, 2.0), 0.25)
    add_noise_error(exposure, xp=np)
    known = np.isfinite(before[0]) & (before[0] > 0)
    assert not known[3, 4]
    assert not known[3, 5]
    np.testing.assert_allclose(exposure.rate.err[known], np.sqrt(before[0][known] ** 2 + 0.25), rtol=1e-6)
    np.testing.assert_array_equal(exposure.rate.err[~known], before[0][~known])
    np.testing.assert_allclose(exposure.rate.var_rnoise[known], before[2][known] + 0.25, rtol=1e-6)
    np.testing.assert_array_equal(exposure.rateints.err[1], before[1][1])
    np.testing.assert_allclose(exposure.rateints.err[2] ** 2, before[1][2] ** 2 + 2, rtol=1e-5)
