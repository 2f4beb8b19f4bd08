"""The jump kernels keep differences in shared memory or stream them: the same bits, and few reads of the ramp."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends.devices.build import host_library
from gpucoron.backends.kernel_files import CLIPPED_WORDS, kernel_folder
from gpucoron.backends.operations.jump import JumpSettings, kernels
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING, ITERATIVE, ONE_PASS
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED
from tests.cases.backends import usable_backend
from tests.cases.jump import OPTIONS, assert_same_search, search, simulate

#: twelve words for each of the 32 threads of a block
FEW_WORDS = ("GPUCORON_SLICE_WORDS=384",)

ODD = np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, 1e-40, 1e30])


def make(request, **options):
    return usable_backend("host", request.config, n_threads=1, **options)


def draw_ramps(rng, shape):
    """Draw ramps of many kinds: noise, whole steps, equal values, odd values, few usable groups."""
    ramps = data, groupdq, gain, readnoise = simulate(
        rng, shape, hits=rng.choice([0, 0.02, 0.2]), bad=rng.random() < 0.7, step=rng.choice([None, 1, 16])
    )
    kind = rng.integers(6)
    if kind == 0:
        where = rng.random(shape) < rng.choice([0.01, 0.3])
        data[where] = rng.choice(ODD, where.sum())
    elif kind == 1:
        data[...] = np.cumsum(rng.choice([0, 0, 1, 5], shape), axis=1)
        gain[...], readnoise[...] = 1, rng.choice([0, 1])
    elif kind == 2:
        data[...] = 10.0 ** rng.uniform(-30, 30, shape) * rng.choice([-1, 1], shape)
    elif kind == 3:
        groupdq[rng.random(shape) < rng.choice([0.9, 1])] |= np.uint8(rng.choice([DO_NOT_USE, SATURATED]))
    elif kind == 4:
        readnoise[rng.random(readnoise.shape) < 0.3] = rng.choice(ODD)
    return ramps


@pytest.mark.parametrize("mode", [ONE_PASS, ITERATIVE, AFTER_CLIPPING])
@pytest.mark.parametrize("words", [(), FEW_WORDS], ids=["kept", "streamed"])
def test_drawn_ramps(request, mode, words):
    backend = make(request, defines=words)
    for seed in range(60):
        rng = np.random.default_rng([seed, mode])
        n_groups = int(rng.choice([1, 2, 3, 4, 9, 31, 32, 33, 70]))
        shape = (int(rng.integers(1, 9)), n_groups, int(rng.integers(1, 4)), int(rng.integers(1, 9)))
        options = OPTIONS[list(OPTIONS)[rng.integers(len(OPTIONS))]]
        assert_same_search(backend, draw_ramps(rng, shape), mode, **options)


@pytest.mark.parametrize("mode", [ONE_PASS, ITERATIVE, AFTER_CLIPPING])
@pytest.mark.parametrize("words", [(), FEW_WORDS], ids=["kept", "streamed"])
def test_drawn_ramps_with_threads_that_share_a_pixel(request, mode, words):
    backend = make(request, defines=words, lanes=4)
    for seed in range(4):
        rng = np.random.default_rng([seed, mode])
        shape = (int(rng.integers(3, 8)), int(rng.choice([5, 34])), 2, 3)
        assert_same_search(backend, draw_ramps(rng, shape), mode, **OPTIONS["after jumps"])


@pytest.mark.parametrize("shape", [(3, 120, 2, 5), (60, 12, 1, 7), (200, 2, 1, 9)], ids=str)
def test_medians_outside_of_the_sampled_quartiles(request, shape):
    """Most differences are not sampled: these have another level."""
    backend = make(request, defines=FEW_WORDS)
    rng = np.random.default_rng(shape)
    for share in (0.02, 0.5, 0.98):
        data, groupdq, gain, readnoise = simulate(rng, shape, bad=False)
        rises = rng.normal(20, 3, shape)
        rises[:, :: shape[1] // 2] += 1000
        rises[rng.random(shape) < share] -= 5000
        data[...] = np.cumsum(rises, axis=1)
        assert_same_search(backend, (data, groupdq, gain, readnoise), ONE_PASS, **OPTIONS["after jumps"])


# ------------------------------------------------------------------------------------------------------ sigma clipping


def clip_one(values, n_sigma):
    """Clip a series about its median, with sums in the order of the values; return which are outside."""
    finite = np.isfinite(values)
    kept, bounds = values[finite].astype(np.float64), (np.nan, np.nan)
    low, high, count = -np.inf, np.inf, -1
    for _ in range(5):
        kept = kept[(kept >= low) & (kept <= high)]
        if kept.size in (0, count):
            break
        count = kept.size
        mean = np.add.accumulate(kept)[-1] / count
        deviation = np.sqrt(np.add.accumulate((mean - kept) * (mean - kept))[-1] / count)
        bounds = np.median(kept) - n_sigma * deviation, np.median(kept) + n_sigma * deviation
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return finite & ((values < bounds[0]) | (values > bounds[1]))


def clip_and_compare(backend, rng, shape, *, only_use_ints):
    """Clip drawn ramps; return how many differences are outside."""
    data, groupdq, gain, _ = draw_ramps(rng, shape)
    threshold = float(rng.choice([0.7, 1.5, 4.0]))
    found, expected = groupdq.copy(), groupdq.copy()
    settings = JumpSettings(only_use_ints=only_use_ints, rejection_threshold=threshold)
    backend.clip_jumps(data.copy(), found, gain, settings=settings)
    with np.errstate(all="ignore"):
        electrons = np.where(groupdq & (DO_NOT_USE | SATURATED), np.float32(np.nan), data * gain)
        differences = np.diff(electrons, axis=1)
        series = differences if only_use_ints else differences.reshape(-1, *shape[2:])
        outside = np.apply_along_axis(clip_one, 0, series, threshold).reshape(differences.shape)
    expected[:, 1:][outside] |= JUMP_DET
    np.testing.assert_array_equal(found, expected)
    return outside.sum()


@pytest.mark.parametrize("n_ints", [1, 2, 3, 4, 5, 100, 255, 256, 257, 300, 384, 385])
def test_clipping_over_integrations(request, n_ints):
    """Up to 384 integrations are kept in shared memory, more are streamed."""
    backend, rng = make(request), np.random.default_rng(n_ints)
    n_outside = sum(clip_and_compare(backend, rng, (n_ints, 3, 2, 5), only_use_ints=True) for _ in range(4))
    assert n_outside > 0 or n_ints < 4


@pytest.mark.parametrize("shape", [(3, 1, 2, 5), (3, 5, 2, 5), (60, 9, 1, 4)], ids=str)
def test_clipping_over_all_differences(request, shape):
    backend, rng = make(request), np.random.default_rng(shape)
    n_outside = sum(clip_and_compare(backend, rng, shape, only_use_ints=False) for _ in range(4))
    assert n_outside > 0 or shape[1] == 1


# --------------------------------------------------------------------------------------------------------------- reads


@pytest.mark.parametrize(
    ("mode", "shape", "lanes", "most"),
    [
        # One scan to count, one to gather, and a sample of the differences before them.
        (ONE_PASS, (30, 250, 1, 8), 4, 2.2),
        (AFTER_CLIPPING, (250, 20, 1, 8), 1, 2.2),
        # All differences are in the slices: one scan, and again the samples of jumps.
        (ITERATIVE, (20, 10, 2, 16), 4, 1.1),
        (ITERATIVE, (6, 10, 2, 16), 1, 1.1),
        # A frame is read for two differences.
        ("clip", (250, 20, 1, 8), 1, 2.0),
    ],
    ids=str,
)
def test_the_ramp_is_read_a_few_times(request, mode, shape, lanes, most):
    """With the blocks of a GPU."""
    counted = ("GPUCORON_COUNT_READS=1",)
    backend = make(request, defines=counted, lanes=lanes)
    backend.device.block_threads = 128
    ramps = simulate(np.random.default_rng(1), shape, hits=0.01, bad=False)
    n_reads = ctypes.c_ulonglong.in_dll(host_library("jump.cu", defines=counted), "gpucoron_reads")
    n_reads.value = 0
    if mode == "clip":
        backend.clip_jumps(*ramps[:3])
    else:
        search(backend, ramps, mode)
    assert 1 <= n_reads.value / ramps[0].size <= most


# ------------------------------------------------------------------------------------------------------------- threads


def gpu(lanes, n_resident=270_336):
    """A device with blocks of 128 threads that launches nothing."""

    def choose_lanes(n_pixels, n_units, name, variant):
        return lanes if n_units >= 4 and n_pixels < n_resident else 1

    return SimpleNamespace(block_threads=128, choose_lanes=choose_lanes)


@pytest.mark.parametrize(
    ("mode", "shape", "chosen"),
    [
        (ONE_PASS, (60, 250, 224, 288), (4, 128)),  # streamed
        (ONE_PASS, (60, 250, 2048, 2048), (1, 128)),
        (ITERATIVE, (20, 10, 320, 320), (4, 128)),
        (ITERATIVE, (20, 10, 640, 640), (4, 128)),  # 200 values do not fit into the slice of one of 128 threads
        (ITERATIVE, (2, 10, 2048, 2048), (1, 128)),
        (ITERATIVE, (50, 10, 320, 320), (4, 32)),  # 130 values
        (ITERATIVE, (99, 10, 320, 320), (4, 32)),
        (AFTER_CLIPPING, (250, 20, 224, 288), (4, 128)),
        (ONE_PASS, (30, 12, 320, 320), (4, 64)),  # 96 values
    ],
    ids=str,
)
def test_threads_of_the_search(mode, shape, chosen):
    nints, ngroups, ny, nx = shape
    assert kernels._choose_threads(gpu(4), mode, nints, ngroups, ny * nx) == chosen


@pytest.mark.parametrize(
    ("nints", "words", "n_threads"),
    [(64, 8192, 128), (96, 12288, 128), (128, 8192, 64), (192, 12288, 64), (250, 8192, 32), (384, 12288, 32)]
    + [(385, 8192, 128)],
)
def test_threads_of_sigma_clipping(nints, words, n_threads):
    launches = []
    device = gpu(4)
    device.contiguous = lambda array: array
    device.launch = lambda *arguments: launches.append(arguments)
    data = np.zeros((nints, 5, 3, 100), np.uint8)
    kernels.clip_jumps(device, data, data, None, settings=JumpSettings())
    ((name, grid, block, _, variant),) = launches
    assert (name, block[0], variant) == ("clip_jumps", n_threads, (False, words))
    assert grid[0] == -(-300 // n_threads) * 4


def test_words_are_those_of_the_kernels():
    text = (kernel_folder() / "include" / "slices.cuh").read_text()
    assert f"#define GPUCORON_SLICE_WORDS {kernels.SLICE_WORDS}\n" in text
    # Static shared memory is at most 48 KB.
    assert 4 * max(*CLIPPED_WORDS, kernels.SLICE_WORDS) <= 48 * 1024
