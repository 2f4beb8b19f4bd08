"""The native backend: kernels with NumPy's bits, NumPy without a compiler."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from gpucoron.backends import backend_status, get_backend
from gpucoron.backends.devices import build, compilations
from gpucoron.errors import ParameterError
from gpucoron.steps.ipc import ReferenceEdges
from tests.cases.backends import usable_backend
from tests.cases.jump import simulate as simulate_jumps
from tests.cases.linearity import linearity_case
from tests.cases.ramp_fit import TIMES
from tests.cases.ramp_fit import simulate as simulate_ramps

#: more pixels than a tile, and an incomplete last tile
IMAGE = (5, 31)
#: groups of long ramps
LONG = 300


@pytest.fixture
def native(request):
    return usable_backend("native", request.config, n_threads=2)


@pytest.fixture
def nothing_loaded(monkeypatch, tmp_path):
    """A process that has not compiled anything, with an empty cache."""
    monkeypatch.setenv("GPUCORON_CACHE", str(tmp_path))
    forget = (compilations.forget, build.library.cache_clear, build._target.cache_clear)
    for each in forget:
        each()
    yield
    compilations.wait()
    for each in forget:
        each()


def answers(backend, n_groups):
    """Run the three operations with kernels; return every array that they make or change."""
    rng = np.random.default_rng(n_groups)
    data, groupdq, coeffs, _ = linearity_case(rng, 5, (2, n_groups, *IMAGE))
    backend.linearity(data, groupdq, coeffs)
    ramps = simulate_jumps(rng, (2, n_groups, *IMAGE))
    count = backend.detect_jumps(*ramps)
    arrays = simulate_ramps(8, 2, n_groups, *IMAGE)
    rate, rateints = backend.fit_ramps(**arrays, **TIMES)
    return [data, ramps[1], np.array(count), *vars(rate).values(), *vars(rateints).values()]


@pytest.mark.parametrize("n_groups", [4, 66, LONG])
def test_long_ramps_have_numpys_bits(native, n_groups):
    expected = answers(get_backend("numpy", n_threads=1), n_groups)
    for backend in (native, get_backend("native", n_threads=1)):
        for one, other in zip(answers(backend, n_groups), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_ramps_of_any_length_are_the_kernels(native, launched):
    for n_groups in (1, 2, 9, 70):
        native.fit_ramps(**simulate_ramps(8, 1, n_groups, *IMAGE), **TIMES)
    assert launched == ["fit_strips"] * 4


def test_only_ramps_in_one_piece_are_the_kernels(native, launched):
    data, groupdq, coeffs, inverse = linearity_case(np.random.default_rng(2), 5)
    native.linearity(data, groupdq, coeffs)
    native.linearity(data, groupdq, coeffs, inverse, nframes=4)
    native.deconvolve_ipc(data, np.ones((3, 3), np.float32), ReferenceEdges(0, 0, 0, 0))
    assert launched == ["correct_strips", "correct_reads", "deconvolve_ipc"]
    native.linearity(data[:, 1:], groupdq[:, 1:], coeffs)
    assert len(launched) == 3
    with pytest.raises(ValueError, match="C-contiguous"):
        native.deconvolve_ipc(data[:, 1:], np.ones((3, 3), np.float32), ReferenceEdges(0, 0, 0, 0))


def test_clipping_has_numpys_bits(native):
    """Differences that are exactly at the limit depend on the last bit of the standard deviation."""
    counts = {-7: 1, -5: 1, -4: 1, -3: 7, -2: 13, -1: 28, 0: 36, 1: 31, 2: 20, 3: 8, 4: 1, 5: 1, 7: 1, 10: 1}
    values = np.repeat(np.float32(list(counts)), list(counts.values()))
    rng, data = np.random.default_rng(1), np.zeros((len(values), 4, 2, 9), np.float32)
    for at in np.ndindex(3, 2, 9):
        data[(slice(None), at[0] + 1, *at[1:])] = rng.permutation(values)
    data = np.cumsum(data, axis=1)
    found = []
    for backend in (native, get_backend("numpy", n_threads=1)):
        groupdq = np.zeros(data.shape, np.uint8)
        backend.clip_jumps(data, groupdq, np.ones((2, 9), np.float32), rejection_threshold=5.0)
        found.append(groupdq)
    np.testing.assert_array_equal(*found)


WITHOUT_MEMORY = """
import resource, sys
import numpy as np
from gpucoron.backends import get_backend

