"""The loop over chunks of rows, for arrays that are too large for the memory of a device or of the host.

Results do not depend on the chunks: decisions about the whole image are made before, and operations that look at
neighbouring pixels also get the rows around a chunk. If a chunk does not fit into memory, its size is halved.
"""

import logging
from dataclasses import dataclass, fields, is_dataclass

import numpy as np

log = logging.getLogger(__name__)

#: bytes for rounding of allocations and for small arrays of each operation
FIXED_BYTES = 2**14


@dataclass(frozen=True)
class Need:
    """Memory that an operation needs: ``each`` bytes per row or item, plus ``fixed`` bytes."""

    each: int
    fixed: int

    def of(self, n):
        """Return the bytes for ``n`` rows or items."""
        return self.fixed + n * self.each

    def within(self, limit):
        """Return how many rows or items fit into ``limit`` bytes, 0 or more."""
        return max(0, (limit - self.fixed) // self.each)


def run(operation, backend, arguments, settings):
    """Run an operation: on the whole arrays in their memory, or in chunks on another device.

    Parameters
    ----------
    operation : Operation
    backend : Backend
    arguments : dict
        By name, in the order of the operation's definition; None for missing optional arguments.
    settings : object or None

    Returns
    -------
    array, or tuple or dataclass of arrays
        In the memory of the arguments.
    """
    device = backend.device
    if backend.budget is None or operation.at_home or not device.runs(operation, settings):
        return backend.home.execute(operation, tuple(arguments.values()), settings)
    backend.note_worker(device.name)
    if works_in_place(operation, backend, arguments):
        return device.execute(operation, tuple(arguments.values()), settings)
    if operation.cut is None:
        sent = [value if name in operation.whole else _send(device, value) for name, value in arguments.items()]
        return fetch(device.execute(operation, tuple(sent), settings), device)
    return Loop(operation, backend, arguments, settings).run()


def works_in_place(operation, backend, arguments):
    """Return whether the CPU can run an operation on whole ramps in scratch files: no copies, if the rest fits."""
    if not (backend.home.on_host and backend.device.on_host):
        return False
    first = next(iter(arguments.values()))
    n_pixels = int(np.prod(first.shape[-2:], dtype=np.int64))
    needed = n_pixels * _working_bytes(operation, first) + operation.table_bytes(*first.shape[:-2])
    return FIXED_BYTES + needed <= backend.budget


def memory_needed(operation, arguments):
    """Return the memory that an operation needs on a device, including its arguments.

    Parameters
    ----------
    operation : Operation
    arguments : dict
        As for `run`.

    Returns
    -------
    Need
    """
    first = next(iter(arguments.values()))
    axis = _axis(operation)
    # Some arguments are numbers, lists or None.
    given = {name: getattr(value, "nbytes", 0) for name, value in arguments.items()}
    whole = sum(given[name] for name in operation.whole)
    pixels = int(np.prod(first.shape[-2:], dtype=np.int64)) // (first.shape[-2] if axis else 1)
    working = pixels * _working_bytes(operation, first) // (1 if axis else first.shape[0])
    fixed = FIXED_BYTES + whole + operation.table_bytes(*first.shape[:-2])
    return Need((sum(given.values()) - whole) // first.shape[axis] + working, fixed)


def _working_bytes(operation, first):
    """Return the bytes per pixel that an operation needs besides its arguments."""
    axes = first.shape[:-2]
    return operation.working_bytes(*axes) + operation.scratch_bytes(*axes)


def _axis(operation):
    return {"rows": -2, "items": 0}[operation.cut]


class Loop:
    """One operation on one set of arguments, in chunks along the rows or items."""

    def __init__(self, operation, backend, arguments, settings):
        self.operation, self.device, self.settings = operation, backend.device, settings
        self.arguments = arguments
        self.axis = _axis(operation)
        first = next(iter(arguments.values()))
        self.shape, self.n = first.shape, first.shape[self.axis]
        self.halo = operation.halo(settings)
        self.at_once = self.fitting(backend.budget)
        self.written = {name: _Replaced(arguments[name], self.axis, self.halo) for name in operation.written}
        self.result = None

    def fitting(self, budget):
        """Return how many rows or items fit into the budget, without the rows around them; at least 1."""
        return max(1, memory_needed(self.operation, self.arguments).within(budget) - 2 * self.halo)

    def run(self):
        """Process all chunks; return the result for the whole arrays."""
        start = 0
        while start < self.n:
            stop = min(self.n, start + self.at_once)
            try:
                self._do(start, stop)
            except Exception as error:
                if not self.device.is_out_of_memory(error):
                    raise
                if stop - start == 1:
                    extents = " x ".join(map(str, np.delete(self.shape, self.axis)))
                    unit = self.operation.cut.removesuffix("s")
                    msg = f"{self.operation.name}: the memory cannot hold one {unit} of {extents} samples"
                    raise MemoryError(msg) from error
                failed = str(error)
            else:
                start = stop
                continue
            # The exception refers to the arrays of the failed chunk, so their memory can be released only here.
            self.device.release_memory()
            self.at_once = (stop - start + 1) // 2
            log.warning(
                "%s: out of memory (%s); continuing with %d %s at a time",
                self.operation.name, failed, self.at_once, self.operation.cut,
            )  # fmt: skip
        return self.result

    def _do(self, start, stop):
        """Process a chunk; the whole arrays change only when it is complete, so that it can be repeated."""
        part = slice(max(0, start - self.halo), min(self.n, stop + self.halo))
        own = slice(start - part.start, stop - part.start)
        found, changed = self._run_part(part, own)
        if self.result is None:
            self.result = map_arrays(found, self._make_whole)
        _put(self.result, found, _along(self.axis, slice(start, stop)))
        # Last, because allocating the result may fail too.
        for name, values in changed.items():
            self.written[name].put(part, own, values)

    def _run_part(self, part, own):
        """Run the operation on a chunk; return its part of the result, and the changed arrays, on the host."""
        sent = {name: self._take(name, value, part) for name, value in self.arguments.items()}
        found = self.device.execute(self.operation, tuple(sent.values()), self.settings)
        found, changed = fetch((found, tuple(sent[name] for name in self.written)), self.device)
        found = map_arrays(found, lambda array: array[_along(self.axis, own)])
        return found, dict(zip(self.written, changed, strict=True))

    def _take(self, name, value, part):
        if name in self.operation.whole or value is None:
            return value
        if name in self.written:
            return self.device.to_device(self.written[name].before(part))
        values = value[_along(self.axis, part)]
        # Kernels need C-contiguous arrays.
        return self.device.to_device(values if values.flags.c_contiguous else np.array(values, order="C"))

    def _make_whole(self, found):
        shape = list(found.shape)
        shape[self.axis] = self.n
        return np.empty(shape, found.dtype)


class _Replaced:
    """An array that is replaced chunk by chunk; the next chunk still gets the original rows above it."""

    def __init__(self, array, axis, halo):
        self._array, self._axis, self._halo = array, axis, halo
        self._first = 0
        self._originals = self._copy(slice(0, 0))

    def before(self, part):
        """Return a copy of the original rows of a part, which may start up to ``halo`` rows above the next chunk."""
        replaced = self._first + self._originals.shape[self._axis]
        if part.start >= replaced:
            return self._copy(part)
        originals = self._originals[_along(self._axis, slice(part.start - self._first, None))]
        return np.concatenate([originals, self._copy(slice(max(replaced, part.start), part.stop))], axis=self._axis)

    def put(self, part, own, values):
        """Replace the own rows of a chunk by those of ``values``, which include the rows around it."""
        start, stop = part.start + own.start, part.start + own.stop
        if self._halo:
            first = max(0, stop - self._halo)
            self._originals, self._first = self.before(slice(first, stop)), first
        self._array[_along(self._axis, slice(start, stop))] = values[_along(self._axis, own)]

    def _copy(self, part):
        return np.array(self._array[_along(self._axis, part)], order="C")


def _along(axis, part):
    return (part,) if axis == 0 else (..., part, slice(None))


def _send(device, value):
    return device.to_device(value) if isinstance(value, np.ndarray) else value


def map_arrays(result, function):
    """Apply a function to every array of a result: an array, tuple, dataclass or None."""
    if result is None:
        return None
    if is_dataclass(result):
        return type(result)(**{each.name: map_arrays(getattr(result, each.name), function) for each in fields(result)})
    if isinstance(result, tuple):
        return tuple(map_arrays(each, function) for each in result)
    return function(result)


def fetch(result, device):
    """Copy every array of a result from a device to the host, all together; host arrays stay as they are."""
    there = []

    def collect(array):
        if not isinstance(array, np.ndarray):
            there.append(array)

    map_arrays(result, collect)
    here = iter(device.to_hosts(there))
    return map_arrays(result, lambda each: each if isinstance(each, np.ndarray) else next(here))


def _put(whole, found, where):
    """Copy the result of a chunk into the result of the whole."""
    if is_dataclass(whole):
        whole, found = (tuple(getattr(each, field.name) for field in fields(each)) for each in (whole, found))
    if isinstance(whole, tuple):
        for each, part in zip(whole, found, strict=True):
            _put(each, part, where)
    elif whole is not None:
        whole[where] = found
