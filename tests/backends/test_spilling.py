"""Exposures larger than the device memory: the same bits with chunks of any size, within the promised memory."""

import copy
import logging
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import BACKENDS, chunks, get_backend, operations
from gpucoron.backends.backend import Backend
from gpucoron.backends.budget import exposure_memory
from gpucoron.backends.chunks import memory_needed
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.io.exposure import Exposure
from gpucoron.steps.emicorr import ReadTimes, cubic_pieces
from gpucoron.steps.ipc import ReferenceEdges
from gpucoron.steps.optional_fit import count_segments
from tests.cases.backends import backend_params, usable_backend
from tests.cases.jump import OPTIONS as JUMP_OPTIONS
from tests.cases.jump import simulate as simulate_jumps
from tests.cases.linearity import linearity_case
from tests.cases.ramp_fit import TIMES
from tests.cases.ramp_fit import simulate as simulate_ramps
from tests.cases.saturation import saturating_ramps, saturation_reference

#: rows of a chunk; the images here have at least 9 rows
ROWS = [1, 2, 4, 7]


@pytest.fixture(scope="module", params=backend_params(BACKENDS))
def inner(request):
    return usable_backend(request.param, request.config)


@pytest.fixture
def by_number(monkeypatch):
    """Make a budget count rows or items instead of bytes."""
    monkeypatch.setattr(chunks.Loop, "fitting", lambda self, budget: budget)


def cut(inner, budget):
    """Return a backend that works in chunks, and a list of the calls of its device: (name, shape of the data)."""
    device, seen = copy.copy(inner.device), []

    def execute(operation, arguments, settings):
        seen.append((operation.name, arguments[0].shape))
        return type(device).execute(device, operation, arguments, settings)

    device.execute = execute
    return Backend(device, home=NumpyDevice(), budget=budget), seen


def run_both(inner, n, name, in_place, *arrays, **options):
    """Run an operation on the whole and in chunks, compare arrays and results; return result and chunks."""

    def copied(array):
        return array.copy() if isinstance(array, np.ndarray) else array

    whole_of = getattr(operations, name).whole
    places = list(getattr(operations, name).signature.parameters)

    def on_device(place, array):
        return inner.to_device(copied(array)) if isinstance(array, np.ndarray) and place not in whole_of else array

    whole = [on_device(place, array) for place, array in zip(places, arrays, strict=False)]
    answer = getattr(inner, name)(*whole, **{key: on_device(key, value) for key, value in options.items()})
    backend, seen = cut(inner, n)
    parts = [copied(array) for array in arrays]
    found = getattr(backend, name)(*parts, **options)
    for position in range(len(arrays)):
        expected = inner.to_host(whole[position]) if position in in_place else arrays[position]
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(parts[position], expected, err_msg=f"argument {position}")
    assert_same(found, answer, inner)
    return answer, seen


