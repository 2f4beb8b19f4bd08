"""Roots that keep determinants near one: the same bits in NumPy, with and without its ``power``, and in kernels."""

import ctypes
import subprocess

import numpy as np
import pytest

from gpucoron.backends.devices.build import HOST_OPTIONS
from gpucoron.backends.kernel_files import kernel_folder
from gpucoron.backends.operations.likelihood import roots
from tests.cases.likelihood import BACKEND, PATTERNS, draw_diffs

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, -3.0, 1.0, 5e-324, 1e-310, 2.3e-308, 1.7e308]


@pytest.fixture(scope="module")
def numbers():
    rng = np.random.default_rng(1)
    parts = [2.0 ** rng.uniform(-width, width, 20000) for width in (1e-9, 1, 1022)]
    edges = np.concatenate([np.nextafter(roots.NEXT_RECIPROCAL, side) for side in (0, 1)])
    return np.concatenate([*parts, roots.NEXT_RECIPROCAL, edges, 2.0 ** rng.uniform(-1074, -1022, 999), SPECIAL])


@pytest.fixture(scope="module")
def compiled(host, tmp_path_factory):
    """Compute roots with kernels/include/root.cuh."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "root.cpp").write_text(
        '#include "host/cuda_shim.hpp"\n#include "root.cuh"\n'
        'extern "C" void take(const double* x, double* root, long size, int n) {\n'
        "  for (long i = 0; i < size; ++i) root[i] = gpucoron::root_of(x[i], n);\n}\n"
    )
    kernels = kernel_folder()
    options = [*HOST_OPTIONS, f"-I{kernels}", f"-I{kernels / 'include'}", str(folder / "root.cpp")]
    subprocess.run(["g++", *options, "-o", str(folder / "root.so")], check=True)
    library = ctypes.CDLL(str(folder / "root.so"))

    def take(numbers, n):
        found = np.empty_like(numbers)
        places = (ctypes.c_void_p(array.ctypes.data) for array in (numbers, found))
        library.take(*places, ctypes.c_long(numbers.size), ctypes.c_int(n))
        return found

    return take


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 10, 19, 100])
def test_the_same_bits_in_numpy_and_in_the_kernels(numbers, compiled, n):
    with np.errstate(all="ignore"):
        found = roots.root(numbers, n)
        np.testing.assert_array_equal(compiled(numbers, n), found)
        if n > 2:
            np.testing.assert_array_equal(roots.compute_root(numbers, n), found)


@pytest.mark.parametrize("n", [3, 8, 41])
def test_roots_are_right(numbers, n):
    """Errors are below 3/4 of the last bit, compared with longer floats."""
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("this machine has no longer floats")
    with np.errstate(all="ignore"):
        found, true = roots.compute_root(numbers, n), np.power(numbers.astype(np.longdouble), np.longdouble(1 / n))
    plain = np.isfinite(numbers) & (numbers > 0)
    assert (np.abs(found[plain] - true[plain]) < 0.75 * np.spacing(found[plain])).all()
    np.testing.assert_array_equal(found[-len(SPECIAL) :][:7], [0, 0, np.inf, np.inf, np.nan, np.nan, 1])


def test_flags_do_not_depend_on_numpys_power(monkeypatch):
    """Few good differences and little photon noise: another last bit of a root would change the flags."""
    diffs, sig, used = draw_diffs(np.random.default_rng(3), PATTERNS["four groups"], 3000, faintest=-2.0, used=0.7)

    def fit():
        return vars(BACKEND.fit_likelihood(diffs, PATTERNS["four groups"], sig, diffs2use=used, rules="stcal"))

    expected = fit()
    monkeypatch.setattr(roots, "numpy_has_these_bits", lambda: False)
    for name, values in fit().items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    monkeypatch.setattr(roots, "compute_root", lambda numbers, n: np.nextafter(numbers ** (1 / n), 0))
    assert (fit()["diffs2use"] != expected["diffs2use"]).any()
