"""subtract_1overf: masks and models compared with results of spaceKLIP, its parts separately, and with the truth."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from gpucoron.backends import chunks, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.operations.subtract_1overf.savgol import MaskedLine, bridge_holes, smooth_columns
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.simulate import Effects, Scene, simulate
from gpucoron.steps import subtract_1overf
from gpucoron.steps.subtract_1overf import (
    background_mask,
    combine_rateints,
    fit_noise,
    noise_of_ramp,
    noise_of_rateints,
    protect_sources,
)
from gpucoron.steps.subtract_ktc import fit_ktc
from tests.cases.paths import DATA

#: fraction of the model's rms
TOLERANCE = {"savgol": 1e-3, "median": 1e-5, "mean": 1e-5}
SAMPLED = np.s_[..., 3::7, 2::5]


def make_pink(rng, shape, rms):
    """Make 1/f noise along frames that are read row by row."""
    n = shape[-2] * shape[-1]
    frequency = np.fft.rfftfreq(n)
    frequency[0] = 1
    spectrum = np.fft.rfft(rng.standard_normal((*shape[:-2], n))) / np.sqrt(frequency)
    pink = np.fft.irfft(spectrum, n)
    return (pink / pink.std() * rms).reshape(shape).astype(np.float32)


def assert_same_model(model, expected, tolerance):
    assert model.dtype == np.float32
    off = np.abs(model - expected) > tolerance * expected.std()
    assert off.mean() <= 1e-3


# -- spaceKLIP's figures --


@pytest.mark.parity
def test_background_as_spaceklip():
    case = np.load(DATA / "background_mask.npz")
    np.testing.assert_array_equal(background_mask(case["image"]), case["mask"])
    case = np.load(DATA / "flicker_image.npz")
    np.testing.assert_array_equal(background_mask(case["residual"]), case["mask"])


@pytest.mark.parity
@pytest.mark.parametrize("model_type", ["savgol", "median", "mean"])
def test_models_as_spaceklip(model_type):
    case = np.load(DATA / "flicker_image.npz")
    names = [name for name in case.files if name.startswith(model_type)]
    assert len(names) == 8
    for name in names:
        _, vertical, flat, slow = name.split("_")
        model = fit_noise(
            case["residual"],
            case["mask"],
            model_type=model_type,
            vertical_corr=vertical == "vert1",
            flatten_model=flat == "flat1",
            slowaxis=int(slow[-1]),
        )
        assert_same_model(model[SAMPLED], case[name], TOLERANCE[model_type])


@pytest.mark.parity
def test_four_outputs_as_spaceklip():
    case = np.load(DATA / "flicker_4outputs.npz")
    model = fit_noise(case["residual"], case["mask"], vertical_corr=True, noutputs=4)
    assert_same_model(model[SAMPLED], case["model"], 1e-3)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "options", "nints"),
    [
        ("rows_slow", {}, 4),
        ("columns_slow", {"slowaxis": -1, "model_type": "median"}, 4),
        ("two_outputs", {"noutputs": 2}, 4),
        ("single", {"vertical_corr": False}, 1),
    ],
)
def test_rateints_as_spaceklip(name, options, nints):
    case = np.load(DATA / "flicker_rateints.npz")
    data, dq = case["data"][:nints], case["dq"][:nints]
    before = data.copy()
    noise = noise_of_rateints(data, dq, **options)
    assert_same_model(noise[..., 1::3, ::2], case[name], 1e-4)
    np.testing.assert_array_equal(data, before)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "options", "nints"),
    [
        ("ramp", {}, 3),
        ("ramp_apart_mean", {"combine_ints": False, "model_type": "mean", "vertical_corr": False}, 3),
        ("ramp_single", {}, 1),
    ],
)
def test_ramp_as_spaceklip(name, options, nints):
    case = np.load(DATA / "flicker_ramp.npz")
    arrays = case["data"][:nints], case["groupdq"][:nints], case["saturation"], float(case["group_time"])
    assert_same_model(noise_of_ramp(*arrays, **options)[..., 1::3, ::2], case[name], 1e-4)


# -- the parts --


def test_whole_line_is_scipys():
    line = make_pink(np.random.default_rng(1), (10, 100), 3.0).reshape(-1)
    model = MaskedLine(line, np.ones(1000, bool), 127).model
    np.testing.assert_allclose(model, savgol_filter(line, 127, 3), atol=1e-5)


@pytest.mark.parametrize(("ny", "window"), [(320, 255), (40, 39), (9, 5), (5, 5), (4, 3)])
def test_smooth_columns_are_scipys(ny, window):
    image = make_pink(np.random.default_rng(2), (ny, 30), 3.0)
    # SciPy rounds more at the ends in float32
    expected = savgol_filter(image.astype(float), window, min(3, window - 1), axis=0)
    np.testing.assert_allclose(smooth_columns(image, window), expected, atol=2e-6)


def test_holes_are_bridged_between_smooth_values():
    line = np.arange(200, dtype=np.float32)
    good = np.ones(200, bool)
    good[[0, 1, 50, 51, 52, 120, 199]] = False
    bridged = bridge_holes(np.where(good, line, np.nan).astype(np.float32), good)
    # A straight line is its own smooth version; beyond the ends the interpolation is constant. Holes are filled by the
    # smooth values at their sides, which bends the line a little.
    np.testing.assert_array_equal(bridged[good], line[good])
    np.testing.assert_allclose(bridged[[50, 51, 52, 120]], [50, 51, 52, 120], atol=1.0)
    np.testing.assert_allclose(bridged[[0, 1]], 2, atol=1e-3)
    np.testing.assert_allclose(bridged[199], 198, atol=1e-3)
    assert (bridge_holes(line, np.zeros(200, bool)) == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(60, 3000), st.floats(0, 0.7), st.integers(0, 2**32 - 1))
def test_samples_left_out_later_are_as_if_left_out_at_once(n, share, seed):
    rng = np.random.default_rng(seed)
    line = make_pink(rng, (1, n), 3.0).reshape(-1)
    good = rng.random(n) >= share
    window = 2 * int(rng.integers(2, min(n, 127) // 2)) + 1
    later = MaskedLine(line, good, window)
    for _ in range(3):
        start = rng.integers(0, n, rng.integers(1, 4))
        left_out = np.unique(np.minimum(start[:, None] + np.arange(rng.integers(1, 60)), n - 1))
        good[left_out] = False
        before = later.model.copy()
        touched = later.leave_out(left_out)
        changed = np.flatnonzero(later.model != before)
        assert np.isin(changed, touched).all()
        np.testing.assert_allclose(later.model, MaskedLine(line, good, window).model, atol=2e-5)


@pytest.mark.parametrize("model_type", ["savgol", "median", "mean", "fft"])
def test_the_model_follows_noise_and_ignores_masked_samples(model_type):
    rng = np.random.default_rng(2)
    pink = make_pink(rng, (96, 160), 4.0)
    image = pink + rng.normal(0, 1, pink.shape).astype(np.float32)
    mask = np.ones(image.shape, bool)
    mask[40:60, 70:100] = False
    image[40:60, 70:100] += 7  # below the cut of outliers
    image[3, :] = np.nan
    mask[80] = False
    model = fit_noise(image, mask, model_type=model_type)
    assert np.isfinite(model).all()
    used = mask & np.isfinite(image)
    # The window, and a single number per row, do not remove the fast part of the noise.
    left = np.std((pink - model)[used]) / np.std(pink[used])
    assert left < {"savgol": 0.6, "fft": 0.6}.get(model_type, 0.7)
    hole = np.mean((model - pink)[40:60, 70:100])
    assert abs(hole - np.mean((model - pink)[used])) < 0.7


@pytest.mark.parametrize("model_type", ["savgol", "median", "mean", "fft"])
@pytest.mark.parametrize("noutputs", [1, 4])
def test_slow_axis_1_is_the_transposed_of_2(model_type, noutputs):
    """Also with the common model of several outputs, which spaceKLIP transposes along the wrong axis."""
    rng = np.random.default_rng(3)
    image = make_pink(rng, (64, 64), 3.0) + rng.normal(0, 1, (64, 64)).astype(np.float32)
    mask = rng.random(image.shape) < 0.95
    options = {"model_type": model_type, "vertical_corr": True, "noutputs": noutputs, "channel_averaging": noutputs > 1}
    rows = fit_noise(image, mask, slowaxis=2, **options)
    columns = fit_noise(image.T, mask.T, slowaxis=-1, **options)
    np.testing.assert_array_equal(columns.T, rows)


def test_common_noise_of_outputs_read_along_columns_is_found():
    """The effect of spaceKLIP's fault: with the wrong axis, the common model is worse than none."""
    rng = np.random.default_rng(4)
    common = make_pink(rng, (256, 64), 4.0)
    frame = np.concatenate([common[:, ::-1], common, common[:, ::-1], common], axis=1)
    image = (frame + rng.normal(0, 2, frame.shape).astype(np.float32)).T
    mask = np.ones(image.shape, bool)
    own = fit_noise(image, mask, slowaxis=1, noutputs=4)
    both = fit_noise(image, mask, slowaxis=1, noutputs=4, channel_averaging=True)
    assert np.std(frame.T - both) < 0.98 * np.std(frame.T - own)


