"""Background masks and smoothed frames of the native backend have the bits of the NumPy definition."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucoron.backends import get_backend
from gpucoron.backends.operations.subtract_1overf import definition
from gpucoron.backends.operations.subtract_1overf.savgol import BRIDGE, bits_of_samples, centre_weights, projection
from tests.cases.backends import usable_backend

DEFINITION = get_backend("numpy", n_threads=1)

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def native(request):
    return usable_backend("native", request.config, n_threads=2)


def make_noise(rng, shape):
    drift = np.cumsum(rng.normal(0, 0.3, (shape[0], shape[1] * shape[2])), axis=1).reshape(shape)
    return (drift - drift.mean() + rng.normal(0, 1, shape)).astype(np.float32)


def ties(rng, frames):
    frames[...] = np.round(frames)


def zeros_of_both_signs(rng, frames):
    frames[...] = rng.choice(np.array([-0.0, 0.0, 1.0], np.float32), frames.shape, p=[0.45, 0.45, 0.1])


def mostly_zero(rng, frames):
    # the median deviation is 0, so the mean deviation is used
    frames[rng.random(frames.shape) < 0.7] = 0


def unknown(rng, frames):
    frames[rng.random(frames.shape) < 0.05] = np.nan
    frames[rng.random(frames.shape) < 0.01] = np.inf
    frames[rng.random(frames.shape) < 0.01] = -np.inf
    frames[-1] = np.nan


def sources(rng, frames):
    frames[:, 3:9, 4:12] += 30
    frames[:, 12:15, 2:5] += 4


def tiny(rng, frames):
    frames *= np.float32(1e-30)


def huge(rng, frames):
    frames *= np.float32(1e20)


def plain(rng, frames):
    pass


FRAMES = (plain, ties, zeros_of_both_signs, mostly_zero, unknown, sources, tiny, huge)


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype
    unsigned = np.uint8 if found.dtype == bool else np.uint32
    np.testing.assert_array_equal(found.view(unsigned), expected.view(unsigned))


@given(
    change=st.sampled_from(FRAMES),
    shape=st.tuples(st.integers(1, 3), st.integers(16, 80), st.integers(16, 80)),
    bad=st.sampled_from([None, 0.0, 0.1, 0.9, 1.0]),
    options=st.fixed_dictionaries({"nsigma": st.sampled_from([1, 3.0, 5]), "niter": st.integers(1, 5)}),
    seed=st.integers(0, 2**32 - 1),
)
@quick
def test_background_masks(native, change, shape, bad, options, seed):
    rng = np.random.default_rng(seed)
    frames = make_noise(rng, shape)
    change(rng, frames)
    excluded = None if bad is None else rng.random(shape) < bad
    expected = DEFINITION.background_mask(frames, excluded, **options)
    assert_same_bits(native.background_mask(frames, excluded, **options), expected)


@pytest.mark.parametrize("bad", [None, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(2, 30, 44), (1, 1, 9), (3, 13, 1)])
@pytest.mark.parametrize("change", FRAMES)
def test_background_masks_of_a_gpu(change, shape, bad):
    """Also areas of six and seven bright pixels, at the edges, and more rounds than usual."""
    rng = np.random.default_rng(8)
    frames = make_noise(rng, shape)
    if min(shape[1:]) > 13:
        change(rng, frames)
        frames[:, :2, 5:9] += 40
        frames[:, 20, -7:] += 40
        frames[:, 12:14, 20:23] += 40
    excluded = None if bad is None else rng.random(shape) < bad
    host = get_backend("host", n_threads=1)
    for niter in (1, 3, 6):
        expected = DEFINITION.background_mask(frames, excluded, niter=niter)
        assert_same_bits(host.background_mask(frames, excluded, niter=niter), expected)


@given(
    change=st.sampled_from(FRAMES),
    shape=st.tuples(st.integers(1, 3), st.integers(16, 80), st.integers(16, 80)),
    good=st.sampled_from([None, 0.0, 0.002, 0.05, 0.5, 1.0]),
    options=st.fixed_dictionaries({"vertical_corr": st.booleans(), "flatten_model": st.booleans()}),
    seed=st.integers(0, 2**32 - 1),
)
@quick
def test_smoothed_frames(native, change, shape, good, options, seed):
    """Down to so few good samples that the windows of the bridges shrink, and with outliers of the model."""
    rng = np.random.default_rng(seed)
    frames = make_noise(rng, shape)
    change(rng, frames)
    masks = DEFINITION.background_mask(frames, None) if good is None else rng.random(shape) < good
    expected = DEFINITION.fit_1overf(frames, masks, **options)
    assert_same_bits(native.fit_1overf(frames, masks, **options), expected)


def test_large_frames_with_outliers_of_the_model(native, launched, monkeypatch):
    rng = np.random.default_rng(4)
    frames = make_noise(rng, (2, 130, 190))
    frames[:, 40:60, 50:120] += 2.5
    frames[0, rng.random(frames.shape[1:]) < 0.2] = np.nan
    masks = DEFINITION.background_mask(frames, None)
    assert_same_bits(native.background_mask(frames, None), masks)
    expected = DEFINITION.fit_1overf(frames, masks, vertical_corr=True)
    assert_same_bits(native.fit_1overf(frames, masks, vertical_corr=True), expected)
    assert launched == ["find_backgrounds", "smooth_frames"]
    # outliers of the model were left out
    monkeypatch.setattr(definition, "ROUNDS", 0)
    assert (DEFINITION.fit_1overf(frames, masks, vertical_corr=True) != expected).any(axis=(1, 2)).all()


def test_views_and_threads(native):
    rng = np.random.default_rng(5)
    frames = make_noise(rng, (7, 40, 60))
    masks = rng.random(frames.shape) < 0.9
    turned, of_turned = frames.swapaxes(1, 2), masks.swapaxes(1, 2)
    expected = DEFINITION.fit_1overf(turned, of_turned, vertical_corr=True)
    expected_mask = DEFINITION.background_mask(turned, of_turned)
    for n_threads in (1, 2, 5):
        backend = get_backend("native", n_threads=n_threads)
        assert_same_bits(backend.fit_1overf(turned, of_turned, vertical_corr=True), expected)
        assert_same_bits(backend.background_mask(turned, of_turned), expected_mask)
    reverse = native.fit_1overf(turned[::-1], of_turned[::-1], vertical_corr=True)
    assert_same_bits(np.ascontiguousarray(reverse[::-1]), expected)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 15, 40), {}),
        ((1, 40, 15), {}),
        ((1, 40, 40), {"noutputs": 4}),
        ((1, 40, 40), {"model_type": "median"}),
    ],
)
def test_other_fits_are_numpys(native, launched, shape, options):
    frames = make_noise(np.random.default_rng(6), shape)
    masks = np.ones(shape, bool)
    assert_same_bits(native.fit_1overf(frames, masks, **options), DEFINITION.fit_1overf(frames, masks, **options))
    assert not launched


@pytest.mark.parametrize("window", [5, 7, BRIDGE, 105, 127, 681])
def test_sums_of_integers_are_exact(window):
    """The weights are integers over a common number, and no sum has more bits than a float64."""
    weights, factor = centre_weights(window)
    np.testing.assert_allclose(weights * factor, projection(window)[window // 2], atol=1e-14)
    # in windows at the sides of a hole, the rows of a projection have norms of up to 1
    largest = 2.0 ** bits_of_samples(window) * np.sqrt(BRIDGE)
    assert largest * np.abs(weights).sum() < 2**53
    assert bits_of_samples(window) >= 20
    assert (weights == weights[::-1]).all()
