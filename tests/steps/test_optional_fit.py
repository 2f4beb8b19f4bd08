"""The optional product of the segmented fit: arrays with stcal's bits, for any threads; and the step."""

import mmap
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import BACKENDS, get_backend
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.operations.ramp_fit import RampFitSettings
from gpucoron.backends.operations.ramp_fit.definition import fit_segments as fit_in_numpy
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.optional_fit import count_segments
from gpucoron.steps.ramp_fit import fit, fit_segments, run
from tests.cases.backends import backend_params, usable_backend
from tests.cases.ramp_fit import (
    RAMPS,
    TIMES,
    assert_same_segments,
    fit_segments_and_compare,
    fit_with_stcal,
    make_step_inputs,
    plain,
    simulate,
)

NUMPY = get_backend("numpy", n_threads=1)


@pytest.fixture(scope="module", params=backend_params(BACKENDS))
def backend(request):
    return usable_backend(request.param, request.config)


@pytest.mark.parity
@pytest.mark.parametrize("nints", [1, 3])
@pytest.mark.parametrize("ngroups", [1, 2, 3, 4, 10, 40])
@pytest.mark.parametrize("flagged", [0, 0.02, 0.4])
def test_everything_at_once(nints, ngroups, flagged):
    for seed, (suppress, zeroframe, dark, step) in enumerate(
        [(False, True, True, None), (True, True, False, None), (False, False, True, 20), (True, False, True, 1)]
    ):
        arrays = simulate([seed, nints, ngroups], nints, ngroups, flagged=flagged, step=step)
        if not zeroframe:
            del arrays["zeroframe"]
        if not dark:
            del arrays["dark_current"]
        pattern = {"nframes": (1, 8, 4, 2)[seed], "groupgap": seed, "drop_frames": seed % 2}
        for instrument in ("NIRCAM", "MIRI"):
            if instrument == "MIRI":
                arrays["groupdq"][:, [0, -1]] |= DO_NOT_USE
            options = {"suppress_one_group": suppress and ngroups > 1, "instrument": instrument}
            fit_segments_and_compare(arrays, backend=NUMPY, **options, **pattern)


@pytest.mark.parity
@pytest.mark.parametrize("zeroframe", [None, 60.0, np.nan])
@pytest.mark.parametrize("suppress", [False, True])
def test_single_ramps(suppress, zeroframe):
    """Each kind of ramp by itself: the numbers of segments and jumps are those of stcal."""
    for flags in RAMPS.values():
        arrays = plain(nints=2, ngroups=8)
        arrays["groupdq"][1, :, 0, 0] = flags
        arrays["data"] += np.random.default_rng(1).normal(0, 5, arrays["data"].shape).astype(np.float32)
        if zeroframe is not None:
            arrays["zeroframe"] = np.full((2, 1, 1), zeroframe, np.float32)
        fit_segments_and_compare(arrays, backend=NUMPY, suppress_one_group=suppress)
        arrays["groupdq"][0] = arrays["groupdq"][1]
        fit_segments_and_compare(arrays, backend=NUMPY, suppress_one_group=suppress)


@pytest.mark.parity
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0])
@pytest.mark.parametrize("where", [0, 3, 7])
def test_odd_samples(where, value):
    arrays = plain(ngroups=8, nx=3)
    arrays["data"][0, where, 0, :2] = value
    arrays["groupdq"][0, 4, 0, 1:] = JUMP_DET
    arrays["dark_current"] = np.float32([[-0.0, 0.0, np.nan]])
    fit_segments_and_compare(arrays, backend=NUMPY)