def test_threads_and_batches_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(chunks, "works_in_place", lambda *_: False)
    rng = np.random.default_rng(5)
    images = make_pink(rng, (5, 64, 80), 3.0) + rng.normal(0, 2, (5, 64, 80)).astype(np.float32)
    single, several = get_backend("cpu", n_threads=1), get_backend("cpu", n_threads=3)
    masks = single.background_mask(images, None)
    models = single.fit_1overf(images, masks, vertical_corr=True)
    np.testing.assert_array_equal(several.background_mask(images, None), masks)
    np.testing.assert_array_equal(several.fit_1overf(images, masks, vertical_corr=True), models)
    np.testing.assert_array_equal(single.fit_1overf(images[3:4], masks[3:4], vertical_corr=True)[0], models[3])
    in_chunks = Backend(single.device, home=NumpyDevice(), budget=2**20)
    np.testing.assert_array_equal(in_chunks.background_mask(images, None), masks)
    np.testing.assert_array_equal(in_chunks.fit_1overf(images, masks, vertical_corr=True), models)


def test_views_are_as_good_as_copies():
    rng = np.random.default_rng(6)
    image = make_pink(rng, (64, 80), 3.0)
    image[20:30, 40:50] += 30
    bad = rng.random(image.shape) < 0.01
    np.testing.assert_array_equal(background_mask(image.T.copy(), bad.T.copy()).T, background_mask(image.T, bad.T).T)
    wide = np.zeros((64, 100), np.float32)
    wide[:, 10:90] = image
    np.testing.assert_array_equal(background_mask(wide[:, 10:90], bad), background_mask(image, bad))


