"""Likelihood fit and jump rejection, compared with results of spaceKLIP, stcal, dense matrices and the truth."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.operations.likelihood import LikelihoodRampSettings
from gpucoron.backends.operations.likelihood import definition as likelihood
from gpucoron.backends.operations.likelihood import jumps as likelihood_jumps
from gpucoron.backends.operations.likelihood.covariance import Covariance
from gpucoron.backends.results import Slopes
from gpucoron.dq import DO_NOT_USE, HOT, JUMP_DET, NO_GAIN_VALUE, SATURATED
from gpucoron.simulate import Effects, simulate
from gpucoron.steps.experimental_jumpramp import fit_without_jumps
from gpucoron.steps.experimental_jumpramp import run as run_jumpramp
from gpucoron.steps.likelihood import combine_integrations, list_read_times
from gpucoron.steps.ramp_fit import fit_likelihood
from tests.cases.likelihood import BACKEND, PATTERNS, draw_diffs, make_arrays, make_step_inputs, mask_with_stcal
from tests.cases.paths import DATA

RESULTS = ("countrate", "uncert", "chisq", "var_poisson", "var_rdnoise")
STCAL_NAMES = {"rate": "slope", "dq": "dq", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise", "err": "err"}

# spaceKLIP


@pytest.mark.parametrize("which", ["shared", "reads"])
def test_the_fit_is_spaceklips(which):
    figures = np.load(DATA / "likelihood.npz")
    figures = {name.removeprefix(f"{which}_"): figures[name] for name in figures if name.startswith(which)}
    before = figures.get("used")
    fit = fit_likelihood(figures["diffs"], figures["read_times"], figures["sig"], diffs2use=before)
    assert (figures["diffs2use"] == 0).any()
    np.testing.assert_array_equal(fit.diffs2use, figures["diffs2use"])
    for name in RESULTS:
        # chi-square of one or two differences is a rounding residual
        np.testing.assert_allclose(getattr(fit, name), figures[name], rtol=1e-9, atol=1e-10, err_msg=name)
    if before is not None:
        assert (before != fit.diffs2use).any()


# stcal


@pytest.mark.parity
@pytest.mark.parametrize("used", [1.0, 0.7, 0.45])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_same_differences_go_as_in_stcal(pattern, used):
    # Few good differences and little photon noise: only rounding decides here, and it must be the same rounding.
    rng = np.random.default_rng([len(pattern), int(100 * used)])
    diffs, sig, mask = draw_diffs(rng, PATTERNS[pattern], 6000, faintest=-2.0, jumps=0.8, used=used)
    expected = mask_with_stcal(diffs, PATTERNS[pattern], sig, mask)
    fit = BACKEND.fit_likelihood(diffs, PATTERNS[pattern], sig, diffs2use=mask, rules="stcal")
    np.testing.assert_array_equal(fit.diffs2use, expected)
    assert np.count_nonzero((expected != mask).any(axis=0)) > 200


# mathematics


def make_covariance(read_times, rate, sig):
    """Return the covariance of resultant differences, from the covariance of single reads."""
    reads = np.concatenate([np.atleast_1d(times) for times in read_times])
    of_reads = rate * np.minimum.outer(reads, reads), sig**2 * np.eye(len(reads))
    group = np.repeat(np.arange(len(read_times)), [np.size(times) for times in read_times])
    average = (group == np.arange(len(read_times))[:, None]).astype(float)
    average /= average.sum(axis=1, keepdims=True)
    mean_times = average @ reads
    difference = np.diff(average, axis=0) / np.diff(mean_times)[:, None]
    return [difference @ part @ difference.T for part in of_reads]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_fit_is_generalised_least_squares(pattern):
    rng = np.random.default_rng(9)
    diffs, sig, used = draw_diffs(rng, PATTERNS[pattern], 40, jumps=0.0, used=0.8)
    used[:2] = True
    fit = fit_likelihood(diffs, PATTERNS[pattern], sig, diffs2use=used, reject_jumps=False)
    for k in range(diffs.shape[1]):
        d, good = diffs[used[:, k], k], np.ix_(used[:, k], used[:, k])
        photon, read = (part[good] for part in make_covariance(PATTERNS[pattern], max(d.mean(), 0), sig[k]))
        inverse = np.linalg.inv(photon + read)
        weights = inverse.sum(axis=1) / inverse.sum()
        rate = weights @ d
        expected = (
            rate,
            inverse.sum() ** -0.5,
            (d - rate) @ inverse @ (d - rate),
            weights @ photon @ weights,
            weights @ read @ weights,
        )
        np.testing.assert_allclose([getattr(fit, name)[k] for name in RESULTS], expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(fit.var_poisson + fit.var_rdnoise, fit.uncert**2, rtol=1e-10)


@pytest.mark.parametrize("pattern", ["one read", "deep8", "uneven"])
def test_the_excluded_difference_lowers_chi_square(pattern):
    rng = np.random.default_rng(10)
    diffs, sig, used = draw_diffs(rng, PATTERNS[pattern], 30, jumps=1.0, used=0.9)
    used[:] |= used.sum(axis=0) < 4
    guess = np.maximum(np.median(diffs, axis=0), 0)
    covariance, rules = Covariance.of(PATTERNS[pattern]), likelihood_jumps.RULES["sound"]
    solution = likelihood_jumps.solve(diffs, used, guess, 1.0, sig, covariance, rules)
    drop_one, drop_two, rate_one, rate_two = likelihood_jumps._omit_by_residuals(solution, used)

    def fit_dense(k, good):
        inverse = np.linalg.inv(sum(make_covariance(PATTERNS[pattern], guess[k], sig[k]))[np.ix_(good, good)])
        d = diffs[good, k]
        rate = inverse.sum(axis=0) @ d / inverse.sum()
        return rate, (d - rate) @ inverse @ (d - rate)

    for k in range(diffs.shape[1]):
        whole = fit_dense(k, used[:, k])[1]
        for drop, rates, width in ((drop_one, rate_one, 1), (drop_two, rate_two, 2)):
            for i in range(len(drop)):
                good = used[:, k].copy()
                good[i : i + width] = False
                rate, chisq = fit_dense(k, good)
                np.testing.assert_allclose((drop[i, k], rates[i, k]), (whole - chisq, rate), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rules", likelihood_jumps.RULES)
def test_the_same_bits_for_any_tile(rules, monkeypatch):
    arrays = make_arrays(11, shape=(24, 32))
    read_times = list_read_times(8, 1, 5.3, 1)
    answers = []
    for region, batch, tile, threads in ((2**23, 2048, 16384, 1), (3000, 7, 33, 2)):
        monkeypatch.setattr(likelihood, "REGION_BYTES", region)
        monkeypatch.setattr(likelihood, "BATCH", batch)
        monkeypatch.setattr(likelihood, "TILE_PIXELS", tile)
        flags = arrays["groupdq"].copy()
        given = (arrays["data"], flags, arrays["gain"], arrays["readnoise"], read_times, arrays["dark"])
        chosen = LikelihoodRampSettings(rules=rules)
        fit = likelihood.fit_likelihood_ramps(NumpyDevice(threads), *given, settings=chosen)
        answers.append([flags, *(getattr(fit, name) for name in RESULTS)])
    for first, second in zip(*answers, strict=True):
        np.testing.assert_array_equal(first, second)


def test_rates_and_errors_are_true():
    rng = np.random.default_rng(12)
    for pattern in ("one read", "deep8"):
        diffs, sig, _ = draw_diffs(rng, PATTERNS[pattern], 20000, jumps=0.0, faintest=1.0, brightest=1.0)
        fit = fit_likelihood(diffs, PATTERNS[pattern], sig)
        pull = (fit.countrate - 10) / fit.uncert
        assert abs(np.median(pull)) < 0.05
        assert abs(pull.std() - 1) < 0.03
        assert abs(fit.chisq.mean() / (len(diffs) - 1) - 1) < 0.03
        # 4.5 sigma: false alarms are rare
        assert np.count_nonzero(fit.diffs2use == 0) < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"read_times": [1.0, 2.0, 3.0]}, "diffs of 3 resultants"),
        ({"sig": np.ones(3)}, r"sig: expected \(...,\) = \(2,\) or a scalar, got \(3,\)"),
        ({"diffs2use": np.ones((2, 2), bool)}, "diffs2use: expected"),
    ],
)
def test_wrong_arrays_are_named(change, message):
    arguments = {"diffs": np.ones((7, 2)), "read_times": PATTERNS["one read"], "sig": np.ones(2), "diffs2use": None}
    with pytest.raises(ValueError, match=message):
        fit_likelihood(**(arguments | change))


def test_inputs_stay_and_more_dimensions_come_back():
    diffs, sig, used = draw_diffs(np.random.default_rng(13), PATTERNS["one read"], 24, jumps=2.0, used=0.9)
    cube, image, mask = diffs.reshape(7, 4, 6), sig.reshape(4, 6), used.reshape(7, 4, 6).astype(np.uint8)
    copies = cube.copy(), mask.copy()
    fit = fit_likelihood(cube, PATTERNS["one read"], image, diffs2use=mask)
    flat = fit_likelihood(diffs, PATTERNS["one read"], sig, diffs2use=used)
    np.testing.assert_array_equal(cube, copies[0])
    np.testing.assert_array_equal(mask, copies[1])
    np.testing.assert_array_equal(fit.diffs2use, flat.diffs2use.reshape(7, 4, 6))
    np.testing.assert_array_equal(fit.countrate, flat.countrate.reshape(4, 6))
    assert fit.diffs2use.dtype == np.uint8


# experimental_jumpramp against the truth


def simulate_arrays(readpatt, ngroups, nints, scene, *, cosmic_rays=0.0, saturation=False, seed=3):
    """Simulate ramps without the effects that other steps correct; return the arrays, the times and the simulation."""
    off = ("one_over_f", "ktc", "superbias", "nonlinearity", "ipc", "bad_pixels")
    effects = Effects(cosmic_rays=cosmic_rays, saturation=saturation, **dict.fromkeys(off, 0))
    shape = scene.shape
    simulation = simulate(
        "NIRCAM", "SUB320A335R", readpatt, ngroups, nints, scene=scene, effects=effects, shape=shape, seed=seed
    )
    groups = np.arange(ngroups).reshape(-1, 1, 1)
    saturated = groups >= simulation.truth.saturated_from[:, None]
    arrays = {
        "data": simulation.data.astype(np.float32),
        "groupdq": saturated.astype(np.uint8) * np.uint8(SATURATED),
        "pixeldq": np.zeros(shape, np.uint32),
        "gain": simulation.pixels.gain.astype(np.float32),
        "readnoise": (simulation.pixels.read_noise / simulation.pixels.gain * np.sqrt(2)).astype(np.float32),
    }
    times = {
        "frame_time": simulation.frame_time,
        "group_time": simulation.group_time,
        "nframes": simulation.nframes,
    }
    return arrays, times, simulation


def truth_of(simulation):
    return simulation.truth.rate + simulation.truth.dark_rate


def spread(values):
    low, middle, high = np.nanpercentile(values, (15.865, 50, 84.135))
    return middle, (high - low) / 2


def test_group_time_and_reads_are_the_patterns():
    arrays, times, simulation = simulate_arrays("DEEP8", 6, 2, np.full((40, 50), 4.0))
    rate, rateints = fit_without_jumps(**arrays, **times, backend=BACKEND)
    middle, width = spread((rateints.rate - truth_of(simulation)) / rateints.err)
    assert abs(middle) < 0.1
    assert abs(width - 1) < 0.06
    middle, width = spread((rate.rate - truth_of(simulation)) / rate.err)
    assert abs(width - 1) < 0.06
    # spaceKLIP: one read per group, spaced by frame_time
    flags = arrays["groupdq"].copy()
    theirs = BACKEND.fit_likelihood_ramps(
        arrays["data"], flags, arrays["gain"], arrays["readnoise"], times["frame_time"] * np.arange(1, 7)
    )
    assert 15 < np.nanmedian(theirs.countrate / truth_of(simulation)) < 25


def test_saturated_groups_are_left_out():
    # at the end, more groups are saturated than not
    scene = np.full((24, 30), 20000.0)
    arrays, times, simulation = simulate_arrays("RAPID", 10, 2, scene, saturation=True)
    saturates = (arrays["groupdq"] & SATURATED != 0).any(axis=1)
    assert saturates.mean() > 0.9
    _, rateints = fit_without_jumps(**arrays, **times, backend=BACKEND)
    usable = saturates & np.isfinite(rateints.rate)
    ratio = (rateints.rate / truth_of(simulation))[usable]
    assert abs(np.median(ratio) - 1) < 0.01
    assert (rateints.dq[saturates] & SATURATED != 0).all()
    # spaceKLIP: all groups without DO_NOT_USE count
    theirs = BACKEND.fit_likelihood_ramps(
        arrays["data"],
        arrays["groupdq"].copy(),
        arrays["gain"],
        arrays["readnoise"],
        times["frame_time"] * np.arange(1, 11),
        unusable=DO_NOT_USE,
        rules="spaceklip",
    )
    assert np.median((theirs.countrate / truth_of(simulation))[usable]) < 0.5


def test_the_first_guess_is_of_the_groups_in_use():
    # Flat ramps with mostly bad groups: the median of all differences is 0, without photon noise.
    arrays, times, simulation = simulate_arrays("RAPID", 10, 2, np.full((40, 50), 400.0))
    arrays["groupdq"][:, 4:] = SATURATED
    arrays["data"][:, 4:] = arrays["data"][:, 4:5]
    found = {}
    for rules in ("sound", "spaceklip"):
        flags = arrays["groupdq"].copy()
        read_times = times["frame_time"] * np.arange(1, 11)
        BACKEND.fit_likelihood_ramps(
            arrays["data"], flags, arrays["gain"], arrays["readnoise"], read_times, rules=rules
        )
        found[rules] = (flags & JUMP_DET != 0).any(axis=1).mean()
    assert found["sound"] < 0.002
    assert found["spaceklip"] > 0.01


def test_jumps_are_marked_where_they_are():
    arrays, times, simulation = simulate_arrays("RAPID", 10, 2, np.full((96, 96), 10.0), cosmic_rays=30.0)
    arrays["groupdq"][:, 0] |= DO_NOT_USE
    arrays["groupdq"][:, 4, 5] |= DO_NOT_USE
    before = arrays["groupdq"].copy()
    _, rateints = fit_without_jumps(**arrays, **times, backend=BACKEND)
    found = (arrays["groupdq"] & JUMP_DET) != 0
    np.testing.assert_array_equal(arrays["groupdq"] & ~np.uint8(JUMP_DET), before)
    true, large = simulation.truth.mark_jumps(10), simulation.truth.mark_jumps(10, min_electrons=300.0)
    # a jump between a good and a bad group cannot be seen
    lost = before & DO_NOT_USE != 0
    lost[:, 1:] |= lost[:, :-1].copy()
    assert large[~lost].sum() > 100
    assert (found & large & ~lost).sum() > 0.95 * (large & ~lost).sum()
    assert (found & ~true).sum() < 0.02 * found.sum() + 5
    assert not found[lost].any()
    np.testing.assert_array_equal(rateints.dq & JUMP_DET != 0, found.any(axis=1))
    clean = np.isfinite(rateints.rate)
    middle, width = spread(((rateints.rate - truth_of(simulation)) / rateints.err)[clean])
    assert abs(middle) < 0.1
    assert abs(width - 1) < 0.1


def test_a_pair_that_cannot_be_fitted_spares_no_jump():
    # No photon noise, and a jump in the excluded sixth difference: the second and third cannot be distinguished.
    read_times = 1.069 * np.arange(1, 9)
    diffs = np.array([[256.6, -0.6, -33.3, 8.6, -0.8, 2186.9, -10.7]]).T
    rng = np.random.default_rng(16)
    diffs = diffs + rng.normal(0, 0.01, (7, 500))
    sig = rng.uniform(8.0, 16.0, 500)
    kept = {
        rules: BACKEND.fit_likelihood(diffs, read_times, sig, rules=rules).diffs2use for rules in ("sound", "spaceklip")
    }
    assert not kept["sound"][[0, 5]].any()
    assert kept["sound"][[1, 2, 3, 4, 6]].all()
    spared = kept["spaceklip"][0] != 0
    assert spared.any()


@pytest.mark.parametrize("pattern", ["one read", "deep8"])
def test_of_two_the_smaller_stays(pattern):
    # Whichever is excluded, chi-square is 0. Cosmic rays add charge.
    n = len(PATTERNS[pattern])
    rng = np.random.default_rng(17)
    diffs, sig, _ = draw_diffs(rng, PATTERNS[pattern], 400, jumps=0.0, faintest=1.0, brightest=1.0)
    used = np.zeros(diffs.shape, bool)
    used[1:3] = True
    diffs[np.where(np.arange(400) % 2, 1, 2), np.arange(400)] += 500.0
    sound = BACKEND.fit_likelihood(diffs, PATTERNS[pattern], sig, diffs2use=used, rules="sound")
    assert abs(np.median(sound.countrate) - 10) < 2
    assert sound.countrate.max() < 100
    assert (sound.diffs2use.sum(axis=0) == 1).all()
    theirs = BACKEND.fit_likelihood(diffs, PATTERNS[pattern], sig, diffs2use=used, rules="spaceklip")
    assert n > 3
    assert not np.nanmax(theirs.countrate) < 100


def test_the_average_survives_nan_and_its_error_shrinks():
    arrays, times, simulation = simulate_arrays("RAPID", 8, 9, np.full((30, 40), 20.0))
    arrays["groupdq"][4, :, :15] |= DO_NOT_USE
    rate, rateints = fit_without_jumps(**arrays, **times, backend=BACKEND)
    assert np.isnan(rateints.rate[4, :15]).all()
    assert np.isfinite(rate.rate).all()
    good = [0, 1, 2, 3, 5, 6, 7, 8]
    expected = np.median(rateints.err[good]) / np.sqrt((8, 9))
    np.testing.assert_allclose((np.median(rate.err[:15]), np.median(rate.err[15:])), expected, rtol=0.02)
    middle, width = spread((rate.rate - truth_of(simulation)) / rate.err)
    assert abs(width - 1) < 0.08
    assert abs(middle) < 0.1
    assert not (rate.dq & DO_NOT_USE).any()
    assert (rateints.dq[4, :15] & DO_NOT_USE).all()


def test_the_average_is_not_drawn_to_faint_integrations():
    # Few photons: an integration that is faint by chance seems to have less noise.
    arrays, times, simulation = simulate_arrays("RAPID", 10, 20, np.full((40, 50), 60.0))
    arrays["readnoise"] *= np.float32(0.05)
    arrays["data"] = arrays["data"].astype(np.float32)
    rng = np.random.default_rng(18)
    electrons = np.cumsum(rng.poisson(6.0 * times["group_time"], arrays["data"].shape), axis=1)
    arrays["data"] = (electrons / arrays["gain"]).astype(np.float32)
    rate, rateints = fit_without_jumps(**arrays, **times, backend=BACKEND)
    true = 6.0 / arrays["gain"]
    variance = rateints.var_poisson + rateints.var_rnoise
    theirs = (rateints.rate / variance).sum(axis=0) / (1 / variance).sum(axis=0)
    assert abs(np.mean(rate.rate / true) - 1) < 0.005
    assert np.mean(theirs / true) < 0.99


def test_flags_of_the_rate_are_those_of_its_integrations():
    arrays, times, _ = simulate_arrays("RAPID", 8, 3, np.full((6, 8), 5.0))
    arrays["data"][1, 4:, 2, 2] += 3000
    arrays["groupdq"][0, 5:, 3, 3] = SATURATED
    arrays["groupdq"][:, :, 4, 4] = DO_NOT_USE
    arrays["groupdq"][2, ::2, 5, 5] = DO_NOT_USE
    arrays["pixeldq"][1, 1] = HOT
    arrays["gain"][0, 0] = np.nan
    pixeldq = arrays["pixeldq"].copy()
    rate, rateints = fit_without_jumps(**arrays, **times, backend=BACKEND)
    assert rate.dq[2, 2] == JUMP_DET
    np.testing.assert_array_equal(rateints.dq[:, 2, 2], (0, JUMP_DET, 0))
    assert rate.dq[3, 3] == SATURATED
    assert rate.dq[4, 4] == DO_NOT_USE
    assert np.isnan(rate.rate[4, 4])
    # no two consecutive good groups: no rate, and DO_NOT_USE is set
    np.testing.assert_array_equal(rateints.dq[:, 5, 5], (0, 0, DO_NOT_USE))
    assert rate.dq[5, 5] == 0
    assert rate.dq[1, 1] == HOT
    assert rate.dq[0, 0] == NO_GAIN_VALUE | DO_NOT_USE
    np.testing.assert_array_equal(arrays["pixeldq"], pixeldq)


def test_the_step_and_its_parameters():
    arrays = make_arrays(19, nframes=2, groupgap=3)
    exposure, references, parameters, backend = make_step_inputs(arrays, gain_factor=2.0)
    outcome = run_jumpramp(exposure, references, parameters, backend)
    assert outcome.meta == {"exposure.gain_factor": 2.0}
    assert outcome.flagged["jumps"] == np.count_nonzero(exposure.groupdq & JUMP_DET)
    unusable = exposure.rateints.dq & DO_NOT_USE != 0
    assert np.isnan(exposure.rateints.rate[unusable]).all()
    assert np.isfinite(exposure.rateints.rate[~unusable]).all()
    assert np.isfinite(exposure.rate.rate[exposure.rate.dq & DO_NOT_USE == 0]).all()

    other, references, parameters, backend = make_step_inputs(arrays, nan_dnu=False, noise_scale=3.0)
    run_jumpramp(other, references, parameters, backend)
    bad_pixels = other.pixeldq & DO_NOT_USE != 0
    assert np.isfinite(other.rateints.rate[:, bad_pixels]).mean() > 0.8
    usable = (exposure.rateints.var_rnoise > 0) & np.isfinite(other.rateints.var_rnoise)
    ratio = np.median(other.rateints.var_rnoise[usable] / exposure.rateints.var_rnoise[usable])
    assert 8 < ratio < 10
    assert np.count_nonzero(other.groupdq & JUMP_DET) < np.count_nonzero(exposure.groupdq & JUMP_DET)


def test_the_step_skips_unsuitable_exposures():
    arrays = make_arrays(20)
    exposure, references, parameters, backend = make_step_inputs(arrays, use=False)
    assert run_jumpramp(exposure, references, parameters, backend).status == "SKIPPED"
    assert exposure.rate is None
    parameters = replace(parameters, use=True)
    assert run_jumpramp(exposure, references | {"gain": None}, parameters, backend).status == "SKIPPED"
    exposure.data, exposure.groupdq = exposure.data[:, :1], exposure.groupdq[:, :1]
    assert run_jumpramp(exposure, references, parameters, backend).status == "SKIPPED"
    assert exposure.rate is None


def test_two_groups_are_a_difference():
    arrays, times, simulation = simulate_arrays("RAPID", 2, 3, np.full((20, 30), 20.0))
    rate, _ = fit_without_jumps(**arrays, **times, backend=BACKEND)
    middle, width = spread((rate.rate - truth_of(simulation)) / rate.err)
    assert abs(middle) < 0.15
    assert abs(width - 1) < 0.1


def test_combined_integrations_of_one_are_it():
    arrays = {name: np.full((1, 2, 2), 3, np.float32) for name in STCAL_NAMES}
    rateints = Slopes(**arrays | {"dq": np.full((1, 2, 2), 3, np.uint32)})
    assert (combine_integrations(rateints).rate == 3).all()


@pytest.mark.parametrize("outliers", [False, True])
def test_first_and_last_group_apply_to_the_likelihood_too(exposures, tmp_path, outliers):
    """Only the groups between them are used; LIKELY on the same groups agrees with the installed jwst."""
    import gpucoron

    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 9, 2, shape=(24, 24))
    within = {"ramp_fit": {"firstgroup": 2, "lastgroup": 6}}
    without = {"mask_groups": {"groups": [0, 1, 7, 8]}}
    answers = []
    with case.cache.activate():
        for steps in (within, without, {}):
            steps = {"experimental_jumpramp": {"use": True}, **steps}
            options = {"save_results": False, "rate_int_outliers": outliers}
            run, models, _paths = gpucoron.reduce_file(case.path, tmp_path, backend="numpy", steps=steps, **options)
            answers.append((models["rateints"], run.exposure.groupdq))
    (ours, flags), (expected, wanted_flags), (all_groups, _) = answers
    for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
    np.testing.assert_array_equal(flags, wanted_flags)
    assert (flags[:, [0, 1, 7, 8]] & DO_NOT_USE).all()
    assert not np.array_equal(ours.data, all_groups.data, equal_nan=True)
