"""The CUDA kernels return the results of the NumPy definition: on the CPU with the host build, and on a GPU.

The cases are those in which the definition is compared with stcal; see the test of each operation.
"""

import re
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucoron.backends import BACKENDS, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import MOST_COLUMNS, POLYNOMIAL_LENGTHS, kernel_folder
from gpucoron.backends.operations.jump.definition import ONE_PASS
from gpucoron.backends.operations.ramp_fit.segments import weight_table, weight_tables
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.ipc import ReferenceEdges
from tests.cases.backends import backend_params, usable_backend
from tests.cases.jump import OPTIONS as JUMP_OPTIONS
from tests.cases.jump import SHAPES as JUMP_SHAPES
from tests.cases.jump import detect_with_stcal
from tests.cases.jump import simulate as simulate_jumps
from tests.cases.linearity import linearity_case
from tests.cases.ramp_fit import TIMES, fit_with_stcal, plain
from tests.cases.ramp_fit import simulate as simulate_ramps
from tests.cases.saturation import SHAPE as SATURATION_SHAPE
from tests.cases.saturation import saturating_ramps, saturation_reference

DEFINITION = get_backend("numpy", n_threads=1)


#: every backend that runs the kernels
KERNEL_BACKENDS = [name for name in BACKENDS if name != "numpy"]


@pytest.fixture(scope="module", params=backend_params(KERNEL_BACKENDS))
def backend(request):
    """All backends that run kernels; native also where it would choose NumPy as faster."""
    made = usable_backend(request.param, request.config)
    return Backend(made.device.kernels) if request.param == "native" else made


def on_device(backend, array):
    """Copy an array, so that a kernel does not change the original."""
    if isinstance(array, np.ndarray):
        return backend.to_device(array.copy())
    return array


def run_on(backend, operation, in_place, *arrays, **options):
    """Run an operation on copies; return its arrays at the positions ``in_place``, and its result."""
    arrays = [on_device(backend, array) for array in arrays]
    options = {name: on_device(backend, value) for name, value in options.items()}
    answer = getattr(backend, operation)(*arrays, **options)
    return [backend.to_host(arrays[position]) for position in in_place], answer


# ---------------------------------------------------------------------------------------------------------- raw counts


@pytest.mark.parametrize("offset", [False, True])
def test_counts_of_fits(backend, offset):
    counts = np.arange(65536, dtype=np.uint16).reshape(4, 64, 256)
    stored = (counts.astype(np.int32) - 32768).astype(">i2") if offset else counts.astype(">u2")
    raw = stored.view(np.uint16)
    converted = backend.zeros(counts.shape, np.float32)
    backend.device.convert_counts(on_device(backend, raw), converted, offset=offset)
    converted = backend.to_host(converted)
    np.testing.assert_array_equal(converted, counts)


# ----------------------------------------------------------------------------------------------------------------- ipc


