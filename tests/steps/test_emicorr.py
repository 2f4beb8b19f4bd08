"""emicorr: jwst's result in every mode, the same on every backend, and complete removal of simulated interference."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpucoron.backends import chunks, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.io.exposure import Exposure
from gpucoron.simulate import Effects, simulate
from gpucoron.steps import emicorr
from gpucoron.steps.emicorr import ReadTimes, apply_emicorr
from tests.cases.emicorr import run_step

DEFINITION = get_backend("numpy", n_threads=1)

#: shape, frequency, bins of the wave, clocks, whether each integration is fitted separately
CASES = {
    "MASK1550": ((3, 12, 24, 288), 390.625, 64, ReadTimes(1, 82, 23968), False),
    "separate": ((3, 12, 24, 288), 218.52055, 100, ReadTimes(1, 82, 23968), True),
    "MASKLYOT, three groups": ((2, 3, 40, 320), 164.9, 31, ReadTimes(1, 90, 32400), False),
    "SLOWR1": ((1, 20, 32, 128), 10.039216, 200, ReadTimes(9, 2333, 2388992), False),
    "no reset frame": ((2, 130, 8, 64), 390.625, 16, ReadTimes(1, 28, 0), False),
}


def disturbed_ramps(shape, frequency, n_bins, times, seed=0):
    """Make ramps of integer counts with interference; return data, pixel flags, the wave."""
    rng = np.random.default_rng(seed)
    nints, ngroups, ny, nx = shape
    centres = (np.arange(n_bins) + 0.5) / n_bins
    wave = (np.sin(2 * np.pi * centres) + 0.3 * np.cos(4 * np.pi * centres)).astype(np.float32)
    pixels, groups, per_integration = times.phases(shape, frequency)
    data = 15000 + np.arange(ngroups)[:, None, None] * rng.gamma(1, 20, (ny, nx)) + rng.normal(0, 6, shape)
    for i in range(nints):
        for j in range(ngroups):
            phases = pixels + groups[j] + i * per_integration + 0.37
            data[i, j] += 8 * np.repeat(np.interp(phases % 1, centres, wave, period=1), 4, axis=1)
    pixeldq = np.where(rng.random((ny, nx)) < 0.05, 1, 0).astype(np.uint32)
    return np.rint(data).astype(np.float32), pixeldq, wave


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_the_joint_fit_is_jwsts(name):
    from jwst.emicorr.emicorr import emicorr_refwave

    shape, frequency, n_bins, times, separate = CASES[name]
    data, pixeldq, wave = disturbed_ramps(shape, frequency, n_bins, times)
    expected = data.copy()
    emicorr_refwave(
        expected, pixeldq, wave, times.nsamples, times.row_clocks, times.reset_clocks, (1.0 / frequency) / 10.0e-6,
        fit_ints_separately=separate,
    )  # fmt: skip
    found = data.copy()
    options = {"fit_ints_separately": separate, "backend": get_backend("numpy", n_threads=2)}
    (amplitudes,) = apply_emicorr(found, pixeldq, [(frequency, wave)], times, **options)
    # one unit in the last place of float32
    np.testing.assert_allclose(found, expected, rtol=1.2e-7, atol=0)
    assert np.abs(np.abs(amplitudes) - 8).max() < 1
    assert np.abs(found - data).max() > 5


@pytest.mark.parametrize("name", CASES)
def test_backends_agree_on_the_joint_fit(kernel_backend, name):
    shape, frequency, n_bins, times, separate = CASES[name]
    data, pixeldq, wave = disturbed_ramps(shape, frequency, n_bins, times, seed=1)
    waves = [(frequency, wave), (frequency * 1.37, wave)]
    expected = data.copy()
    apply_emicorr(expected, pixeldq, waves, times, fit_ints_separately=separate, backend=DEFINITION)
    on_device = kernel_backend.to_device(data.copy())
    apply_emicorr(
        on_device, kernel_backend.to_device(pixeldq), waves, times, fit_ints_separately=separate, backend=kernel_backend
    )
    # The sums of the matrices differ by rounding in float64, which may change a last bit of float32 at a tie.
    np.testing.assert_allclose(kernel_backend.to_host(on_device), expected, rtol=1.2e-7, atol=0)


def test_each_operation_is_its_definition(kernel_backend):
    shape, frequency, n_bins, times, _ = CASES["MASK1550"]
    data, _, values = disturbed_ramps(shape, frequency, n_bins, times)
    data += np.float32(0.1)
    to_host = kernel_backend.to_host
    pixels, groups, _ = times.phases(shape, frequency)
    wave, bins = emicorr.cubic_pieces(values), (pixels * n_bins).astype(np.int32)
    bins[:, 1:3] = -1
    scatter = DEFINITION.measure_scatter(data)
    np.testing.assert_array_equal(scatter, np.std(data, axis=1))
    on_device = kernel_backend.to_device(data.copy())
    np.testing.assert_array_equal(to_host(kernel_backend.measure_scatter(on_device)), scatter)
    good = scatter < np.median(scatter) * 2
    sums, counts = DEFINITION.sum_by_phase(data, good, bins, n_bins)
    found = kernel_backend.sum_by_phase(on_device, kernel_backend.to_device(good), bins, n_bins)
    np.testing.assert_array_equal(to_host(found[0]), sums)
    np.testing.assert_array_equal(to_host(found[1]), counts)
    terms = DEFINITION.match_emicorr(sums, counts, wave, groups, 500)
    for ours, theirs in zip(kernel_backend.match_emicorr(*found, wave, groups, 500), terms, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
    tables = wave, pixels, groups, np.array([0.1, 0.7, 3.3]), np.array([2.0, -8.0, 0.0])
    kernel_backend.subtract_emicorr(on_device, *tables)
    DEFINITION.subtract_emicorr(data, *tables)
    np.testing.assert_array_equal(to_host(on_device), data)


@pytest.mark.parametrize(
    "backend",
    [
        get_backend("numpy", n_threads=3),
        # Memory for three rows of eight, and for less than an integration.
        Backend(NumpyDevice(1), home=NumpyDevice(1), budget=230_000),
    ],
    ids=["threads", "chunks"],
)
def test_threads_and_chunks_do_not_show(monkeypatch, backend):
    monkeypatch.setattr(chunks, "works_in_place", lambda *_: False)
    shape, frequency, n_bins, times, separate = CASES["no reset frame"]
    data, pixeldq, wave = disturbed_ramps(shape, frequency, n_bins, times)
    data += np.float32(0.1)
    expected, found = data.copy(), data.copy()
    apply_emicorr(expected, pixeldq, [(frequency, wave)], times, backend=DEFINITION)
    apply_emicorr(found, pixeldq, [(frequency, wave)], times, backend=backend)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, data)


def test_emicorr_removes_it_all():
    """The correction recovers the ramps of the same exposure without interference."""
    arguments, shape = ("MIRI", "MASK1550", "FASTR1", 10, 2), (40, 288)
    quiet = Effects(cosmic_rays=0, reset=False, rscd=False, last_frame=False)
    with_it, without = (
        simulate(*arguments, shape=shape, effects=replace(quiet, emi=emi)).data.astype(np.float32)
        for emi in (True, False)
    )
    before = (with_it - without).std()
    wave = np.sin(2 * np.pi * (np.arange(64) + 0.5) / 64)
    # The reset frame is simulated with the same length as the others of the subarray.
    frame = 40 * 82 + (1024 - 40) * 7
    flags = np.zeros(shape, np.uint32)
    (amplitudes,) = apply_emicorr(with_it, flags, [(390.625, wave)], ReadTimes(1, 82, frame))
    after = (with_it - without).std()
    assert before > 5
    assert after < 0.1 * before
    np.testing.assert_allclose(np.abs(amplitudes), 8, rtol=0.03)


def test_ramps_that_cannot_be_fitted_are_not_changed(caplog):
    times, wave = ReadTimes(1, 82, 0), np.sin(np.arange(20))
    data = np.full((1, 4, 4, 16), 100, np.float32)
    flags = np.ones((4, 16), np.uint32)
    assert not apply_emicorr(data, flags, [(390.625, wave)], times)[0].any()
    assert (data == 100).all()
    data[0, 0, 0, 0] = np.nan
    assert not apply_emicorr(data, flags * 0, [(390.625, wave)], times)[0].any()
    assert "NaN" in caplog.text
    with pytest.raises(ValueError, match="three are needed"):
        apply_emicorr(data[:, :2], flags, [(390.625, wave)], times)
    with pytest.raises(ValueError, match="four pixels at once"):
        apply_emicorr(data[..., :15], flags[:, :15], [(390.625, wave)], times)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"instrument": "NIRCAM"}, "for MIRI"),
        ({"readpatt": "FASTGRPAVG"}, "read pattern"),
        ({"reference": False}, "no emicorr reference"),
        ({"ngroups": 2}, "three are needed"),
        ({"subarray": "SUB64"}, "no interference"),
        ({"subarray": "FULL", "readpatt": "SLOWR1"}, "no interference"),
    ],
)
def test_why_it_is_skipped(changes, reason):
    outcome = run_step(**{"reference": True, **changes})
    assert outcome.status == "SKIPPED"
    assert reason in outcome.reason


def test_what_it_runs():
    assert run_step(True).status == "COMPLETE"
    assert run_step(True, readpatt="SLOWR1", nsamples=9).status == "COMPLETE"
    with pytest.raises(ValueError, match="Hz10"):
        run_step(True, subarray="MASK1065")
    with pytest.raises(ValueError, match="NSAMPLES"):
        run_step(True, nsamples=None)


def test_a_damaged_reference_is_named(tmp_path):
    from gpucoron.errors import ReferenceFileError
    from gpucoron.io.references import read_reference

    exposure, path = Exposure(path=Path("x")), tmp_path / "emi.asdf"
    path.write_bytes(b"no asdf")
    with pytest.raises(ReferenceFileError, match="damaged"):
        read_reference("emicorr", path, exposure)
