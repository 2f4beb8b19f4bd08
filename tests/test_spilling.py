"""Exposures larger than the device's memory: the same bits in chunks of any size, and the memory that was promised."""

import logging
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from test_jump import OPTIONS as JUMP_OPTIONS
from test_jump import simulate as simulate_jumps
from test_kernels import linearity_case
from test_ramp_fit import TIMES
from test_ramp_fit import simulate as simulate_ramps
from test_saturation import saturating_ramps, saturation_reference

from gpucoron.backends import fit_to_memory
from gpucoron.backends.devices.cuda_device import CudaBackend
from gpucoron.backends.devices.host_device import HostBackend
from gpucoron.backends.memory import exposure_memory, memory_needed
from gpucoron.backends.spilling import SpillingBackend
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.io.exposure import Exposure

#: rows of a chunk; the images here have 9 rows and more
ROWS = [1, 2, 4, 7]


@pytest.fixture(scope="module", params=["host", "cuda", "numpy", "native"])
def inner(request):
    from conftest import usable_backend

    return usable_backend(request.param, request.config)


class Spilling(SpillingBackend):
    """With chunks of so many rows, and the rows around them, whatever the memory."""

    def __init__(self, inner, n_rows):
        super().__init__(inner, 0)
        self.n_rows = n_rows
        self.chunks = []

    def _in_chunks(self, operation, given, act, halo=0):
        nints, ngroups, ny, nx = given[0].shape
        per_row = sum(array.nbytes // ny for array in given if array is not None)
        self.max_memory = memory_needed(operation, nints, ngroups, nx, per_row).of(self.n_rows + 2 * halo)

        def watched(rows, own):
            self.chunks.append((operation, rows, own))
            assert own.stop - own.start <= self.n_rows
            act(rows, own)

        super()._in_chunks(operation, given, watched, halo)


def run_both(inner, n_rows, operation, in_place, *arrays, **options):
    """Run an operation at once and in chunks; hold what it leaves and answers equal; return the whole's answer."""

    def copy(array):
        return array.copy() if isinstance(array, np.ndarray) else array

    def on_device(array):
        return inner.to_device(copy(array)) if isinstance(array, np.ndarray) else array

    whole = [on_device(array) for array in arrays]
    answer = getattr(inner, operation)(*whole, **{name: on_device(value) for name, value in options.items()})
    backend = Spilling(inner, n_rows)
    parts = [copy(array) for array in arrays]
    found = getattr(backend, operation)(*parts, **options)
    for position in range(len(arrays)):
        expected = inner.to_host(whole[position]) if position in in_place else arrays[position]
        np.testing.assert_array_equal(parts[position], expected, err_msg=f"argument {position}")
    return answer, found, backend


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("averaged", [False, True])
def test_linearity(inner, n_rows, averaged):
    data, groupdq, coeffs, inverse = linearity_case(np.random.default_rng(n_rows), 5, (2, 6, 9, 13))
    options = {"inverse_coeffs": inverse, "nframes": 4} if averaged else {}
    *_, backend = run_both(inner, n_rows, "linearity", [0], data, groupdq, coeffs, **options)
    assert len(backend.chunks) == -(-9 // n_rows)


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_saturation(inner, n_rows, radius):
    rng = np.random.default_rng([n_rows, radius])
    data = saturating_ramps(rng, (2, 7, *saturation_reference(rng)[0].shape))
    threshold, dq = saturation_reference(rng)
    checked = (dq == 0) & ~np.isnan(threshold)
    threshold[~checked] = 65536
    groupdq = rng.choice([0, 1, 2, 4], p=[0.96, 0.02, 0.005, 0.015], size=data.shape).astype(np.uint8)
    arrays = data, groupdq, threshold, checked
    for options in ({}, {"nframes": 4}, {"nframes": 4, "grow_diagonal": False}, {"nframes": 1, "bias": threshold / 9}):
        *_, backend = run_both(inner, n_rows, "flag_saturation", [1], *arrays, n_pix_grow_sat=radius, **options)
    assert len(backend.chunks) > 1


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("options", JUMP_OPTIONS.values(), ids=JUMP_OPTIONS)
def test_jumps(inner, n_rows, options):
    rng = np.random.default_rng(n_rows)
    for shape in ((3, 9, 11, 12), (1, 34, 9, 7)):
        count, found, _ = run_both(inner, n_rows, "detect_jumps", [1], *simulate_jumps(rng, shape), **options)
        assert found == count


def test_jumps_that_reach_far_and_wide(inner):
    """Neighbours across every border of chunks, and groups after jumps that a neighbour's flag makes."""
    ramps = simulate_jumps(np.random.default_rng(3), (2, 12, 13, 9))
    options = {
        "rejection_threshold": 2.0, "min_jump_to_flag_neighbors": 0.5, "max_jump_to_flag_neighbors": 1e9,
        "after_jump_flag_n1": 2, "after_jump_flag_e1": -1e9,
    }  # fmt: skip
    for n_rows in (1, 2, 3, 5, 8, 12):
        count, found, backend = run_both(inner, n_rows, "detect_jumps", [1], *ramps, **options)
        assert found == count
        assert count > 100
        assert [rows.stop - rows.start - (own.stop - own.start) for _, rows, own in backend.chunks[1:-1]] == [2] * (
            len(backend.chunks) - 2
        )


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_what_is_decided_by_the_whole_image(inner, n_rows):
    """Rows without a usable group, groups lost in some rows only, and groups full of jumps there."""
    ramps = simulate_jumps(np.random.default_rng(5), (4, 9, 10, 11))
    ramps[1][:, :, :2] |= DO_NOT_USE
    ramps[1][:, 2:6, 4] |= DO_NOT_USE
    ramps[1][2, 3, 5:8] |= JUMP_DET
    for options in ({}, {"min_diffs_single_pass": 3}, {"minimum_sigclip_groups": 4}, {"minimum_sigclip_groups": 36}):
        count, found, _ = run_both(inner, n_rows, "detect_jumps", [1], *ramps, **options)
        assert found == count
        assert count > 0
    # Too few groups: nothing is searched, and nothing goes to the device.
    ramps[1][:, 2:] |= DO_NOT_USE
    count, found, backend = run_both(inner, n_rows, "detect_jumps", [1], *ramps)
    assert found == count == -99
    assert not backend.chunks


def test_a_group_full_of_jumps_is_cleared_as_a_whole(inner):
    ramps = simulate_jumps(np.random.default_rng(6), (12, 5, 6, 6))
    ramps[1][3, 2] |= JUMP_DET
    ramps[1][3, 2, :3] |= SATURATED
    ramps[1][4, 2, :3] |= JUMP_DET
    for n_rows in (1, 3):
        run_both(inner, n_rows, "detect_jumps", [1], *ramps, minimum_sigclip_groups=12, flag_4_neighbors=False)


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("cut", [np.s_[:, :], np.s_[:, 1:-1]], ids=["whole", "cut"])
def test_ramp_fit(inner, n_rows, cut):
    arrays = simulate_ramps(4, 3, 9, 10, 7)
    original = arrays["groupdq"].copy()
    arrays["groupdq"] = arrays["groupdq"][cut]
    arrays["data"] = arrays["data"][cut]
    backend = Spilling(inner, n_rows)
    for options in ({}, {"suppress_one_group": True}, {"original_groupdq": original[cut]}):
        expected = inner.fit_ramps(
            **{name: inner.to_device(np.array(array)) for name, array in arrays.items()},
            **{name: inner.to_device(np.array(v)) if name[0] == "o" else v for name, v in options.items()},
            **TIMES,
        )
        found = backend.fit_ramps(**arrays, **options, **TIMES)
        for ours, wanted in zip(found, expected, strict=True):
            for name, array in vars(wanted).items():
                np.testing.assert_array_equal(getattr(ours, name), inner.to_host(array), err_msg=name)
                assert getattr(ours, name).dtype == array.dtype
    assert len(backend.chunks) == 3 * -(-10 // n_rows)


# ------------------------------------------------------------------------------------------------------- out of memory


def test_out_of_memory_halves_the_chunk(late_cupy, caplog):
    """A device that has less than it said: the same bits, and the log says so."""
    ramps = simulate_jumps(np.random.default_rng(7), (2, 8, 12, 9))
    expected = ramps[1].copy()
    count = HostBackend(1).detect_jumps(ramps[0], expected, *ramps[2:])
    device = CudaBackend(cupy=late_cupy)
    for failures in (1, 2, 5):
        flags = ramps[1].copy()
        late_cupy.failures, late_cupy.releases = failures, 0
        caplog.clear()
        # The third failure of five hits a chunk of two rows, the fourth one of a row.
        if failures == 5:
            with pytest.raises(MemoryError, match=r"detect_jumps: .* cannot hold one row of 2 x 8 x 9"):
                SpillingBackend(device, 10**9).detect_jumps(ramps[0], flags, *ramps[2:])
            np.testing.assert_array_equal(flags, ramps[1])
            continue
        found = SpillingBackend(device, 10**9).detect_jumps(ramps[0], flags, *ramps[2:])
        np.testing.assert_array_equal(flags, expected)
        assert found == count
        assert late_cupy.releases == failures
        rows = [record.args[-1] for record in caplog.records]
        assert rows == [6, 3][:failures]
        assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_out_of_memory_in_a_later_chunk(late_cupy):
    """What was done stays done, and the rows above are still seen as they were."""
    rng = np.random.default_rng(8)
    data = saturating_ramps(rng, (2, 7, 20, 12))
    groupdq = np.zeros(data.shape, np.uint8)
    threshold, checked = np.full((20, 12), 50000, np.float32), np.ones((20, 12), bool)
    expected = groupdq.copy()
    HostBackend(1).flag_saturation(data, expected, threshold, checked, n_pix_grow_sat=2, nframes=4)

    class Failing(Spilling):
        def _in_chunks(self, operation, given, act, halo=0):
            def failing(rows, own):
                if rows.start + own.start == 12 and own.stop - own.start > 3:
                    late_cupy.failures = 1
                act(rows, own)

            super()._in_chunks(operation, given, failing, halo)

    backend = Failing(CudaBackend(cupy=late_cupy), 6)
    backend.flag_saturation(data, groupdq, threshold, checked, n_pix_grow_sat=2, nframes=4)
    np.testing.assert_array_equal(groupdq, expected)
    assert (groupdq & SATURATED).any()
    assert late_cupy.releases == 1


# -------------------------------------------------------------------------------------------------------- memory model


def operations():
    """Give calls that use all memory which an operation may take: (name in the model, arrays, call)."""
    rng = np.random.default_rng(1)
    shape = (3, 40, 64, 100)
    image = shape[2:]
    data, groupdq, gain, readnoise = simulate_jumps(rng, shape)
    coeffs = rng.normal(1, 0.1, (5, *image)).astype(np.float32)
    threshold, checked = np.full(image, 5e4, np.float32), np.ones(image, bool)
    cube, pixeldq = np.ones((3, *image), np.float32), np.zeros(image, np.uint32)
    after = {"after_jump_flag_n1": 1, "after_jump_flag_e1": 10.0}
    yield (
        "linearity",
        (data, groupdq, coeffs, coeffs),
        lambda b: b.linearity(data, groupdq, coeffs, inverse_coeffs=coeffs, nframes=4),
    )
    yield (
        "flag_saturation",
        (data, groupdq, threshold, checked, gain),
        lambda b: b.flag_saturation(
            data, groupdq, threshold, checked, n_pix_grow_sat=0, nframes=4, bias=gain, grow_diagonal=False
        ),
    )
    yield "clip_jumps", (data, groupdq, gain), lambda b: b._clip_jumps(data, groupdq, gain, 4.0, True)
    yield (
        "detect_jumps",
        (data, groupdq, gain, readnoise),
        lambda b: b.detect_jumps(data, groupdq, gain, readnoise, **after),
    )
    yield (
        "fit_ramps",
        (data, groupdq, pixeldq, gain, readnoise, gain, cube, groupdq),
        lambda b: b.fit_ramps(
            data,
            groupdq,
            pixeldq,
            gain,
            readnoise,
            dark_current=gain,
            zeroframe=cube,
            original_groupdq=groupdq,
            **TIMES,
        ),
    )
    yield "measure_scatter", (data,), lambda b: b.measure_scatter(data)
    pixels = rng.uniform(size=(image[0], image[1] // 4))
    tables = rng.normal(size=(4, 200)), pixels, rng.uniform(size=shape[1]), np.zeros(3), np.ones(3)
    yield "subtract_wave", (data, pixels), lambda b: b.subtract_wave(data, *tables)


@pytest.mark.parametrize("operation", list(operations()), ids=lambda operation: operation[0])
def test_memory_is_as_the_model_says(inner, operation):
    """On the host an array is an array: what a chunk takes there at its peak is what a device must have."""
    if inner.name != "host":
        pytest.skip("the device's peak is measured in the benchmark")
    name, arrays, call = operation
    nints, ngroups, ny, nx = arrays[0].shape
    need = memory_needed(name, nints, ngroups, nx, sum(array.nbytes // ny for array in arrays))
    call(SpillingBackend(inner, need.of(4)))  # warm: compiled code
    # Results on the host are not the device's.
    products = (3 * 20 + 20) * ny * nx if name == "fit_ramps" else 0
    peaks = []
    for n_rows in (20, 40):
        tracemalloc.start()
        try:
            call(SpillingBackend(inner, need.of(n_rows)))
            peaks.append(tracemalloc.get_traced_memory()[1] - products)
        finally:
            tracemalloc.stop()
    # The slope is the model's bytes per row; the host holds small things besides.
    assert (peaks[1] - peaks[0]) / 20 == pytest.approx(need.per_row, rel=0.15)
    assert peaks[0] <= 1.05 * need.of(20) + 1e5


def test_what_fits_is_left_alone():
    shape = (2, 5, 16, 16)
    needed = exposure_memory(shape)
    assert exposure_memory(shape, has_zeroframe=True) > needed
    for backend in (HostBackend(1), HostBackend(1, max_memory=needed)):
        assert fit_to_memory(backend, shape) is backend
    small = HostBackend(1, max_memory=needed - 1)
    spilling = fit_to_memory(small, shape)
    assert spilling.inner is small
    assert spilling.max_memory == needed - 1
    assert spilling.xp is np
    assert fit_to_memory(spilling, shape) is spilling


def test_the_devices_free_memory_is_the_default_limit(late_cupy):
    backend = CudaBackend(cupy=late_cupy)
    shape = (2, 5, 16, 16)
    needed = exposure_memory(shape)
    late_cupy.memory = int(needed / 0.9) + 2
    assert fit_to_memory(backend, shape) is backend
    # The exposure's own arrays are there already: they do not count twice.
    late_cupy.memory = int(needed / 0.9 / 2)
    assert fit_to_memory(backend, shape, held=needed // 2 + 2) is backend
    assert fit_to_memory(backend, shape).inner is backend
    assert fit_to_memory(CudaBackend(cupy=late_cupy, max_memory=needed), shape).name == "cuda"


# -------------------------------------------------------------------------------------------------------- the pipeline


@pytest.mark.parametrize(
    "arguments",
    [("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2), ("MIRI", "MASK1550", "FASTR1", 14, 2)],
    ids=lambda a: a[0],
)
def test_the_whole_pipeline_gives_the_same_bits(exposures, inner, arguments, caplog):
    from jwst_side import run_ours

    if inner.on_host:
        pytest.skip("the CPU's own memory is the matter of test_host_memory.py")
    case = exposures(*arguments, shape=(40, 48), options={"inverse_linearity": True})
    limited = type(inner)(max_memory=40_000)
    with case.cache.activate():
        expected = run_ours(case.path, backend=inner)
        # Read for the device, and then found to be too large; or known before.
        assert isinstance(Exposure.read(case.path, limited).data, np.ndarray)
        found = run_ours(case.path, backend=limited)
    assert "in chunks" in caplog.text
    assert found.run.backend.inner is limited
    for step, arrays in expected.ramps.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(found.ramps[step][key], array, err_msg=f"{step} {key}")
    for product in ("rate", "rateints"):
        for key, array in getattr(expected, product).items():
            np.testing.assert_array_equal(getattr(found, product)[key], array, err_msg=f"{product} {key}")


class OnDevice:
    """An array that NumPy does not know."""

    def __init__(self, array):
        self.array, self.nbytes = array, array.nbytes


def test_an_exposure_that_is_on_the_device_comes_home():
    device = SimpleNamespace(name="cuda", to_host=lambda array: array.array)
    data = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    arrays = OnDevice(data), OnDevice(data.astype(np.uint8)), OnDevice(np.zeros((3, 4), np.uint32))
    exposure = Exposure(*arrays, None, SimpleNamespace(), None)
    assert exposure.device_bytes == 5 * 24 + 4 * 12
    exposure.move_to(SpillingBackend(device, 1000))
    assert exposure.device_bytes == 0
    assert exposure.data is data
