"""The ramp fit of a CPU, which fits neighbouring ramps together, has the bits of the NumPy definition."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.optional_fit import count_segments
from tests.cases.backends import usable_backend
from tests.cases.ramp_fit import TIMES, plain, simulate

DEFINITION = get_backend("numpy", n_threads=1)


@pytest.fixture(scope="module", params=["native", "host"])
def backend(request):
    """The kernel with the best instructions of this CPU, and with those of any CPU."""
    made = usable_backend(request.param, request.config, n_threads=2)
    if request.param == "native":
        return Backend(made.device.kernels)
    made.device.strip_pixels = 1
    return made


def fit_segments(backend, arrays, *, suppress_one_group=False, **options):
    """Fit; return the rates, the rateints, and the arrays of the optional product."""
    zeroframe = None if suppress_one_group else arrays.get("zeroframe")
    n_segments, n_jumps = count_segments(arrays["groupdq"], zeroframe=zeroframe)
    nints, _, *image = arrays["data"].shape
    product = {
        "segments": np.zeros((7 * nints, max(1, n_segments), *image), np.float32),
        "crmag": np.zeros((nints, max(1, n_jumps), *image), np.float32),
        "pedestal": np.zeros((nints, *image), np.float32),
    }
    slopes = backend.fit_segments(**arrays, **product, suppress_one_group=suppress_one_group, **options)
    return *slopes, SimpleNamespace(**product)


def assert_same_bits(backend, arrays, **options):
    """Compare all products with the definition; NaN equal each other, zeros of different signs do not."""
    expected = fit_segments(DEFINITION, arrays, **options)
    optional, found = fit_segments(backend, arrays, **options), backend.fit_ramps(**arrays, **options)
    for ours, theirs in zip((*found, *optional), (*expected[:2], *expected), strict=True):
        for name, wanted in vars(theirs).items():
            mine = getattr(ours, name)
            assert mine.dtype == wanted.dtype
            known = wanted == wanted
            np.testing.assert_array_equal(mine == mine, known, err_msg=name)
            np.testing.assert_array_equal(mine[known].view(np.uint32), wanted[known].view(np.uint32), err_msg=name)
    return found


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 300), (7, 73)], ids=str)
@pytest.mark.parametrize("ngroups", [1, 2, 3, 4, 10, 33, 34, 41])
@pytest.mark.parametrize("flagged", [0, 0.003, 0.3])
def test_ramps(backend, shape, ngroups, flagged):
    """One pixel, incomplete vectors and strips; no flags, a few, and many."""
    arrays = simulate(ngroups, 2, ngroups, *shape, flagged=flagged)
    for suppress in (False, True):
        assert_same_bits(backend, arrays, **TIMES, suppress_one_group=suppress)
    for name in ("zeroframe", "dark_current"):
        del arrays[name]
    assert_same_bits(backend, arrays, **TIMES, original_groupdq=arrays["groupdq"].copy())


@pytest.mark.parametrize("step", [1, 16, 4000])
@pytest.mark.parametrize("ngroups", [6, 30, 50, 100, 101])
def test_equal_differences(backend, step, ngroups):
    """Samples are multiples of a step: the median is one of many equal differences."""
    assert_same_bits(backend, simulate(3, 3, ngroups, 4, 60, flagged=0.002, step=step), **TIMES)


@pytest.mark.parametrize("ngroups", [9, 40, 90])
def test_differences_of_any_size(backend, ngroups):
    """Medians far from the mean, where no first guess helps."""
    rng = np.random.default_rng(ngroups)
    arrays = plain(2, ngroups, 3, 50)
    shape = arrays["data"].shape
    arrays["data"] = (rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-30, 30, shape)).astype(np.float32)
    arrays["data"][:, :, 1] = 0
    arrays["data"][:, :, 2, ::2] = -0.0
    arrays["gain"][0, ::7] = rng.choice([1e-30, 1e30, 0], 8)
    arrays["readnoise"][0, ::5] = rng.choice([1e-30, 1e30, 0], 10)
    assert_same_bits(backend, arrays, **TIMES)


@pytest.mark.parametrize("ngroups", [3, 8, 60])
def test_first_and_last_groups_are_lost(backend, ngroups):
    """Every mixture of neighbours: whole ramps, those without their first or last groups, and others."""
    rng = np.random.default_rng(ngroups)
    arrays = simulate(1, 4, ngroups, 6, 41, flagged=0)
    flags = arrays["groupdq"]
    cube = flags.shape[:1] + flags.shape[2:]
    groups = np.arange(ngroups)[:, None, None]
    for n_kinds in (1, 2, ngroups):
        flags[...] = 0
        first, last = (rng.choice(rng.integers(0, ngroups, n_kinds), cube)[:, None] for _ in range(2))
        flags[(groups < first // 2) | (groups >= ngroups - last // 2)] = DO_NOT_USE
        assert_same_bits(backend, arrays, **TIMES)
        for flag in (JUMP_DET, SATURATED, CHARGELOSS | DO_NOT_USE):
            flags[rng.random(flags.shape) < 0.01] |= flag
        assert_same_bits(backend, arrays, **TIMES, original_groupdq=flags.copy())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ngroups", [2, 5, 80])
def test_values_that_are_not_finite(backend, ngroups, value):
    arrays = simulate(2, 2, ngroups, 2, 40, flagged=0)
    arrays["data"][0, ngroups // 2, 0, ::3] = value
    arrays["data"][1, 0, 1, 5] = arrays["data"][1, -1, 1, 6] = value
    arrays["groupdq"][:, 0, 0, :20] = DO_NOT_USE
    arrays["data"][:, 0, 0, :9] = value
    assert_same_bits(backend, arrays, **TIMES)


def test_neighbours_and_threads_change_nothing(backend):
    """A pixel's products do not depend on its neighbours or on the threads."""
    arrays = simulate(4, 3, 45, 3, 300, flagged=0.01)
    whole = assert_same_bits(backend, arrays, **TIMES)
    part = {name: np.ascontiguousarray(array[..., 1:2, 137:150]) for name, array in arrays.items()}
    for ours, theirs in zip(backend.fit_ramps(**part, **TIMES), whole, strict=True):
        for name, values in vars(ours).items():
            np.testing.assert_array_equal(values, getattr(theirs, name)[..., 1:2, 137:150])
    alone = type(backend.device)(n_threads=1)
    alone.strip_pixels = 1
    for ours, theirs in zip(Backend(alone).fit_ramps(**arrays, **TIMES), whole, strict=True):
        for name, values in vars(ours).items():
            np.testing.assert_array_equal(values, getattr(theirs, name))