@pytest.mark.parity
@pytest.mark.parametrize(("nints", "ngroups", "flagged"), [(1, 1, 0.4), (3, 2, 0.3), (2, 9, 0.3), (2, 40, 0.01)])
def test_every_backend_has_the_same_values(backend, nints, ngroups, flagged):
    arrays = simulate(7, nints, ngroups, 6, 150, flagged=flagged)
    options = {"suppress_one_group": False, "drop_frames": 1}
    expected, _ = fit_with_stcal(arrays, save_opt=True, **options)
    ramps = {name: backend.to_device(array.copy()) for name, array in arrays.items()}
    *_, segments = fit_segments(**ramps, **TIMES, **options, backend=backend)
    # powers, roots and sums are the same on every device
    assert_same_segments(backend.to_host(segments), expected[2])


@pytest.mark.parametrize("shape", [(5, 10, 17, 13), (2, 40, 17, 13), (3, 2, 17, 13)])
def test_tiles_and_threads_change_nothing(shape):
    arrays = simulate(3, *shape, flagged=0.05)
    arrays["groupdq"][:, :, :3] = 0
    arrays["groupdq"][:, :1, 8:11] = DO_NOT_USE
    expected = None
    for n_threads, tile_bytes in ((1, 2**30), (1, 1), (3, 1), (2, 4 * 13 * shape[0] * shape[1] * 5)):
        n_segments, n_jumps = count_segments(arrays["groupdq"], backend=get_backend("numpy", n_threads=n_threads))
        segments = np.zeros((7 * shape[0], n_segments, *shape[2:]), np.float32)
        crmag = np.zeros((shape[0], n_jumps, *shape[2:]), np.float32)
        pedestal = np.zeros((shape[0], *shape[2:]), np.float32)
        device = NumpyDevice(n_threads, tile_bytes=tile_bytes)
        settings = RampFitSettings(**TIMES, suppress_one_group=True)
        fit_in_numpy(device, **arrays, segments=segments, crmag=crmag, pedestal=pedestal, settings=settings)
        found = [array.tobytes() for array in (segments, crmag, pedestal)]
        assert found == (expected or found)
        expected = found


def test_the_fit_itself_is_the_same():
    arrays = simulate(2, 3, 12, flagged=0.1)
    usual = fit(**{name: array.copy() for name, array in arrays.items()}, **TIMES, backend=NUMPY)
    *found, _ = fit_segments(**arrays, **TIMES, backend=NUMPY)
    for ours, theirs in zip(found, usual, strict=True):
        for name, values in vars(theirs).items():
            assert getattr(ours, name).tobytes() == values.tobytes()


