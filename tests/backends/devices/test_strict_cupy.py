"""The stand-in for CuPy refuses and computes the same as CuPy; checked against the real CuPy."""

import ast
import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage

import gpucoron
from gpucoron.backends.devices.cuda_device import CUDA_IS_FULL
from gpucoron.backends.kernel_files import KERNELS
from tests.stand_ins.fake_cupy import make_fake_cupy, on_device
from tests.stand_ins.real_cupy import FOLDER, MISSING, DifferentDtype, find_judge, judge_or_skip

PACKAGE = Path(gpucoron.__file__).parent
ROOT = PACKAGE.parent


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    return make_fake_cupy(monkeypatch, tmp_path, judge=judge_or_skip())


@pytest.fixture
def late(monkeypatch, tmp_path):
    """The stand-in, with or without the real CuPy."""
    return make_fake_cupy(monkeypatch, tmp_path)


@pytest.fixture
def a(cupy):
    """Arrays of the stand-in: float32 (3, 4, 5) and others, and host arrays."""
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    return SimpleNamespace(
        x=cupy.asarray(values), flags=cupy.asarray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5)),
        mask=cupy.asarray(values % 2 == 0), row=cupy.asarray([True, False, True]),
        column=cupy.asarray(np.array([True, False, False, True])), indices=cupy.asarray([0, 2]),
        doubles=cupy.asarray(values.astype(np.float64)), signed=cupy.asarray(np.arange(5)),
        host=values, elsewhere=on_device(values, 1, cupy),
    )  # fmt: skip


def set_item(array, key, value):
    array[key] = value


def change(array, operation, other):
    getattr(array, f"__i{operation}__")(other)


