"""If few differences of a ramp are left, only upward jumps count: exact ramps on every backend, and the truth."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends.operations.likelihood import LikelihoodRampSettings
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import Effects, simulate
from gpucoron.steps import experimental_jumpramp, ramp_fit
from gpucoron.steps.likelihood import fit_exposure, list_read_times
from tests.cases.likelihood import BACKEND, make_arrays, make_exposure, make_step_inputs

#: rate of a pixel without a hit, and charge of hits, e-/s
B, A = 2.0, 200.0
NAN = np.nan


def fit_ramps(backend, nframes, diffs, used=None, sig=8.0, **options):
    """Fit (ramps, differences) of groups of several frames: (rates, which differences are kept)."""
    diffs = np.array(diffs, np.float64).T
    read_times = list_read_times(len(diffs) + 1, nframes, 5.3, nframes + 2)
    sig = np.broadcast_to(sig, diffs.shape[1]).copy()
    given = None if used is None else backend.to_device(np.array(used, np.uint8).T.copy())
    fit = backend.fit_likelihood(
        backend.to_device(diffs), read_times, backend.to_device(sig), given, **({"rules": "sound"} | options)
    )
    return backend.to_host(fit.countrate), backend.to_host(fit.diffs2use).T.tolist()


#: name -> (frames per group, differences, which are kept)
RAMPS = {
    "a hit in the second group": (8, (A, A, B), (0, 0, 1)),
    "a hit in the third group": (8, (B, A, A), (1, 0, 0)),
    "a hit late in the second group": (8, (0.2 * A, A, B), (0, 0, 1)),
    "a hit early in the third group": (8, (B, A, 0.2 * A), (1, 0, 0)),
    "two frames in a group": (2, (A, A, B), (0, 0, 1)),
    "a hit between groups": (8, (B, A, B), (1, 0, 1)),
    "a hit in the first group": (8, (A, B, B), (0, 1, 1)),
    "two hits, of the same charge": (8, (A, B, A), (0, 1, 0)),
    "two hits, single frames": (1, (A, A, B), (0, 0, 1)),
    "two hits, single frames, at the end": (1, (B, A, 3 * A), (1, 0, 0)),
    "no hit": (8, (B, B, B), (1, 1, 1)),
    "two differences": (8, (A, B), (0, 1)),
    "two differences, the last one": (1, (B, A), (1, 0)),
    "two differences that are the same": (8, (A, A), (1, 1)),
    "a negative rate": (8, (A, A, -0.5), (0, 0, 1)),
    "four differences": (8, (A, A, B, B), (0, 0, 1, 1)),
    "four differences, in the middle": (8, (B, A, A, B), (1, 0, 0, 1)),
    "four differences, at the end": (8, (B, B, A, A), (1, 1, 0, 0)),
    "three hits of four": (1, (2 * A, B, A, 5 * A), (0, 1, 0, 0)),
    "five differences become four, and two": (1, (B, B, A, 2 * A, 4 * A), (1, 1, 0, 0, 0)),
    "five differences become three, and one": (8, (9 * A, 9 * A, A, A, B), (0, 0, 0, 0, 1)),
}


@pytest.mark.parametrize("rules", ["sound", "stcal", "spaceklip"])
@pytest.mark.parametrize("name", RAMPS)
def test_differences_without_hits_are_kept(backend, name, rules):
    nframes, diffs, expected = RAMPS[name]
    rates, kept = fit_ramps(backend, nframes, [diffs], rules=rules, max_diffs_one_sided=4)
    assert kept == [list(expected)]
    true = np.array(diffs)[np.array(expected) > 0]
    np.testing.assert_allclose(rates, true.mean(), rtol=1e-10)


@pytest.mark.parametrize(
    ("diffs", "used", "expected"),
    [
        ((A, A, B, B, B), (1, 1, 1, 0, 0), (0, 0, 1, 0, 0)),
        ((-A, B, A, A, 0), (0, 1, 1, 1, 0), (0, 1, 0, 0, 0)),
        ((B, -A, A, B, -A), (0, 0, 1, 1, 0), (0, 0, 0, 1, 0)),
        # the neighbours are excluded: nothing couples the others
        ((A, 0, B, 0, A), (1, 0, 1, 0, 1), (0, 0, 1, 0, 0)),
    ],
)
def test_flags_that_leave_few(backend, diffs, used, expected):
    rates, kept = fit_ramps(backend, 8, [diffs], [used], max_diffs_one_sided=3)
    assert kept == [list(expected)]
    np.testing.assert_allclose(rates, B, rtol=1e-10)


def test_a_ramp_with_nan_loses_nothing(backend):
    rates, kept = fit_ramps(backend, 8, [(A, NAN, B), (A, A, B)], max_diffs_one_sided=4)
    assert kept == [[1, 1, 1], [0, 0, 1]]
    assert np.isnan(rates[0])
    assert rates[1] == pytest.approx(B)


def test_the_limit_is_a_number_of_differences(backend):
    # The two that agree are kept, hit or not, as in spaceKLIP.
    assert fit_ramps(backend, 8, [(A, 1.001 * A, B)])[1] == [[1, 1, 0]]
    assert fit_ramps(backend, 8, [(A, 1.001 * A, B)], max_diffs_one_sided=2)[1] == [[1, 1, 0]]
    assert fit_ramps(backend, 8, [(A, 1.001 * A, B)], max_diffs_one_sided=3)[1] == [[0, 0, 1]]
    # Above the limit a difference that is too low is excluded.
    low = (B, B, B, -A, B)
    assert fit_ramps(backend, 1, [low], max_diffs_one_sided=4)[1] == [[1, 1, 1, 0, 1]]
    assert fit_ramps(backend, 1, [low], max_diffs_one_sided=5)[1] == [[0, 0, 0, 1, 0]]


def test_likely_within_the_limit_has_the_sound_formulas(backend):
    # Without photon noise a pair of six single differences cannot be fitted; if rounding makes it NaN, jwst keeps the
    # ramp.
    rng = np.random.default_rng(6)
    diffs, sig = rng.normal(-0.5, 0.1, (400, 6)), rng.uniform(6, 10, 400)
    diffs[:, 2] += A
    options = {"sig": sig, "rules": "stcal"}
    kept = {n: np.array(fit_ramps(backend, 1, diffs, **options, max_diffs_one_sided=n)[1]) for n in (0, 4, 6)}
    assert 0.3 < kept[0][:, 2].mean() < 0.8
    np.testing.assert_array_equal(kept[4], kept[0])
    np.testing.assert_array_equal(kept[6], np.tile([1, 1, 0, 1, 1, 1], (400, 1)))


def test_equal_jumps_go_one_by_one(backend):
    # Both have the same drop of chi-square: together, they would leave the sum of two rates for the photon noise.
    diffs = (B, A, B, B, A, B)
    rates, kept = fit_ramps(backend, 1, [diffs])
    assert kept == [[1, 0, 1, 1, 0, 1]]
    used = [[1, 0, 1, 1, 0, 1]]
    again = fit_ramps(backend, 1, [diffs], used)
    np.testing.assert_allclose(rates, again[0], rtol=1e-12)


def test_two_groups_without_a_proper_gain(backend):
    data = np.zeros((1, 2, 1, 2), np.float32)
    data[0, 1] = 100
    gain, noise = np.array([[-1.0, 2.0]], np.float32), np.full((1, 2), 7.0, np.float32)
    flags = np.zeros(data.shape, np.uint8)
    arrays = [backend.to_device(array) for array in (data, flags, gain, noise)]
    fit = backend.fit_likelihood_ramps(*arrays, [10.0, 20.0], rules="sound", max_diffs_one_sided=4)
    np.testing.assert_allclose(backend.to_host(fit.countrate), 10.0)


def make_clean_arrays(ngroups):
    """Make ramps of groups of eight frames, 53 s apart, without noise, hits or flags."""
    arrays = make_arrays(ngroups=ngroups, nints=1, shape=(8, 12), nframes=8, groupgap=2)
    for name, value in (("gain", 2.0), ("readnoise", 8.0), ("groupdq", 0), ("pixeldq", 0)):
        arrays[name] = np.full_like(arrays[name], value)
    arrays["data"][:] = (B * 53 * np.arange(ngroups))[None, :, None, None]
    return arrays


def make_hit_arrays():
    """Make ramps of four groups with one hit in mid-group, and one before the last group."""
    arrays = make_clean_arrays(4)
    arrays["data"][0, 1, 0, 0] += 2000
    arrays["data"][0, 2:, 0, 0] += 4000
    arrays["data"][0, 3, 1, 5] += 4000
    return arrays


@pytest.mark.parametrize(("ngroups", "nframes", "is_warned"), [(3, 8, True), (3, 1, False), (4, 8, False)])
def test_three_averaged_groups_cause_a_warning(ngroups, nframes, is_warned, caplog):
    arrays = make_arrays(ngroups=ngroups, nframes=nframes, shape=(8, 10))
    experimental_jumpramp.run(*make_step_inputs(arrays))
    assert any("wrong rate without a flag" in message for message in caplog.messages) == is_warned


def test_experimental_jumpramp_is_one_sided():
    arrays = make_hit_arrays()
    flags = {}
    for limit in (None, 0):
        exposure, references, parameters, backend = make_step_inputs(arrays)
        if limit is not None:
            parameters = replace(parameters, max_diffs_one_sided=limit)
        experimental_jumpramp.run(exposure, references, parameters, backend)
        flags[limit] = exposure.groupdq[0, :, 0, 0].tolist()
        if limit is None:
            np.testing.assert_allclose(exposure.rate.rate, B, rtol=1e-5)
        assert exposure.groupdq[0, :, 1, 5].tolist() == [0, 0, 0, JUMP_DET]
    assert flags[None] == [0, JUMP_DET, JUMP_DET, 0]
    assert flags[0] != flags[None]
    declared = {parameter.name: parameter.default for parameter in experimental_jumpramp.STEP.parameters}
    assert declared["max_diffs_one_sided"] == experimental_jumpramp.MAX_DIFFS_ONE_SIDED == 4


def test_likely_is_one_sided_on_request():
    arrays = make_hit_arrays()
    rates = {}
    for limit in (0, 4):
        inputs = make_step_inputs(arrays, step="ramp_fit", max_diffs_one_sided=limit)
        ramp_fit.run(*inputs)
        rates[limit] = inputs[0].rate.rate
    np.testing.assert_allclose(rates[4], B, rtol=1e-5)
    assert not abs(rates[0][0, 0] - B) < 1
    assert LikelihoodRampSettings().max_diffs_one_sided == 0
    declared = {parameter.name: parameter.default for parameter in ramp_fit.STEP.parameters}
    assert declared["max_diffs_one_sided"] == 0


def test_sound_rules_keep_the_groups_of_ramps_that_saturate():
    """Half of the differences are zero: with their median as the rate, stcal's search expects too little noise."""
    rng = np.random.default_rng(8)
    shape, ngroups, rate, saturated_from = (40, 40), 30, 20000.0, 14
    arrays = make_arrays(ngroups=ngroups, nints=2, shape=shape, nframes=1, groupgap=0)
    for name, value in (("gain", 2.0), ("readnoise", 8.0), ("groupdq", 0), ("pixeldq", 0)):
        arrays[name] = np.full_like(arrays[name], value)
    times = make_exposure(arrays).facts.frame_time
    electrons = rng.poisson(rate * times, (2, ngroups, *shape)).cumsum(axis=1)
    arrays["data"] = np.minimum(electrons, electrons[:, saturated_from : saturated_from + 1]).astype(np.float32) / 2
    arrays["groupdq"][:, saturated_from:] |= SATURATED
    share, scatter = {}, {}
    for rules in ("stcal", "sound"):
        inputs = make_step_inputs(arrays, step="ramp_fit", jump_rules=rules)
        ramp_fit.run(*inputs)
        exposure = inputs[0]
        share[rules] = ((exposure.groupdq & JUMP_DET) != 0).any(axis=1).mean()
        scatter[rules] = exposure.rateints.rate.std()
        np.testing.assert_allclose(np.median(exposure.rateints.rate), rate / 2, rtol=2e-3)
    assert share["stcal"] > 0.5
    assert share["sound"] < 0.01
    assert scatter["sound"] < 0.9 * scatter["stcal"]
    declared = {parameter.name: parameter.default for parameter in ramp_fit.STEP.parameters}
    assert declared["jump_rules"] == LikelihoodRampSettings().rules == "stcal"