@pytest.mark.parametrize("edges", [(0, 0, 0, 0), (4, 0, 0, 3), (1, 2, 4, 1)])
@pytest.mark.parametrize(("side", "per_pixel"), [(3, False), (3, True), (5, False), (5, True), (7, True)])
def test_ipc(backend, side, per_pixel, edges):
    """More frames than a block processes at once; NaN and infinities spread, and zeros keep their sign."""
    rng = np.random.default_rng(5)
    shape = (3, 7, 13, 37)
    data = rng.normal(100, 30, shape).astype(np.float32)
    data[1, 2, 5, 9], data[0, 6, 8, 12], data[2, 0] = np.nan, np.inf, 0
    kernel = rng.normal(0, 0.01, (side, side) + (shape[2:] if per_pixel else ())).astype(np.float32)
    kernel[side // 2, side // 2] += 1
    kernel[0, 0] = 0
    edges = ReferenceEdges(*edges)
    (expected,), _ = run_on(DEFINITION, "deconvolve_ipc", [0], data, kernel, edges)
    (found,), _ = run_on(backend, "deconvolve_ipc", [0], data, kernel, edges)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(found[known].view(np.uint32), expected[known].view(np.uint32))
    assert np.isnan(expected).any(axis=(2, 3)).sum() == 2
    (on_threads,), _ = run_on(get_backend("numpy", n_threads=4), "deconvolve_ipc", [0], data, kernel, edges)
    np.testing.assert_array_equal(on_threads, expected)


def test_rows_too_long_for_the_kernel(backend):
    data = np.random.default_rng(2).normal(100, 30, (1, 2, 3, MOST_COLUMNS + 5)).astype(np.float32)
    kernel = np.float32([[0.0, -0.01, 0], [-0.02, 1.07, -0.03], [0.001, -0.01, 0]])
    edges = ReferenceEdges(0, 0, 0, 0)
    (expected,), _ = run_on(DEFINITION, "deconvolve_ipc", [0], data, kernel, edges)
    (found,), _ = run_on(backend, "deconvolve_ipc", [0], data, kernel, edges)
    np.testing.assert_array_equal(found, expected)


# ----------------------------------------------------------------------------------------------------------- linearity


@pytest.mark.parametrize("n_coeffs", [2, 3, 5, 6, 8, 11])
def test_linearity(backend, n_coeffs):
    data, groupdq, coeffs, _ = linearity_case(np.random.default_rng(n_coeffs), n_coeffs)
    (expected,), _ = run_on(DEFINITION, "linearity", [0], data, groupdq, coeffs)
    (found, flags), _ = run_on(backend, "linearity", [0, 1], data, groupdq, coeffs)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(flags, groupdq)
    assert np.nanmax(np.abs(found - data)) > 1


def test_linearity_in_strips(backend, monkeypatch):
    """Strips of pixels, the last one shorter, return the same as single pixels."""
    data, groupdq, coeffs, _ = linearity_case(np.random.default_rng(1), 5)
    (expected,), _ = run_on(DEFINITION, "linearity", [0], data, groupdq, coeffs)
    for strip in (0, 1, 50, 1000):
        monkeypatch.setattr(backend.device, "strip_pixels", strip)
        (found,), _ = run_on(backend, "linearity", [0], data, groupdq, coeffs)
        np.testing.assert_array_equal(found, expected)


def test_every_length_of_polynomial_is_one_polynomial(backend):
    """The kernel for any length and those for one length agree, with coefficients of zero."""
    data, groupdq, coeffs, _ = linearity_case(np.random.default_rng(3), 2)
    (expected,), _ = run_on(DEFINITION, "linearity", [0], data, groupdq, coeffs)
    for length in [*POLYNOMIAL_LENGTHS[1:], 9]:
        longer = np.concatenate([coeffs, np.zeros((length - 2, *coeffs.shape[1:]), np.float32)])
        (found,), _ = run_on(backend, "linearity", [0], data, groupdq, longer)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("lengths", [(5, 5), (6, 7), (11, 4)])
@pytest.mark.parametrize(("nframes", "ngroups"), [(2, 6), (8, 3), (4, 2), (4, 1)])
def test_linearity_of_averaged_reads(backend, nframes, ngroups, lengths):
    rng = np.random.default_rng(nframes)
    data, groupdq, coeffs, _ = linearity_case(rng, lengths[0], (2, ngroups, 4, 33))
    inverse = linearity_case(rng, lengths[1], (2, ngroups, 4, 33))[3]
    options = {"inverse_coeffs": inverse, "nframes": nframes}
    (expected,), _ = run_on(DEFINITION, "linearity", [0], data, groupdq, coeffs, **options)
    (found,), _ = run_on(backend, "linearity", [0], data, groupdq, coeffs, **options)
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------------------------------------------------- saturation


@pytest.mark.parametrize("n_pix_grow_sat", [0, 1, 2])
@pytest.mark.parametrize("nframes", [None, 1, 4])
@pytest.mark.parametrize("ngroups", [1, 2, 3, 7, 70])
def test_saturation(backend, ngroups, nframes, n_pix_grow_sat):
    rng = np.random.default_rng([ngroups, n_pix_grow_sat])
    shape = (2, ngroups, *SATURATION_SHAPE[2:])
    data = saturating_ramps(rng, (2, max(ngroups, 7), *shape[2:]))[:, :ngroups].copy()
    threshold, dq = saturation_reference(rng)
    checked = (dq == 0) & ~np.isnan(threshold)
    threshold[~checked] = 65536
    if nframes is not None and ngroups > 4:
        # Values within rounding of the diluted threshold, before a saturated group.
        data[:, 4, 6:18:4] = 65535
        dilution = (3 * nframes + (nframes + 1) / 2) / (4 * nframes)
        data[:, 3, 6:18:4] = np.float32(np.float64(threshold[6:18:4]) * dilution)
    groupdq = rng.choice([0, 1, 2, 4], p=[0.96, 0.02, 0.005, 0.015], size=shape).astype(np.uint8)
    for bias, diagonal in ((None, True), (None, False), (rng.normal(7000, 500, shape[2:]).astype(np.float32), True)):
        arrays = data, groupdq, threshold, checked
        options = {"n_pix_grow_sat": n_pix_grow_sat, "nframes": nframes, "bias": bias, "grow_diagonal": diagonal}
        (expected,), _ = run_on(DEFINITION, "flag_saturation", [1], *arrays, **options)
        (found,), _ = run_on(backend, "flag_saturation", [1], *arrays, **options)
        np.testing.assert_array_equal(found, expected)
        new = found & ~groupdq
        assert (new & SATURATED).any() or ngroups < 3
        assert (new & DO_NOT_USE).any()


# ---------------------------------------------------------------------------------------------------------------- jump


def assert_same_jumps(backend, ramps, **options):
    """Compare flags and count with the definition's; return how many groups are newly flagged."""
    (data, expected), expected_count = run_on(DEFINITION, "detect_jumps", [0, 1], *ramps, **options)
    (data, found), count = run_on(backend, "detect_jumps", [0, 1], *ramps, **options)
    np.testing.assert_array_equal(found, expected)
    assert count == expected_count
    np.testing.assert_array_equal(data, ramps[0])
    return np.count_nonzero(found & ~ramps[1] & JUMP_DET)


@pytest.mark.parametrize("options", JUMP_OPTIONS.values(), ids=JUMP_OPTIONS)
@pytest.mark.parametrize("shape", JUMP_SHAPES, ids=str)
def test_jumps(backend, shape, options):
    rng = np.random.default_rng([*shape, len(options)])
    new = assert_same_jumps(backend, simulate_jumps(rng, shape), **options)
    assert new > 0 or options is JUMP_OPTIONS["clip over integrations"]
    assert_same_jumps(backend, simulate_jumps(rng, shape, step=16, gain_scatter=0), **options)


@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (1, 34, 5, 7), (3, 6, 5, 7), (2, 70, 4, 5)], ids=str)
def test_jumps_with_threads_that_share_a_pixel(shape, request):
    """The same bits for any number of threads per pixel in a warp (on the host they are real threads)."""
    backend = usable_backend("host", request.config, lanes=4)
    ramps = simulate_jumps(np.random.default_rng(shape), shape)
    for name in ("default", "one pass", "iteration", "after jumps", "neighbours"):
        assert_same_jumps(backend, ramps, **JUMP_OPTIONS[name])


