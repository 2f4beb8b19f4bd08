"""The kernels compiled for the CPU: any number of workers, no compiler, a table that does not fit."""

import numpy as np
import pytest

from gpucoron.backends.devices import build
from tests.cases.backends import usable_backend
from tests.cases.jump import simulate as simulate_jumps
from tests.cases.ramp_fit import TIMES
from tests.cases.ramp_fit import simulate as simulate_ramps


def test_any_number_of_workers_gives_the_same_bits(request):
    arrays = simulate_ramps(8, 3, 12, 9, 23)
    ramps = simulate_jumps(np.random.default_rng(8), (3, 12, 9, 23))
    answers = []
    for n_threads in (1, 3):
        backend = usable_backend("host", request.config, n_threads=n_threads)
        data, flags, gain, readnoise = (array.copy() for array in ramps)
        count = backend.detect_jumps(data, flags, gain, readnoise)
        rate, rateints = backend.fit_ramps(**{name: array.copy() for name, array in arrays.items()}, **TIMES)
        answers.append([flags, np.array(count), *vars(rate).values(), *vars(rateints).values()])
    for one, three in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, three)


def test_without_a_compiler_there_is_a_reason(monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    usable, reason = build.host_available()
    assert not usable
    assert "g++" in reason
    with pytest.raises(RuntimeError, match=r"g\+\+"):
        build.compile_for_host("raw_counts.cu")


def test_the_table_must_fit_the_kernels(host, monkeypatch, tmp_path):
    """A wrong type in the table is an error of the compiler, not wrong numbers."""
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path))
    right = build.host_source("raw_counts.cu")
    monkeypatch.setattr(build, "host_source", lambda source: right.replace("int64", "int"))
    with pytest.raises(RuntimeError, match="convert_counts"):
        build.compile_for_host("raw_counts.cu")
