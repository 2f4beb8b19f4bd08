"""Arrays, ufuncs and functions of the stand-in for CuPy: values by NumPy, errors by the real CuPy (`real_cupy`).

The arrays are not NumPy arrays. If CuPy is installed, they refuse what it refuses: names, arguments, dtypes without a
loop, host arrays among device arrays, implicit conversion. They also refuse calls that CuPy accepts but gpucoron should
not make: a host array or a list as an index, or assigned to one (a hidden copy each time), arrays of another device
than the current one, and results of another dtype than NumPy's.
"""

import operator
import warnings
from types import SimpleNamespace

import numpy as np

from tests.stand_ins.real_cupy import TOUCHED, DifferentDtype

#: functions whose new arrays keep the order of axes in memory; all others return C-contiguous arrays
_KEEP_LAYOUT = ("astype", "empty_like", "zeros_like", "ones_like", "full_like")

#: functions that do not return arrays
_HOST_ANSWERS = ("ndim", "shape", "size", "result_type", "can_cast", "isscalar", "iscomplexobj", "min_scalar_type")

#: functions that transfer values to the host, and how many
_WAIT = {"nonzero": 1, "unique": 1, "argwhere": 1, "flatnonzero": 1, "bincount": 2}

#: functions and methods that change their first argument
_IN_PLACE = ("setitem", "copyto", "fill", "sort", "partition", "put", "place", "putmask", "fill_diagonal", "at")

_SCALARS = (bool, int, float, complex, np.generic)


class FakeArray:
    """An array on a device of the stand-in.

    Parameters
    ----------
    values : numpy.ndarray
        Its values after all queued work.
    device : int
    cupy : FakeCupy
    ghost : cupy.ndarray, optional
        The same array for the real CuPy.
    """

    __array_priority__ = 100
    __hash__ = None

    def __init__(self, values, device, cupy, ghost=None):
        self.raw, self.device, self.cupy, self._ghost = values, SimpleNamespace(id=device), cupy, ghost

    def ghost(self, judge):
        """Return the same array for the real CuPy."""
        if self._ghost is None:
            self._ghost = judge.ghost(self.raw, self.device.id)
        return self._ghost

    @property
    def values(self):
        """The values, after all queued work of the current stream."""
        self.cupy.operate_on([self])
        return self.raw

    shape = property(lambda self: self.raw.shape)
    dtype = property(lambda self: self.raw.dtype)
    ndim = property(lambda self: self.raw.ndim)
    size = property(lambda self: self.raw.size)
    itemsize = property(lambda self: self.raw.itemsize)
    nbytes = property(lambda self: self.raw.nbytes)
    strides = property(lambda self: self.raw.strides)
    T = property(lambda self: self.transpose())

    @property
    def flags(self):
        if self.cupy.judge is not None:
            return self.ghost(self.cupy.judge).flags
        return SimpleNamespace(c_contiguous=self.raw.flags.c_contiguous, f_contiguous=self.raw.flags.f_contiguous)

    @property
    def data(self):
        return self.cupy.pointer(self)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        judge = self.cupy.judge
        if judge is not None and not callable(getattr(judge.cupy.ndarray, name)):
            msg = f"the stand-in has no attribute {name!r}, although CuPy's arrays have"
            raise AttributeError(msg)
        method = getattr(np.ndarray, name)

        def call(*arguments, **options):
            real = None if judge is None else getattr(judge.cupy.ndarray, name)
            return operate(self.cupy, name, method, (self, *arguments), options, real)

        return call

    # ------------------------------------------------------------------------------------------------- to the host

    def __array__(self, *arguments, **options):
        msg = "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array."
        raise TypeError(msg)

    def get(self, stream=None, order="C", out=None, blocking=True):
        self.cupy.note_download(self.nbytes)
        return np.array(self.values, order=order)

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __format__(self, specification):
        return format(self.get()[()], specification)

    def __repr__(self):
        return f"FakeArray({self.raw!r})"

    def __len__(self):
        return len(self.raw)

    def __iter__(self):
        if self.ndim == 0:
            msg = "iteration over a 0-d array"
            raise TypeError(msg)
        return (self[index] for index in range(len(self)))

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    # --------------------------------------------------------------------------------------------------- indexing

    def __getitem__(self, key):
        _check_key(key)
        if _is_view(key):
            values = self.raw[(*key, ...) if isinstance(key, tuple) and ... not in key else key]
            if not isinstance(values, np.ndarray):
                values = self.raw[key, ...]
            ghost = None if self.cupy.judge is None else self.ghost(self.cupy.judge)[key]
            return FakeArray(values, self.device.id, self.cupy, ghost)
        return operate(self.cupy, "getitem", operator.getitem, (self, key), {}, operator.getitem)

    def __setitem__(self, key, value):
        _check_key(key)
        refuse_host_arrays("assignment", (value,))
        if _is_view(key) and isinstance(value, FakeArray) and _are_same(self[key], value):
            return  # as in CuPy: after an in-place operation on a view, Python assigns the view to itself
        operate(self.cupy, "setitem", operator.setitem, (self, key, value), {}, operator.setitem)

    # -------------------------------------------------------------------------------------------------- protocols

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        judge = self.cupy.judge
        outputs = options.get("out", ())
        known = (FakeArray, np.ndarray, *_SCALARS)
        if not all(isinstance(value, known) for value in (*inputs, *outputs)):
            return NotImplemented
        if judge is not None and not hasattr(judge.cupy, ufunc.__name__):
            return NotImplemented
        if outputs:
            options["out"] = outputs[0]
        function = getattr(self.cupy, ufunc.__name__)
        return (function if method == "__call__" else getattr(function, method))(*inputs, **options)

    def __array_function__(self, function, types, arguments, options):
        return operate(self.cupy, function.__name__, function, arguments, options, function)


