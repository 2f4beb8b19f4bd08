"""The only loop over rows: an operation on arrays that a device, or the host, cannot take as a whole.

Chunks never show in a result: what depends on the whole image is decided before, and growth and neighbours get the rows
around a chunk as well. A chunk for which there is no memory after all is halved.
"""

import logging
from dataclasses import dataclass, fields, is_dataclass

import numpy as np

log = logging.getLogger(__name__)

#: allocations are rounded up, and each operation makes small arrays besides
FIXED_BYTES = 2**14


@dataclass(frozen=True)
class Need:
    """Memory that an operation needs: ``each`` bytes per row or item, and ``fixed`` ones."""

    each: int
    fixed: int

    def of(self, n):
        """Bytes for so many rows or items."""
        return self.fixed + n * self.each

    def within(self, limit):
        """Rows or items that fit into ``limit`` bytes; not below zero."""
        return max(0, (limit - self.fixed) // self.each)


def run(operation, backend, arguments, settings):
    """Run an operation: at once, where the arrays lie, or in chunks on another device.

    Parameters
    ----------
    operation : Operation
    backend : Backend
    arguments : dict
        By name, in the order of the operation's definition; None for what is not there.
    settings : object or None

    Returns
    -------
    array, or tuple or dataclass of arrays
        Where the arguments lie.
    """
    device = backend.device
    if backend.budget is None or operation.at_home or not device.runs(operation, settings):
        return backend.home.execute(operation, tuple(arguments.values()), settings)
    backend.note_worker(device.name)
    if operation.cut is None:
        sent = [value if name in operation.whole else _send(device, value) for name, value in arguments.items()]
        return map_arrays(device.execute(operation, tuple(sent), settings), device.to_host)
    return Loop(operation, backend, arguments, settings).run()


def memory_needed(operation, arguments):
    """Tell what an operation needs on a device, its arguments included.

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
    # some arguments are numbers, lists or None
    given = {name: getattr(value, "nbytes", 0) for name, value in arguments.items()}
    whole = sum(given[name] for name in operation.whole)
    pixels = int(np.prod(first.shape[-2:], dtype=np.int64)) // (first.shape[-2] if axis else 1)
    each = operation.working_bytes(*first.shape[:-2]) + operation.scratch_bytes(*first.shape[:-2])
    working = pixels * each // (1 if axis else first.shape[0])
    fixed = FIXED_BYTES + whole + operation.table_bytes(*first.shape[:-2])
    return Need((sum(given.values()) - whole) // first.shape[axis] + working, fixed)


def _axis(operation):
    return {"rows": -2, "items": 0}[operation.cut]


class Loop:
    """One operation on one set of arguments, from the top of the image to its bottom or from item to item."""

    def __init__(self, operation, backend, arguments, settings):
        self.operation, self.device, self.settings = operation, backend.device, settings
        self.arguments = arguments
        self.axis = _axis(operation)
        first = next(iter(arguments.values()))
        self.shape, self.n = first.shape, first.shape[self.axis]
        self.halo = operation.halo(settings)
        self.at_once = self.fitting(backend.budget)
        self.written = {name: _Replaced(arguments[name], self.axis, self.halo) for name in operation.written}
        self.answer = None

    def fitting(self, budget):
        """Tell how many rows or items fit, besides those around them; one at least is tried."""
        return max(1, memory_needed(self.operation, self.arguments).within(budget) - 2 * self.halo)

    def run(self):
        """Do all of it; give the answer of the whole."""
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
            # The failed chunk's arrays are gone only here, after its exception.
            self.device.release_memory()
            self.at_once = (stop - start + 1) // 2
            log.warning(
                "%s: out of memory (%s); going on with %d %s at a time",
                self.operation.name, failed, self.at_once, self.operation.cut,
            )  # fmt: skip
        return self.answer

    def _do(self, start, stop):
        """Work on a chunk; nothing of the whole is changed before all of it is done, so that it can be done again."""
        part = slice(max(0, start - self.halo), min(self.n, stop + self.halo))
        own = slice(start - part.start, stop - part.start)
        found, changed = self._run_part(part, own)
        if self.answer is None:
            self.answer = map_arrays(found, self._make_whole)
        _put(self.answer, found, _along(self.axis, slice(start, stop)))
        # Last, since there may be no memory for the answer either.
        for name, values in changed.items():
            self.written[name].put(part, own, values)

    def _run_part(self, part, own):
        """Run the operation on a chunk; give its own part of the answer and what it has changed, on the host."""
        sent = {name: self._take(name, value, part) for name, value in self.arguments.items()}
        found = self.device.execute(self.operation, tuple(sent.values()), self.settings)
        found = map_arrays(found, lambda array: self.device.to_host(array)[_along(self.axis, own)])
        return found, {name: self.device.to_host(sent[name]) for name in self.written}

    def _take(self, name, value, part):
        if name in self.operation.whole or value is None:
            return value
        if name in self.written:
            return self.device.to_device(self.written[name].before(part))
        values = value[_along(self.axis, part)]
        # Kernels take no cut arrays; a host that only looks needs no copy.
        return self.device.to_device(values if values.flags.c_contiguous else np.array(values, order="C"))

    def _make_whole(self, found):
        shape = list(found.shape)
        shape[self.axis] = self.n
        return np.empty(shape, found.dtype)


class _Replaced:
    """An array that is replaced chunk by chunk, while the next chunk still sees what is before it as it was."""

    def __init__(self, array, axis, halo):
        self._array, self._axis, self._halo = array, axis, halo
        self._first = 0
        self._originals = self._copy(slice(0, 0))

    def before(self, part):
        """Give a copy of a part as it was; it may reach up to ``halo`` rows above what was replaced last."""
        replaced = self._first + self._originals.shape[self._axis]
        if part.start >= replaced:
            return self._copy(part)
        originals = self._originals[_along(self._axis, slice(part.start - self._first, None))]
        return np.concatenate([originals, self._copy(slice(max(replaced, part.start), part.stop))], axis=self._axis)

    def put(self, part, own, values):
        """Replace the chunk's own rows by those of ``values``, the chunk with the rows around it."""
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


def map_arrays(answer, function):
    """Apply a function to every array of an answer."""
    if answer is None:
        return None
    if is_dataclass(answer):
        return type(answer)(**{each.name: map_arrays(getattr(answer, each.name), function) for each in fields(answer)})
    if isinstance(answer, tuple):
        return tuple(map_arrays(each, function) for each in answer)
    return function(answer)


def _put(whole, found, where):
    """Put a chunk's answer into its place."""
    if is_dataclass(whole):
        whole, found = (tuple(getattr(each, field.name) for field in fields(each)) for each in (whole, found))
    if isinstance(whole, tuple):
        for each, part in zip(whole, found, strict=True):
            _put(each, part, where)
    elif whole is not None:
        whole[where] = found