@pytest.mark.parametrize("fill", [np.nan, 0.0, np.inf])
def test_images_without_anything_do_no_harm(fill):
    image = np.full((20, 24), fill, np.float32)
    mask = background_mask(image)
    assert mask.any() == (fill == 0)
    for model_type in ("savgol", "median", "mean", "fft"):
        assert (fit_noise(image, mask, model_type=model_type, vertical_corr=True, flatten_model=True) == 0).all()


def test_wrong_wishes_are_refused():
    image, mask = np.zeros((16, 18), np.float32), np.ones((16, 18), bool)
    with pytest.raises(ValueError, match="model_type: expected one of savgol"):
        fit_noise(image, mask, model_type="spline")
    with pytest.raises(ValueError, match="18 pixels along the fast axis"):
        fit_noise(image, mask, noutputs=4)
    with pytest.raises(ValueError, match="slowaxis: expected one of 2, -2, 1, -1"):
        fit_noise(image, mask, slowaxis=0)
    with pytest.raises(ValueError, match=r"mask: expected \(ny, nx\) = \(16, 18\)"):
        fit_noise(image, mask[1:])
    with pytest.raises(ValueError, match="pairs x, y"):
        protect_sources((16, 18), [1.0, 2.0, 3.0])


# -- the rate from corrected integrations --


