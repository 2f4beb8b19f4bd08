"""The CPU: NumPy arrays and threads over tiles of rows; ramps that are too large for memory are in files."""

import mmap
import os
import tempfile

import numpy as np

from gpucoron.backends import workers
from gpucoron.backends.chunks import map_arrays
from gpucoron.backends.devices.device import Device
from gpucoron.backends.process_memory import anonymous_memory, free_memory
from gpucoron.backends.tiles import TILE_BYTES, available_cores, for_each_tile
from gpucoron.errors import OutputError

#: temporary arrays of the size of a tile in NumPy's operations
TILE_ARRAYS = 10
THREAD_BYTES = TILE_ARRAYS * TILE_BYTES


def available():
    """Return whether NumPy can run here, as in the other devices' modules: (bool, str)."""
    return True, "NumPy"


class NumpyDevice(Device):
    """Operations in NumPy.

    Parameters
    ----------
    n_threads : int, optional
        Threads for the heavy operations; by default the cores that this process may use.
    max_memory : int, optional
        Limit of the anonymous memory of the process in bytes; by default the memory in use, plus the free memory
        of the host and its control group. If an exposure needs more, its ramps are in a scratch file; the peak is then
        at most a tenth above the limit. If programs, references and products alone need more, a warning says how
        much. The limit does not apply to steps that run jwst's code, which need whole ramps in memory.
    scratch_dir : path, optional
        Folder of scratch files; by default the folder for temporary files.
    tile_bytes : int
        Size of the tiles of jump detection and ramp fit. Results do not depend on it, nor on the threads.
    """

    name = "numpy"
    xp = np
    on_host = True

    def __init__(self, n_threads=None, *, max_memory=None, scratch_dir=None, tile_bytes=TILE_BYTES):
        self.n_threads = available_cores() if n_threads is None else int(n_threads)
        self.max_memory = max_memory
        self.scratch_dir = scratch_dir
        self.tile_bytes = tile_bytes

    def with_threads(self, n_threads):
        """Return the same device with another number of threads."""
        return type(self)(
            n_threads, max_memory=self.max_memory, scratch_dir=self.scratch_dir, tile_bytes=self.tile_bytes
        )

    def runs(self, operation, settings):
        return True

    def execute(self, operation, arguments, settings):
        return operation.run(self, arguments, settings)

    def in_parts(self, function, n):
        return for_each_tile(function, (n, 1), self.n_threads, tile_bytes=4 * -(-n // self.n_threads))

    def memory_limit(self, held=0):
        free = free_memory() if self.max_memory is None else self.max_memory - anonymous_memory()
        return None if free is None else free - self.n_threads * THREAD_BYTES


class ScratchFiles(NumpyDevice):
    """The CPU with ramps in unlinked files, mapped into memory, for exposures that are larger than the memory.

    The system can reclaim the pages of these files when it needs memory. Operations get some rows at a time; light
    steps process one integration or frame after the other.
    """

    def empty(self, shape, dtype):
        """Return an uninitialized array; an array with four axes is in a file."""
        if len(shape) != 4:
            return np.empty(shape, dtype)
        dtype = np.dtype(dtype)
        n_bytes = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        folder = self.scratch_dir or tempfile.gettempdir()
        try:
            # The file has no name, so it disappears when the process ends.
            with tempfile.TemporaryFile(dir=folder, prefix=".gpucoron-") as file:
                # Allocate the disk space now: later a full disk would kill the process.
                _claim(file.fileno(), n_bytes)
                mapping = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            msg = (
                f"{folder}: no room for a scratch file of {n_bytes / 1e9:.3g} GB ({error.strerror}); free disk "
                "space, choose another output folder, or allow more memory (--max-memory, max_memory=...)"
            )
            raise OutputError(msg) from error
        return np.frombuffer(mapping, dtype, n_bytes // dtype.itemsize).reshape(shape)

    def zeros(self, shape, dtype):
        # A new file holds zeros.
        return self.empty(shape, dtype) if len(shape) == 4 else np.zeros(shape, dtype)

    def copy(self, array):
        copied = self.empty(array.shape, array.dtype)
        copied[...] = array
        return copied


def run_in_numpy(device, operation, arguments, settings):
    """Run an operation without kernels on the host; copy its result and changed arguments back to the device."""
    workers.note("numpy")
    on_host = [device.to_host(value) if hasattr(value, "shape") else value for value in arguments]
    answer = operation.run(NumpyDevice(), on_host, settings)
    for name, given, changed in zip(operation.signature.parameters, arguments, on_host, strict=True):
        if name in operation.written and changed is not given:
            given[...] = device.to_device(changed)
    return map_arrays(answer, device.to_device)


def _claim(descriptor, n_bytes):
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)
