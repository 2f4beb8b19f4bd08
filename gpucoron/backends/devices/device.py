"""A device: an array namespace, copies to it and back, and how it runs an operation. It knows none of them."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

#: counts that pass through the host's cache together
WORDS_AT_ONCE = 2**18


class Device(ABC):
    """Where arrays lie and operations run."""

    #: 'numpy', 'native', 'host' or 'cuda'
    name: str
    #: the arrays stay in the CPU's memory, which must not be requested again
    on_host = False
    #: array namespace: numpy or cupy
    xp: Any
    #: threads for the operations in NumPy
    n_threads = 1

    @property
    def key(self):
        """What tells this memory from another one."""
        return "host"

    @property
    def ndimage(self):
        """scipy.ndimage or cupyx.scipy.ndimage."""
        import scipy.ndimage

        return scipy.ndimage

    def to_device(self, array):
        """Copy a host array to the device (the same array where the device is the host)."""
        return array

    def to_host(self, array):
        """Copy a device array to the host (the same array where the device is the host)."""
        return array

    def synchronize(self):
        """Wait until the device is done (it always is, where the device is the host)."""

    @abstractmethod
    def runs(self, operation, settings):
        """Tell whether an operation runs here, and not in NumPy on the host."""

    @abstractmethod
    def execute(self, operation, arguments, settings):
        """Run an operation on arguments that lie here, in the order of its definition."""

    def is_out_of_memory(self, error):
        """Tell whether an exception says that the device's memory is full."""
        return isinstance(error, MemoryError)

    def memory_limit(self, held=0):
        """Tell how many bytes an exposure may take on the device, ``held`` there already among them; None: no limit."""

    def release_memory(self):
        """Give memory back to the device that is kept for later arrays."""

    def zeros(self, shape, dtype):
        """Make an array of zeros on the device."""
        return self.xp.zeros(shape, dtype)

    def empty(self, shape, dtype):
        """Make an array without values on the device."""
        return self.xp.empty(shape, dtype)

    def copy(self, array):
        """Copy an array on the device."""
        return array.copy()

    def load_counts(self, shape, read, *, offset=True):
        """Read counts as FITS stores them, 16-bit and big-endian, into float32 on the device.

        The ramp is never held twice: words pass through a buffer, and a device sends one piece while the next is read.

        Parameters
        ----------
        shape : tuple of int
            Of the counts.
        read : callable
            ``read(words)`` fills a flat uint16 array with the next words of the file, as they stand there.
        offset : bool
            The words are signed, with BZERO = 32768, the way in which FITS holds unsigned numbers; else unsigned.

        Returns
        -------
        array of float32, DN
        """
        counts = self.empty(shape, np.float32)
        flat = counts.reshape(-1)
        buffer = np.empty(min(flat.size, WORDS_AT_ONCE), np.uint16)
        for start in range(0, flat.size, WORDS_AT_ONCE):
            piece = flat[start : start + WORDS_AT_ONCE]
            words = buffer[: piece.size]
            read(words)
            if offset:
                np.add(words.view(">i2"), np.float32(32768), out=piece)
            else:
                piece[...] = words.view(">u2")
        return counts

    def load_parts(self, shape, dtype, parts):
        """Make an array of the items of its first axis, which come one after the other.

        The host never holds two copies of the array; where a device has memory of its own, not even one.

        Parameters
        ----------
        shape : tuple of int
        dtype : dtype
        parts : iterable of host arrays
            As many as the first axis is long, of the shape of the other axes; cast to ``dtype``.

        Returns
        -------
        array
        """
        array = self.empty(shape, dtype)
        for index, part in zip(range(len(array)), parts, strict=True):
            array[index] = part
        return array