def make_slopes(rng, nints=4, shape=(5, 6)):
    def cube(low, high):
        return rng.uniform(low, high, (nints, *shape)).astype(np.float32)

    rateints = Slopes(cube(-1, 9), np.zeros((nints, *shape), np.uint32), cube(0.1, 2), cube(0.1, 2), cube(1, 2))
    rateints.rate[1, 2, 3] = np.nan
    rateints.dq[1, 2, 3] = DO_NOT_USE
    for values in (rateints.rate, rateints.var_poisson, rateints.var_rnoise):
        values[:, 0, 0] = np.nan if values is rateints.rate else 0
    image = np.full(shape, 7, np.float32)
    rate = Slopes(image, np.arange(30, dtype=np.uint32).reshape(shape), image.copy(), image.copy(), image.copy())
    return rate, rateints


def test_weighted_rate_and_its_errors():
    rate, rateints = make_slopes(np.random.default_rng(7))
    new = combine_rateints(rate, rateints)
    weights = 1 / (rateints.var_poisson[:, 1, 1] + rateints.var_rnoise[:, 1, 1])
    np.testing.assert_allclose(new.rate[1, 1], np.average(rateints.rate[:, 1, 1], weights=weights), rtol=1e-6)
    np.testing.assert_allclose(new.err[1, 1], 1 / np.sqrt(weights.sum()), rtol=1e-6)
    np.testing.assert_allclose(
        new.var_poisson + new.var_rnoise, new.err**2 * np.where(new.rate == 7, 2 / 7, 1), rtol=1e-5
    )
    kept = [0, 2, 3]
    weights = 1 / (rateints.var_poisson[kept, 2, 3] + rateints.var_rnoise[kept, 2, 3])
    np.testing.assert_allclose(new.rate[2, 3], np.average(rateints.rate[kept, 2, 3], weights=weights), rtol=1e-6)
    # No integration has a rate: unchanged.
    assert new.rate[0, 0] == new.err[0, 0] == new.var_poisson[0, 0] == 7
    np.testing.assert_array_equal(new.dq, rate.dq)


def test_variances_from_own_rates_do_not_pull_the_rate_down():
    """LIKELY's photon noise follows from the rate of each integration: bright ones must not get less weight."""
    rng = np.random.default_rng(10)
    shape, seconds = (12, 150, 150), 10.0
    counts = rng.poisson(3.0 * seconds, shape) / seconds
    noise = rng.normal(0, 0.5, (12, 150, 1))
    ones = np.ones(shape, np.float32)
    fitted = Slopes((counts + noise).astype(np.float32), None, (counts / seconds).astype(np.float32), 0.05 * ones, ones)
    rate = Slopes(counts.mean(axis=0) + noise.mean(axis=0), None, ones[0], ones[0], ones[0])
    corrected = Slopes(**{**vars(fitted), "rate": counts.astype(np.float32)})
    new = combine_rateints(rate, corrected, fitted=fitted)
    error = np.sqrt(3.0 / seconds / counts.size)
    assert abs(new.rate.mean() - 3.0) < 5 * error
    assert combine_rateints(rate, corrected).rate.mean() - 3.0 < -20 * error
    assert new.err is rate.err


def test_plain_mean_as_spaceklip_with_errors_that_follow():
    rate, rateints = make_slopes(np.random.default_rng(8))
    new = combine_rateints(rate, rateints, combination="nanmean")
    expected = np.nanmean(rateints.rate.reshape(4, -1)[:, 1:], axis=0)
    np.testing.assert_allclose(new.rate.reshape(-1)[1:], expected, rtol=1e-6)
    np.testing.assert_allclose(new.var_rnoise[1, 1], rateints.var_rnoise[:, 1, 1].sum() / 16, rtol=1e-6)
    np.testing.assert_allclose(new.var_poisson[2, 3], rateints.var_poisson[[0, 2, 3], 2, 3].sum() / 9, rtol=1e-6)
    with pytest.raises(ValueError, match="combination: expected one of weighted"):
        combine_rateints(rate, rateints, combination="median")


