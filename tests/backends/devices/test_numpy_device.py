"""The NumPy device: light work in parts, on threads."""

import threading

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.steps.dark_current import ReadPattern, subtract_dark
from gpucoron.steps.superbias import subtract_superbias


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_parts_cover_all_items_once(n, n_threads):
    parts = get_backend("numpy", n_threads=n_threads).in_parts(lambda part: list(range(n))[part], n)
    assert sum(parts, []) == list(range(n))
    assert 1 <= len(parts) <= n_threads


def test_parts_run_at_the_same_time():
    both = threading.Barrier(2, timeout=60)
    get_backend("numpy", n_threads=2).in_parts(lambda part: both.wait(), 2)


def test_light_steps_do_not_depend_on_threads():
    rng = np.random.default_rng(1)
    data = rng.normal(1000, 300, (5, 7, 4, 9)).astype(np.float32)
    bias, dark = rng.normal(0, 50, (4, 9)).astype(np.float32), rng.normal(0, 9, (2, 4, 4, 9)).astype(np.float32)
    bias[1, 1] = dark[0, 1, 2, 2] = np.nan
    found = []
    for n_threads in (1, 2, 4):
        backend, ramps = get_backend("numpy", n_threads=n_threads), data.copy()
        subtract_superbias(ramps, bias, backend=backend)
        subtract_dark(ramps, dark, ReadPattern(1, 0), ReadPattern(1, 0), backend=backend)
        found.append(ramps.tobytes())
    assert found[0] == found[1] == found[2]
    assert found[0] != data.tobytes()
