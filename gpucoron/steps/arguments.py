"""The arguments of the array functions of the steps: backends by name, arrays of users, and error messages.

The decorator `on_arrays` converts the arguments of these functions. The function then gets a `Backend`, and contiguous
arrays on its device with the declared shape and dtype. Arrays that need no conversion are passed on unchanged.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.backend import BackendLike as BackendLike
from gpucoron.backends.results import Slopes
from gpucoron.errors import ArgumentError, BackendUnavailableError
from gpucoron.interactive import public
from gpucoron.steps.values import Number, refuse_units

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: names of axes, for declarations and messages
RAMP, CUBE, IMAGE = "nints ngroups ny nx", "nints ny nx", "ny nx"

#: any number of axes
_ANY = "..."

#: kind of the declared dtype -> kinds of dtypes that are accepted
_TAKEN = {"f": "fiu", "u": "iub", "b": "biu"}
_EXPECTED = {"f": "real numbers", "u": "whole numbers (flags)", "b": "true or false"}


@dataclass(frozen=True)
class Array:
    """One array argument of a function.

    Attributes
    ----------
    axes : str
        Names of the axes, separated by blanks; '...' for any number of axes. Alternatives are separated by '|'. The
        first array with an axis defines its length; later arrays are broadcast to it as in NumPy.
    dtype : str
        The dtype that the function gets. 'float' keeps float32 and float64; 'real' keeps all dtypes.
    unit : str
        Unit for messages.
    in_place : bool or str
        Whether the function changes the array; or the name of the keyword that decides it. If that is false, the
        function gets a copy.
    on_host : bool
        The function needs the array on the host for all backends.
    """

    axes: str
    dtype: str = "float32"
    unit: str = ""
    in_place: bool | str = False
    on_host: bool = False


@dataclass(frozen=True)
class Images:
    """A `Slopes` argument of a function; its arrays have these axes."""

    axes: str
    in_place: bool = False


_inside = ContextVar("_inside", default=False)


def on_arrays(**declared: Any) -> Callable[[_Function], _Function]:
    """Return a decorator that converts the arguments of a function.

    Parameters
    ----------
    **declared : Array, Images, or a kind of `gpucoron.steps.values`
        All arguments of the function except ``backend``, by name. None is passed on if it is the default of the
        argument.

    Returns
    -------
    callable
        The decorator. The decorated function has the attribute ``declared``.
    """

    def decorate(function):
        signature = inspect.signature(function)
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        placed = {key: kind for key, kind in declared.items() if isinstance(kind, Array | Images)}
        values = {key: kind for key, kind in declared.items() if key not in placed}

        @functools.wraps(function)
        def call(*args, **kwargs):
            with _named(name) as is_own:
                if "xp" in kwargs:
                    warnings.warn(f"{name}: xp is no longer needed; use backend", DeprecationWarning, 3)
                    del kwargs["xp"]
                try:
                    bound = signature.bind(*args, **kwargs)
                except TypeError as error:
                    raise ArgumentError(str(error)) from None
                bound.apply_defaults()
                return _call(function, signature, bound, placed, values, is_own=is_own)

        call = public(call)
        call.declared = declared
        return call

    return decorate


@contextmanager
def _named(name):
    """Prefix errors with the name of the function that the user called, not of functions that it calls.

    Yields whether this is the function that the user called.
    """
    if _inside.get():
        yield False
        return
    token = _inside.set(True)
    try:
        yield True
    except (ValueError, BackendUnavailableError) as error:
        if type(error) not in (ValueError, ArgumentError, BackendUnavailableError):
            raise
        kind = BackendUnavailableError if type(error) is BackendUnavailableError else ArgumentError
        msg = f"{name}: {error}"
        raise kind(msg) from (error if type(error) is ValueError else None)
    finally:
        _inside.reset(token)


@contextmanager
def unnamed():
    """Do not prefix errors with the name of a function, because the caller names their origin."""
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)


def _call(function, signature, bound, placed, values, *, is_own):
    given = bound.arguments
    given["backend"] = backend = as_backend(given["backend"], *(given[key] for key in placed))
    _take_values(signature, given, values, is_own=is_own)
    sizes, changed = {}, []
    for key, kind in placed.items():
        value = given[key]
        if value is None and signature.parameters[key].default is None:
            continue
        if isinstance(kind, Images):
            given[key] = _images(key, value, kind, sizes, backend, changed)
        else:
            if isinstance(kind.in_place, str):
                in_place = bool(given[kind.in_place])
                value = value if in_place else _copied(key, value, kind, backend)
                kind = replace(kind, in_place=in_place)
            given[key] = _Placed(key, kind, sizes, backend).place(value, changed)
    answer = function(*bound.args, **bound.kwargs)
    for theirs, ours in changed:
        theirs[...] = backend.to_host(ours) if isinstance(theirs, np.ndarray) else ours
    return answer


def _take_values(signature, given, values, *, is_own):
    """Convert arguments other than arrays; if the user did not call the function directly, only numbers."""
    for key, kind in values.items():
        value, parameter = given[key], signature.parameters[key]
        is_number = isinstance(kind, Number)
        if value is parameter.default or not (is_number or is_own):
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            for each in value:
                refuse_units(key, each, kind.unit)
            given[key] = tuple(kind.take(key, each, strict=is_own) for each in value)
            continue
        refuse_units(key, value, kind.unit)
        if is_number:
            given[key] = kind.take(key, value, strict=is_own)
        else:
            given[key] = kind.take(key, value)


def as_backend(backend=None, *arrays):
    """Return the backend of a function.

    Parameters
    ----------
    backend : str, Backend or None
        A name for `gpucoron.backends.get_backend`. None means 'cuda' for arrays on a GPU, else 'cpu'.
    *arrays
        Arrays, Slopes, numbers or None.

    Returns
    -------
    Backend

    Raises
    ------
    ArgumentError, BackendUnavailableError
    """
    if isinstance(backend, ModuleType):
        warnings.warn("a namespace is no longer needed; use backend", DeprecationWarning, 5)
        backend = None
    if backend is not None:
        return get_backend(backend)
    arrays = [each for array in arrays for each in (_members(array).values() if _is_slopes(array) else [array])]
    on_device = [array for array in arrays if is_on_device(array)]
    if not on_device:
        return get_backend("cpu")
    if any(isinstance(array, np.ndarray) and array.ndim for array in arrays):
        msg = "some arrays are on a GPU and some are not; set the backend for all of them, 'cuda' or 'cpu'"
        raise ArgumentError(msg)
    return get_backend("cuda", device=on_device[0].device.id)


def is_on_device(value):
    """Return whether a value is a CuPy array on a GPU."""
    return not isinstance(value, np.ndarray) and all(hasattr(value, name) for name in ("dtype", "device", "get"))


class _Placed:
    """Converts one array argument to its declared form on the device of the function."""

    def __init__(self, name, kind, sizes, backend):
        self.name, self.kind, self.sizes, self.backend = name, kind, sizes, backend

    def place(self, given, changed):
        """Return the array for the function; append pairs (user's array, its copy) to update to ``changed``."""
        array = self._known(given)
        shape = self._shape(array)
        dtype = self._dtype(array)
        if self.kind.in_place:
            self._check_writable(given, array, shape, dtype)
            array = array.reshape(shape)
        placed = self._moved(array, shape, dtype)
        if self.kind.in_place and placed is not array:
            changed.append((array, placed))
        return placed

    def _refuse(self, what):
        msg = f"{self.name}: {what}"
        raise ArgumentError(msg)

    def _known(self, given):
        """Return the argument as an array on its device, or raise an ArgumentError."""
        refuse_units(self.name, given, self.kind.unit)
        if isinstance(given, np.ma.MaskedArray):
            self._refuse("is a masked array; give its data, with NaN or flags where it is masked")
        if given is None:
            self._refuse(f"expected {self._expected()}, got None")
        if is_on_device(given):
            array = given
        elif isinstance(given, str | bytes | dict | set) or (self.kind.in_place and not isinstance(given, np.ndarray)):
            reason = ", because it is changed in place" if self.kind.in_place else ""
            self._refuse(f"expected an array{reason}, got {type(given).__name__}")
        else:
            try:
                array = np.asarray(given)
            except (ValueError, TypeError) as error:
                self._refuse(f"is no array: {error}")
        kind = _dtype_kind(self.kind)
        if array.dtype.kind not in _TAKEN[kind]:
            self._refuse(f"expected {_EXPECTED[kind]}, got {array.dtype}")
        return array

    def _shape(self, array):
        """Find the shape for the function; store the lengths of new axes."""
        for axes in self._axes():
            shape = self._match(axes, array.shape)
            if shape is not None:
                if 0 in shape:
                    self._refuse(f"is empty: its shape is {array.shape}")
                return shape
        return self._refuse(f"expected {self._expected()}, got {array.shape}")

    def _match(self, axes, given):
        if all(axis in self.sizes for axis in axes):
            shape = sum((self.sizes[axis] for axis in axes), ())
            # leading axes of length one may be missing or superfluous
            same = (1,) * (len(shape) - len(given)) + given == shape
            while len(given) > len(shape) and given[0] == 1:
                given = given[1:]
            if same or given == shape:
                return shape
            return None if self.kind.in_place or not _broadcasts(given, shape) else shape
        n_any = len(given) - sum(axis != _ANY for axis in axes)
        if n_any < 0 or (n_any and _ANY not in axes):
            return None
        found, rest = {}, list(given)
        for axis in axes:
            n = n_any if axis == _ANY else 1
            found[axis], rest = tuple(rest[:n]), rest[n:]
        for axis, size in found.items():
            known = self.sizes.get(axis, size)
            if size != known and (size != (1,) or self.kind.in_place):
                return None
        self.sizes.update({axis: size for axis, size in found.items() if axis not in self.sizes})
        return sum((self.sizes[axis] for axis in axes), ())

    def _axes(self):
        return [axes.split() for axes in self.kind.axes.split("|")]

    def _expected(self):
        texts = []
        for axes in self._axes():
            text = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
            if all(axis in self.sizes for axis in axes):
                text += f" = {sum((self.sizes[axis] for axis in axes), ())}"
                text += "" if self.kind.in_place else " or a scalar"
            elif any(axis in self.sizes for axis in axes):
                known = (", ".join(map(str, self.sizes[axis])) if axis in self.sizes else axis for axis in axes)
                text += f" = ({', '.join(known)})"
            texts.append(text)
        return " or ".join(texts)

    def _dtype(self, array):
        """Choose the dtype for the function."""
        if self.kind.dtype == "real":
            return array.dtype
        if self.kind.dtype == "float":
            small = array.dtype.kind == "f" and array.dtype.itemsize <= 4
            return np.dtype(np.float32 if small else np.float64)
        dtype = np.dtype(self.kind.dtype)
        if dtype.kind == "u" and array.size and not np.can_cast(array.dtype, dtype, "safe"):
            least, most = int(array.min()), int(array.max())
            if least < 0 or most > np.iinfo(dtype).max:
                self._refuse(f"its values range from {least} to {most}, beyond {dtype}")
        return dtype

    def _check_writable(self, given, array, shape, dtype):
        if is_on_device(given) and self.backend.xp is np:
            where = self.backend.name
            self._refuse(f"is on a GPU, where backend {where!r} cannot change it in place; give a copy, array.get()")
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            self._refuse("is read-only and would be changed in place; give a copy")
        if not np.can_cast(dtype, array.dtype, "safe"):
            self._refuse(f"is {array.dtype} and would be changed in place; give it as {dtype}")

    def _moved(self, array, shape, dtype):
        """Return the array as a contiguous array on the device of the function."""
        on_host = self.kind.on_host or self.backend.xp is np
        if is_on_device(array):
            if not on_host:
                return self._on_device(array, shape, dtype)
            # CPU backends cannot copy arrays from a GPU
            owner = as_backend(None, array) if self.backend.xp is np else self.backend
            array = owner.to_host(array)
        if array.dtype != dtype:
            with np.errstate(over="ignore"):
                array = array.astype(dtype)
        if array.shape != shape:
            array = _broadcast(array, shape, np)
        if self.kind.dtype != "real" and not array.flags.c_contiguous:
            array = np.array(array, order="C")
        return array if on_host else self.backend.to_device(array)

    def _on_device(self, array, shape, dtype):
        here = self.backend.device.device
        if array.device.id != here:
            self._refuse(f"is on GPU {array.device.id}, but the backend works on GPU {here}")
        array, xp = self.backend.to_device(array), self.backend.xp
        if array.dtype != dtype:
            array = array.astype(dtype)
        if array.shape != shape:
            array = _broadcast(array, shape, xp)
        return array if array.flags.c_contiguous else xp.ascontiguousarray(array)


def _dtype_kind(kind):
    return {"float": "f", "real": "f"}.get(kind.dtype) or np.dtype(kind.dtype).kind


def _broadcasts(given, shape):
    pairs = zip(given[::-1], shape[::-1], strict=False)
    return len(given) <= len(shape) and all(length in (1, target) for length, target in pairs)


def _broadcast(array, shape, xp):
    """Broadcast an array to a shape, as a contiguous array; superfluous leading axes of length one are removed."""
    if array.size == np.prod(shape):
        return array.reshape(shape)
    n_more = array.ndim - len(shape)
    array = array.reshape(array.shape[n_more:]) if n_more > 0 else array
    return xp.ascontiguousarray(xp.broadcast_to(array, shape))


def _copied(name, given, kind, backend):
    """Return a copy of an argument, which a function may change."""
    placed = _Placed(name, replace(kind, in_place=False), {}, backend)
    array = placed._known(given)
    dtype = placed._dtype(array)
    moved = placed._moved(array, array.shape, dtype)
    return backend.copy(moved) if moved is array else moved


def _images(name, slopes, kind, sizes, backend, changed):
    """Convert the arrays of Slopes for a function."""
    if not _is_slopes(slopes):
        msg = f"{name}: expected Slopes, got {type(slopes).__name__}"
        raise ArgumentError(msg)
    found = {}
    for each, array in _members(slopes).items():
        of = Array(kind.axes, "uint32" if each == "dq" else "float", in_place=kind.in_place and each != "dq")
        placed = _Placed(f"{name}.{each}", of, sizes, backend)
        found[each] = None if array is None else placed.place(array, changed)
    return slopes if all(found[each] is array for each, array in _members(slopes).items()) else Slopes(**found)


def _is_slopes(value):
    return all(hasattr(value, each.name) for each in fields(Slopes))


def _members(slopes):
    return {each.name: getattr(slopes, each.name) for each in fields(Slopes)}