@pytest.mark.parametrize("lost", [[0], [-1], [0, -1], [2, 3], range(1, 7), range(8)], ids=str)
def test_jumps_with_groups_lost_for_all_pixels(backend, lost):
    ramps = simulate_jumps(np.random.default_rng(len(lost)), (3, 9, 8, 9))
    ramps[1][:, list(lost)] |= DO_NOT_USE
    for name in ("default", "clip all", "one pass"):
        assert_same_jumps(backend, ramps, **JUMP_OPTIONS[name])


@pytest.mark.parametrize("flag", [JUMP_DET, SATURATED | JUMP_DET])
def test_clipping_clears_groups_full_of_jumps(backend, flag):
    ramps = simulate_jumps(np.random.default_rng(6), (12, 5, 6, 6))
    ramps[1][3, 2] |= JUMP_DET
    ramps[1][3, 2, :3] |= flag
    assert_same_jumps(backend, ramps, minimum_sigclip_groups=12)
    (cleared,), _ = run_on(backend, "detect_jumps", [1], *ramps, minimum_sigclip_groups=12, flag_4_neighbors=False)
    assert not (cleared[3, 2] & JUMP_DET).all()


def test_jumps_of_infinite_values(backend):
    rng = np.random.default_rng(5)
    ramps = simulate_jumps(rng, (2, 6, 8, 9))
    ramps[0][rng.random(ramps[0].shape) < 0.1] = np.inf
    ramps[0][rng.random(ramps[0].shape) < 0.05] = -np.inf
    for options in ({}, {"min_diffs_single_pass": 1}, {"min_jump_to_flag_neighbors": 2.0}):
        assert_same_jumps(backend, ramps, **options)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["default", "one pass", "after jumps", "clip all"])
def test_jumps_are_stcals(backend, name):
    ramps = simulate_jumps(np.random.default_rng(7), (3, 10, 8, 9))
    expected, _, expected_count = detect_with_stcal(*ramps, **JUMP_OPTIONS[name])
    (found,), count = run_on(backend, "detect_jumps", [1], *ramps, **JUMP_OPTIONS[name])
    np.testing.assert_array_equal(found, expected)
    assert count == expected_count


# -------------------------------------------------------------------------------------------------------------- median