def test_errors_of_the_rate_are_its_scatter():
    rng = np.random.default_rng(9)
    shape = (6, 100, 100)
    var_poisson, var_rnoise = np.full(shape, 2.0, np.float32), np.full(shape, 1.0, np.float32)
    var_rnoise[:3] = 9.0  # short integrations
    rates = rng.normal(5, np.sqrt(var_poisson + var_rnoise)).astype(np.float32)
    rateints = Slopes(rates, np.zeros(shape, np.uint32), var_poisson, var_rnoise, np.sqrt(var_poisson + var_rnoise))
    rate = Slopes(*(array[0] for array in vars(rateints).values()))
    errors = {}
    for combination in ("weighted", "nanmean"):
        new = combine_rateints(rate, rateints, combination=combination)
        errors[combination] = new.err.mean()
        assert abs(np.std(new.rate) / new.err.mean() - 1) < 0.03
    assert errors["weighted"] < 0.9 * errors["nanmean"]


# -- the step --


def make_parameters(**changes):
    defaults = {"model_type": "savgol", "sat_frac": 0.5, "combine_ints": True, "vertical_corr": True, "nproc": 4}
    return subtract_1overf.STEP.settings(**{**defaults, **changes})


def make_exposure(instrument="NIRCAM"):
    case = np.load(DATA / "flicker_ramp.npz")
    rateints = np.load(DATA / "flicker_rateints.npz")
    ones = np.ones(rateints["data"].shape, np.float32)
    slopes = Slopes(rateints["data"].copy(), rateints["dq"].copy(), ones, ones, np.sqrt(2 * ones))
    facts = Facts(instrument, slowaxis=2, noutputs=1, group_time=float(case["group_time"]))
    exposure = Exposure(
        data=case["data"].copy(),
        groupdq=case["groupdq"].copy(),
        facts=facts,
        rateints=slopes,
        rate=Slopes(*(array[0].copy() for array in vars(slopes).values())),
    )
    known = np.isfinite(slopes.rate).any(axis=0)
    exposure.rate.rate[known] = np.nanmean(slopes.rate[:, known], axis=0)
    return exposure, {"saturation": Reference(data=case["saturation"])}


def test_step_at_groups_corrects_the_ramp_alone():
    exposure, references = make_exposure()
    before, rateints = exposure.data.copy(), exposure.rateints
    outcome = subtract_1overf.run(exposure, references, make_parameters(), get_backend("cpu"), "groups")
    assert outcome.status == "COMPLETE"
    noise = noise_of_ramp(before, exposure.groupdq, references["saturation"].data, exposure.facts.group_time)
    np.testing.assert_array_equal(exposure.data, before - noise)
    assert exposure.rateints is rateints


def test_step_at_ints_corrects_rateints_and_rate():
    exposure, references = make_exposure()
    before, ramp = exposure.rateints, exposure.data.copy()
    outcome = subtract_1overf.run(exposure, references, make_parameters(), get_backend("cpu"), "ints")
    assert outcome.status == "COMPLETE"
    noise = noise_of_rateints(before.rate, before.dq)
    np.testing.assert_array_equal(exposure.rateints.rate, before.rate - noise)
    known = np.isfinite(before.rate).any(axis=0)
    mean = np.nanmean((before.rate - noise)[:, known], axis=0)
    np.testing.assert_allclose(exposure.rate.rate[known], mean, atol=1e-5)
    assert not known.all() and np.isnan(exposure.rate.rate[~known]).all()
    np.testing.assert_array_equal(exposure.rate.err, before.err[0])
    np.testing.assert_array_equal(exposure.data, ramp)


def test_the_step_protects_given_sources():
    exposure, references = make_exposure()
    user_mask = np.zeros((64, 64), bool)
    user_mask[5:15, 50:] = True
    parameters = make_parameters(companions=[50.0, 18.0], companion_radius=4.0, user_mask=user_mask)
    before = exposure.rateints
    subtract_1overf.run(exposure, references, parameters, get_backend("cpu"), "ints")
    protected = protect_sources((64, 64), [50.0, 18.0], 4.0, user_mask)
    assert protected[18, 54] and protected[14, 50] and not protected[18, 55]
    noise = noise_of_rateints(before.rate, before.dq, protected=protected)
    np.testing.assert_array_equal(exposure.rateints.rate, before.rate - noise)
    assert np.abs(noise - noise_of_rateints(before.rate, before.dq)).max() > 0.1


