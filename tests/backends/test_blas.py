"""BLAS has one thread where the last bits of a result could depend on how many it has."""

import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gpucoron.backends import blas, get_backend
from gpucoron.backends.operations.emicorr import definition as emicorr
from gpucoron.backends.operations.subtract_1overf import savgol


def count_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def many_threads():
    """BLAS with three threads, whatever the environment says."""
    with threadpool_limits(3, user_api="blas"):
        assert count_threads() == {3}
        yield


def match(rng):
    """Fit a wave to sums of many integrations: products large enough for BLAS to use threads, were they not cut."""
    n_bins, ngroups, nints = 50, 40, 60
    sums, counts = rng.normal(900, 9, (nints, ngroups, n_bins)), np.full((nints, n_bins), 30.0)
    wave = rng.normal(size=(4, n_bins + 1))
    return get_backend("numpy", n_threads=1).match_emicorr(sums, counts, wave, rng.random(ngroups), 500)


def fit(rng, model_type="savgol"):
    images = rng.normal(size=(2, 60, 80)).astype(np.float32)
    backend = get_backend("numpy", n_threads=2)
    return backend.fit_1overf(images, np.ones(images.shape, bool), model_type=model_type)


@pytest.mark.parametrize(("module", "run"), [(savgol, fit), (emicorr, match)], ids=["subtract_1overf", "emicorr"])
def test_operations_run_with_one_thread(many_threads, monkeypatch, module, run):
    seen, multiply = [], module._multiply

    def watch(*matrices):
        seen.append(count_threads())
        return multiply(*matrices)

    monkeypatch.setattr(module, "_multiply", watch)
    run(np.random.default_rng(1))
    assert seen
    assert all(threads == {1} for threads in seen)
    assert count_threads() == {3}


@pytest.mark.parametrize("run", [match, fit, lambda rng: fit(rng, "fft")], ids=["emicorr", "savgol", "fft"])
def test_bits_do_not_depend_on_the_threads_of_blas(run):
    results = []
    for n in (1, 2, 8):
        with threadpool_limits(n, user_api="blas"):
            results.append(run(np.random.default_rng(2)))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_bits_of_uncut_products_rest_on_the_limit(monkeypatch):
    """Show that the limit has an effect: products that are not cut into pieces differ without it."""
    monkeypatch.setattr(emicorr, "_PRODUCTS_AT_ONCE", 2**40)
    rng = np.random.default_rng(3)
    matrices = rng.normal(size=(30, 128)), rng.normal(size=(128, 500))

    def multiply(n, *, is_limited):
        with threadpool_limits(n, user_api="blas"):
            if not is_limited:
                return emicorr._multiply(*matrices)
            with blas.one_blas_thread():
                return emicorr._multiply(*matrices)

    free = [multiply(n, is_limited=False) for n in (1, 2)]
    limited = [multiply(n, is_limited=True) for n in (1, 2)]
    np.testing.assert_array_equal(limited[0], limited[1])
    # Other libraries than OpenBLAS may sum in one order.
    if {library["internal_api"] for library in threadpool_info()} == {"openblas"}:
        assert (free[0] != free[1]).any()


def test_operations_in_two_threads_restore_the_threads(many_threads):
    inside, may_leave = threading.Event(), threading.Event()

    def stay():
        with blas.one_blas_thread():
            inside.set()
            may_leave.wait(60)

    thread = threading.Thread(target=stay)
    with blas.one_blas_thread():
        thread.start()
        assert inside.wait(60)
        assert count_threads() == {1}
    may_leave.set()
    thread.join()
    assert count_threads() == {3}


def test_without_threadpoolctl_operations_still_run(many_threads, monkeypatch):
    expected = match(np.random.default_rng(4))
    blas._controller.cache_clear()
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    try:
        found = match(np.random.default_rng(4))
        assert blas._controller() is None
    finally:
        blas._controller.cache_clear()
    # The pieces are too small for threads.
    np.testing.assert_array_equal(found, expected)