def medians_of(backend, differences):
    """Find the median of each column of ``differences`` (n, npixels), float32 over all groups, with the jump kernel."""
    n, n_pixels = differences.shape
    # Samples at odd groups minus zeros before them; the differences back to zero end in a flagged group.
    data = np.zeros((n, 2, 1, n_pixels), np.float32)
    data[:, 1, 0] = differences
    medians = on_device(backend, np.zeros((1, n_pixels)))
    ones = np.ones((1, n_pixels), np.float32)
    grid, block = geometry(n_pixels, backend.device.block_threads)
    values = {
        "data": on_device(backend, data),
        "groupdq": on_device(backend, np.zeros(data.shape, np.uint8)),
        "gain": on_device(backend, ones),
        "readnoise": on_device(backend, ones),
        "reaching": on_device(backend, np.zeros((n, 1, 1, n_pixels), np.uint32)),
        "medians": medians,
        "n_flagged": on_device(backend, np.zeros((1, n_pixels), np.int32)),
        "n_ints": n,
        "n_groups": 2,
        "n_pixels": n_pixels,
        "n_frames": 1,
        "threshold": 4.0,
        "three_groups": 4.0,
        "four_groups": 4.0,
        "smallest": 1.0,
        "largest": 2.0,
    }
    backend.device.launch("search_jumps", grid, block, values, (ONE_PASS, 1))
    return backend.to_host(medians)[0]


def assert_medians(backend, differences):
    with np.errstate(all="ignore"):
        expected = np.nanmedian(differences.astype(np.float64), axis=0)
    np.testing.assert_array_equal(medians_of(backend, differences), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 180, 1881, 20000])
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_median_is_exact(backend, n):
    rng = np.random.default_rng(n)
    columns = [
        rng.normal(3, 20, n),
        rng.normal(0, 1e-3, n) + 3e4 * (rng.random(n) < 0.05),
        rng.integers(-2, 3, n),
        np.full(n, -7.25),
        np.zeros(n),
        10.0 ** rng.uniform(-44, 38, n) * rng.choice([-1, 1], n),
        np.where(rng.random(n) < 0.6, np.nan, rng.normal(0, 5, n)),
        np.full(n, np.nan),
        np.arange(n)[::-1],
        rng.choice([np.float32(1), np.nextafter(np.float32(1), np.float32(2))], n),
    ]
    assert_medians(backend, np.stack(columns, axis=1).astype(np.float32))


