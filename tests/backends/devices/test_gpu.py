"""What only a real device can show: its memory runs out, is given back, and stays where it was.

Other processes may use the same device meanwhile: what is counted here is this process's own pool or, of the device's
free memory, the middle of several tries.
"""

import gc

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.chunks import memory_needed
from gpucoron.backends.devices.cuda_device import USABLE
from gpucoron.backends.operations import fit_ramps, search_jumps
from tests.cases.jump import simulate as simulate_jumps
from tests.cases.ramp_fit import TIMES
from tests.cases.ramp_fit import simulate as simulate_ramps

SHAPE = (2, 12, 64, 64)


@pytest.fixture
def pool(gpu):
    """The device's memory pool, empty; a limit that a test sets is taken away."""
    pool = gpu.xp.get_default_memory_pool()
    # What other tests have left goes now, not in the middle of this one.
    gc.collect()
    pool.free_all_blocks()
    yield pool
    pool.set_limit(size=0)
    pool.free_all_blocks()


def test_a_device_that_runs_out_of_memory_goes_on_with_less(gpu, pool, caplog):
    ramps = simulate_jumps(np.random.default_rng(1), SHAPE)
    expected, found = ramps[1].copy(), ramps[1].copy()
    count = get_backend("numpy").detect_jumps(ramps[0], expected, *ramps[2:])
    names = "data", "groupdq", "gain", "readnoise"
    need = memory_needed(search_jumps, dict(zip(names, ramps, strict=True)) | {"mode": 0, "lost": None})
    pool.set_limit(size=pool.used_bytes() + need.of(24))
    assert gpu.in_chunks(10**12).detect_jumps(ramps[0], found, *ramps[2:]) == count
    np.testing.assert_array_equal(found, expected)
    assert "out of memory" in caplog.text


def test_a_chunk_takes_no_more_than_the_model_says(gpu, pool, caplog):
    """The pool's limit is the model's number: nothing has to be halved."""
    arrays = simulate_ramps(2, 3, 30, 48, 64)
    # groupdq stands for the original flags too
    need = memory_needed(fit_ramps, {**arrays, "original_groupdq": arrays["groupdq"]})
    backend = gpu.in_chunks(need.of(12))
    backend.fit_ramps(**arrays, original_groupdq=arrays["groupdq"], **TIMES)  # warm: compiled code
    pool.free_all_blocks()
    pool.set_limit(size=pool.used_bytes() + need.of(12))
    caplog.clear()
    backend.fit_ramps(**arrays, original_groupdq=arrays["groupdq"], **TIMES)
    assert "out of memory" not in caplog.text


def test_memory_stays_where_it_was(gpu, pool):
    ramps = simulate_jumps(np.random.default_rng(3), SHAPE)
    taken = []
    for _ in range(10):
        data, groupdq, gain, readnoise = (gpu.to_device(array) for array in ramps)
        gpu.detect_jumps(data, groupdq.copy(), gain, readnoise)
        gpu.fit_ramps(data, groupdq, gpu.zeros(SHAPE[2:], np.uint32), gain, readnoise, **TIMES)
        del data, groupdq, gain, readnoise
        gpu.synchronize()
        taken.append((pool.total_bytes(), pool.used_bytes()))
    assert len(set(taken[2:])) == 1


def test_the_limit_is_most_of_what_is_free(gpu, pool, monkeypatch):
    """By the number that the device told at that moment: a moment later it may be another."""
    runtime, told = gpu.xp.cuda.runtime, []
    ask = runtime.memGetInfo

    def ask_and_note():
        told.append(ask())
        return told[-1]

    monkeypatch.setattr(runtime, "memGetInfo", ask_and_note)
    kept = gpu.zeros((2**24,), np.uint8)
    del kept
    assert pool.free_bytes() >= 2**24
    for held in (0, 10**9):
        limit = gpu.memory_limit(held)
        free, total = told[-1]
        assert 0 < free < total
        assert limit == held + int(USABLE * (free + pool.free_bytes()))


def test_the_limit_follows_what_is_free(gpu, pool):
    size, drops = min(2**30, gpu.memory_limit() // 8), []
    for _ in range(21):
        before = gpu.memory_limit()
        held = gpu.zeros((size,), np.uint8)
        drops.append(before - gpu.memory_limit())
        del held
        pool.free_all_blocks()
    assert 0.5 * USABLE * size < np.median(drops) < 1.5 * USABLE * size
