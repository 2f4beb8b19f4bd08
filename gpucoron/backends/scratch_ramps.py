"""Ramps in files without a name, of which only what is worked on is in memory.

A `ScratchRamp` is an array like any other: every step works on it unchanged, so that a limit cannot show in a result.
A step takes it in pieces, an integration or a frame, and each time that a piece is taken, those before it go back to
the system if there is no room for all. They are read again when they are needed. Rows of all frames are not looked at
but copied from the file and back: the system maps 16 pages where one is touched, and so half the ramp for a few rows.
"""

import mmap
import os
import tempfile
import threading

import numpy as np

#: what the system maps where one page is read (Linux's fault_around_bytes)
_MAPPED_TOGETHER = 2**16
#: a row of any detector fits
_SMALLEST = 3 * _MAPPED_TOGETHER


class Window:
    """What may be resident of all ramps together.

    Parameters
    ----------
    n_bytes : int
        Room for the pieces that were taken last. A piece that is larger goes in alone.
    """

    def __init__(self, n_bytes):
        self.n_bytes = max(n_bytes, _SMALLEST)
        self._mappings = []
        self._taken = 0
        self._lock = threading.Lock()

    def zeros(self, folder, shape, dtype):
        """Make a ramp of zeros in a file in ``folder``; OSError where there is no room for it."""
        dtype = np.dtype(dtype)
        n_bytes = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        # Nothing is left behind, however the process ends: the file has no name. Room on the disk is claimed now, for
        # later there would be no error to catch.
        file = tempfile.TemporaryFile(dir=folder, prefix=".gpucoron-")  # noqa: SIM115 - as long as the ramp
        _claim(file.fileno(), n_bytes)
        mapping = mmap.mmap(file.fileno(), n_bytes)
        # Else the system reads ahead into large pages, and a touch may bring in 2 MB.
        _advise(mapping, "MADV_RANDOM")
        self._mappings.append(mapping)
        ramp = np.frombuffer(mapping, dtype).reshape(shape).view(ScratchRamp)
        ramp.window, ramp.file, ramp.mapping, ramp.address = self, file, mapping, _address(ramp)
        return ramp

    def make_room(self, n_bytes):
        """Count a piece that will be touched; the others go where there is no room for it beside them."""
        with self._lock:
            if self._taken + n_bytes > self.n_bytes:
                self._give_back()
            self._taken += n_bytes

    def give_back(self):
        """Take the ramps out of memory; their values are in the files."""
        with self._lock:
            self._give_back()

    def _give_back(self):
        self._taken = 0
        for mapping in self._mappings:
            _advise(mapping, "MADV_DONTNEED")


