"""The kernels of the coronagraphic steps return the results of the NumPy definition, on the host build and on a GPU."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from tests.cases.backends import usable_backend
from tests.cases.paths import DATA

DEFINITION = get_backend("numpy", n_threads=1)

#: fraction of the model's rms, for a smoothed model: NumPy rounds samples to integers, and its bridges are float32
SUBTRACT_1OVERF_TOLERANCE = 2e-5

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run_on(backend, operation, *arrays, **options):
    """Run an operation on copies; return its result on the host."""
    arrays = [backend.to_device(array.copy()) if isinstance(array, np.ndarray) else array for array in arrays]
    answer = getattr(backend, operation)(*arrays, **options)
    return tuple(map(backend.to_host, answer)) if isinstance(answer, tuple) else backend.to_host(answer)


@pytest.mark.parametrize(
    "operation", ["fit_ktc", "fit_mean_slope", "fit_likelihood", "fit_likelihood_ramps", "fit_1overf"]
)
def test_operation_has_a_kernel(operation):
    """Otherwise these tests would compare NumPy with itself."""
    assert getattr(Backend, operation).kernels is not None


# -------------------------------------------------------------------------------------------------------- subtract_ktc


@st.composite
def ramps(draw):
    """Ramps that cross their limit, have bad groups, and hold NaN and infinite values."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = np.cumsum(rng.uniform(-20, 60, shape), axis=1).astype(np.float32)
    data[rng.random(shape) < draw(st.sampled_from([0, 0.1]))] = np.nan
    data[rng.random(shape) < draw(st.sampled_from([0, 0.05]))] = draw(st.sampled_from([np.inf, -np.inf]))
    groupdq = rng.choice([0, DO_NOT_USE, JUMP_DET, SATURATED], p=[0.85, 0.05, 0.05, 0.05], size=shape).astype(np.uint8)
    limit = rng.uniform(0, 300, shape[2:])
    limit[rng.random(limit.shape) < 0.1] = np.nan
    return data, groupdq, limit.astype(draw(st.sampled_from([np.float32, np.float64])))


@given(ramps(), st.floats(0.2, 20))
@quick
def test_ktc(kernel_backend, ramp, group_time):
    with np.errstate(all="ignore"):
        expected = run_on(DEFINITION, "fit_ktc", *ramp, group_time=group_time)
    found = run_on(kernel_backend, "fit_ktc", *ramp, group_time=group_time)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, theirs)


@given(ramps(), st.floats(0.2, 20))
@quick
def test_slopes_of_mean_ramps(kernel_backend, ramp, group_time):
    data, groupdq, limit = ramp
    with np.errstate(all="ignore"):
        pedestal, _ = run_on(DEFINITION, "fit_ktc", *ramp, group_time=group_time)
        expected = run_on(DEFINITION, "fit_mean_slope", data, groupdq, pedestal, limit, group_time=group_time)
    found = run_on(kernel_backend, "fit_mean_slope", data, groupdq, pedestal, limit, group_time=group_time)
    np.testing.assert_array_equal(found, expected)


def test_ktc_of_cut_ramps(kernel_backend):
    """Neither kernel reads the memory between integrations."""
    rng = np.random.default_rng(4)
    data = np.cumsum(rng.uniform(0, 40, (3, 7, 4, 5)), axis=1).astype(np.float32)
    groupdq = (rng.random(data.shape) < 0.05).astype(np.uint8)
    limit = np.full((4, 5), 120, np.float32)
    expected = DEFINITION.fit_ktc(data[:, 1:-1], groupdq[:, 1:-1], limit, group_time=2.0)
    arrays = [kernel_backend.to_device(array.copy()) for array in (data, groupdq, limit)]
    found = kernel_backend.fit_ktc(arrays[0][:, 1:-1], arrays[1][:, 1:-1], arrays[2], group_time=2.0)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(kernel_backend.to_host(ours), theirs)
        assert np.count_nonzero(theirs) > theirs.size // 2