def assert_same(found, expected, inner):
    """Compare results of any type; those from chunks must be on the host."""
    if hasattr(expected, "__dict__") and not hasattr(expected, "dtype"):
        found, expected = (tuple(vars(each).values()) for each in (found, expected))
    if isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, inner)
    elif hasattr(expected, "dtype"):
        assert isinstance(found, np.ndarray)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, inner.to_host(expected))
    else:
        assert found == expected


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("averaged", [False, True])
def test_linearity(inner, by_number, n_rows, averaged):
    data, groupdq, coeffs, inverse = linearity_case(np.random.default_rng(n_rows), 5, (2, 6, 9, 13))
    options = {"inverse_coeffs": inverse, "nframes": 4} if averaged else {}
    _, seen = run_both(inner, n_rows, "linearity", [0], data, groupdq, coeffs, **options)
    assert len(seen) == -(-9 // n_rows)


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_saturation(inner, by_number, n_rows, radius):
    rng = np.random.default_rng([n_rows, radius])
    data = saturating_ramps(rng, (2, 7, *saturation_reference(rng)[0].shape))
    threshold, dq = saturation_reference(rng)
    checked = (dq == 0) & ~np.isnan(threshold)
    threshold[~checked] = 65536
    groupdq = rng.choice([0, 1, 2, 4], p=[0.96, 0.02, 0.005, 0.015], size=data.shape).astype(np.uint8)
    arrays = data, groupdq, threshold, checked
    for options in ({}, {"nframes": 4}, {"nframes": 4, "grow_diagonal": False}, {"nframes": 1, "bias": threshold / 9}):
        _, seen = run_both(inner, n_rows, "flag_saturation", [1], *arrays, n_pix_grow_sat=radius, **options)
        assert len(seen) > 1


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("options", JUMP_OPTIONS.values(), ids=JUMP_OPTIONS)
def test_jumps(inner, by_number, n_rows, options):
    rng = np.random.default_rng(n_rows)
    for shape in ((3, 9, 11, 12), (1, 34, 9, 7)):
        run_both(inner, n_rows, "detect_jumps", [1], *simulate_jumps(rng, shape), **options)


def test_jumps_that_reach_far_and_wide(inner, by_number):
    """Neighbours across every border of chunks, and groups after jumps that a flag of a neighbour causes."""
    ramps = simulate_jumps(np.random.default_rng(3), (2, 12, 13, 9))
    options = {
        "rejection_threshold": 2.0, "min_jump_to_flag_neighbors": 0.5, "max_jump_to_flag_neighbors": 1e9,
        "after_jump_flag_n1": 2, "after_jump_flag_e1": -1e9,
    }  # fmt: skip
    for n_rows in (1, 2, 3, 5, 8, 12):
        count, seen = run_both(inner, n_rows, "detect_jumps", [1], *ramps, **options)
        assert count > 100
        # One row above and one below are included.
        assert [shape[2] for _, shape in seen[1:-1]] == [n_rows + 2] * (len(seen) - 2)


@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_decisions_that_need_the_whole_image(inner, by_number, n_rows):
    """Rows without a usable group, groups that are bad in some rows only, and groups full of jumps there."""
    ramps = simulate_jumps(np.random.default_rng(5), (4, 9, 10, 11))
    ramps[1][:, :, :2] |= DO_NOT_USE
    ramps[1][:, 2:6, 4] |= DO_NOT_USE
    ramps[1][2, 3, 5:8] |= JUMP_DET
    for options in ({}, {"min_diffs_single_pass": 3}, {"minimum_sigclip_groups": 4}, {"minimum_sigclip_groups": 36}):
        count, _ = run_both(inner, n_rows, "detect_jumps", [1], *ramps, **options)
        assert count > 0
    # Too few groups: nothing is searched, and nothing is copied to the device.
    ramps[1][:, 2:] |= DO_NOT_USE
    count, seen = run_both(inner, n_rows, "detect_jumps", [1], *ramps)
    assert count == -99
    assert not seen


def test_a_group_full_of_jumps_is_cleared_as_a_whole(inner, by_number):
    ramps = simulate_jumps(np.random.default_rng(6), (12, 5, 6, 6))
    ramps[1][3, 2] |= JUMP_DET
    ramps[1][3, 2, :3] |= SATURATED
    ramps[1][4, 2, :3] |= JUMP_DET
    for n_rows in (1, 3):
        run_both(inner, n_rows, "detect_jumps", [1], *ramps, minimum_sigclip_groups=12, flag_4_neighbors=False)


@pytest.mark.parametrize("n_rows", ROWS)
@pytest.mark.parametrize("groups", [np.s_[:, :], np.s_[:, 1:-1]], ids=["whole", "cut"])
def test_ramp_fit(inner, by_number, n_rows, groups):
    arrays = simulate_ramps(4, 3, 9, 10, 7)
    original = arrays["groupdq"].copy()
    arrays["groupdq"] = arrays["groupdq"][groups]
    arrays["data"] = arrays["data"][groups]
    for options in ({}, {"suppress_one_group": True}, {"original_groupdq": original[groups]}):
        _, seen = run_both(inner, n_rows, "fit_ramps", [], **arrays, **options, **TIMES)
        assert len(seen) == -(-10 // n_rows)


@pytest.mark.parametrize("n_rows", [1, 4])
def test_segments(inner, by_number, n_rows):
    arrays = simulate_ramps(4, 3, 9, 10, 7)
    n_segments, n_jumps = count_segments(arrays["groupdq"], zeroframe=arrays["zeroframe"])
    product = (np.zeros(shape, np.float32) for shape in ((21, n_segments, 10, 7), (3, 10, 7), (3, n_jumps, 10, 7)))
    ramps = (arrays.pop(name) for name in ("data", "groupdq", "pixeldq", "gain", "readnoise"))
    _, seen = run_both(inner, n_rows, "fit_segments", [5, 6, 7], *ramps, *product, **arrays, **TIMES)
    assert len(seen) == -(-10 // n_rows)


@pytest.mark.parametrize("n_rows", [1, 4])
def test_ktc_and_mean_slopes(inner, by_number, n_rows):
    data, groupdq, gain, _ = simulate_jumps(np.random.default_rng(n_rows), (3, 8, 9, 12))
    limit = gain * 1e4
    (pedestal, _), seen = run_both(inner, n_rows, "fit_ktc", [], data, groupdq, limit, group_time=2.0)
    assert len(seen) == -(-9 // n_rows)
    run_both(inner, n_rows, "fit_mean_slope", [], data, groupdq, inner.to_host(pedestal), limit, group_time=2.0)


@pytest.mark.parametrize("n_rows", [1, 4])
def test_likelihood(inner, by_number, n_rows):
    data, groupdq, gain, readnoise = simulate_jumps(np.random.default_rng(n_rows), (2, 8, 9, 12))
    times = np.arange(1.0, 9.0)
    arrays = data, groupdq, gain, readnoise, times
    _, seen = run_both(inner, n_rows, "fit_likelihood_ramps", [1], *arrays, rules="sound", dark_current=gain / 9)
    assert len(seen) == -(-9 // n_rows)
    diffs = np.diff(data[0].astype(np.float64), axis=0)
    run_both(inner, n_rows, "fit_likelihood", [], diffs, times, readnoise.astype(np.float64))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("model_type", ["savgol", "median", "mean", "fft"])
def test_1overf(inner, by_number, n, model_type):
    images = np.random.default_rng(n).normal(size=(5, 24, 64)).astype(np.float32)
    masks, _ = run_both(inner, n, "background_mask", [], images, None)
    _, seen = run_both(inner, n, "fit_1overf", [], images, inner.to_host(masks), model_type=model_type)
    assert len(seen) == -(-5 // n)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("model_type", ["kriging", "rows"])
def test_contrasts_of_1overf(inner, by_number, n, model_type):
    data, groupdq, gain, readnoise = simulate_jumps(np.random.default_rng(n), (3, 6, 16, 24))
    spectrum = Spectrum(PowerLaw(1.0, 1.0)) if model_type == "kriging" else None
    arrays = data, groupdq, gain, readnoise
    times = tuple(10.0 * np.arange(1, 7))
    _, seen = run_both(inner, n, "subtract_contrasts", [0], *arrays, times=times, spectrum=spectrum)
    assert len(seen) == -(-3 // n)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("side", [3, 5, 7])
def test_ipc(inner, by_number, n, side):
    rng = np.random.default_rng([n, side])
    data, kernel = rng.normal(size=(2, 5, 14, 16)).astype(np.float32), rng.normal(size=(side, side)).astype(np.float32)
    _, seen = run_both(inner, n, "deconvolve_ipc", [0], data, kernel, ReferenceEdges(4, 0, 4, 0))
    assert len(seen) == -(-10 // n)


@pytest.mark.parametrize("n", [1, 2])
def test_emicorr(inner, by_number, n):
    rng = np.random.default_rng(n)
    data = rng.normal(size=(3, 6, 12, 24)).astype(np.float32)
    _, seen = run_both(inner, n, "measure_scatter", [], data)
    assert len(seen) == 12 // n
    wave = cubic_pieces(rng.normal(size=20))
    pixels, groups, advance = ReadTimes(1, 82, 0).phases(data.shape, 391.0)
    bins, good = (pixels * 20).astype(np.int32), rng.uniform(size=(3, 12, 24)) > 0.1
    (sums, counts), seen = run_both(inner, n, "sum_by_phase", [], data, good, bins, 20)
    assert len(seen) == -(-3 // n)
    run_both(inner, n, "match_emicorr", [], *map(inner.to_host, (sums, counts)), wave, groups, 50)
    of_ints = advance * np.arange(3), rng.normal(size=3)
    run_both(inner, n, "subtract_emicorr", [0], data, wave, pixels, groups, *of_ints)


@pytest.mark.parametrize("n", [1, 2])
def test_levels(inner, by_number, n):
    rng = np.random.default_rng(n)
    data = rng.normal(size=(5, 12, 24)).astype(np.float32)
    level, side = rng.normal(size=(5, 24)), rng.normal(size=(5, 12, 4))
    rounded = np.uint8([1, 0, 0, 1, 0])
    _, seen = run_both(inner, n, "subtract_levels", [0], data, level, side, rounded)
    assert len(seen) == -(-5 // n)


# ------------------------------------------------------------------------------------------------------- out of memory


def test_out_of_memory_halves_the_chunk(late_cupy, caplog):
    """A device with less memory than it reported: the same bits, and the log reports it."""
    ramps = simulate_jumps(np.random.default_rng(7), (2, 8, 12, 9))
    expected = ramps[1].copy()
    count = get_backend("host", n_threads=1).detect_jumps(ramps[0], expected, *ramps[2:])
    backend = get_backend("cuda", cupy=late_cupy).in_chunks(10**9)
    for failures in (1, 2, 5):
        flags = ramps[1].copy()
        late_cupy.failures, late_cupy.releases = failures, 0
        caplog.clear()
        # The third of five failures hits a chunk of two rows, the fourth a chunk of one row.
        if failures == 5:
            with pytest.raises(MemoryError, match=r"search_jumps: .* cannot hold one row of 2 x 8 x 9"):
                backend.detect_jumps(ramps[0], flags, *ramps[2:])
            np.testing.assert_array_equal(flags, ramps[1])
            continue
        found = backend.detect_jumps(ramps[0], flags, *ramps[2:])
        np.testing.assert_array_equal(flags, expected)
        assert found == count
        assert late_cupy.releases == failures
        rows = [record.args[-2] for record in caplog.records]
        assert rows == [6, 3][:failures]
        assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_out_of_memory_in_a_later_chunk(late_cupy, by_number):
    """Finished chunks are kept, and later ones still see the original rows above them."""
    rng = np.random.default_rng(8)
    data = saturating_ramps(rng, (2, 7, 20, 12))
    groupdq = np.zeros(data.shape, np.uint8)
    threshold, checked = np.full((20, 12), 50000, np.float32), np.ones((20, 12), bool)
    expected = groupdq.copy()
    options = {"n_pix_grow_sat": 2, "nframes": 4}
    get_backend("host", n_threads=1).flag_saturation(data, expected, threshold, checked, **options)
    backend, seen = cut(get_backend("cuda", cupy=late_cupy), 6)
    execute = backend.device.execute

    def failing(operation, arguments, settings):
        # The third chunk holds the rows 12 to 18, with up to four rows on both sides.
        if len(seen) == 2:
            late_cupy.failures = 1
        return execute(operation, arguments, settings)

    backend.device.execute = failing
    backend.flag_saturation(data, groupdq, threshold, checked, **options)
    np.testing.assert_array_equal(groupdq, expected)
    assert (groupdq & SATURATED).any()
    assert late_cupy.releases == 1
    assert len(seen) == 6


def test_no_memory_for_the_answer(by_number, monkeypatch):
    """A chunk writes its changes at the end: it is repeated on unchanged data."""
    data, groupdq, gain, readnoise = simulate_jumps(np.random.default_rng(5), (2, 12, 8, 9))
    times, whole = np.arange(1.0, 13.0), get_backend("numpy", n_threads=1)
    expected, found = groupdq.copy(), groupdq.copy()
    wanted = whole.fit_likelihood_ramps(data, expected, gain, readnoise, times)
    backend, seen = cut(whole, 8)
    make, failures = chunks.Loop._make_whole, []

    def fail_once(self, part):
        if not failures:
            failures.append(1)
            raise MemoryError("no room")
        return make(self, part)

    monkeypatch.setattr(chunks.Loop, "_make_whole", fail_once)
    fit = backend.fit_likelihood_ramps(data, found, gain, readnoise, times)
    np.testing.assert_array_equal(found, expected)
    assert_same(fit, wanted, whole)
    assert (found != groupdq).any()
    assert len(seen) == 3


# -------------------------------------------------------------------------------------------------------- memory model


def calls():
    """Return calls that use as much memory as an operation may need: (operation, arguments by name, settings)."""
    rng = np.random.default_rng(1)
    shape = (3, 40, 80, 100)
    image = shape[2:]
    data, groupdq, gain, readnoise = simulate_jumps(rng, shape)
    ramp = {"data": data, "groupdq": groupdq}
    coeffs = rng.normal(1, 0.1, (5, *image)).astype(np.float32)
    limits = {"threshold": np.full(image, 5e4, np.float32), "checked": np.ones(image, bool), "bias": gain}
    cube, pixeldq = np.ones((3, *image), np.float32), np.zeros(image, np.uint32)
    limit, times = gain * 1e4, {"read_times": np.arange(1.0, 41.0)}
    noise = {"gain": gain, "readnoise": readnoise}
    after = {"after_jump_flag_n1": 1, "after_jump_flag_e1": 10.0}
    more = {"dark_current": gain, "zeroframe": cube, "original_groupdq": groupdq}
    search = {"mode": 0, "lost": np.zeros(shape[:2], bool)}
    pixels = rng.uniform(size=(image[0], image[1] // 4))
    wave = {"wave": rng.normal(size=(4, 200)), "pixel_phases": pixels, "group_phases": rng.uniform(size=shape[1])}
    wave |= {"integration_phases": np.zeros(3), "amplitudes": np.ones(3)}
    grown = {"n_pix_grow_sat": 0, "nframes": 4, "grow_diagonal": False}
    yield "linearity", ramp | {"coeffs": coeffs, "inverse_coeffs": coeffs}, {"nframes": 4}
    yield "flag_saturation", ramp | limits, grown
    yield "clip_jumps", ramp | {"gain": gain}, {}
    yield "search_jumps", ramp | noise | search, after
    yield "fit_ramps", ramp | {"pixeldq": pixeldq} | noise | more, TIMES
    product = {"segments": np.zeros((21, 4, *image), np.float32), "pedestal": np.zeros((3, *image), np.float32)}
    product |= {"crmag": np.zeros((3, 40, *image), np.float32)}
    yield "fit_segments", ramp | {"pixeldq": pixeldq} | noise | product | more, TIMES
    yield "fit_ktc", ramp | {"limit": limit}, {"group_time": 2.0}
    yield "fit_mean_slope", ramp | {"pedestal": np.ones((3, *image)), "limit": limit}, {"group_time": 2.0}
    yield "fit_likelihood_ramps", ramp | noise | times, {}
    yield "measure_scatter", {"data": data}, {}
    yield "subtract_emicorr", {"data": data} | wave, {}
    frames = data.reshape(-1, *image)
    levels = {"levels": rng.normal(size=(len(frames), image[1])), "sides": rng.normal(size=(len(frames), image[0], 1))}
    levels["rounded"] = np.zeros(len(frames), np.uint8)
    yield "subtract_levels", {"frames": frames} | levels, {"keeps_zeros": True}
    images = rng.normal(size=(80, 64, 100)).astype(np.float32)
    # Reversed arrays: contiguous ones are not copied on the host.
    reversed_ = {"images": images[::-1], "masks": (images < 2)[::-1]}
    yield "fit_1overf", reversed_, {"vertical_corr": True, "flatten_model": True}
    yield (
        "deconvolve_ipc",
        {"data": data, "kernel": np.ones((3, 3), np.float32), "edges": ReferenceEdges(4, 0, 0, 0)},
        {},
    )


@pytest.mark.parametrize("inner", backend_params(["host"]), indirect=True, scope="module")
@pytest.mark.parametrize("call", list(calls()), ids=lambda call: call[0])
def test_memory_is_as_the_model_says(inner, call):
    """On the host the peak memory of a chunk can be measured; a device needs the same."""
    name, arguments, settings = call
    operation = getattr(operations, name)
    need = memory_needed(operation, {place: arguments.get(place) for place in operation.signature.parameters})
    getattr(inner.in_chunks(need.of(4)), name)(**arguments, **settings)  # warm up: compiled code
    peaks = []
    for n in (20, 40):
        tracemalloc.start()
        try:
            answer = getattr(inner.in_chunks(need.of(n)), name)(**arguments, **settings)
            # Results on the host need no device memory; they exist from the second, last chunk on.
            peaks.append(tracemalloc.get_traced_memory()[1] - sum(array.nbytes for array in arrays_of(answer)))
        finally:
            tracemalloc.stop()
    # The memory per row must match the model; the host also holds small objects.
    assert (peaks[1] - peaks[0]) / 20 == pytest.approx(need.each, rel=0.15)
    assert peaks[0] <= 1.05 * need.of(20) + 1e5


def arrays_of(answer):
    """List the arrays of a result."""
    if answer is None:
        return []
    if isinstance(answer, tuple):
        return [array for each in answer for array in arrays_of(each)]
    return [answer] if hasattr(answer, "nbytes") else arrays_of(tuple(vars(answer).values()))


def test_operations_that_fit_are_not_cut():
    shape = (2, 5, 16, 16)
    needed = exposure_memory(shape)
    assert exposure_memory(shape, has_zeroframe=True) > needed
    for backend in (get_backend("host"), get_backend("host", max_memory=needed)):
        assert backend.fitting(shape) is backend
    small = get_backend("host", max_memory=needed - 1)
    spilling = small.fitting(shape)
    assert spilling.device is small.device
    assert spilling.budget == needed - 1
    assert spilling.xp is np
    assert spilling.fitting(shape) is spilling


def test_the_devices_free_memory_is_the_default_limit(late_cupy):
    backend = get_backend("cuda", cupy=late_cupy)
    shape = (2, 5, 16, 16)
    needed = exposure_memory(shape)
    late_cupy.memory = int(needed / 0.9) + 2
    assert backend.fitting(shape) is backend
    # The arrays of the exposure exist already and are not counted twice.
    late_cupy.memory = int(needed / 0.9 / 2)
    assert backend.fitting(shape, held=needed // 2 + 2) is backend
    assert backend.fitting(shape).device is backend.device
    assert backend.fitting(shape).is_in_chunks
    backend = get_backend("cuda", cupy=late_cupy, max_memory=needed)
    assert backend.fitting(shape) is backend


# -------------------------------------------------------------------------------------------------------- the pipeline


# The backends of the CPU use its own memory: test_host_memory.py.
@pytest.mark.parametrize("inner", backend_params(["host", "cuda"]), indirect=True, scope="module")
@pytest.mark.parametrize(
    "arguments",
    [("NIRCAM", "SUB320A335R", "SHALLOW4", 5, 2), ("MIRI", "MASK1550", "FASTR1", 14, 2)],
    ids=lambda a: a[0],
)
def test_the_whole_pipeline_gives_the_same_bits(exposures, inner, arguments, caplog):
    from tests.cases.pipelines import run_ours

    case = exposures(*arguments, shape=(40, 48), options={"inverse_linearity": True})
    limited = get_backend(inner.name, max_memory=40_000)
    with case.cache.activate():
        expected = run_ours(case.path, backend=inner)
        # Found too large when it has been read for the device, or before.
        assert isinstance(Exposure.read(case.path, limited).data, np.ndarray)
        found = run_ours(case.path, backend=limited)
    assert "in chunks" in caplog.text
    assert found.run.backend.device is limited.device
    for step, arrays in expected.ramps.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(found.ramps[step][key], array, err_msg=f"{step} {key}")
    for product in ("rate", "rateints"):
        for key, array in getattr(expected, product).items():
            np.testing.assert_array_equal(getattr(found, product)[key], array, err_msg=f"{product} {key}")


class OnDevice:
    """An array that NumPy cannot read."""

    def __init__(self, array):
        self.array, self.nbytes = array, array.nbytes


def test_an_exposure_that_is_on_the_device_comes_home():
    device = SimpleNamespace(name="cuda", to_host=lambda array: array.array)
    data = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    arrays = OnDevice(data), OnDevice(data.astype(np.uint8)), OnDevice(np.zeros((3, 4), np.uint32))
    exposure = Exposure(*arrays)
    assert exposure.device_bytes == 5 * 24 + 4 * 12
    exposure.move_to(Backend(device, home=NumpyDevice(), budget=1000))
    assert exposure.device_bytes == 0
    assert exposure.data is data