backend = get_backend("native", n_threads=2)
images = np.random.default_rng(0).normal(size=(8, 1024, 1024)).astype(np.float32)
masks = np.ones(images.shape, bool)
backend.fit_1overf(images[:1, :20, :20].copy(), masks[:1, :20, :20].copy())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 80 * 2**20,) * 2)
try:
    backend.fit_1overf(images, masks)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_kernel_without_memory_raises_an_error(native):
    environment = os.environ | {build.SWITCH: "wait"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, "memory" in done.stdout.lower()) == (0, True), done.stdout + done.stderr


def test_emicorr_is_subtracted_as_by_numpy(native):
    from gpucoron.steps.emicorr import cubic_pieces

    rng = np.random.default_rng(4)
    data = rng.normal(100, 30, (3, 5, 6, 8)).astype(np.float32)
    tables = cubic_pieces(rng.normal(0, 5, 9)), rng.random((6, 2)), rng.random(5) * 3, rng.random(3), rng.random(3) + 1
    expected = data.copy()
    get_backend("numpy", n_threads=1).subtract_emicorr(expected, *tables)
    assert not np.array_equal(expected, data)
    whole = data.copy()
    native.subtract_emicorr(whole, *tables)
    np.testing.assert_array_equal(whole, expected)


def test_a_failing_compiler_is_logged_and_numpy_is_used(nothing_loaded, monkeypatch, caplog):
    usable_native = get_backend("native", n_threads=1)
    monkeypatch.setattr(build, "NATIVE_OPTIONS", (*build.NATIVE_OPTIONS, "--no-such-option"))
    with caplog.at_level(logging.WARNING):
        found = answers(usable_native, LONG)
    for one, other in zip(found, answers(get_backend("numpy", n_threads=1), LONG), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum("NumPy replaces the native kernels" in message for message in caplog.messages) == 3


@pytest.mark.parametrize("reason", [build.SWITCH, "g++", "CXX=g++ 'unclosed is not a command"])
def test_cpu_is_numpy_where_nothing_can_be_compiled(nothing_loaded, monkeypatch, reason):
    if reason == build.SWITCH:
        monkeypatch.setenv(build.SWITCH, "0")
    elif reason.startswith("CXX"):
        monkeypatch.setenv("CXX", "g++ 'unclosed")
    else:
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
    usable, told = backend_status()["native"]
    assert not usable
    assert reason in told
    assert told in backend_status()["cpu"][1]
    assert get_backend("cpu").name == "numpy"


def test_options_are_known_or_refused():
    """A choice accepts the options of each of its backends; for others the message names the way out."""
    with pytest.raises(ParameterError, match="'cpu' has no option device, which is for cuda; known: n_threads"):
        get_backend("cpu", device=3)
    with pytest.raises(TypeError, match="no option n_thread; known: .*n_threads"):
        get_backend("cpu", n_thread=2)
    assert get_backend("auto", device=0, n_threads=1).name in ("native", "numpy", "cuda")


def test_arguments_are_refused_by_the_operations_name():
    backend, image = get_backend("numpy"), np.zeros((1, 3, 2, 2), np.float32)
    with pytest.raises(TypeError, match="fit_ktc: missing .*limit"):
        backend.fit_ktc(image, image)
    with pytest.raises(TypeError, match="fit_ktc: .*unexpected keyword argument 'time'"):
        backend.fit_ktc(image, image, image[0, 0], time=2.0)
    with pytest.raises(TypeError, match="fit_ktc: settings must be SubtractKtcSettings, not dict"):
        backend.fit_ktc(image, image, image[0, 0], settings={"group_time": 2.0})
    with pytest.raises(TypeError, match="measure_scatter: unknown arguments group_time"):
        backend.measure_scatter(image, group_time=2.0)
