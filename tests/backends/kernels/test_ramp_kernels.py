"""The ramp fit of a GPU finds exact medians, and reads the samples only as often as it must."""

import ctypes
import re

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices.build import host_library
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.kernel_files import kernel_folder
from gpucoron.backends.operations.ramp_fit import kernels
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from tests.cases.ramp_fit import TIMES, plain, simulate

#: stcal rounds it to float32
GROUP_TIME = np.float64(np.float32(TIMES["group_time"]))
LARGEST = np.finfo(np.float32).max
COUNTING = ("GPUCORON_COUNT_READS=1",)


def kinds_of_ramps(n, rng):
    """Samples of ramps, DN, with every kind of difference: (kinds, n)."""
    steps = rng.normal(20, 6, n)
    jumps = np.cumsum(rng.normal(20, 6, n) + (rng.random(n) < 0.1) * 2000)
    with np.errstate(over="ignore"):
        return np.array(
            [
                1000 + np.cumsum(steps),
                rng.normal(0, 1, n),
                jumps,
                -jumps,
                np.round(np.cumsum(steps)),
                np.round(np.cumsum(steps) / 40) * 40,
                1000 + 7 * np.arange(n),
                np.full(n, 123.456),
                np.zeros(n),
                rng.choice([0.0, -0.0], n),
                rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-44, 38, n),
                rng.choice([-LARGEST, LARGEST], n),
                LARGEST * np.sin(np.arange(n)),
                rng.choice([-1, 1], n) * 3e38 + rng.normal(0, 1e31, n),
                np.exp(np.linspace(-80, 80, n)),
                np.exp(np.linspace(80, -80, n)),
                rng.choice([1.0, np.nextafter(np.float32(1), np.float32(2))], n),
                rng.choice([-1, 1], n) * 1e-45 * rng.integers(0, 5, n),
                np.where(np.arange(n) < n // 2, 0, 1e6 * np.arange(n)),
                np.where(rng.random(n) < 0.1, np.nan, np.cumsum(steps)),
                np.where(rng.random(n) < 0.6, np.nan, np.cumsum(steps)),
                np.where(rng.random(n) < 0.1, np.inf, np.cumsum(steps)),
                np.where(rng.random(n) < 0.5, rng.choice([-np.inf, np.inf], n), np.cumsum(steps)),
                np.full(n, np.nan),
                np.full(n, np.inf),
            ]
        ).astype(np.float32)


def flags_of_ramps(name, shape, rng):
    """Flags of groups: none, on the ends as of MIRI, or anywhere."""
    flags = np.zeros(shape, np.uint8)
    groups = np.arange(shape[1])[:, None, None]
    ends = rng.integers(0, 4, (2, shape[0], 1, *shape[2:]))
    if name != "none":
        flags[(groups < ends[0]) | (groups >= shape[1] - ends[1])] = DO_NOT_USE
    if name in ("some", "many"):
        for flag in (DO_NOT_USE, SATURATED, JUMP_DET):
            flags[rng.random(shape) < (0.01 if name == "some" else 0.2)] |= flag
    return flags


