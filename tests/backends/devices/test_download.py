"""Arrays of any size come down together, through two buffers of pinned memory."""

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices.cuda_device import CudaDevice
from gpucoron.backends.results import Slopes
from tests.stand_ins.fake_cupy import on_device


def mixed_arrays():
    """Return arrays of all sizes and types, some without values."""
    rng = np.random.default_rng(7)
    return [
        rng.normal(size=(3, 5, 7)).astype(np.float32),
        rng.integers(0, 2, 13).astype(bool),
        np.zeros((0, 4), np.float32),
        rng.normal(size=(11, 31)),
        np.float32(3) * np.ones(()),
        rng.integers(0, 256, (2, 999), dtype=np.uint8),
        rng.integers(0, 2**32, (40, 50), dtype=np.uint32)[:, ::3],
    ]


@pytest.mark.parametrize("words_at_once", [8, 23, 500, 2000, 2**22])
def test_arrays_come_down_together(late_cupy, monkeypatch, words_at_once):
    monkeypatch.setattr(CudaDevice, "words_at_once", words_at_once)
    backend = get_backend("cuda", device=1, cupy=late_cupy)
    arrays = mixed_arrays()
    there = [on_device(array, 1, late_cupy) for array in arrays]
    before = late_cupy.counts["syncs"]
    found = backend.to_host((there[0], (arrays[0], None), tuple(there[1:])))
    for ours, theirs in zip((found[0], *found[2]), arrays, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_array_equal(ours, theirs)
    assert found[1][0] is arrays[0]
    n_bytes = sum(array.nbytes for array in arrays)
    assert late_cupy.counts["bytes down"] == n_bytes
    assert not late_cupy.whole_copies
    # One wait for each piece. Pieces are full, but for the alignment of arrays and whole values at the end.
    waits = late_cupy.counts["syncs"] - before
    assert waits <= -(-(n_bytes + 16 * len(arrays)) // max(1, 2 * words_at_once - 8))


def test_a_set_of_products_costs_one_wait(late_cupy):
    backend = get_backend("cuda", cupy=late_cupy)
    images = np.random.default_rng(8).normal(size=(5, 20, 30)).astype(np.float32)
    slopes = Slopes(*(on_device(image, 0, late_cupy) for image in images))
    found = backend.to_host(slopes)
    assert isinstance(found, Slopes)
    np.testing.assert_array_equal(list(vars(found).values()), images)
    assert late_cupy.counts["syncs"] == 1
