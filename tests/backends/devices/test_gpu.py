"""Tests of memory and streams that need a real device: memory runs out, is freed, and does not grow.

Other processes may use the same device, so these tests measure the pool of this process or, for the free memory of the
device, the median of several tries.
"""

import gc
from concurrent.futures import ThreadPoolExecutor

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
    """The device's memory pool, empty; the limit of a test is removed afterwards."""
    pool = gpu.xp.get_default_memory_pool()
    # Free memory of other tests now, not during this one.
    gc.collect()
    pool.free_all_blocks()
    yield pool
    pool.set_limit(size=0)
    pool.free_all_blocks()


def test_out_of_memory_halves_the_chunks_on_a_device(gpu, pool, caplog):
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
    """The pool is limited to the memory that the model predicts: no chunk must be halved."""
    arrays = simulate_ramps(2, 3, 30, 48, 64)
    # groupdq is also used as the original flags
    need = memory_needed(fit_ramps, {**arrays, "original_groupdq": arrays["groupdq"]})
    backend = gpu.in_chunks(need.of(12))
    backend.fit_ramps(**arrays, original_groupdq=arrays["groupdq"], **TIMES)  # warm up: compiled code
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


def test_the_limit_is_most_of_the_free_memory(gpu, pool, monkeypatch):
    """The free memory may change, so the expected number is the one that the device reported at that moment."""
    runtime, reported = gpu.xp.cuda.runtime, []
    ask = runtime.memGetInfo

    def ask_and_note():
        reported.append(ask())
        return reported[-1]

    monkeypatch.setattr(runtime, "memGetInfo", ask_and_note)
    kept = gpu.zeros((2**24,), np.uint8)
    del kept
    assert pool.free_bytes() >= 2**24
    for held in (0, 10**9):
        limit = gpu.memory_limit(held)
        free, total = reported[-1]
        assert 0 < free < total
        assert limit == held + int(USABLE * (free + pool.free_bytes()))


def test_the_limit_follows_the_free_memory(gpu, pool):
    size, drops = min(2**30, gpu.memory_limit() // 8), []
    for _ in range(21):
        before = gpu.memory_limit()
        held = gpu.zeros((size,), np.uint8)
        drops.append(before - gpu.memory_limit())
        del held
        pool.free_all_blocks()
    assert 0.5 * USABLE * size < np.median(drops) < 1.5 * USABLE * size


def test_threads_work_in_streams_of_their_own(gpu, pool):
    """Times are those of the device, and the memory of a stream is used again."""
    current = gpu.xp.cuda.get_current_stream
    shape, before, default = (8, 2**20), pool.total_bytes(), current()

    def work(number):
        with gpu.own_stream():
            assert current() != default
            start = gpu.mark()
            data = gpu.to_device(np.full(shape, number, np.float32))
            for _ in range(20):
                data += 1
            stop = gpu.mark()
            gpu.synchronize()
            assert gpu.seconds_between(start, stop) > 0
            return gpu.to_host(data)

    with ThreadPoolExecutor(2) as threads:
        for number, found in enumerate(threads.map(work, range(8))):
            assert (found == number + 20).all()
    assert current() == default
    assert pool.total_bytes() - before < 2.5 * 4 * 8 * 2**20