def median_rates(data, groupdq):
    """Return the median rates by their definition, DN/s, for ramps without a time of their own."""
    with np.errstate(all="ignore"):
        rates = data.astype(np.float64) / GROUP_TIME
        rates[groupdq & (DO_NOT_USE | SATURATED) != 0] = np.nan
        steps = np.diff(rates, axis=1)
        steps[groupdq[:, 1:] & JUMP_DET != 0] = np.nan
        ordered = np.sort(steps, axis=1)  # NaN are the last ones
        count = np.count_nonzero(ordered == ordered, axis=1)[:, None]
        low, high = (np.take_along_axis(ordered, np.maximum(at, 0), 1)[:, 0] for at in ((count - 1) // 2, count // 2))
        found = np.where(count[:, 0] % 2 == 1, low, (low + high) / 2)
    found = np.where(count[:, 0] == 0, rates[:, 0], found)
    return np.where(np.isnan(found), 0, found)


def medians_of(backend, arrays, monkeypatch):
    """Fit, and return the median rates that the kernels found, and how many ramps were listed."""
    found, launch = {}, backend.device.launch

    def look(name, grid, block, values, variant=()):
        if name == "fit_listed":
            found["listed"] = int(backend.to_host(values["n_listed"])[0])
        if name == "finish_products":
            found["medians"] = backend.to_host(values["median_rates"]).copy()
        launch(name, grid, block, values, variant)

    on_device = {name: backend.to_device(array.copy()) for name, array in arrays.items()}
    with monkeypatch.context() as patch:
        patch.setattr(backend.device, "launch", look)
        backend.fit_ramps(**on_device, **TIMES, suppress_one_group=True)
    return found["medians"], found["listed"]


@pytest.mark.parametrize("flagged", ["none", "ends", "some", "many"])
@pytest.mark.parametrize("ngroups", [2, 3, 4, 5, 6, 10, 16, 17, 18, 20, 24, 25, 26, 27, 31, 40, 101, 250])
def test_medians_of_all_kinds_of_ramps(kernel_backend, ngroups, flagged, monkeypatch):
    rng = np.random.default_rng(ngroups)
    ramps = np.stack([kinds_of_ramps(ngroups, rng) for _ in range(4)], axis=1)  # (kinds, copies, groups)
    arrays = plain(3, ngroups, *ramps.shape[:2])
    arrays["data"][:2] = ramps.transpose(2, 0, 1)
    arrays["data"][2] = ramps.transpose(2, 0, 1)[::-1]
    arrays["groupdq"] = flags_of_ramps(flagged, arrays["data"].shape, rng)
    medians, listed = medians_of(kernel_backend, arrays, monkeypatch)
    np.testing.assert_array_equal(medians, median_rates(arrays["data"], arrays["groupdq"]))
    if ngroups > 10:
        assert listed > 0
    if ngroups > 10 and flagged in ("none", "ends"):
        assert listed < medians.size


def test_a_median_between_two_bins(kernel_backend, monkeypatch):
    """Even numbers of differences, half of them about one level and half about another."""
    rng = np.random.default_rng(8)
    arrays = plain(1, 41, 40, 10)
    steps = np.where(np.arange(40)[:, None, None] % 2, 10, rng.uniform(10, 60, (1, 40, 10))) + rng.normal(
        0, 0.3, (40, 40, 10)
    )
    arrays["data"][0, 1:] = np.cumsum(steps, axis=0)
    medians, _ = medians_of(kernel_backend, arrays, monkeypatch)
    np.testing.assert_array_equal(medians, median_rates(arrays["data"], arrays["groupdq"]))


@pytest.mark.parametrize("group_time", [0.0, 1e-38, 0.1, 2.0, 1e30, np.inf])
@pytest.mark.parametrize("ngroups", [6, 60])
def test_odd_times(kernel_backend, ngroups, group_time, monkeypatch):
    """A product with the inverse of a time replaces the division only where the quotients are the same."""
    arrays = simulate(4, 2, ngroups, flagged=0.01)
    del arrays["zeroframe"]
    monkeypatch.setitem(TIMES, "group_time", group_time)
    monkeypatch.setattr(f"{__name__}.GROUP_TIME", np.float64(np.float32(group_time)))
    medians, _ = medians_of(kernel_backend, arrays, monkeypatch)
    n_good = np.count_nonzero(arrays["groupdq"] == 0, axis=1)
    assert n_good.min() > 1 or ngroups == 6
    usual = n_good > 1
    np.testing.assert_array_equal(medians[usual], median_rates(arrays["data"], arrays["groupdq"])[usual])


@pytest.mark.parametrize("lengths", [(1, 2), (9, 1), (1023, 1023), (1023, 1024), (1024, 1023), (1500, 700), (9, 9, 9)])
def test_segments_of_any_length(kernel_backend, lengths):
    """The lengths of two segments fit into a word, if they are short enough."""
    ngroups = sum(lengths) + len(lengths) - 1
    arrays = plain(2, ngroups, 2, 3)
    arrays["data"] += np.random.default_rng(1).normal(0, 3, arrays["data"].shape).astype(np.float32)
    last = np.cumsum([length + 1 for length in lengths])[:-1] - 1
    arrays["groupdq"][:, last] = DO_NOT_USE
    arrays["groupdq"][1, last, 1] = JUMP_DET  # the groups of the jumps begin segments
    expected = get_backend("numpy").fit_ramps(**arrays, **TIMES)
    found = kernel_backend.fit_ramps(
        **{name: kernel_backend.to_device(array) for name, array in arrays.items()}, **TIMES
    )
    for ours, theirs in zip(found, expected, strict=True):
        for name, wanted in vars(theirs).items():
            np.testing.assert_array_equal(kernel_backend.to_host(getattr(ours, name)), wanted, err_msg=name)


def test_other_flags_end_no_whole_ramp_too_late(kernel_backend, monkeypatch):
    """A flag in any single group: the ramp is listed."""
    ngroups = 43
    arrays = plain(1, ngroups, 2, ngroups)
    arrays["data"] += np.random.default_rng(1).normal(0, 3, arrays["data"].shape).astype(np.float32)
    groups = np.arange(ngroups)
    arrays["groupdq"][0, groups, 0, groups] = JUMP_DET
    medians, listed = medians_of(kernel_backend, arrays, monkeypatch)
    assert listed == ngroups
    np.testing.assert_array_equal(medians, median_rates(arrays["data"], arrays["groupdq"]))


def test_constants_are_those_of_the_kernels():
    text = (kernel_folder() / "include" / "slice_median.cuh").read_text()
    numbers = dict(re.findall(r"(SLICE_THREADS|MOST_SORTED) = (\d+)", text))
    assert numbers == {name: str(getattr(kernels, name)) for name in ("SLICE_THREADS", "MOST_SORTED")}


# --------------------------------------------------------------------------------------------------------- reads


@pytest.fixture(scope="module")
def reads_of(host):
    """Fit ramps, and return how often each sample was read on average."""
    backend = Backend(HostDevice(n_threads=1, defines=COUNTING))
    counter = ctypes.c_ulonglong.in_dll(host_library("ramp_fit.cu", "", COUNTING), "gpucoron_reads")

    def count(arrays):
        counter.value = 0
        backend.fit_ramps(**arrays, **TIMES)
        return counter.value / arrays["data"].size

    return count


def noisy_ramps(ngroups, *, rate=20.0, noise=6.0):
    """Ramps with photon and read noise, without flags."""
    rng = np.random.default_rng(ngroups)
    arrays = plain(2, ngroups, 10, 50)
    shape = arrays["data"].shape
    arrays["data"] = (np.cumsum(rng.poisson(rate, shape), axis=1) + rng.normal(0, noise, shape)).astype(np.float32)
    return arrays


@pytest.mark.parametrize(
    ("ngroups", "most"), [(5, 1.41), (10, 1.21), (25, 1.1), (40, 2.7), (100, 2.3), (250, 2.2), (1000, 2.1)]
)
@pytest.mark.parametrize("ends", [False, True])
def test_whole_ramps_are_read_once_or_twice(reads_of, ngroups, most, ends):
    arrays = noisy_ramps(ngroups)
    if ends:
        arrays["groupdq"][:, [0, -1]] = DO_NOT_USE
    assert reads_of(arrays) < most


@pytest.mark.parametrize(("rate", "noise"), [(0.1, 6.0), (2000.0, 6.0), (0.0, 1e-3), (5.0, 1e4)])
def test_any_noise_is_read_twice(reads_of, rate, noise):
    assert reads_of(noisy_ramps(250, rate=rate, noise=noise)) < 2.2


@pytest.mark.parametrize("share", [0.001, 0.05])
def test_flagged_ramps_are_read_a_few_times(reads_of, share):
    arrays = noisy_ramps(250)
    arrays["groupdq"][np.random.default_rng(3).random(arrays["groupdq"].shape) < share] = JUMP_DET
    assert reads_of(arrays) < 4.5


def test_whole_numbers_are_read_a_few_times(reads_of):
    """Many equal differences."""
    arrays = noisy_ramps(250, rate=3.0)
    arrays["data"] = np.round(arrays["data"])
    assert reads_of(arrays) < 4