def _binary(name, reflected=False):
    def operation(self, other):
        if not isinstance(other, (FakeArray, np.ndarray, *_SCALARS)):
            return NotImplemented
        return getattr(self.cupy, name)(*((other, self) if reflected else (self, other)))

    return operation


def _in_place(name):
    def operation(self, other):
        return getattr(self.cupy, name)(self, other, self)

    return operation


_BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift",
}  # fmt: skip
_COMPARISONS = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
}  # fmt: skip
for _name, _ufunc in _BINARY.items():
    setattr(FakeArray, f"__{_name}__", _binary(_ufunc))
    setattr(FakeArray, f"__r{_name}__", _binary(_ufunc, reflected=True))
    setattr(FakeArray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in _COMPARISONS.items():
    setattr(FakeArray, f"__{_name}__", _binary(_ufunc))
for _name, _ufunc in {"neg": "negative", "abs": "absolute", "invert": "invert"}.items():
    setattr(FakeArray, f"__{_name}__", lambda self, ufunc=_ufunc: getattr(self.cupy, ufunc)(self))


def _matmul(self, other):
    return self.cupy.matmul(self, other) if isinstance(other, (FakeArray, np.ndarray)) else NotImplemented


FakeArray.__matmul__ = _matmul
FakeArray.__rmatmul__ = lambda self, other: self.cupy.matmul(other, self)


class FakeUfunc:
    """A ufunc of the stand-in: NumPy's values, CuPy's loops.

    Parameters
    ----------
    cupy : FakeCupy
    ufunc : numpy.ufunc
    real : cupy.ufunc or None
    """

    def __init__(self, cupy, ufunc, real):
        self._cupy, self._ufunc, self._real = cupy, ufunc, real

    def __call__(self, *arguments, **options):
        cupy, ufunc = self._cupy, self._ufunc
        arrays = [*arguments, options.get("out")]
        check_devices(cupy, arrays)
        if self._real is not None:
            ghosts, options_of_ghosts = as_ghosts(arguments, cupy.judge), as_ghosts(options, cupy.judge)
            dtypes = cupy.judge.output_dtypes(self._real, ghosts, options_of_ghosts)
        refuse_host_arrays(ufunc.__name__, arrays)
        cupy.operate_on(*_reads_and_writes(ufunc.__name__, arguments[: ufunc.nin], arrays[ufunc.nin :]))
        cupy.counts["operations"] += 1
        with quiet():
            result = ufunc(*as_values(arguments), **as_values(options))
        cupy.counts["bytes"] += bytes_of([*arguments[: ufunc.nin], result])
        outputs = arguments[ufunc.nin :] if options.get("out") is None else options["out"]
        if not (isinstance(outputs, tuple) and len(outputs) == 0):
            return outputs[0] if isinstance(outputs, tuple) and len(outputs) == 1 else outputs
        if self._real is not None:
            _compare_dtypes(ufunc.__name__, result if isinstance(result, tuple) else (result,), dtypes)
        return cupy.wrap(ufunc.__name__, result, TOUCHED, arguments)

    def __getattr__(self, name):
        if self._real is None:
            method = getattr(self._ufunc, name)
            return lambda *arguments, **options: operate(self._cupy, name, method, arguments, options, None)
        # CuPy's methods call the array's sum and others, or report that they do not exist.
        return getattr(self._real, name)


class FakeModule:
    """A module of functions, such as ``cupyx.scipy.ndimage``."""

    def __init__(self, cupy, prefix, module, real):
        self._cupy, self._prefix, self._module, self._real = cupy, prefix, module, real

    def __getattr__(self, name):
        real = None if self._real is None else getattr(self._real, name)
        self._cupy.note_asked(f"{self._prefix}.{name}")
        function = getattr(self._module, name)
        return lambda *arguments, **options: operate(self._cupy, name, function, arguments, options, real)


def operate(cupy, name, compute, arguments, options, real):
    """Run a function on device arrays: first in the real CuPy, then in NumPy.

    Parameters
    ----------
    cupy : FakeCupy
    name : str
    compute : callable
        NumPy's function.
    arguments : tuple
    options : dict
    real : callable or None
        CuPy's function.
    """
    given = [*arguments, *options.values()]
    if name != "getitem":
        refuse_host_arrays(name, given)
    check_devices(cupy, given)
    seen, dtype = None, None
    if cupy.judge is not None:
        ghosts, options_of_ghosts = as_ghosts(arguments, cupy.judge), as_ghosts(options, cupy.judge)
        seen = cupy.judge.ask(real, *ghosts, **options_of_ghosts)
        if seen is TOUCHED:
            dtype = cupy.judge.result_dtype(name, ghosts, options_of_ghosts)
    cupy.operate_on(*_reads_and_writes(name, given, [options.get("out")]))
    if seen is TOUCHED or seen is None:
        cupy.counts["operations"] += 1
        has_mask = name in ("getitem", "setitem") and _has_mask(arguments[1])
        cupy.counts["syncs"] += 1 if has_mask else _WAIT.get(name, 0)
    with quiet():
        result = compute(*as_values(arguments), **as_values(options))
    if seen is TOUCHED or seen is None:
        cupy.counts["bytes"] += _traffic(name, arguments, given, result)
    if dtype is not None:
        _compare_dtypes(name, (result,), (dtype,))
    return cupy.wrap(name, result, seen, given)


def _traffic(name, arguments, given, result):
    """Return the bytes that an operation reads and writes, if it touches each value once."""
    if name not in ("getitem", "setitem"):
        return bytes_of([*given, result])
    array, key, *value = arguments
    if name == "setitem" and _is_view(key):
        return bytes_of([array[key], *value])
    entries = [entry for entry in _entries(key) if isinstance(entry, FakeArray)]
    moved = 2 * result.nbytes if name == "getitem" else 2 * bytes_of(value)
    return bytes_of(entries) + moved


def bytes_of(values):
    """Return the bytes of the arrays among values, also in lists."""
    total = 0
    for value in values:
        if isinstance(value, (tuple, list)):
            total += bytes_of(value)
        elif isinstance(value, (FakeArray, np.ndarray)):
            total += value.nbytes
    return total


def _reads_and_writes(name, given, outputs):
    """List the device arrays that an operation reads, and those that it changes."""
    if name in _IN_PLACE:
        outputs = [given[0], *outputs]
    writes = list(device_arrays(outputs))
    return [array for array in device_arrays(given) if not any(array is each for each in writes)], writes


def wrap(cupy, name, result, seen, given):
    """Wrap NumPy's results as arrays of the stand-in; views where the real CuPy returns views."""
    if isinstance(result, (tuple, list)):
        parts = seen if isinstance(seen, (tuple, list)) else [seen] * len(result)
        wrapped = [wrap(cupy, name, part, known, given) for part, known in zip(result, parts, strict=True)]
        return type(result)(wrapped) if type(result) in (tuple, list) else type(result)(*wrapped)
    arrays = list(device_arrays(given))
    if isinstance(result, np.ndarray):
        for array in arrays:
            if array.raw is result:
                return array
    elif result is None or name in _HOST_ANSWERS or not isinstance(result, _SCALARS):
        return result
    values = np.asarray(result)
    is_view = any(np.may_share_memory(values, array.raw) for array in arrays)
    if seen is TOUCHED or (seen is None and not is_view):
        if is_view or name not in _KEEP_LAYOUT:
            values = np.array(values, order="C") if is_view else np.asarray(values, order="C")
        return cupy.allocated(values)
    if seen is not None and not is_view and values.size:
        msg = f"{name}: CuPy gives a view, which the stand-in cannot"
        raise NotImplementedError(msg)
    if seen is not None and (seen.shape, seen.dtype) != (values.shape, values.dtype):
        msg = f"{name}: CuPy gives {seen.dtype} of shape {seen.shape}, NumPy {values.dtype} of shape {values.shape}"
        raise DifferentDtype(msg)
    device = arrays[0].device.id if arrays else cupy.current
    return FakeArray(values, device, cupy, seen)


def quiet():
    """Suppress NumPy's warnings about operations that a device does silently."""
    return _Quiet()


class _Quiet:
    def __enter__(self):
        self._warnings, self._errors = warnings.catch_warnings(), np.errstate(all="ignore")
        self._warnings.__enter__()
        warnings.simplefilter("ignore", RuntimeWarning)
        self._errors.__enter__()

    def __exit__(self, *error):
        self._errors.__exit__(*error)
        self._warnings.__exit__(*error)


def device_arrays(values):
    """List the device arrays among arguments, also in lists."""
    for value in values:
        if isinstance(value, FakeArray):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from device_arrays(value)


def check_devices(cupy, values):
    """Refuse arrays on another device than the current one, which CuPy would read across devices or not at all."""
    for array in device_arrays(values):
        if array.device.id != cupy.current:
            msg = (
                f"The device where the array resides ({array.device.id}) is different from the current device "
                f"({cupy.current}). Peer access is unavailable between these devices."
            )
            raise ValueError(msg)


def refuse_host_arrays(what, values):
    """Refuse NumPy arrays among arguments, also in lists."""
    for value in values:
        if isinstance(value, np.ndarray):
            msg = f"{what}: Unsupported type {type(value)}: a host array among device arrays"
            raise TypeError(msg)
        if isinstance(value, (tuple, list)):
            refuse_host_arrays(what, value)


def as_values(value):
    """Replace device arrays by their values."""
    return _replace(value, lambda array: array.raw)


def as_ghosts(value, judge):
    """Replace device arrays by their ghosts."""
    return _replace(value, lambda array: array.ghost(judge))


def _replace(value, convert):
    if isinstance(value, FakeArray):
        return convert(value)
    if type(value) in (tuple, list):
        return type(value)(_replace(item, convert) for item in value)
    if isinstance(value, dict):
        return {name: _replace(item, convert) for name, item in value.items()}
    return value


def _compare_dtypes(name, results, dtypes):
    for result, dtype in zip(results, dtypes, strict=True):
        if np.asarray(result).dtype != dtype:
            msg = f"{name}: CuPy gives {dtype}, NumPy {np.asarray(result).dtype}"
            raise DifferentDtype(msg)


def _entries(key):
    return key if isinstance(key, tuple) else (key,)


def _is_view(key):
    return not any(isinstance(entry, (FakeArray, bool, np.bool_)) for entry in _entries(key))


def _has_mask(key):
    return any(isinstance(entry, FakeArray) and entry.dtype == bool for entry in _entries(key))


def _check_key(key):
    for entry in _entries(key):
        if isinstance(entry, (list, np.ndarray)):
            msg = "a host array or list as an index: CuPy copies it to the device at each use; do it once"
            raise TypeError(msg)
    if sum(isinstance(entry, FakeArray) and entry.dtype == bool for entry in _entries(key)) > 1:
        msg = "CuPy's documentation excludes more than one boolean mask in an index"
        raise IndexError(msg)


def _are_same(one, other):
    return (one.raw.ctypes.data, one.shape, one.strides, one.dtype) == (
        other.raw.ctypes.data,
        other.shape,
        other.strides,
        other.dtype,
    )
