"""The CUDA kernels on the CPU: the same files, compiled by g++ with a small shim and called through ctypes.

This tests the kernels without a GPU. It is not faster than NumPy and not meant for real work.
"""

import ctypes
import os
import threading

import numpy as np

from gpucoron.backends.devices.build import argument_addresses, host_library
from gpucoron.backends.devices.build import host_available as available
from gpucoron.backends.devices.kernel_device import KernelDevice
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.kernel_files import KERNELS, instantiations
from gpucoron.backends.tiles import available_cores

__all__ = ["HostDevice", "available"]


class HostDevice(KernelDevice):
    """A device that runs the CUDA kernels, compiled for the host.

    Parameters
    ----------
    n_threads : int, optional
        Workers over the blocks of a launch; by default the cores that this process may use.
    sanitize : str, optional
        For g++'s ``-fsanitize``; by default the environment variable ``GPUCORON_HOST_SANITIZE``. The library of the
        sanitizer must be loaded when the process starts (``LD_PRELOAD``).
    lanes : {1, 4}
        Threads that share a pixel in kernels that support it.
    max_memory : int, optional
        Bytes that an exposure may use; by default there is no limit. An exposure that needs more is processed in
        chunks, as on a GPU.
    scratch_dir : path, optional
        Folder for the ramps of an exposure that is too large for the host's memory.
    defines : sequence of str
        Macros ('NAME=value') to compile the kernels with, for measurements of variants.
    """

    name = "host"
    xp = np
    # Few, because kernels with barriers use real threads; lanes need a whole warp.
    block_threads = 32
    frame_threads = 4

    words_at_once = 2**18

    # Block and grid sizes are global in the shim: one launch at a time.
    _launching = threading.Lock()

    def __init__(self, n_threads=None, *, sanitize=None, lanes=1, max_memory=None, scratch_dir=None, defines=()):
        self.n_threads = available_cores() if n_threads is None else int(n_threads)
        self.reading_threads = self.n_threads
        self._sanitize = os.environ.get("GPUCORON_HOST_SANITIZE", "") if sanitize is None else sanitize
        self._lanes = lanes
        self.max_memory, self.scratch_dir = max_memory, scratch_dir
        self._defines = tuple(defines)

    def memory_limit(self, held=0):
        return self.max_memory

    def choose_lanes(self, n_pixels, n_units, name=None, variant=()):
        return self._lanes

    def launch(self, name, grid, block, values, variant=()):
        kernel = KERNELS[name]
        arguments = checked_arguments(kernel, values, lambda array: isinstance(array, np.ndarray))
        addresses, keep = argument_addresses(arguments)
        library = host_library(kernel.source, self._sanitize, self._defines)
        number = instantiations(kernel.source).index((kernel, tuple(variant)))
        shape = (ctypes.c_uint * 4)(*grid, block[0])
        with self._launching:
            status = library.gpucoron_launch(number, shape, ctypes.c_uint(self.n_threads), addresses)
        del keep
        if status != 0:
            msg = f"kernel {name}{tuple(variant)} is not in the compiled library"
            raise RuntimeError(msg)