@pytest.mark.parametrize("stage", ["groups", "ints"])
def test_step_is_skipped_with_a_reason(stage):
    exposure, references = make_exposure("MIRI")
    assert subtract_1overf.run(exposure, references, make_parameters(), get_backend("cpu"), stage).status == "SKIPPED"
    exposure, _ = make_exposure()
    exposure.rateints = None
    outcome = subtract_1overf.run(exposure, {"saturation": None}, make_parameters(), get_backend("cpu"), stage)
    assert outcome.status == "SKIPPED"
    assert "rateints" in outcome.reason or "saturation" in outcome.reason


# -- the truth --

QUIET = {"superbias": False, "nonlinearity": False, "saturation": False, "ipc": False, "cosmic_rays": 0}
SHAPE = (320, 320)
#: x, y
COMPANION = (195, 135)


@lru_cache(2)
def observe(nints):
    """Simulate a coronagraph before this step, linear ramps without bias, with strong 1/f noise."""
    effects = Effects(**QUIET, one_over_f=3.0, bad_pixels=False)
    scene = Scene(companion_contrast=0.0, halo=1e-5)
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", 5, nints, seed=5, scene=scene, effects=effects)
    data = simulation.data.astype(np.float32) - simulation.pixels.kind.bias
    saturation = np.full(SHAPE, 4e4, np.float32)
    ramp = data, np.zeros(data.shape, np.uint8), saturation, simulation.group_time
    return simulation, ramp, fit_ktc(*ramp)[1].astype(np.float32)


def rms_of_rows(images):
    """Return the rms over rows of the mean of each row, to which 1/f noise contributes."""
    rows = images.mean(axis=-1)
    return np.sqrt(np.mean((rows - rows.mean(axis=-1, keepdims=True)) ** 2))


@pytest.mark.parametrize("model_type", ["savgol", "median", "mean", "fft"])
def test_noise_left_along_rows_of_the_rates(model_type):
    simulation, ramp, rates = observe(nints=6)
    flags = ramp[1:]
    truth = fit_ktc(simulation.truth.one_over_f, *flags)[1]
    noise = noise_of_ramp(*ramp, model_type=model_type)
    left = fit_ktc(simulation.truth.one_over_f - noise, *flags)[1]
    assert rms_of_rows(left) < 0.25 * rms_of_rows(truth)
    noise = noise_of_rateints(rates, np.zeros(rates.shape, np.uint32), model_type=model_type)
    assert rms_of_rows(truth - noise) < 0.25 * rms_of_rows(truth)


def make_sources():
    """Make a companion and a faint inclined disc, with a peak of about the noise of one integration; DN/s."""
    yy, xx = np.indices(SHAPE)
    companion = 60 * np.exp(-((xx - COMPANION[0]) ** 2 + (yy - COMPANION[1]) ** 2) / 2)
    r = np.hypot(xx - 160, (yy - 160) / 0.6)
    disc = 2.0 * np.exp(-(((r - 30) / 6) ** 2))
    return {"companion": companion.astype(np.float32), "disc": disc.astype(np.float32)}


def measure_loss(rates, light, protected=None):
    """Measure the fraction of a source's flux, weighted by its shape, that the correction removes."""
    dq = np.zeros(rates.shape, np.uint32)
    with_source = noise_of_rateints(rates + light, dq, protected=protected)
    taken = (with_source - noise_of_rateints(rates, dq, protected=protected)).mean(axis=0)
    return (taken * light).sum() / (light * light).sum()


def test_flux_of_a_companion_is_not_lost():
    light = make_sources()["companion"]
    assert abs(measure_loss(observe(nints=6)[2], light)) < 0.005
    protected = protect_sources(SHAPE, COMPANION)
    assert abs(measure_loss(observe(nints=1)[2], light, protected)) < 0.005


def test_flux_of_a_faint_disc_is_not_lost_under_a_mask():
    light = make_sources()["disc"]
    protected = protect_sources(SHAPE, mask=light > 0.02)
    assert abs(measure_loss(observe(nints=6)[2], light, protected)) < 0.005
    # Without the mask a single integration cannot distinguish it from noise; the mask protects it.
    alone = observe(nints=1)[2]
    assert measure_loss(alone, light) > 0.02
    assert abs(measure_loss(alone, light, protected)) < 0.005