REFUSED = {
    # names
    "no such function": (AttributeError, lambda xp, a: xp.busday_count),
    "no such filter": (AttributeError, lambda xp, a: xp.ndimage.no_such_filter),
    "no such method": (AttributeError, lambda xp, a: a.x.setflags),
    "no ctypes": (AttributeError, lambda xp, a: a.x.ctypes),
    "no writeable flag": (AttributeError, lambda xp, a: a.x.flags.writeable),
    # arguments
    "keyword of a function": (TypeError, lambda xp, a: xp.median(a.x, where=a.mask)),
    "missing argument": (TypeError, lambda xp, a: xp.take_along_axis(a.x)),
    "keyword of a method": (TypeError, lambda xp, a: a.x.sum(where=a.mask)),
    "initial value of a method": (TypeError, lambda xp, a: a.x.max(initial=0)),
    "keyword of a filter": (TypeError, lambda xp, a: xp.ndimage.binary_dilation(a.mask, footprint=a.mask)),
    "where of a ufunc": (TypeError, lambda xp, a: xp.add(a.x, 1, where=a.mask)),
    "order of a ufunc": (TypeError, lambda xp, a: xp.add(a.x, 1, order="C")),
    "where of NumPy's ufunc": (TypeError, lambda xp, a: np.add(a.x, 1, where=a.mask)),
    "arguments of a ufunc": (TypeError, lambda xp, a: xp.isnan(a.x, a.mask, a.mask)),
    "an axis that is not there": (ValueError, lambda xp, a: a.x.sum(axis=3)),
    "an array as a fill value": (TypeError, lambda xp, a: xp.full((3,), a.host[0, 0])),
    "a big-endian array": (ValueError, lambda xp, a: xp.empty(3, ">f4")),
    # methods of ufuncs
    "or of all": (NotImplementedError, lambda xp, a: xp.bitwise_or.reduce(a.flags, axis=0)),
    "or of all by NumPy": (NotImplementedError, lambda xp, a: np.bitwise_or.reduce(a.flags, axis=0)),
    "running maximum": (NotImplementedError, lambda xp, a: xp.maximum.accumulate(a.x)),
    "maximum of pieces": (NotImplementedError, lambda xp, a: xp.maximum.reduceat(a.x, a.indices)),
    "division at places": (NotImplementedError, lambda xp, a: xp.divide.at(a.x, a.indices, 1)),
    # dtypes
    "bits of floats": (TypeError, lambda xp, a: a.x & 1),
    "not a float": (TypeError, lambda xp, a: ~a.x),
    "masks minus masks": (TypeError, lambda xp, a: a.mask - a.mask),
    "double into flags": (TypeError, lambda xp, a: change(a.flags, "mul", 0.5)),
    "double into integers": (TypeError, lambda xp, a: change(a.signed, "add", a.doubles[0, 0])),
    "int64 into flags by bits": (TypeError, lambda xp, a: change(a.flags, "or", xp.asarray(np.int64(1)))),
    "float into an integer output": (TypeError, lambda xp, a: xp.add(a.x, a.x, out=a.flags)),
    "an output of another shape": (ValueError, lambda xp, a: xp.add(a.x, a.x, out=a.x[0])),
    "a host array as output": (TypeError, lambda xp, a: xp.add(a.x, a.x, out=a.host)),
    # host arrays
    "plus a host array": (TypeError, lambda xp, a: a.x + a.host),
    "a host array plus": (TypeError, lambda xp, a: a.host + a.x),
    "plus a host array without axes": (TypeError, lambda xp, a: a.x + np.array(1.0)),
    "in place from a host array": (TypeError, lambda xp, a: change(a.x, "add", a.host)),
    "in place into a host array": (TypeError, lambda xp, a: change(a.host, "add", a.x)),
    "compared with a host array": (TypeError, lambda xp, a: a.x > a.host),
    "plus a list": (TypeError, lambda xp, a: a.x[0, 0] + [1, 2, 3, 4, 5]),
    "where among host arrays": (TypeError, lambda xp, a: xp.where(a.mask, a.x, a.host)),
    "a list with host arrays": (TypeError, lambda xp, a: xp.concatenate([a.x, a.host])),
    "a stack of host arrays": (TypeError, lambda xp, a: xp.stack([a.host, a.host])),
    "the median of a host array": (TypeError, lambda xp, a: xp.median(a.host)),
    "a filter of a host array": (TypeError, lambda xp, a: xp.ndimage.binary_dilation(a.mask, np.ones((3, 3, 3), bool))),
    "assignment from a host array": ((TypeError, ValueError), lambda xp, a: set_item(a.x, 0, a.host[0])),
    "assignment from a list": (ValueError, lambda xp, a: set_item(a.x, (0, 0), [1, 2, 3, 4, 5])),
    "assignment to a mask from a host array": (TypeError, lambda xp, a: set_item(a.x, a.mask, a.host[0, 0, :1])),
    "a host mask": (TypeError, lambda xp, a: a.x[a.host > 3]),
    "a list as an index": (TypeError, lambda xp, a: a.x[[0, 1]]),
    "a device array as an index of a host array": ((TypeError, IndexError), lambda xp, a: a.host[a.indices]),
    # transforms, products and tables
    "no such transform": (AttributeError, lambda xp, a: xp.fft.no_such_transform),
    "threads of a transform": (TypeError, lambda xp, a: xp.fft.rfft(a.x, workers=2)),
    "a transform along an axis that is not there": ((IndexError, ValueError), lambda xp, a: xp.fft.rfft(a.x, axis=3)),
    "a transform of a host array": (TypeError, lambda xp, a: xp.fft.irfft(a.host)),
    "an unknown norm": (ValueError, lambda xp, a: xp.fft.rfft(a.x, norm="none")),
    "matrices that do not fit": (ValueError, lambda xp, a: a.x @ a.x),
    "times a host matrix": (TypeError, lambda xp, a: a.x @ a.host[0].T),
    "a host matrix times": (TypeError, lambda xp, a: a.host[0].T @ a.x[0]),
    "a matrix times a list": (TypeError, lambda xp, a: a.x @ [1, 2, 3, 4, 5]),
    "a matrix times a number": (TypeError, lambda xp, a: a.x @ 2),
    "counts of floats": (TypeError, lambda xp, a: xp.bincount(a.x[0, 0])),
    "counts with too few weights": (ValueError, lambda xp, a: xp.bincount(a.signed, weights=a.x[0, 0, :2])),
    "interpolation at places with gaps": (
        NotImplementedError, lambda xp, a: xp.interp(a.x[0].T, a.doubles[0, 0], a.doubles[0, 0]),
    ),
    "repetition by a host array": (TypeError, lambda xp, a: xp.repeat(a.x, a.host[0, 0].astype(int), axis=-1)),
    "a view of another shape": (ValueError, lambda xp, a: xp.broadcast_to(a.x, (3, 4, 6))),
    "a keyword of percentiles": (TypeError, lambda xp, a: xp.percentile(a.x, 25, weights=a.x)),
    # conversion
    "asarray": (TypeError, lambda xp, a: np.asarray(a.x)),
    "array of arrays": ((TypeError, ValueError), lambda xp, a: np.array([a.x, a.x])),
    "float of many": (TypeError, lambda xp, a: float(a.x)),
    "truth of many": (ValueError, lambda xp, a: bool(a.x)),
    "an index of a list": (TypeError, lambda xp, a: [1, 2][a.signed[0]]),
    "a range": (TypeError, lambda xp, a: range(a.signed[2])),
    "a function that CuPy lacks": (TypeError, lambda xp, a: np.busday_offset(a.x, 1)),
    "NumPy's ufunc with a host array": (TypeError, lambda xp, a: np.nextafter(a.x, a.host)),
    "NumPy's keyword": (TypeError, lambda xp, a: np.mean(a.x, where=a.mask)),
    "a set": (TypeError, lambda xp, a: {a.x}),
    # indexing, devices
    "assignment by two masks": (IndexError, lambda xp, a: set_item(a.x, (a.row, a.column), 1)),
    "two masks": (IndexError, lambda xp, a: a.x[a.row, a.column]),
    "a mask of another shape": (IndexError, lambda xp, a: a.x[a.column]),
    "a mask of floats": (IndexError, lambda xp, a: a.x[a.x]),
    "an index beyond the end": (IndexError, lambda xp, a: a.x[3]),
    "iteration without axes": (TypeError, lambda xp, a: list(a.x[0, 0, 0])),
    "where of no axes": (ValueError, lambda xp, a: xp.nonzero(a.x[0, 0, 0])),
    "arrays of two devices": (ValueError, lambda xp, a: a.x + a.elsewhere),
    "a sum on another device": (ValueError, lambda xp, a: a.elsewhere.sum()),
    "a function on another device": (ValueError, lambda xp, a: xp.stack([a.x, a.elsewhere])),
    "an assignment across devices": (ValueError, lambda xp, a: set_item(a.x, 0, a.elsewhere[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(cupy, a, name):
    error, attempt = REFUSED[name]
    with pytest.raises(error):
        attempt(cupy, a)


ACCEPTED = {
    "sum": lambda xp, a: a.x.sum(axis=(0, 1), dtype=np.float64, keepdims=True),
    "any": lambda xp, a: a.mask.any(axis=0),
    "max": lambda xp, a: a.flags.max(),
    "std": lambda xp, a: a.x.std(axis=1),
    "mean of integers": lambda xp, a: a.flags.mean(axis=0),
    "cumulative sum": lambda xp, a: xp.cumsum(a.flags, axis=1, dtype=np.int32),
    "sum of all by NumPy": lambda xp, a: np.add.reduce(a.x, axis=0),
    "NumPy's ufunc": lambda xp, a: np.add(a.x, np.float32(1)),
    "NumPy's function": lambda xp, a: np.median(a.x, axis=0),
    "weak scalars": lambda xp, a: (a.flags + 1) * 2 | 4,
    "floats by integers": lambda xp, a: a.x * a.flags,
    "masks times flags": lambda xp, a: a.mask * np.uint8(4),
    "masks and flags": lambda xp, a: a.mask.astype(np.uint8) | a.flags,
    "negative steps": lambda xp, a: a.x[::-1, :, ::-2],
    "mask": lambda xp, a: a.x[a.mask],
    "mask of the first axis": lambda xp, a: a.x[a.row],
    "mask of the last axis": lambda xp, a: a.x[..., a.signed > 2],
    "indices": lambda xp, a: a.x[:, a.indices, a.indices],
    "indices apart": lambda xp, a: a.x[a.indices, :, a.indices],
    "element": lambda xp, a: a.x[1, 2, 3],
    "new axes": lambda xp, a: a.x[:, None, ..., None],
    "transposed": lambda xp, a: a.x.T,
    "moved axes": lambda xp, a: xp.moveaxis(a.x, 0, -1),
    "swapped axes": lambda xp, a: a.x.swapaxes(0, 2),
    "reshaped": lambda xp, a: a.x.reshape(3, -1),
    "reshaped with a copy": lambda xp, a: a.x.swapaxes(0, 2).reshape(-1),
    "seen as bytes": lambda xp, a: a.mask.view(np.uint8),
    "broadcast": lambda xp, a: xp.broadcast_to(a.x, (2, 3, 4, 5)),
    "where": lambda xp, a: xp.where(a.mask, a.x, 0),
    "where with a NumPy scalar": lambda xp, a: xp.where(a.mask, a.x, np.float32(0)),
    "stack": lambda xp, a: xp.stack([a.x, a.x]),
    "sort": lambda xp, a: xp.sort(a.x, axis=-1),
    "take along": lambda xp, a: xp.take_along_axis(a.x, a.flags[..., :2].astype(np.int64) % 5, axis=-1),
    "isnan": lambda xp, a: xp.isnan(a.x),
    "isfinite of integers": lambda xp, a: xp.isfinite(a.flags),
    "power": lambda xp, a: a.x**2,
    "root": lambda xp, a: a.x**0.5,
    "division of integers": lambda xp, a: a.flags / 2,
    "cast": lambda xp, a: a.x.swapaxes(0, 2).astype(np.float64),
    "dilation": lambda xp, a: xp.ndimage.binary_dilation(a.mask[0], structure=xp.ones((3, 3), bool)),
    "count": lambda xp, a: xp.count_nonzero(a.flags & 4),
    "not a number": lambda xp, a: xp.full((2, 3), xp.nan, dtype="float32"),
    "transform": lambda xp, a: xp.fft.rfft(a.x, axis=-1),
    "padded transform": lambda xp, a: xp.fft.rfft(a.doubles, 16, axis=1),
    "transform of integers": lambda xp, a: xp.fft.rfft(a.flags),
    "inverse transform": lambda xp, a: xp.fft.irfft(xp.fft.rfft(a.x) * a.x[..., :3], 5, axis=-1),
    "power spectrum": lambda xp, a: (abs(xp.fft.rfft(a.x)) ** 2).astype(np.float64),
    "matrix product": lambda xp, a: a.x[0] @ a.x[1].T,
    "products of many matrices": lambda xp, a: a.x @ a.x[0].T,
    "matrix times vector": lambda xp, a: a.x[0].T @ a.x[0, :, 1],
    "product in double precision": lambda xp, a: a.x[0] @ a.doubles[0].T,
    "counts": lambda xp, a: xp.bincount(a.signed, minlength=7),
    "weighted counts": lambda xp, a: xp.bincount(a.signed, weights=a.x[0, 0], minlength=7),
    "percentile": lambda xp, a: xp.percentile(a.x[a.mask], 25),
    "interpolation": lambda xp, a: xp.interp(a.x, a.doubles[0, 0], a.doubles[0, 1]),
    "repetition": lambda xp, a: xp.repeat(a.x, 4, axis=-1),
    "concatenated": lambda xp, a: xp.concatenate([a.x, a.x[..., ::-1]], axis=-1),
    "partition": lambda xp, a: xp.sort(xp.partition(a.x, 2, axis=1)[:, :2], axis=1),
    "smoothing": lambda xp, a: xp.ndimage.gaussian_filter(a.x[0], (1.5, 0), mode="constant", truncate=4.0),
    "row of numbers": lambda xp, a: xp.arange(5)[:, None],
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(cupy, a, name):
    """Calls that CuPy accepts return NumPy's values; new arrays are C-contiguous even if NumPy's are not."""
    found = ACCEPTED[name](cupy, a)
    names = {key: getattr(np, key) for key in dir(np)}
    module = SimpleNamespace(**names | {"ndimage": scipy.ndimage, "fft": scipy.fft})
    on_host = SimpleNamespace(**{key: getattr(value, "raw", value) for key, value in vars(a).items()})
    expected = ACCEPTED[name](module, on_host)
    assert isinstance(found, cupy.ndarray)
    assert (found.dtype, found.shape) == (np.asarray(expected).dtype, np.shape(expected))
    np.testing.assert_array_equal(found.get(), expected)
    is_view = isinstance(expected, np.ndarray) and any(
        isinstance(value, np.ndarray) and np.may_share_memory(expected, value) for value in vars(on_host).values()
    )
    assert any(np.may_share_memory(found.raw, value.raw) for value in vars(a).values() if hasattr(value, "raw")) == (
        is_view or name == "element"
    )
    assert is_view or name in ("cast", "element") or found.flags.c_contiguous


def test_single_elements_are_arrays(cupy, a):
    element, total = a.x[1, 2, 3], a.x.sum()
    assert isinstance(element, cupy.ndarray)
    assert isinstance(total, cupy.ndarray)
    assert (element.shape, total.shape) == ((), ())
    assert (float(element), int(total), f"{element:.1f}", element.item()) == (33.0, 1770, "33.0", 33.0)
    a.x[1, 2, 3] = 7
    assert float(element) == 7


def test_views_and_operations_in_place(cupy, a):
    before = a.x.get()
    a.x[0] += 1
    a.x[a.mask] = 0
    a.x[:, 1:3, ::2] *= np.float32(2)
    a.flags[a.indices, :, a.indices] |= np.uint8(128)
    expected = before.copy()
    expected[0] += 1
    expected[before % 2 == 0] = 0
    expected[:, 1:3, ::2] *= 2
    np.testing.assert_array_equal(a.x.get(), expected)
    assert int((a.flags & 128 != 0).sum()) == 2 * 4
    xp, out = cupy, cupy.empty_like(a.x)
    assert xp.multiply(a.x, 2, out=out) is out
    np.testing.assert_array_equal(out.get(), 2 * expected)
    assert cupy.ascontiguousarray(a.x) is a.x
    assert cupy.asarray(a.x, dtype=np.float32) is a.x
    assert copy.copy(a.x) is not a.x


def test_another_dtype_than_numpys_is_refused(cupy, a, monkeypatch):
    """No such case is known in CuPy 14, so CuPy is patched to return another dtype."""
    monkeypatch.setattr(cupy.judge, "output_dtypes", lambda *arguments: (np.dtype(np.float64),))
    with pytest.raises(DifferentDtype, match="CuPy gives float64, NumPy float32"):
        a.x + a.x


def test_memory_without_values_is_not_zero(late):
    assert (late.empty((2, 3), np.uint32).get() == 123).all()
    assert (late.empty_like(late.zeros(3)).get() == 123).all()


def test_transfers_are_counted(cupy, a):
    cupy.counts.clear()
    cupy.asarray(np.zeros(10))
    a.x.get()
    bool(a.mask.any())
    a.x[a.mask]
    cupy.nonzero(a.mask)
    # a mask is read and reduced, twice it is an index; the values that it selects are read and written
    assert cupy.counts == {"bytes up": 80, "bytes down": 240 + 1, "syncs": 4, "operations": 3, "bytes": 1140}
    cupy.bincount(a.signed)
    assert cupy.counts["syncs"] == 6


# ------------------------------------------------------------------------------------------------- copies and launches


def pinned(late, n_values):
    return np.frombuffer(late.cuda.alloc_pinned_memory(4 * n_values), np.float32)


def test_copies_and_launches_are_late(late):
    array, memory = late.empty(4, np.float32), pinned(late, 4)
    memory[:] = 1
    array.data.copy_from_host_async(memory.ctypes.data, 16, late.cuda.get_current_stream())
    marker = late.cuda.get_current_stream().record()
    memory[:] = 2
    array[1:].data.copy_from_host_async(memory.ctypes.data, 12)
    assert len(late.queue) == 2
    marker.synchronize()
    assert len(late.queue) == 1
    # The first copy holds the values at the time when it ran.
    assert array.raw.tolist() == [2, 2, 2, 2]
    memory[:] = 3
    assert array.get().tolist() == [2, 3, 3, 3]
    array.data.copy_to_host_async(memory.ctypes.data, 16)
    assert memory.tolist() == [3, 3, 3, 3]
    late.cuda.Device(0).synchronize()
    assert memory.tolist() == [2, 3, 3, 3]


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda x, memory: x[::2].data.copy_to_host_async(memory.ctypes.data, 8), "gaps"),
        (lambda x, memory: x.data.copy_to_host_async(np.zeros(4, np.float32).ctypes.data, 16), "not pinned"),
        (lambda x, memory: x.data.copy_to_host_async(memory[1:].ctypes.data, 16), "not pinned"),
        (lambda x, memory: x.data.copy_to_host_async(memory.ctypes.data, 12), "12 bytes for an array of 16"),
    ],
)
def test_careless_copies_are_refused(late, act, words):
    with pytest.raises(AssertionError, match=words):
        act(late.zeros(4, np.float32), pinned(late, 4))


def test_pinned_memory_must_outlive_the_copy(late):
    array, memory = late.zeros(4, np.float32), pinned(late, 4)
    array.data.copy_to_host_async(memory.ctypes.data, 16)
    del memory
    with pytest.raises(AssertionError, match="given back"):
        late.finish()


def test_kernels_take_arrays_of_their_device(late):
    kernel = KERNELS["drop_redundant_jumps"]
    launch = late.cuda.function.Module().get_function(kernel.name)
    launch((1, 1, 1), (1, 1, 1), (late.zeros(3, np.uint8), np.int64(3)))
    with late.cuda.Device(1), pytest.raises(ValueError, match="an array of device 0 for a kernel on device 1"):
        launch((1, 1, 1), (1, 1, 1), (on_device(np.zeros(3, np.uint8), 0, late), np.int64(3)))


# ------------------------------------------------------------------------------------------------------- the real CuPy


def test_names_of_the_stand_in_exist_in_cupy(cupy):
    """CuPy has all names that the stand-in defines in ``cuda``, pools and copies, with the same arguments."""

    def compare(ours, theirs, where):
        for name, value in vars(ours).items():
            assert hasattr(theirs, name), f"{where}.{name}"
            if isinstance(value, (SimpleNamespace, type)) and not name.startswith("_"):
                public = SimpleNamespace(**{key: part for key, part in vars(value).items() if key[0] != "_"})
                compare(public, getattr(theirs, name), f"{where}.{name}")

    real = cupy.judge.cupy
    compare(SimpleNamespace(cuda=cupy.cuda), real, "cupy")
    for name in ("asarray", "asnumpy", "empty", "empty_like", "get_default_memory_pool"):
        assert hasattr(real, name)
    assert hasattr(real.get_default_memory_pool(), "free_all_blocks")
    assert hasattr(real.get_default_memory_pool(), "free_bytes")
    assert hasattr(real.get_default_pinned_memory_pool(), "free_all_blocks")
    pointer = cupy.zeros(3).data
    assert all(hasattr(real.cuda.MemoryPointer, name) for name in vars(pointer))


def test_the_real_cupy_is_not_seen_by_others():
    judge_or_skip()
    assert find_judge()[0] is judge_or_skip()
    if find_spec("cupy") is None:
        assert not {name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx", "cupy_backends")}
        assert str(FOLDER) not in sys.path


def test_the_real_cupy_is_there_for_the_test_and_no_longer(monkeypatch):
    judge = judge_or_skip()
    with monkeypatch.context() as patch:
        judge.install(patch)
        import cupy as found

        assert found is judge.cupy
    if find_spec("cupy") is None:
        assert "cupy" not in sys.modules


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_cupy_tests_are_skipped_but_fail_in_ci(tmp_path, ci):
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n"
        "from tests.stand_ins import real_cupy\n"
        "real_cupy.FOLDER = Path('nowhere')\n"
        "real_cupy.find_spec = lambda name: None\n"
        "def test_it():\n"
        "    real_cupy.judge_or_skip()\n"
    )
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rsf", str(tmp_path / "test_it.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == (1 if ci else 0), done.stdout
    assert ("failed" if ci else "skipped") in done.stdout.splitlines()[-1]
    assert MISSING.split(str(FOLDER))[1] in done.stdout


# ------------------------------------------------------------------------------------ the stand-in's own part of CuPy

#: modules that use devices, memory, streams and clocks of CuPy, which the stand-in implements itself
USERS = (
    *sorted(PACKAGE.glob("backends/devices/cuda_*.py")),
    ROOT / "benchmarks" / "bench_gpu.py",
)

#: class of the real CuPy -> attributes used on its objects
OBJECTS = {
    "cuda.MemoryPointer": ("copy_from_host_async", "copy_to_host_async"),
    "cuda.MemoryPool": ("free_all_blocks", "free_bytes", "total_bytes", "used_bytes", "set_limit"),
    "cuda.PinnedMemoryPool": ("free_all_blocks",),
    "cuda.Device": ("use", "synchronize", "attributes", "compute_capability", "__enter__"),
    "cuda.Stream": ("record", "synchronize", "use", "wait_event"),
    "cuda.Event": ("record", "synchronize"),
    "cuda.function.Module": ("load", "get_function"),
}


def chains_below_cuda(path):
    """List the names that a file uses below ``cupy.cuda``, dotted."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if "cuda" in names[1:]:
            found.add(".".join(reversed(names[: names.index("cuda")])))
    return found


@pytest.mark.parametrize("path", USERS, ids=lambda path: path.stem)
def test_the_real_cupy_has_the_names_used_of_cuda(path):
    chains = chains_below_cuda(path)
    assert chains
    for chain in chains:
        attrgetter(chain)(judge_or_skip().cupy.cuda)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_real_cupys_objects_have_the_attributes_used(name):
    real = attrgetter(name)(judge_or_skip().cupy)
    assert [each for each in OBJECTS[name] if not hasattr(real, each)] == []


def test_the_real_cupy_says_that_memory_is_full_as_we_expect():
    cupy = judge_or_skip().cupy
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    # CUDA's error number; the runtime error has the name, also without a device.
    assert CUDA_IS_FULL[0] in str(cupy.cuda.runtime.CUDARuntimeError(2))
    for name in ("cudaDevAttrMultiProcessorCount", "cudaDevAttrMaxThreadsPerMultiProcessor"):
        assert hasattr(cupy.cuda.runtime, name)
