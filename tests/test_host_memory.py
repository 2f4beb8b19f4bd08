"""An exposure that the memory does not hold: its ramps are in a file, the peak is bounded, the answers are the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batch_side import HOME
from jwst_side import SLOPE_ARRAYS
from test_jump import simulate as simulate_jumps

import gpucoron
from gpucoron.backends.devices.native_device import NativeBackend
from gpucoron.backends.devices.numpy_device import NumpyBackend
from gpucoron.backends.host_memory import ScratchBackend, free_memory
from gpucoron.backends.scratch_ramps import ScratchRamp, Window, resident_bytes
from gpucoron.simulate import Effects

#: arguments of simulated exposures whose ramps are larger than the memory allowed, and how they are reduced
PEAKS = {
    "MIRI": (
        ("MIRI", "MASK1550", "FASTR1", 30, 12),
        {"effects": Effects(emi=True)},
        {"steps": {"emicorr": {"skip": False}}},
    ),
    "NIRCam": (
        ("NIRCAM", "SUB320A335R", "RAPID", 20, 12),
        {},
        {"profile": "spaceklip", "stage_1overf": "groups", "steps": {"subtract_1overf": {"model_type": "median"}}},
    ),
}
#: bytes above what the programs take: references, products and the smallest pieces take some 110 MB of them
ROOM = 125_000_000


def measure(exposures, folder, name):
    """Reduce a case under a limit in a process of its own; see memory_side.py."""
    arguments, more, options = PEAKS[name]
    small = exposures(*arguments[:3], 10, 3, **more)
    large = exposures(*arguments, **more)
    command = [sys.executable, Path(__file__).with_name("memory_side.py"), small.path, large.path, folder]
    done = subprocess.run(
        [*map(str, command), str(ROOM), json.dumps(options)],
        env={**os.environ, "PYTHONPATH": HOME},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("name", PEAKS)
def test_the_peak_stays_within_the_limit(exposures, tmp_path, name):
    said = measure(exposures, tmp_path, name)
    assert said["backends"][0] == "ScratchBackend"
    assert said["different"] == []
    assert said["peak"] <= 1.1 * said["limit"], said
    assert not any("at least" in words for words in said["words"]), said["words"]
    # Else there was nothing to hold.
    assert said["unlimited_peak"] > 1.1 * said["limit"], said


def test_a_limit_that_cannot_be_kept_is_told_and_never_shows_in_the_answer(exposures, tmp_path, caplog):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40))
    with case.cache.activate():
        _run, whole, _ = gpucoron.reduce_file(case.path, tmp_path / "a", backend="cpu")
        run, limited, _ = gpucoron.reduce_file(case.path, tmp_path / "b", backend="cpu", max_memory=10_000_000)
    assert isinstance(run.backend, ScratchBackend)
    for product in ("rate", "rateints"):
        for name in SLOPE_ARRAYS:
            np.testing.assert_array_equal(getattr(limited[product], name), getattr(whole[product], name), err_msg=name)
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".")]
    told = re.search(r"max_memory \(--max-memory\) is 10 MB, but this exposure needs (\d+) MB at least", caplog.text)
    assert told
    assert int(told[1]) > 30


def test_what_is_asked_for_is_not_told(exposures, tmp_path, caplog):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40))
    with case.cache.activate():
        gpucoron.reduce_file(case.path, tmp_path, backend="cpu", max_memory=10_000_000_000)
    assert "max_memory" not in caplog.text


@pytest.mark.parametrize("make", [NumpyBackend, NativeBackend])
@pytest.mark.parametrize("mode", ["one after the other", "in one pass", "by clipping"])
def test_operations_in_chunks_of_a_file(tmp_path, make, mode):
    """Long ramps, which are the kernels' where there is a compiler."""
    options = {"one after the other": {"min_diffs_single_pass": 99}, "by clipping": {"minimum_sigclip_groups": 3}}
    data, groupdq, gain, readnoise = simulate_jumps(np.random.default_rng(4), (3, 34, 23, 12))
    expected = groupdq.copy()
    count = make(2).detect_jumps(data, expected, gain, readnoise, **options.get(mode, {}))
    backend = ScratchBackend(make(2, scratch_dir=tmp_path), 10**9)
    backend.max_memory = 150_000
    ramps = backend.empty(data.shape, np.float32), backend.empty(data.shape, np.uint8)
    ramps[0][...], ramps[1][...] = data, groupdq
    assert backend.detect_jumps(*ramps, gain, readnoise, **options.get(mode, {})) == count > 0
    np.testing.assert_array_equal(ramps[1], expected)
    wanted = make(1).fit_pedestal(data, expected, gain * 1e4, group_time=2.0)
    for ours, theirs in zip(backend.fit_pedestal(*ramps, gain * 1e4, group_time=2.0), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    slope = backend.fit_mean_slope(*ramps, wanted[0], gain * 1e4, group_time=2.0)
    theirs = make(1).fit_mean_slope(data, expected, wanted[0], gain * 1e4, group_time=2.0)
    np.testing.assert_array_equal(slope, theirs)
    fit = backend.fit_likelihood_ramps(*ramps, gain, readnoise, np.arange(34.0))
    theirs = make(1).fit_likelihood_ramps(data, expected, gain, readnoise, np.arange(34.0))
    for name, values in vars(theirs).items():
        np.testing.assert_array_equal(getattr(fit, name), values, err_msg=name)
    np.testing.assert_array_equal(ramps[1], expected)
    assert not list(tmp_path.iterdir())


@pytest.fixture(params=[0, 300_000, 10**9], ids=["frames fit", "integrations fit", "all fits"])
def ramp(request, tmp_path):
    """A ramp in a file with windows of several sizes, and the same in memory."""
    array = np.random.default_rng(1).normal(size=(5, 7, 64, 100)).astype(np.float32)
    ramp = Window(request.param).zeros(tmp_path, array.shape, array.dtype)
    ramp[...] = array
    return ramp, array


def test_arithmetic_on_a_scratch_ramp(ramp):
    rng = np.random.default_rng(2)
    image, ramp_of_each = rng.normal(size=(64, 100)), rng.normal(size=(5, 1, 64, 100)).astype(np.float32)
    for data in ramp:
        data -= image.astype(np.float32)
        data *= ramp_of_each
        data[2] += image.astype(np.float32)
        data[:, 1:3] -= 5
        data[:, 3] = image
        data.reshape(35, 64, 100)[::3] *= 2
        for integration in data:
            for frame in integration:
                frame[3:5] += 1
    assert type(ramp[0]) is ScratchRamp
    np.testing.assert_array_equal(*ramp)
    np.testing.assert_array_equal(ramp[0][:, ::-1][..., 1::2], ramp[1][:, ::-1][..., 1::2])
    assert (ramp[0] > 1).sum() == (ramp[1] > 1).sum()
    assert type(ramp[0] + 1) is np.ndarray


def test_a_copy_of_a_scratch_ramp_is_in_memory(ramp):
    for copied in (ramp[0].copy(), ramp[0].astype(np.float32), np.empty_like(ramp[0])):
        copied[...] = ramp[0]
        copied -= 1
        copied[2, :, 3:5] += copied[1, 2, 3:5]
        assert not isinstance(copied[1], ScratchRamp)
        assert getattr(copied, "mapping", None) is None
        np.testing.assert_array_equal(copied[:2], ramp[1][:2] - 1)
    np.testing.assert_array_equal(*ramp)


def test_gathering_from_a_scratch_ramp(ramp):
    rng = np.random.default_rng(3)
    where = np.unique(rng.integers(0, ramp[1].size, 900))
    integrations, rows, columns = (rng.integers(0, extent, 400) for extent in (5, 64, 100))
    pixels = np.unique(rows * 100 + columns)
    values = rng.normal(size=(5, 7, pixels.size))
    for data in ramp:
        data.reshape(-1)[where] *= 2
        data[integrations, :, rows, columns] = 7
        data[..., pixels // 100, pixels % 100] += values.astype(np.float32)
    np.testing.assert_array_equal(*ramp)
    for key in (
        (..., rows, columns),
        (integrations, slice(None), rows, columns),
        (slice(None), slice(1, 3), rows),
        np.array([4, 1]),
        ramp[1] > 0,
    ):
        np.testing.assert_array_equal(ramp[0][key], ramp[1][key])


def test_rows_of_a_scratch_ramp(ramp):
    rows = slice(10, 17)
    for ours, theirs in (ramp, (ramp[0][:, 2:5], ramp[1][:, 2:5])):
        if isinstance(ours, ScratchRamp):
            np.testing.assert_array_equal(ours.take_rows(rows), theirs[:, :, rows])
            ours.put_rows(rows, theirs[:, :, rows] + 1)
            theirs[:, :, rows] += 1
    np.testing.assert_array_equal(*ramp)


@pytest.mark.skipif(not os.access("/proc/self/status", os.R_OK), reason="Linux's /proc says what is resident")
def test_no_more_than_the_window_is_in_memory(tmp_path):
    window = Window(4_000_000)
    ramp = window.zeros(tmp_path, (8, 20, 224, 288), np.float32)
    ramp.view(np.ndarray)[...] = 1
    window.give_back()
    before, most = _mapped(), 0
    groups = [np.s_[:, group] for group in range(20)]
    for piece in (*groups, np.s_[:], np.s_[3], np.s_[2:5, 3:], *groups):
        ramp[piece] += 1
        most = max(most, _mapped() - before)
        for frame in ramp[4]:
            assert frame.max() >= 1
            most = max(most, _mapped() - before)
    assert 500_000 < most <= window.n_bytes
    # A row of each frame may bring two pieces of 64 kB each, and does not where it is copied.
    assert resident_bytes(ramp[:, :, 5]) <= 160 * 2**17
    window.give_back()
    ramp.put_rows(slice(5, 9), ramp.take_rows(slice(5, 9)) + 1)
    assert _mapped() - before < 100_000


def _mapped():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def test_free_memory():
    free = free_memory()
    if free is None:
        pytest.skip("this system does not say how much memory is free")
    assert free > 0
