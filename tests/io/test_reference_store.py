"""The cache of references: exposures may be reduced in parallel threads."""

import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.facts import Facts
from gpucoron.io import references
from gpucoron.io.references import Reference, ReferenceStore


@pytest.fixture
def quick_switches():
    """Let threads take turns as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_threads_share_the_store(quick_switches, monkeypatch, tmp_path):
    """References are added, found and removed in several threads at a time."""
    paths = [tmp_path / str(number) for number in range(100)]
    for path in paths:
        path.touch()
    monkeypatch.setattr(
        references, "read_reference", lambda reftype, path, exposure: Reference(data=np.full(16, int(path.name)))
    )
    store, backend = ReferenceStore(max_bytes=50 * 16 * 8), get_backend("numpy")
    exposure = SimpleNamespace(name="x", data=np.zeros((1, 1, 4, 4)), facts=Facts("NIRCAM"))

    def use(seed):
        order = np.random.default_rng(seed).permutation(len(paths))
        return all(store.get("gain", paths[i], exposure, backend).data[0] == i for i in order)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(24)))
