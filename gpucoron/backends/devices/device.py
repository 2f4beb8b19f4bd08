"""A device: an array namespace, copies to it and back, and a method that runs any operation."""

import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np

#: counts that a thread reads and converts at a time: they stay in the cache, but threads rarely wait for each other
WORDS_AT_ONCE = 2**20
#: 32768 as a big-endian word: added to a signed word without carry, it makes the unsigned one
_SIGN = np.array(32768, ">u2").view(np.uint16)[()]

#: bytes of temporary arrays of a batch of images on a GPU
BATCH_BYTES = 2**27


class Device(ABC):
    """Holds arrays and runs operations."""

    #: 'numpy', 'native', 'host' or 'cuda'
    name: str
    #: whether arrays stay in the host's memory, which must not be requested twice
    on_host = False
    #: whether calls return before their work is done, so that its duration and its errors are known later
    works_later = False
    #: array namespace: numpy or cupy
    xp: Any
    #: threads of the operations in NumPy
    n_threads = 1
    #: bytes of the float32 samples in a tile of rows, for operations on arrays
    tile_bytes = 2**24
    #: the user's limit in bytes; None means the free memory
    max_memory = None
    #: folder of scratch files; None means that for temporary files
    scratch_dir = None

    @property
    def key(self):
        """Identifier of the memory."""
        return "host"

    @property
    def summary(self):
        """What the device works with, in a few words."""
        return f"{self.n_threads} thread{'' if self.n_threads == 1 else 's'}"

    @property
    def ndimage(self):
        """scipy.ndimage or cupyx.scipy.ndimage."""
        import scipy.ndimage

        return scipy.ndimage

    @property
    def fft(self):
        """scipy.fft or cupyx.scipy.fft."""
        import scipy.fft

        return scipy.fft

    def to_device(self, array):
        """Copy a host array to the device; return the same array if the device is the host."""
        return array

    def to_host(self, array):
        """Copy a device array to the host; return the same array if the device is the host."""
        return array

    def to_hosts(self, arrays):
        """Copy a list of device arrays to the host together, which costs less than one after the other."""
        return [self.to_host(array) for array in arrays]

    def synchronize(self):
        """Wait until the device has finished the work of this thread; no effect on the host."""

    def own_stream(self):
        """Return a context in which the work of this thread need not wait for that of others; no effect on the host."""
        return nullcontext()

    def mark(self):
        """Mark the present moment in the work of the device, without waiting for it."""
        return time.perf_counter()

    def seconds_between(self, start, stop):
        """Return the seconds between two marks that the device has reached: call `synchronize` before."""
        return stop - start

    def is_late_error(self, error):
        """Return whether an exception may have been caused by earlier work than that which raised it."""
        return False

    @abstractmethod
    def runs(self, operation, settings):
        """Return whether the operation runs on this device, and not in NumPy on the host."""

    @abstractmethod
    def execute(self, operation, arguments, settings):
        """Run an operation on arguments in this memory, in the order of its definition."""

    def is_out_of_memory(self, error):
        """Return whether an exception means that the memory of the device is full."""
        return isinstance(error, MemoryError)

    def memory_limit(self, held=0):
        """Return how many bytes an exposure may use, including ``held`` already used; None means no limit."""

    def release_memory(self):
        """Release memory that is cached for later arrays."""

    def in_parts(self, function, n):
        """Call ``function(part)`` for slices that together cover ``n`` items, and return a list of the results.

        For light work on integrations or groups that does not depend on the parts: a CPU calls it on threads, other
        devices once.
        """
        return [function(slice(0, n))]

    def batches(self, n, n_bytes):
        """Yield slices of ``n`` images or integrations for light work that needs ``n_bytes`` for each.

        A CPU gets one at a time, which fits into a cache; a GPU gets many, because each operation costs time.
        """
        at_once = 1 if self.on_host else max(1, BATCH_BYTES // max(1, n_bytes))
        n_batches = -(-n // at_once)
        at_once = -(-n // max(1, n_batches))
        for start in range(0, n, max(1, at_once)):
            yield slice(start, min(n, start + at_once))

    def zeros(self, shape, dtype):
        """Return an array of zeros on the device."""
        return self.xp.zeros(shape, dtype)

    def empty(self, shape, dtype):
        """Return an uninitialized array on the device."""
        return self.xp.empty(shape, dtype)

    def copy(self, array):
        """Return a copy of an array on the device."""
        return array.copy()

    def load_counts(self, shape, read, *, offset=True):
        """Read 16-bit big-endian counts of a FITS file into a float32 array on the device.

        Words pass through a small buffer, so the ramp is never in memory twice.

        Parameters
        ----------
        shape : tuple of int
            Shape of the counts.
        read : callable
            ``read(words, first)`` fills a flat uint16 array with the words of the file from number ``first`` on,
            unchanged. Several threads call it at the same time.
        offset : bool
            Whether the words are signed with BZERO = 32768, as FITS stores unsigned numbers; otherwise unsigned.

        Returns
        -------
        array of float32, DN
        """
        counts = self.empty(shape, np.float32)
        flat = counts.reshape(-1)

        at_once = min(max(1, flat.size), WORDS_AT_ONCE)
        spare = []

        def load(start):
            buffer = spare.pop() if spare else np.empty(at_once, np.uint16)
            piece = flat[start : start + at_once]
            words = buffer[: piece.size]
            read(words, start)
            if offset:
                words ^= _SIGN
            piece[...] = words.view(">u2")
            spare.append(buffer)

        # At least two threads: one may wait for the disk while the other converts.
        with ThreadPoolExecutor(max(2, self.n_threads)) as pool:
            list(pool.map(load, range(0, flat.size, at_once)))
        return counts

    def load_parts(self, shape, dtype, parts):
        """Return an array, made from an iterable over the items of its first axis.

        The host never holds two copies of the array, and a GPU's array is never in host memory as a whole.

        Parameters
        ----------
        shape : tuple of int
        dtype : dtype
        parts : iterable of host arrays
            One per item of the first axis, with the shape of the other axes; cast to ``dtype``.

        Returns
        -------
        array
        """
        array = self.empty(shape, dtype)
        for index, part in zip(range(len(array)), parts, strict=True):
            array[index] = part
        return array