@pytest.mark.parametrize(("readpatt", "ngroups"), [("RAPID", 4), ("SHALLOW2", 5), ("MEDIUM8", 4), ("DEEP8", 5)])
def test_rates_of_pixels_that_were_hit_are_true(readpatt, ngroups):
    off = ("one_over_f", "ktc", "superbias", "nonlinearity", "ipc", "bad_pixels", "saturation")
    shape, nints = (120, 120), 4
    # three ramps in a hundred have a strong hit; few have two
    rays = {"RAPID": 167.0, "SHALLOW2": 30.0, "MEDIUM8": 17.5, "DEEP8": 7.6}[readpatt]
    simulation = simulate(
        "NIRCAM", "SUB320A335R", readpatt, ngroups, nints, shape=shape, scene=np.full(shape, 3.0, np.float32), seed=4,
        effects=Effects(**dict.fromkeys(off, 0), cosmic_rays=rays),
    )  # fmt: skip
    hits = simulation.truth.cosmic_rays
    strong = np.zeros((nints, *shape), bool)
    hits = hits[(hits["electrons"] >= 300) & (hits["frame"] > 0)]
    strong[hits["integration"], hits["y"], hits["x"]] = True
    assert 0.02 < strong.mean() < 0.04
    gain, noise = (
        values.astype(np.float32)
        for values in (simulation.pixels.gain, np.sqrt(2) * simulation.pixels.read_noise / simulation.pixels.gain)
    )
    true = simulation.truth.rate + simulation.truth.dark_rate
    times = {name: getattr(simulation, name) for name in ("frame_time", "group_time", "nframes")}

    def shares(fit):
        data = simulation.data.astype(np.float32)
        rateints = fit(data, np.zeros(data.shape, np.uint8), np.zeros(shape, np.uint32))
        pull = abs(rateints.rate - true)[strong] / rateints.err[strong]
        clean = ((rateints.rate - true) / rateints.err)[~strong & (rateints.dq == 0)]
        return np.mean(~(pull < 10)), np.median(clean)

    def jumpramp(limit):
        def fit(data, groupdq, pixeldq):
            given = data, groupdq, pixeldq, gain, noise
            options = {} if limit is None else {"max_diffs_one_sided": limit}
            return experimental_jumpramp.fit_without_jumps(*given, **times, **options, backend=BACKEND)[1]

        return fit

    def likely(limit):
        def fit(data, groupdq, pixeldq):
            facts = Facts("NIRCAM", **times, groupgap=simulation.groupgap)
            exposure = Exposure(data=data, groupdq=groupdq, pixeldq=pixeldq, facts=facts)
            return fit_exposure(exposure, gain, noise, BACKEND, max_diffs_one_sided=limit)[1]

        return fit

    one_sided, bias = shares(jumpramp(None))
    assert one_sided < 0.006
    # exclusions in ramps without a hit do not lower their rates
    assert abs(bias) < 0.05
    assert shares(likely(4))[0] < 0.006
    if (readpatt, ngroups) == ("MEDIUM8", 4):
        assert shares(jumpramp(0))[0] > 0.04


def test_flagged_groups_leave_few():
    # Seven groups; the flags leave four, with three differences.
    arrays = make_clean_arrays(7)
    arrays["data"][0, 2, 0, 0] += 2000
    arrays["data"][0, 3:, 0, 0] += 4000
    arrays["groupdq"][:, 0], arrays["groupdq"][:, 5:] = DO_NOT_USE, SATURATED
    exposure = make_exposure(arrays)
    given = (exposure.data, exposure.groupdq, exposure.pixeldq, arrays["gain"], arrays["readnoise"])
    times = {"frame_time": 5.3, "group_time": 53.0, "nframes": 8}
    rate, _ = experimental_jumpramp.fit_without_jumps(*given, **times, backend=BACKEND)
    np.testing.assert_allclose(rate.rate, B, rtol=1e-5)
    assert exposure.groupdq[0, :, 0, 0].tolist() == [1, 0, JUMP_DET, JUMP_DET, 0, SATURATED, SATURATED]
