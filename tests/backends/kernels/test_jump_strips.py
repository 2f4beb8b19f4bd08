"""Jump detection in strips of neighbouring pixels returns the flags and counts of the NumPy definition."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.operations.jump import kernels
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING, ITERATIVE, ONE_PASS
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from tests.cases.backends import backend_params, usable_backend
from tests.cases.jump import OPTIONS, SHAPES, assert_same_search, search, simulate

#: strips with an incomplete last one, one pixel, and so many differences that strips are narrower
WIDTHS = [(4, 10, 1, 1), (3, 12, 1, 64), (3, 12, 3, 43), (2, 40, 5, 127), (14, 160, 1, 37)]


@pytest.fixture(scope="module", params=backend_params(["host", "native"]))
def backend(request):
    """A backend that searches strips: the host build does so only here."""
    made = usable_backend(request.param, request.config, n_threads=2)
    if request.param == "native":
        return Backend(made.device.kernels)
    made.device.strip_pixels = 64
    return made


@pytest.fixture
def launched(backend, monkeypatch):
    """Names of the launched kernels."""
    names, launch = [], backend.device.launch

    def note(name, *arguments):
        names.append(name)
        launch(name, *arguments)

    monkeypatch.setattr(backend.device, "launch", note)
    return names


@pytest.mark.parametrize("mode", [ONE_PASS, ITERATIVE, AFTER_CLIPPING])
@pytest.mark.parametrize("shape", [*SHAPES, *WIDTHS, (2, 1, 3, 5), (2, 2, 3, 5)], ids=str)
def test_every_mode(backend, shape, mode):
    rng = np.random.default_rng([*shape, mode])
    ramps = simulate(rng, shape)
    for name in ("default", "alone", "neighbours", "thresholds", "frames", "after jumps", "after any jump"):
        assert_same_search(backend, ramps, mode, **OPTIONS[name])
    assert_same_search(backend, simulate(rng, shape, step=16, gain_scatter=0), mode)


def test_only_kernels_for_strips_are_launched(backend, launched):
    search(backend, simulate(np.random.default_rng(1), (3, 12, 4, 9)), ONE_PASS, **OPTIONS["after jumps"])
    assert launched == ["search_strips", "flag_listed_neighbors", "flag_groups_after_jumps"]


@pytest.mark.parametrize("mode", [ONE_PASS, ITERATIVE])
def test_odd_values(backend, mode):
    """Infinities, NaN, zeros of both signs, huge values, and flags of all kinds."""
    rng = np.random.default_rng(mode)
    for _ in range(20):
        shape = (*rng.integers(1, 12, 2), *rng.integers(1, 30, 2))
        data, groupdq, gain, readnoise = simulate(rng, shape)
        odd = np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, 1e-40])
        where = rng.random(shape) < rng.choice([0.02, 0.5])
        data[where] = rng.choice(odd, where.sum())
        groupdq[rng.random(shape) < 0.05] = rng.integers(0, 256, dtype=np.uint8)
        readnoise[rng.random(readnoise.shape) < 0.1] = rng.choice(odd)
        ramps = data, groupdq, gain, readnoise
        for options in ({}, OPTIONS["thresholds"], OPTIONS["after any jump"] | OPTIONS["neighbours"]):
            assert_same_search(backend, ramps, mode, **options)


@pytest.mark.parametrize("mode", [ONE_PASS, ITERATIVE])
@pytest.mark.parametrize("values", [[0], [0, 1], [-1, 0, 1], [5, 5, 5, 900]], ids=str)
def test_ties(backend, mode, values):
    rng = np.random.default_rng(len(values))
    for n_groups in (5, 33, 120):
        shape = (4, n_groups, 3, 21)
        data = np.cumsum(rng.choice(values, size=shape), axis=1).astype(np.float32)
        ones = np.ones(shape[2:], np.float32)
        for readnoise in (ones, ones * 0):
            assert_same_search(backend, (data, np.zeros(shape, np.uint8), ones, readnoise), mode)


def test_flags_of_earlier_steps(backend):
    """Jumps that are flagged already count, and flag their neighbours; those of unusable groups are cleared."""
    rng = np.random.default_rng(8)
    shape = (3, 8, 6, 41)
    data, _, gain, readnoise = simulate(rng, shape, bad=False)
    groupdq = rng.choice(np.uint8([0, JUMP_DET, JUMP_DET | SATURATED, JUMP_DET | DO_NOT_USE]), shape)
    for mode in (ONE_PASS, ITERATIVE, AFTER_CLIPPING):
        found = assert_same_search(backend, (data, groupdq, gain, readnoise), mode, **OPTIONS["neighbours"])
        assert not (found[groupdq > JUMP_DET] & JUMP_DET).any()


@pytest.mark.parametrize("mode", [ONE_PASS, ITERATIVE])
def test_more_jumps_than_the_list_holds(backend, launched, mode):
    """The search is repeated with a longer list; the count is that of the first one."""
    rng = np.random.default_rng(3)
    ramps = simulate(rng, (2, 12, 7, 33), hits=0.3)
    ramps[1][rng.random(ramps[1].shape) < 0.1] |= JUMP_DET | SATURATED
    assert_same_search(backend, ramps, mode, min_jump_to_flag_neighbors=0.1, rejection_threshold=1.0)
    assert launched == ["search_strips", "search_strips", "flag_listed_neighbors"]


def test_results_do_not_depend_on_the_number_of_threads():
    ramps = simulate(np.random.default_rng(4), (5, 30, 20, 97), hits=0.1)
    for mode in (ONE_PASS, ITERATIVE):
        alone, together = (search(get_backend("cpu", n_threads=n), ramps, mode) for n in (1, 4))
        np.testing.assert_array_equal(alone[0], together[0])
        np.testing.assert_array_equal(alone[1], together[1])


def test_constants_are_those_of_the_kernels():
    from gpucoron.backends.kernel_files import kernel_folder

    text = (kernel_folder() / "cpu" / "jump_strips.cpp").read_text()
    assert f"MOST_IN_STRIP = {kernels.STRIP_PIXELS};" in text
    assert f"JUMPS_AT_ONCE = {kernels.JUMPS_AT_ONCE};" in text


# -------------------------------------------------------------------------------------------------------------- median


def medians_of(backend, differences):
    """Find the median of each column of ``differences`` (n, npixels), float32, by the kernel."""
    n, n_pixels = differences.shape
    # Differences between odd groups and zeros before them; those back to zero end in a flagged group.
    data = np.zeros((n, 2, 1, n_pixels), np.float32)
    data[:, 1, 0] = differences
    medians, ones = np.zeros((1, n_pixels)), np.ones((1, n_pixels), np.float32)
    values = {
        "data": data, "groupdq": np.zeros(data.shape, np.uint8), "gain": ones, "readnoise": ones, "reaching": None,
        "n_reaching": np.zeros(1, np.int64), "capacity": 0, "medians": medians,
        "n_flagged": np.zeros((1, n_pixels), np.int32), "n_ints": n, "n_groups": 2, "n_pixels": n_pixels, "n_frames": 1,
        "threshold": 4.0, "three_groups": 4.0, "four_groups": 4.0, "smallest": 1.0, "largest": 2.0,
    }  # fmt: skip
    backend.device.launch("search_strips", *geometry(1, 1, 1), values, (ONE_PASS,))
    return medians[0]


def assert_medians(backend, differences):
    with np.errstate(all="ignore"):
        expected = np.nanmedian(differences.astype(np.float64), axis=0)
    np.testing.assert_array_equal(medians_of(backend, differences), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 47, 48, 180, 1881, 6001])
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_median_is_exact(backend, n):
    rng = np.random.default_rng(n)
    columns = [
        rng.normal(3, 20, n),
        rng.normal(0, 1e-3, n) + 3e4 * (rng.random(n) < 0.05),
        rng.integers(-2, 3, n),
        rng.integers(-2, 3, n) + rng.normal(0, 1e-4, n),
        np.full(n, -7.25),
        np.zeros(n),
        10.0 ** rng.uniform(-44, 38, n) * rng.choice([-1, 1], n),
        np.where(rng.random(n) < 0.6, np.nan, rng.normal(0, 5, n)),
        np.full(n, np.nan),
        np.arange(n)[::-1],
        np.where(np.arange(n) % 2, np.inf, np.arange(n)),
        rng.choice([-np.inf, 3.0, np.inf], n, p=[0.3, 0.3, 0.4]),
        rng.choice([np.float32(1), np.nextafter(np.float32(1), np.float32(2))], n),
        np.where(np.arange(n) < n // 2, -1e30, 1e30),
    ]
    assert_medians(backend, np.stack(columns, axis=1).astype(np.float32))


NUMBERS = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf])


@given(st.integers(1, 9), st.lists(NUMBERS, min_size=1, max_size=120))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_median_of_anything(backend, n_columns, numbers):
    """Columns of different numbers, because all are searched until the last one is finished."""
    numbers = np.array(numbers, np.float32)
    columns = [np.concatenate([numbers[i:], np.full(min(i, len(numbers)), np.nan)]) for i in range(n_columns)]
    assert_medians(backend, np.stack(columns, axis=1).astype(np.float32))
