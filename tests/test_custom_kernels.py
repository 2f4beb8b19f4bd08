"""The kernels of the coronagraphic steps give the NumPy definition's answers: on the host build, and on a GPU."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucoron.backends.kernel_backend import KernelBackend
from gpucoron.backends.numpy_backend import NumpyBackend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED

DEFINITION = NumpyBackend(n_threads=1)
DATA = Path(__file__).parent / "data"

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run_on(backend, operation, *arrays, **options):
    """Run an operation on copies; return its answer on the host."""
    arrays = [backend.to_device(array.copy()) if isinstance(array, np.ndarray) else array for array in arrays]
    answer = getattr(backend, operation)(*arrays, **options)
    return tuple(map(backend.to_host, answer)) if isinstance(answer, tuple) else backend.to_host(answer)


@pytest.mark.parametrize("operation", ["fit_pedestal", "fit_mean_slope"])
def test_operation_has_a_kernel(operation):
    """Otherwise these tests would compare NumPy with itself."""
    assert operation not in vars(KernelBackend)
    assert getattr(KernelBackend, operation).__module__ == "gpucoron.backends.kernel_custom"


# ------------------------------------------------------------------------------------------------------------ pedestal


@st.composite
def ramps(draw):
    """Ramps that climb through their limit, are lost here and there, and hold NaN and infinite values."""
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
def test_pedestals(kernel_backend, ramp, group_time):
    with np.errstate(all="ignore"):
        expected = run_on(DEFINITION, "fit_pedestal", *ramp, group_time=group_time)
    found = run_on(kernel_backend, "fit_pedestal", *ramp, group_time=group_time)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, theirs)


@given(ramps(), st.floats(0.2, 20))
@quick
def test_slopes_of_mean_ramps(kernel_backend, ramp, group_time):
    data, groupdq, limit = ramp
    with np.errstate(all="ignore"):
        pedestal, _ = run_on(DEFINITION, "fit_pedestal", *ramp, group_time=group_time)
        expected = run_on(DEFINITION, "fit_mean_slope", data, groupdq, pedestal, limit, group_time=group_time)
    found = run_on(kernel_backend, "fit_mean_slope", data, groupdq, pedestal, limit, group_time=group_time)
    np.testing.assert_array_equal(found, expected)


def test_pedestals_of_cut_ramps(kernel_backend):
    """Neither kernel sees the space between integrations."""
    rng = np.random.default_rng(4)
    data = np.cumsum(rng.uniform(0, 40, (3, 7, 4, 5)), axis=1).astype(np.float32)
    groupdq = (rng.random(data.shape) < 0.05).astype(np.uint8)
    limit = np.full((4, 5), 120, np.float32)
    expected = DEFINITION.fit_pedestal(data[:, 1:-1], groupdq[:, 1:-1], limit, group_time=2.0)
    arrays = [kernel_backend.to_device(array.copy()) for array in (data, groupdq, limit)]
    found = kernel_backend.fit_pedestal(arrays[0][:, 1:-1], arrays[1][:, 1:-1], arrays[2], group_time=2.0)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(kernel_backend.to_host(ours), theirs)
        assert np.count_nonzero(theirs) > theirs.size // 2


@pytest.mark.parity
def test_pedestals_are_spaceklips(kernel_backend):
    case = np.load(DATA / "ktc_fit.npz")
    limit = case["saturation"] * np.float32(case["sat_frac"])
    found = run_on(
        kernel_backend, "fit_pedestal", case["data"], case["groupdq"], limit, group_time=float(case["group_time"])
    )
    noise = np.median(np.abs(np.diff(case["data"], n=2, axis=1)))
    for ours, name in zip(found, ("pedestal", "slope"), strict=True):
        np.testing.assert_allclose(ours, case[name], rtol=0, atol=1e-8 * noise)