@pytest.mark.parity
def test_ktc_is_spaceklips(kernel_backend):
    case = np.load(DATA / "ktc_fit.npz")
    limit = case["saturation"] * np.float32(case["sat_frac"])
    found = run_on(
        kernel_backend, "fit_ktc", case["data"], case["groupdq"], limit, group_time=float(case["group_time"])
    )
    noise = np.median(np.abs(np.diff(case["data"], n=2, axis=1)))
    for ours, name in zip(found, ("pedestal", "slope"), strict=True):
        np.testing.assert_allclose(ours, case[name], rtol=0, atol=1e-8 * noise)


# ---------------------------------------------------------------------------------------------------------- likelihood


def make_read_times(n_resultants, n_reads, group_time=10.0):
    """Return one time for each resultant, or a list of times of its reads."""
    if n_reads == 1:
        return list(group_time * np.arange(1, n_resultants + 1))
    return [[group_time * k + j for j in range(1, n_reads + 1)] for k in range(n_resultants)]


def assert_same_fits(found, expected):
    for name in ("countrate", "uncert", "chisq", "var_poisson", "var_rdnoise"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


def counts_with_jumps(rng, shape, jumps):
    """Make ramps of Poisson and read noise along the first axis, float64 counts."""
    steps = rng.poisson(rng.gamma(1, 200, shape[1:]), shape) + rng.uniform(50, 3000, shape) * (
        rng.random(shape) < jumps
    )
    return np.cumsum(steps, axis=0) + rng.normal(0, 10, shape)


@given(
    n_diffs=st.integers(2, 14),
    n_reads=st.integers(1, 3),
    rules=st.sampled_from(["spaceklip", "stcal", "sound"]),
    one_sided=st.sampled_from([0, 3, 4, 99]),
    jumps=st.sampled_from([0.0, 0.05, 0.4]),
    masked=st.sampled_from([None, 0.05, 0.7]),
    rejects=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@quick
def test_likelihood(kernel_backend, n_diffs, n_reads, rules, one_sided, jumps, masked, rejects, seed):
    rng = np.random.default_rng(seed)
    times = make_read_times(n_diffs + 1, n_reads)
    diffs = np.diff(counts_with_jumps(rng, (n_diffs + 1, 3, 50), jumps), axis=0) / 10.0
    diffs[rng.random(diffs.shape) < 0.003] = np.nan
    sig = rng.uniform(3, 12, diffs.shape[1:])
    options = {"reject_jumps": rejects, "rules": rules, "max_diffs_one_sided": one_sided}
    arrays = {} if masked is None else {"diffs2use": (rng.random(diffs.shape) >= masked).astype(np.uint8)}
    expected = DEFINITION.fit_likelihood(diffs, times, sig, **arrays, **options)
    on_device = {name: kernel_backend.to_device(array.copy()) for name, array in arrays.items()}
    found = kernel_backend.fit_likelihood(
        kernel_backend.to_device(diffs), times, kernel_backend.to_device(sig), **on_device, **options
    )
    found = type(found)(**{name: kernel_backend.to_host(values) for name, values in vars(found).items()})
    np.testing.assert_array_equal(found.diffs2use, expected.diffs2use)
    assert_same_fits(found, expected)


@given(
    ngroups=st.integers(3, 12),
    n_reads=st.integers(2, 4),
    rules=st.sampled_from(["spaceklip", "stcal", "sound"]),
    one_sided=st.sampled_from([0, 3, 4, 99]),
    zeroframe=st.booleans(),
    dark=st.booleans(),
    unusable=st.sampled_from([0xFF, DO_NOT_USE | SATURATED]),
    seed=st.integers(0, 2**32 - 1),
)
@quick
def test_likelihood_of_ramps(kernel_backend, ngroups, n_reads, rules, one_sided, zeroframe, dark, unusable, seed):
    rng = np.random.default_rng(seed)
    image = (3, 17)
    data = counts_with_jumps(rng, (ngroups, 2, *image), 0.05).swapaxes(0, 1).astype(np.float32)
    groupdq = rng.choice([0, DO_NOT_USE, SATURATED, JUMP_DET], p=[0.94, 0.02, 0.02, 0.02], size=data.shape)
    gain, readnoise = (rng.uniform(low, 3 * low, image).astype(np.float32) for low in (1, 5))
    # Pixels without a gain, for which no covariance exists.
    gain[0, :4] = 0, -1, np.nan, np.inf
    readnoise[0, 4] = 0
    times = make_read_times(ngroups, n_reads)
    extra = {}
    if zeroframe:
        times[:1] = times[0][0], times[0][1:]
        extra["zeroframe"] = (data[:, 0] - rng.uniform(0, 30, data[:, 0].shape)).astype(np.float32)
    if dark:
        extra["dark_current"] = rng.uniform(0, 2, image).astype(np.float32)
    options = {"rules": rules, "unusable": unusable, "max_diffs_one_sided": one_sided}
    flags = groupdq.astype(np.uint8)
    arrays = (data, gain, readnoise)
    expected = DEFINITION.fit_likelihood_ramps(data, flags, gain, readnoise, times, **extra, **options)
    data, gain, readnoise = (kernel_backend.to_device(array.copy()) for array in arrays)
    edited = kernel_backend.to_device(groupdq.astype(np.uint8))
    extra = {name: kernel_backend.to_device(array.copy()) for name, array in extra.items()}
    found = kernel_backend.fit_likelihood_ramps(data, edited, gain, readnoise, times, **extra, **options)
    edited = kernel_backend.to_host(edited)
    np.testing.assert_array_equal(edited, flags)
    found = {name: None if values is None else kernel_backend.to_host(values) for name, values in vars(found).items()}
    assert_same_fits(type(expected)(**found), expected)


def test_likelihood_of_long_ramps_by_few_threads(kernel_backend, monkeypatch):
    """Each thread fits one ramp after another: columns of one must not affect the next."""
    monkeypatch.setattr(kernel_backend.device, "scratch_bytes", 0)
    rng = np.random.default_rng(5)
    times = make_read_times(90, 2)
    diffs = np.diff(counts_with_jumps(rng, (90, 400), 0.03), axis=0) / 10.0
    sig = np.full(400, 8.0)
    expected = DEFINITION.fit_likelihood(diffs, times, sig)
    found = kernel_backend.fit_likelihood(kernel_backend.to_device(diffs), times, kernel_backend.to_device(sig))
    found = type(found)(**{name: kernel_backend.to_host(values) for name, values in vars(found).items()})
    np.testing.assert_array_equal(found.diffs2use, expected.diffs2use)
    assert 0.01 < 1 - found.diffs2use.mean() < 0.1
    assert_same_fits(found, expected)


# ----------------------------------------------------------------------------------------------------------- 1/f noise


def make_frames(rng, shape):
    """Make frames of noise that drifts along the readout, with sources, holes and NaN, and their background mask."""
    drift = np.cumsum(rng.normal(0, 0.3, (shape[0], shape[1] * shape[2])), axis=1).reshape(shape)
    frames = (drift - drift.mean() + rng.normal(0, 1, shape)).astype(np.float32)
    masks = rng.random(shape) < rng.uniform(0.5, 1, (shape[0], 1, 1))
    frames[:, 2:6, 5:15] += 40
    masks[0, 2:6, 5:15] = False
    frames[rng.random(shape) < 0.01] = np.nan
    frames[0, 0, 0] = np.inf
    masks[-1, -3] = False
    return frames, masks


def assert_same_models(found, expected, smoothed):
    assert found.dtype == np.float32
    # At a cut of outliers within rounding, one sample more or less may be excluded.
    off = (
        np.abs(found - expected) > SUBTRACT_1OVERF_TOLERANCE * max(expected.std(), 1e-3)
        if smoothed
        else found != expected
    )
    assert np.mean(off) <= 1e-3


SUBTRACT_1OVERF_OPTIONS = {
    "rows": {},
    "rows and columns": {"vertical_corr": True},
    "flat": {"flatten_model": True},
    "outputs": {"noutputs": 4, "vertical_corr": True},
    "outputs with a common part": {"noutputs": 2, "channel_averaging": True, "flatten_model": True},
}


@pytest.mark.parametrize("options", SUBTRACT_1OVERF_OPTIONS.values(), ids=SUBTRACT_1OVERF_OPTIONS)
@pytest.mark.parametrize("model_type", ["savgol", "median", "mean", "fft"])
def test_1overf(kernel_backend, model_type, options):
    frames, masks = make_frames(np.random.default_rng(7), (3, 40, 48))
    expected = DEFINITION.fit_1overf(frames, masks, model_type=model_type, **options)
    found = run_on(kernel_backend, "fit_1overf", frames, masks, model_type=model_type, **options)
    assert_same_models(found, expected, model_type == "savgol" or options.get("flatten_model"))
    assert expected.std() > 0.5


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(7, 24), st.integers(16, 30)),
    good=st.sampled_from([0.0, 0.01, 0.05, 0.3, 1.0]),
    model_type=st.sampled_from(["savgol", "median", "mean"]),
    vertical=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@quick
def test_1overf_with_few_good_samples(kernel_backend, shape, good, model_type, vertical, seed):
    """Rows with few or no good samples; the windows shrink to the good samples."""
    rng = np.random.default_rng(seed)
    frames, masks = make_frames(rng, shape)
    masks &= rng.random(shape) < good
    options = {"model_type": model_type, "vertical_corr": vertical}
    expected = DEFINITION.fit_1overf(frames, masks, **options)
    found = run_on(kernel_backend, "fit_1overf", frames, masks, **options)
    if good == 0.0:
        assert not found.any()
    assert_same_models(found, expected, model_type == "savgol")


def test_1overf_of_frames_that_are_flat(kernel_backend):
    """If the median deviation is 0, the mean deviation is used."""
    frames = np.zeros((2, 20, 30), np.float32)
    frames[0, ::4] = 1
    frames[1, 3, 4] = 100
    masks = np.ones(frames.shape, bool)
    for model_type in ("savgol", "median", "mean"):
        expected = DEFINITION.fit_1overf(frames, masks, model_type=model_type)
        found = run_on(kernel_backend, "fit_1overf", frames, masks, model_type=model_type)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_frames_do_not_see_each_other(kernel_backend):
    frames, masks = make_frames(np.random.default_rng(8), (4, 24, 32))
    together = run_on(kernel_backend, "fit_1overf", frames, masks, vertical_corr=True)
    alone = [
        run_on(kernel_backend, "fit_1overf", *pair, vertical_corr=True)
        for pair in zip(frames[:, None], masks[:, None], strict=True)
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_threads_that_share_a_row_give_its_median(request):
    """The host build uses real threads."""
    backends = [usable_backend("host", request.config, lanes=lanes) for lanes in (1, 4)]
    assert all(isinstance(backend.device, HostDevice) for backend in backends)
    frames, masks = make_frames(np.random.default_rng(9), (1, 7, 40))
    for model_type in ("median", "mean"):
        alone, shared = (backend.fit_1overf(frames, masks, model_type=model_type) for backend in backends)
        np.testing.assert_allclose(shared, alone, rtol=1e-6 if model_type == "mean" else 0)


@pytest.mark.parity
def test_1overf_is_spaceklips(kernel_backend):
    case = np.load(DATA / "flicker_image.npz")
    arrays = case["residual"][None], case["mask"][None]
    for model_type, tolerance in (("savgol", 1e-3), ("median", 1e-5), ("mean", 1e-5)):
        expected = case[f"{model_type}_vert1_flat1_slow2"]
        found = run_on(
            kernel_backend, "fit_1overf", *arrays, model_type=model_type, vertical_corr=True, flatten_model=True
        )
        off = np.abs(found[0, 3::7, 2::5] - expected) > tolerance * expected.std()
        assert off.mean() <= 1e-3
