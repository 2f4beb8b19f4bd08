"""An exposure that the memory does not hold: its ramps are in a scratch file, and the answers are the same."""

import numpy as np
import pytest
from jwst_side import SLOPE_ARRAYS

import gpucoron
from gpucoron.backends.host_memory import ScratchBackend, free_memory


def test_a_limit_never_shows_in_the_answer(exposures, tmp_path):
    case = exposures("NIRCAM", "SUB320A335R", "RAPID", 6, 2, shape=(32, 40))
    with case.cache.activate():
        _run, whole, _ = gpucoron.reduce_file(case.path, tmp_path / "a", backend="cpu")
        run, limited, _ = gpucoron.reduce_file(case.path, tmp_path / "b", backend="cpu", max_memory=10_000_000)
    assert isinstance(run.backend, ScratchBackend)
    for product in ("rate", "rateints"):
        for name in SLOPE_ARRAYS:
            np.testing.assert_array_equal(getattr(limited[product], name), getattr(whole[product], name), err_msg=name)
    assert not [path for path in (tmp_path / "b").iterdir() if path.name.startswith(".")]


def test_free_memory():
    free = free_memory()
    if free is None:
        pytest.skip("this system does not say how much memory is free")
    assert free > 0
