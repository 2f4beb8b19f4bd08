"""Likelihood fits of neighbouring ramps on a CPU have the bits of the NumPy definition, ramp by ramp."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucoron.backends import backend_status, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.operations.likelihood.jumps import RULES
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.likelihood import list_read_times, split_first_read
from tests.backends.operations.drawn import likelihood_cases
from tests.cases.backends import backend_params, usable_backend
from tests.cases.likelihood import PATTERNS, draw_diffs, make_arrays

DEFINITION = get_backend("numpy", n_threads=1)
RAMPS = ("data", "groupdq", "gain", "readnoise")

many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=backend_params(["native", "host"]))
def in_strips(request):
    """The kernels for a CPU, with the vector instructions of this one, and without them in narrow strips."""
    device = usable_backend(request.param, request.config).device
    if request.param == "native":
        return Backend(device.kernels)
    device = HostDevice(n_threads=1)
    device.strip_pixels = 37
    return Backend(device)


def assert_same_bits(found, expected, flags, expected_flags):
    np.testing.assert_array_equal(flags, expected_flags)
    for name in (field.name for field in fields(expected)):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is None:
            assert ours is None
            continue
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        # zeros have signs, too
        np.testing.assert_array_equal(np.signbit(ours) & (ours == 0), np.signbit(theirs) & (theirs == 0), err_msg=name)


def fit_both(backend, ramps, times, more, options):
    """Fit copies of ramps by the kernels and by the definition, and compare; return the flags after the fit."""
    answers = []
    for each in (backend, DEFINITION):
        data, groupdq, *pixels = (array.copy() for array in ramps)
        with np.errstate(all="ignore"):
            fit = each.fit_likelihood_ramps(data, groupdq, *pixels, times, **more, **options)
        answers.append((fit, groupdq))
    (found, flags), (expected, expected_flags) = answers
    assert_same_bits(found, expected, flags, expected_flags)
    return flags


@given(likelihood_cases())
@many
def test_drawn_ramps(in_strips, case):
    fit_both(in_strips, *case)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    ("ngroups", "shape", "nframes", "options"),
    [
        (2, (5, 31), 1, {}),
        (3, (9, 17), 4, {}),
        (4, (1, 1), 1, {}),
        (10, (16, 33), 1, {}),
        (11, (16, 33), 8, {"unusable": DO_NOT_USE | SATURATED}),
        (12, (13, 29), 1, {"max_diffs_one_sided": 99}),
        (47, (7, 41), 2, {"max_diffs_one_sided": 3}),
        (130, (3, 15), 1, {"threshold_oneomit": 9.0, "threshold_twoomit": 10.0}),
    ],
)
def test_ramps_with_flags_jumps_and_invalid_noise(in_strips, rules, ngroups, shape, nframes, options):
    size = (max(shape[0], 6), max(shape[1], 8))
    arrays = make_arrays(ngroups, ngroups=max(ngroups, 3), shape=size, nframes=nframes)
    y, x = shape
    ramps = [arrays[name][..., :y, :x] for name in RAMPS]
    ramps[:2] = (array[:, :ngroups] for array in ramps[:2])
    times = list_read_times(ngroups, nframes, 5.3, nframes)
    more = {"dark_current": np.ascontiguousarray(arrays["dark"][:y, :x])}
    if nframes > 1:
        times = split_first_read(times)
        more["zeroframe"] = np.ascontiguousarray(arrays["zeroframe"][:, :y, :x])
    ramps = [np.ascontiguousarray(array) for array in ramps]
    flags = fit_both(in_strips, ramps, times, more, {"rules": rules, **options})
    if ngroups > 9:
        assert np.count_nonzero(flags != ramps[1]) > 20


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("thresholds", [(30.0, 23.8), (100.0, 20.0), (20.0, 40.0)])
def test_pairs_that_are_the_whole_ramp(in_strips, rules, thresholds):
    """Their determinant is rounding noise: only chi-square tells whether they are worth a search."""
    times = [2.1 * (np.arange(1, 9) + 18 * group) for group in range(3)]
    data = np.cumsum(np.random.default_rng(1).normal(25, 13, (1, 3, 40, 50)), axis=1).astype(np.float32)
    image = np.ones(data.shape[2:], np.float32)
    ramps = data, np.zeros(data.shape, np.uint8), 1.9 * image, 11 * image
    options = {"unusable": 3, "threshold_oneomit": thresholds[0], "threshold_twoomit": thresholds[1]}
    flags = fit_both(in_strips, ramps, times, {"rules": rules}, options)
    if rules != "sound":
        assert (flags == JUMP_DET).any(axis=1).sum() > 20


def test_special_values(in_strips):
    """NaN, infinity, zeros of both signs, ties, constant ramps, and ramps without any or with a single difference."""
    rng = np.random.default_rng(3)
    ngroups, n = 9, 400
    data = np.cumsum(rng.integers(0, 4, (1, ngroups, 1, n)), axis=1).astype(np.float32)
    some = rng.random(data.shape) < 0.03
    data[some] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, 1e-40], size=np.count_nonzero(some))
    data[..., 100:120] = np.array([0.0, -0.0], np.float32)[rng.integers(0, 2, (1, ngroups, 1, 20))]
    data[..., 120:140] = 7
    data[..., 140:160] = -30 * np.arange(ngroups, dtype=np.float32)[:, None, None]
    groupdq = np.zeros(data.shape, np.uint8)
    groupdq[..., 160:180] = SATURATED
    groupdq[:, 2:, :, 180:200] = SATURATED
    groupdq[:, ::2, :, 200:220] = DO_NOT_USE
    groupdq[..., 220:] = rng.choice([0, JUMP_DET, DO_NOT_USE], p=[0.8, 0.1, 0.1], size=groupdq[..., 220:].shape)
    gain, readnoise = np.full((1, n), 2, np.float32), np.full((1, n), 3, np.float32)
    gain[0, ::37] = rng.choice([0, -0.0, -1, np.nan, np.inf, -np.inf, 1e-38], size=gain[0, ::37].shape)
    readnoise[0, ::41] = rng.choice([0, -2, np.nan, np.inf, 1e-30], size=readnoise[0, ::41].shape)
    times = list(2.0 * np.arange(ngroups))
    for rules in RULES:
        for dark in (None, np.full((1, n), -0.4, np.float32)):
            fit_both(in_strips, [data, groupdq, gain, readnoise], times, {"dark_current": dark}, {"rules": rules})


@given(
    pattern=st.sampled_from(list(PATTERNS)),
    npixels=st.integers(1, 70),
    options=st.fixed_dictionaries(
        {
            "rules": st.sampled_from(list(RULES)),
            "reject_jumps": st.booleans(),
            "max_diffs_one_sided": st.sampled_from([0, 3, 99]),
        }
    ),
    used=st.sampled_from([None, 1.0, 0.9, 0.4, 0.0]),
    values=st.sampled_from([(), (np.nan,), (0.0, -0.0), (np.inf, -np.inf, np.nan)]),
    seed=st.integers(0, 2**32 - 1),
)
@many
def test_given_differences(in_strips, pattern, npixels, options, used, values, seed):
    rng = np.random.default_rng(seed)
    diffs, sig, mask = draw_diffs(rng, PATTERNS[pattern], npixels, faintest=-2.0, used=1.0 if used is None else used)
    if values:
        some = rng.random(diffs.shape) < 0.02
        diffs[some] = rng.choice(values, size=np.count_nonzero(some))
    sig[rng.random(npixels) < 0.03] = 0
    given = {} if used is None else {"diffs2use": mask.astype(np.uint8)}
    with np.errstate(all="ignore"):
        found, expected = (
            each.fit_likelihood(diffs.copy(), PATTERNS[pattern], sig, **given, **options)
            for each in (in_strips, DEFINITION)
        )
    assert_same_bits(found, expected, found.diffs2use, expected.diffs2use)


@pytest.mark.parametrize("rules", ["stcal", "sound"])
def test_the_same_bits_for_any_strip_and_number_of_threads(rules):
    if not backend_status()["native"][0]:
        pytest.skip("no compiler for the kernels of this CPU")
    arrays = make_arrays(21, ngroups=14, shape=(19, 53))
    ramps, times = [arrays[name] for name in RAMPS], list_read_times(14, 1, 5.3, 1)
    for n_threads, strip_pixels in ((1, 1024), (1, 16), (2, 48), (2, 1), (3, 23)):
        kernels = get_backend("native", n_threads=n_threads).device.kernels
        usual, kernels.strip_pixels = kernels.strip_pixels, strip_pixels
        flags = fit_both(Backend(kernels), ramps, times, {}, {"rules": rules})
        kernels.strip_pixels = usual
        assert (flags != arrays["groupdq"]).any()


def test_the_native_backend_fits_in_strips(monkeypatch):
    if not backend_status()["native"][0]:
        pytest.skip("no compiler for the kernels of this CPU")
    backend = get_backend("native", n_threads=1)
    launched = []
    launch = backend.device.kernels.launch

    def record(name, *arguments):
        launched.append(name)
        launch(name, *arguments)

    monkeypatch.setattr(backend.device.kernels, "launch", record)
    arrays = make_arrays(22, ngroups=6)
    ramps = [arrays[name] for name in RAMPS]
    fit_both(backend, ramps, list_read_times(6, 1, 5.3, 1), {}, {})
    diffs, sig, _ = draw_diffs(np.random.default_rng(22), PATTERNS["deep8"], 30)
    backend.fit_likelihood(diffs, PATTERNS["deep8"], sig)
    assert launched == ["fit_group_strips", "fit_difference_strips"]