@given(
    st.lists(
        st.floats(width=32, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0]), min_size=1, max_size=40
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_median_of_anything(backend, numbers):
    assert_medians(backend, np.array(numbers, np.float32)[:, None])


# ------------------------------------------------------------------------------------------------------------ ramp fit


def assert_same_slopes(backend, found, expected):
    """Compare flags and values for equality, and NaN in the same positions."""
    for ours, theirs in zip(found, expected, strict=True):
        for field in fields(ours):
            mine, wanted = backend.to_host(getattr(ours, field.name)), getattr(theirs, field.name)
            assert mine.dtype == wanted.dtype
            np.testing.assert_array_equal(mine, wanted, err_msg=field.name)


def fit_and_compare(backend, arrays, **options):
    _, expected = run_on(DEFINITION, "fit_ramps", [], **arrays, **options)
    _, found = run_on(backend, "fit_ramps", [], **arrays, **options)
    assert_same_slopes(backend, found, expected)
    return found


def test_weights_are_the_definitions():
    """The kernels read the weights from one table: the first half for each length, one after another."""
    tables = weight_tables(60)
    assert not weight_tables(2).any()
    for length in range(3, 61):
        start, half = 6 * (length**2 // 4), (length + 1) // 2
        part = tables[start : start + 6 * half].reshape(6, half).T
        whole = weight_table(length)
        np.testing.assert_array_equal(part, whole[:half])
        np.testing.assert_array_equal(part, whole[::-1][:half])


def test_kernels_ask_for_no_function_that_libraries_round_in_their_own_way():
    """Square roots, floors and fused multiply-adds are rounded the same everywhere; powers and others are not."""
    others = "pow|exp|exp2|expm1|log|log2|log10|log1p|cbrt|hypot|sin|cos|tan|tanh|atan|atan2|erf|rsqrt"
    named = re.compile(rf"\b(?:{others})f?\s*\(")
    for path in kernel_folder().rglob("*.cu*"):
        code = re.sub(r"//.*", "", path.read_text())
        assert not named.search(code), path.name


@pytest.mark.parametrize("nints", [1, 3])
@pytest.mark.parametrize("ngroups", [1, 2, 3, 4, 5, 10, 40])
@pytest.mark.parametrize("flagged", [0.02, 0.4])
def test_ramp_fit(backend, nints, ngroups, flagged):
    for seed, step in ((1, None), (2, 16)):
        arrays = simulate_ramps(seed, nints, ngroups, flagged=flagged, step=step)
        original = arrays["groupdq"].copy()
        for suppress in (False, True):
            fit_and_compare(backend, arrays, **TIMES, suppress_one_group=suppress, original_groupdq=original)
        for name in ("zeroframe", "dark_current"):
            del arrays[name]
        fit_and_compare(backend, arrays, **TIMES)


def test_ramp_fit_of_many_groups(backend):
    """Segments longer than a byte or a word could count, and medians over many differences."""
    arrays = simulate_ramps(5, 2, 1200, 2, 3, flagged=0.005)
    arrays["groupdq"][0, :, 0] = 0
    fit_and_compare(backend, arrays, **TIMES)


def test_large_variances_become_zero(backend):
    """Read noise just below and above the limit of 1e6 (DN/s)^2."""
    arrays = plain(nints=2, ngroups=5, ny=4, nx=200)
    arrays["readnoise"] *= np.geomspace(1, 1e5, 800, dtype=np.float32).reshape(4, 200)
    arrays["groupdq"][0, 2] = JUMP_DET
    arrays["groupdq"][1, 1, 2:] = CHARGELOSS | DO_NOT_USE
    _, rateints = fit_and_compare(backend, arrays, **TIMES, original_groupdq=arrays["groupdq"].copy())
    errors = backend.to_host(rateints.err)
    assert 0.05 < (errors == 0).mean() < 0.95
    assert 500 < errors.max() <= 1000


@pytest.mark.parametrize("cut", [np.s_[:, 1:-1], np.s_[:, :-2], np.s_[1:, 2:]], ids=str)
def test_ramp_fit_of_cut_ramps_makes_no_copy(backend, cut, monkeypatch):
    """MIRI's first and last groups are removed as a view: the kernels skip them."""
    arrays = simulate_ramps(3, 3, 9)
    for name in ("zeroframe", "dark_current"):
        del arrays[name]
    parts = {name: arrays[name][cut].copy() for name in ("data", "groupdq")}
    _, expected = run_on(DEFINITION, "fit_ramps", [], **(arrays | parts), **TIMES)
    arrays = {name: on_device(backend, array) for name, array in arrays.items()}
    parts = {name: arrays[name][cut] for name in parts}

    def no_copy(array):
        assert array is None or array.ndim < 4
        return array

    monkeypatch.setattr(backend.device, "contiguous", no_copy)
    assert_same_slopes(backend, backend.fit_ramps(**(arrays | parts), **TIMES), expected)


def test_ramp_fit_of_cut_ramps_whose_flags_lie_otherwise(backend):
    arrays = plain(nints=2, ngroups=6, nx=5)
    arrays["groupdq"][1, 3] = JUMP_DET
    cut = arrays | {"data": arrays["data"][:, 1:], "groupdq": arrays["groupdq"][:, 1:]}
    _, expected = run_on(DEFINITION, "fit_ramps", [], **cut, **TIMES)
    arrays = {name: on_device(backend, array) for name, array in arrays.items()}
    cut = arrays | {"data": arrays["data"][:, 1:], "groupdq": arrays["groupdq"][:, 1:].copy()}
    assert_same_slopes(backend, backend.fit_ramps(**cut, **TIMES), expected)


@pytest.mark.parity
@pytest.mark.parametrize("ngroups", [2, 10])
def test_ramp_fit_is_stcals(backend, ngroups):
    arrays = simulate_ramps(4, 3, ngroups)
    (image, cube), _ = fit_with_stcal(arrays)
    original = arrays["groupdq"].copy()
    _, found = run_on(backend, "fit_ramps", [], **arrays, **TIMES, original_groupdq=original)
    for ours, theirs in zip(found, (image, cube), strict=True):
        for name, key in (
            ("rate", "slope"),
            ("var_poisson", "var_poisson"),
            ("var_rnoise", "var_rnoise"),
            ("err", "err"),
        ):
            np.testing.assert_allclose(backend.to_host(getattr(ours, name)), theirs[key], rtol=2e-6, atol=0)


# -------------------------------------------------------------------------------------------------- read-only arrays


# CuPy's arrays cannot be read-only.
@pytest.mark.parametrize(
    "backend", backend_params(name for name in KERNEL_BACKENDS if name != "cuda"), indirect=True, scope="module"
)
def test_read_only_references_may_be_read_but_not_changed(backend):
    data, groupdq, coeffs, _ = linearity_case(np.random.default_rng(1), 5)
    coeffs.flags.writeable = False
    backend.linearity(data, groupdq, coeffs)
    data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        backend.linearity(data, groupdq, coeffs)
