"""subtract_ktc: pedestals compared with results of spaceKLIP, with NumPy's fit, by hand, and with the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.simulate import Effects, simulate
from gpucoron.steps import subtract_ktc
from gpucoron.steps.subtract_ktc import fit_ktc
from tests.cases.backends import usable_backend
from tests.cases.paths import DATA


def make_ramp(values, flags=None):
    data = np.asarray(values, np.float32).reshape(1, -1, 1, 1)
    return data, np.zeros(data.shape, np.uint8) if flags is None else np.asarray(flags, np.uint8).reshape(data.shape)


@pytest.mark.parity
def test_same_as_spaceklip():
    case = np.load(DATA / "ktc_fit.npz")
    arrays = (case["data"], case["groupdq"], case["saturation"], float(case["group_time"]))
    pedestal, slope = fit_ktc(*arrays, sat_frac=float(case["sat_frac"]))
    noise = np.median(np.abs(np.diff(case["data"], n=2, axis=1)))
    np.testing.assert_allclose(pedestal, case["pedestal"], rtol=0, atol=1e-8 * noise)
    np.testing.assert_allclose(slope, case["slope"], rtol=0, atol=1e-8 * noise)
    assert (pedestal == 0).any(), "the case has pixels without a fit"


@pytest.mark.parametrize(
    ("values", "flags", "n_fitted"),
    [
        ([15, 20, 27, 29], None, 4),
        ([15, 20, 120, 29, 33], None, 5),  # above the limit in the middle: still part of the line
        ([15, 20, 27, 120], None, 3),
        ([15, 20, 27, 29], [0, 0, DO_NOT_USE, 0], 2),  # bad from there on
        ([15, 20, 27, 29], [0, JUMP_DET, 0, 0], 4),
        ([15, 20, np.nan, 29], None, 2),
        ([15, 120, 130, 140], None, 0),
        ([15, 20, 27, 29], [DO_NOT_USE, 0, 0, 0], 0),
    ],
)
def test_which_groups_are_fitted(values, flags, n_fitted):
    pedestal, slope = fit_ktc(*make_ramp(values, flags), np.full((1, 1), 200, np.float32), 2.5)
    expected = np.polyfit(2.5 * np.arange(1, n_fitted + 1), values[:n_fitted], 1) if n_fitted else (0, 0)
    np.testing.assert_allclose([slope[0, 0, 0], pedestal[0, 0, 0]], expected, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_any_ramp_is_fitted_as_numpy_does(ngroups, nints, seed):
    rng = np.random.default_rng(seed)
    data = rng.uniform(-50, 300, (nints, ngroups, 3, 4)).astype(np.float32)
    groupdq = (rng.random(data.shape) < 0.1).astype(np.uint8) * rng.choice([1, 2, 4, 5], data.shape).astype(np.uint8)
    saturation = rng.uniform(200, 600, (3, 4)).astype(np.float32)
    pedestal, slope = fit_ktc(data, groupdq, saturation, 3.0, sat_frac=0.4)
    for i, y, x in np.ndindex(pedestal.shape):
        lost = np.logical_or.accumulate(groupdq[i, :, y, x] & DO_NOT_USE > 0)
        below = data[i, :, y, x] < saturation[y, x] * np.float32(0.4)
        ends = np.flatnonzero(below & ~lost)
        n = ends[-1] + 1 if len(ends) else 0
        expected = np.polyfit(3.0 * np.arange(1, n + 1), data[i, :n, y, x], 1) if n > 1 else (0, 0)
        np.testing.assert_allclose([slope[i, y, x], pedestal[i, y, x]], expected, rtol=1e-9, atol=1e-8)


def test_threads_tiles_and_backends_give_the_same_bits(request):
    rng = np.random.default_rng(1)
    data = rng.normal(100, 10, (2, 6, 300, 200)).astype(np.float32)
    groupdq = (rng.random(data.shape) < 0.01).astype(np.uint8)
    limit = np.full((300, 200), 110, np.float32)
    single, several = get_backend("numpy", n_threads=1), get_backend("numpy", n_threads=3)
    kernels = usable_backend("host", request.config)
    expected = single.fit_ktc(data, groupdq, limit, group_time=2.0)
    of_rows = single.fit_ktc(data[:, :, 7:19], groupdq[:, :, 7:19], limit[7:19], group_time=2.0)
    for ours, threads, rows, other in zip(
        expected,
        several.fit_ktc(data, groupdq, limit, group_time=2.0),
        of_rows,
        kernels.fit_ktc(data, groupdq, limit, group_time=2.0),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, threads)
        np.testing.assert_array_equal(ours[:, 7:19], rows)
        np.testing.assert_array_equal(ours, other)


def test_arrays_that_do_not_belong_together_are_refused():
    data, groupdq = make_ramp([1, 2, 3])
    with pytest.raises(ValueError, match=r"fit_ktc: saturation: expected \(ny, nx\) = \(1, 1\)"):
        fit_ktc(data, groupdq, np.ones((2, 2), np.float32), 1.0)
    with pytest.raises(ValueError, match="fit_ktc: data: expected"):
        fit_ktc(data[0], groupdq[0], np.ones((1, 1), np.float32), 1.0)


def make_exposure(instrument="NIRCAM"):
    rng = np.random.default_rng(2)
    data = (rng.normal(0, 30, (3, 1, 6, 8)) + np.arange(1, 6)[:, None, None] * 10.0).astype(np.float32)
    facts = Facts(instrument, group_time=2.0)
    return Exposure(data=data, groupdq=np.zeros(data.shape, np.uint8), facts=facts)


def test_step_subtracts_ktc():
    exposure = make_exposure()
    references = {"saturation": Reference(data=np.full((6, 8), 1e4, np.float32))}
    outcome = subtract_ktc.run(exposure, references, subtract_ktc.STEP.settings(sat_frac=0.5), get_backend("cpu"))
    assert outcome.status == "COMPLETE"
    np.testing.assert_allclose(
        exposure.data, np.broadcast_to(np.arange(1, 6)[:, None, None] * 10, (3, 5, 6, 8)), atol=1e-4
    )


@pytest.mark.parametrize(("instrument", "reference"), [("MIRI", Reference()), ("NIRCAM", None)])
def test_step_is_skipped_with_a_reason(instrument, reference):
    exposure = make_exposure(instrument)
    before = exposure.data.copy()
    outcome = subtract_ktc.run(
        exposure, {"saturation": reference}, subtract_ktc.STEP.settings(sat_frac=0.5), get_backend("cpu")
    )
    assert outcome.status == "SKIPPED"
    assert outcome.reason
    np.testing.assert_array_equal(exposure.data, before)


def test_error_on_truth_is_explained_by_read_noise():
    effects = Effects(
        one_over_f=0, superbias=False, nonlinearity=False, saturation=False, ipc=False, cosmic_rays=0, bad_pixels=False
    )
    simulation = simulate(
        "NIRCAM", "SUB320A335R", "RAPID", 8, 3, seed=3, scene=np.float32(0), effects=effects, shape=(96, 96)
    )
    data = simulation.data.astype(np.float32) - simulation.pixels.kind.bias
    saturation = np.full((96, 96), 4e4, np.float32)
    pedestal, _ = fit_ktc(data, np.zeros(data.shape, np.uint8), saturation, simulation.group_time)
    n = data.shape[1]
    error = pedestal - simulation.truth.ktc
    # Variance of the extrapolation of a line to one step before its first of n points.
    expected = simulation.pixels.read_noise / simulation.pixels.gain * np.sqrt((4 * n + 2) / (n * (n - 1)))
    assert abs(np.std(error / expected) - 1) < 0.02
    assert abs(np.mean(error)) < 4 * expected.mean() / np.sqrt(error.size) + 0.1
    assert np.std(simulation.truth.ktc) > 2 * np.std(error)