class ScratchRamp(np.ndarray):
    """A ramp in a file, or a part of one that is larger than the window; what fits is handed out as a plain array.

    Each way to touch values makes room first. What touches more than the window holds is done piece by piece.
    """

    #: the window, the file, its mapping and where that begins; None for an array of this class that is in memory
    window = file = mapping = address = None

    def __array_finalize__(self, source):
        mapping = getattr(source, "mapping", None)
        # A view is a ramp like its source; a copy is in memory.
        if mapping is not None and 0 <= _address(self) - source.address < len(mapping):
            self.window, self.file, self.mapping, self.address = source.window, source.file, mapping, source.address

    def take_rows(self, rows):
        """Copy rows of all frames from the file, in one piece; there is no need to see the ramp meanwhile."""
        self.window.give_back()
        taken = np.empty((*self.shape[:-2], rows.stop - rows.start, self.shape[-1]), self.dtype)
        for frame, offset in self._frames(taken, rows):
            if os.preadv(self.file.fileno(), [frame], offset) != frame.nbytes:
                msg = "the scratch file of a ramp is shorter than the ramp"
                raise OSError(msg)
        return taken

    def put_rows(self, rows, values):
        """Replace rows of all frames in the file."""
        for frame, offset in self._frames(np.asarray(values, self.dtype), rows):
            if os.pwrite(self.file.fileno(), frame, offset) != frame.nbytes:
                msg = "the scratch file of a ramp could not be written as a whole"
                raise OSError(msg)

    def _frames(self, values, rows):
        """Pair the rows of each frame with their place in the file."""
        places = _address(self) - self.address + rows.start * self.strides[-2]
        for extent, stride in zip(self.shape[:-2], self.strides, strict=False):
            places = np.add.outer(places, np.arange(extent) * stride)
        return zip(values.reshape(-1, *values.shape[-2:]), np.ravel(places).tolist(), strict=True)

    def plain(self):
        """Give the same memory as a plain array, room made for all of it."""
        if self.window is not None:
            self.window.make_room(resident_bytes(self))
            self._expect()
        return self.view(np.ndarray)

    def _expect(self):
        """Ask for a piece that is no more in the system's memory as a whole, and not page by page."""
        if self.flags.c_contiguous and hasattr(mmap, "MADV_WILLNEED"):
            start = _address(self) - self.address
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_WILLNEED, first, start + self.nbytes - first)

    def _fits(self):
        return self.window is None or resident_bytes(self) <= self.window.n_bytes

    def __getitem__(self, key):
        if _is_gathering(key):
            answers = [part[within] for part, within, _ in self._gathered(key)]
            return answers[0] if len(answers) == 1 else np.concatenate(answers)
        part = super().__getitem__(key)
        return part.plain() if isinstance(part, ScratchRamp) and part._fits() else part

    def __setitem__(self, key, value):
        if _is_gathering(key):
            for part, within, entries in self._gathered(key):
                part[within] = value if np.ndim(value) == 0 or len(value) == 1 else value[entries]
            return
        target = super().__getitem__(key)
        if not isinstance(target, ScratchRamp):
            super().__setitem__(key, value)
        elif _is_same(target, value):
            pass  # the end of ``ramp[key] += ...``
        elif target._fits():
            target.plain()[...] = value
        else:
            for index in range(len(target)):
                target[index] = _of_first_axis(value, index, target)

    def _gathered(self, key):
        """Cut a gathering of single values into what fits: (plain array, key in it, which entries of the answer)."""
        key = key if isinstance(key, tuple) else (key,)
        whole = self.view(np.ndarray)
        arrays = [entry for entry in key if isinstance(entry, np.ndarray)]
        are_flat = all(array.ndim == 1 and array.dtype != bool for array in arrays)
        if not self._fits() and are_flat and isinstance(key[0], np.ndarray):
            # The answer's first axis is that of the arrays, wherever else they stand.
            of_one = whole[tuple(slice(0, 1) if isinstance(entry, np.ndarray) else entry for entry in key)]
            at_once = max(1, self.window.n_bytes // resident_bytes(of_one))
            for start in range(0, len(key[0]), at_once):
                entries = slice(start, start + at_once)
                self.window.make_room(self.window.n_bytes)
                yield whole, tuple(entry[entries] if isinstance(entry, np.ndarray) else entry for entry in key), entries
        elif not self._fits() and key[0] is ... and are_flat and len(arrays) == len(key) - 1 < self.ndim:
            # The answer's first axis is the ramp's.
            for index in range(len(self)):
                entries = slice(index, index + 1)
                self.window.make_room(min(resident_bytes(whole[entries]), self.window.n_bytes))
                yield whole[entries], key, entries
        else:
            yield self.plain(), key, slice(None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        target = out[0] if len(out) == 1 and isinstance(out[0], ScratchRamp) else None
        others = [array for array in inputs if isinstance(array, ScratchRamp) and not _is_same(target, array)]
        if method == "__call__" and target is not None and not (others or options or target._fits()):
            for index in range(len(target)):
                # The recursion ends where a piece fits, and is plain.
                parts = (_of_first_axis(array, index, target) for array in inputs)
                ufunc(*parts, out=target[index])
            return target
        inputs = [array.plain() if isinstance(array, ScratchRamp) else array for array in inputs]
        if out:
            options["out"] = tuple(array.plain() if isinstance(array, ScratchRamp) else array for array in out)
        answer = getattr(ufunc, method)(*inputs, **options)
        return out[0] if len(out) == 1 else answer


def resident_bytes(array):
    """Tell how many bytes a view of a mapping brings into memory, at most."""
    run, n_runs = array.itemsize, 1
    # From the axis whose entries are nearest to each other: what lies near the last is one run with it.
    for stride, extent in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if n_runs == 1 and stride <= run + _MAPPED_TOGETHER:
            run += (extent - 1) * stride
        else:
            n_runs *= extent
    return n_runs * (run // _MAPPED_TOGETHER + 2) * _MAPPED_TOGETHER


def _is_gathering(key):
    """Tell whether a key picks single values: what it gives is no view."""
    entries = key if isinstance(key, tuple) else (key,)
    return not all(entry is None or entry is ... or isinstance(entry, (int, np.integer, slice)) for entry in entries)


def _is_same(one, other):
    """Tell whether two arrays are one and the same memory, seen alike."""
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
        return False
    alike = (one.shape, one.strides, one.dtype) == (other.shape, other.strides, other.dtype)
    return alike and _address(one) == _address(other)


def _address(array):
    return array.__array_interface__["data"][0]


def _of_first_axis(value, index, target):
    """Give what of a value, broadcast to ``target``, belongs to an entry of its first axis."""
    if np.ndim(value) < target.ndim:
        return value
    return value[index if len(value) > 1 else 0]


def _claim(descriptor, n_bytes):
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)


def _advise(mapping, what):
    if hasattr(mmap, what):
        mapping.madvise(getattr(mmap, what))