def test_a_jump_between_two_segments():
    """The numbers that follow from the ramp: slopes, intercepts, the height of the jump, 12 R^2 / (n^3 - n)."""
    arrays = plain(ngroups=8, rate=8.0)
    arrays["data"][:, 3:] += 500
    arrays["groupdq"][:, 3] = JUMP_DET
    _, _, found = fit_segments(**arrays, group_time=2.0, nframes=1, backend=NUMPY)
    np.testing.assert_allclose(found.slope.ravel(), [4.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(found.yint.ravel(), [100.0, 600.0], rtol=1e-6)
    np.testing.assert_allclose(found.crmag.ravel(), [508.0])
    read_noise = 10 / np.sqrt(2) / 2.0
    np.testing.assert_allclose(found.var_rnoise.ravel(), [12 * read_noise**2 / (n**3 - n) for n in (3, 5)], rtol=1e-6)
    np.testing.assert_allclose(found.weights, 1 / found.var_rnoise, rtol=1e-6)
    np.testing.assert_allclose(found.var_poisson.ravel(), [4.0 / (2.0 * 2.0 * n) for n in (2, 4)], rtol=1e-6)
    assert found.pedestal.item() == 96.0


@pytest.mark.parametrize(
    ("flags", "zeroframe", "expected"),
    [
        ([0, 0, 0, 0, 0, 0], None, (1, 0)),
        ([4, 4, 0, 0, 4, 0], None, (2, 2)),
        ([0, 1, 0, 1, 0, 1], None, (3, 0)),  # of which stcal fits the first
        ([0, 0, 1, 0, 1, 0], None, (1, 0)),
        ([2, 2, 2, 2, 2, 2], None, (0, 0)),
        ([2, 2, 2, 6, 2, 2], 5.0, (1, 1)),
        ([2, 2, 2, 2, 2, 2], 0.0, (0, 0)),
        ([32, 32, 4, 36, 33, 32], None, (1, 2)),
        ([2, 32, 32, 2, 2, 2], 5.0, (1, 0)),
    ],
)
def test_counts(backend, flags, zeroframe, expected):
    groupdq = np.full((2, 6, 3, 4), SATURATED, np.uint8)
    groupdq[1, :, 1, 2] = flags
    frames = None if zeroframe is None else np.zeros((2, 3, 4), np.float32)
    if frames is not None:
        frames[1, 1, 2] = zeroframe
        frames = backend.to_device(frames)
    assert count_segments(backend.to_device(groupdq), zeroframe=frames, backend=backend) == expected


def test_counts_of_many_groups(monkeypatch):
    """More than a byte counts, and ramps in several parts."""
    groupdq = np.zeros((1, 1300, 5, 6), np.uint8)
    groupdq[0, 3::4, 2, 3] = JUMP_DET
    groupdq[0, 2::4, 2, 3] = DO_NOT_USE
    expected = count_segments(groupdq)
    assert expected == (325, 325)
    groupdq[0, 5] |= CHARGELOSS  # all ramps
    monkeypatch.setattr("gpucoron.steps.optional_fit._FLAGS_AT_ONCE", 4000)
    assert count_segments(groupdq, backend=NUMPY) == (325, 325)


def test_a_product_larger_than_the_memory_is_in_a_file(monkeypatch, tmp_path, caplog):
    arrays = simulate(5, 2, 10, flagged=0.1)
    *_, expected = fit_segments(**{name: array.copy() for name, array in arrays.items()}, **TIMES, backend=NUMPY)
    small = get_backend("numpy", n_threads=2, scratch_dir=tmp_path)
    monkeypatch.setattr(small.device, "memory_limit", lambda held=0: 10_000)
    *_, found = fit_segments(**arrays, **TIMES, backend=small)
    assert "scratch file" in caplog.text
    base = found.slope
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, (mmap.mmap, memoryview))
    for name, values in vars(expected).items():
        assert getattr(found, name).tobytes() == values.tobytes(), name


def test_nothing_can_be_fitted():
    arrays = plain(nints=2)
    arrays["groupdq"][...] = SATURATED
    assert fit_segments(**arrays, **TIMES) == (None, None, None)


def test_no_ramp_has_a_segment():
    arrays = plain(nints=2, nx=3)
    arrays["groupdq"][...] = DO_NOT_USE
    rate, _, found = fit_segments(**arrays, **TIMES, backend=NUMPY)
    assert np.isnan(rate.rate).all()
    assert found.slope.shape == (2, 0, 1, 3)
    assert found.crmag.shape == (2, 0, 1, 3)
    assert not found.pedestal.any()


def test_the_step_keeps_the_segments():
    for ngroups, parameters in ((8, {}), (3, {"algorithm": "LIKELY"})):  # which needs four groups
        inputs = make_step_inputs(simulate(2, 2, ngroups), save_opt=True, **parameters)
        run(*inputs)
        assert inputs[0].optional_fit.slope.shape[0] == 2
        assert inputs[0].likelihood_chisq is None
    for parameters in ({}, {"algorithm": "LIKELY", "save_opt": True}):
        inputs = make_step_inputs(simulate(2, 2, 8), **parameters)
        run(*inputs)
        assert inputs[0].optional_fit is None


def test_fits_within_other_steps_have_no_product():
    from gpucoron.engine import _make_fit

    exposure, references, settings, backend = make_step_inputs(simulate(2, 2, 8), save_opt=True)
    run_of_fit = SimpleNamespace(order=("ramp_fit",), parameters={"ramp_fit": settings}, backend=backend)
    assert _make_fit(run_of_fit, None)(exposure, references).status == "COMPLETE"
    assert exposure.rate is not None
    assert exposure.optional_fit is None
