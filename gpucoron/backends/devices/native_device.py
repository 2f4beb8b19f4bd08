"""The fastest CPU device: NumPy, except for the operations in which the kernels, compiled for this CPU, are faster.

The answers have NumPy's bits. Where the kernels cannot be compiled, NumPy does all; docs/performance.md says which
operation runs where, and why.
"""

import ctypes
import logging
import threading

import numpy as np

from gpucoron.backends.devices.build import Array, argument_addresses, library, native_instantiations
from gpucoron.backends.devices.build import native_available as available
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.kernel_files import KERNELS

__all__ = ["NativeDevice", "NativeKernels", "available"]

log = logging.getLogger(__name__)


class NativeDevice(NumpyDevice):
    """Operations by the kernels compiled for this CPU, by NumPy where that is faster.

    Parameters
    ----------
    n_threads, max_memory, scratch_dir, tile_bytes
        As for `gpucoron.backends.devices.numpy_device.NumpyDevice`.
    """

    name = "native"

    def __init__(self, n_threads=None, **options):
        super().__init__(n_threads, **options)
        self.kernels = NativeKernels(self.n_threads)

    def execute(self, operation, arguments, settings):
        wanted = () if operation.native is None else operation.native(settings, *arguments)
        if wanted and all(_can_be_loaded(*each) for each in wanted):
            return operation.run(self.kernels, arguments, settings, operation.kernels)
        return super().execute(operation, arguments, settings)


_refused, _loading = set(), threading.Lock()


def _can_be_loaded(source, by_pixel):
    """Tell whether a kernel file's library is there, compiled if need be; a refusal is told once."""
    # Threads of one operation ask at the same time.
    with _loading:
        if source in _refused:
            return False
        try:
            library(source, by_pixel)
        except (RuntimeError, OSError) as error:
            _refused.add(source)
            log.warning("NumPy takes the place of the native kernels of %s: %s", source, error)
            return False
        return True


class NativeKernels(HostDevice):
    """The launches of the kernels, in libraries compiled for this CPU."""

    name = "native"
    # Frames are gone through by one thread: nobody waits.
    frame_threads = 1
    strip_pixels = 1024

    def launch(self, name, grid, block, values, variant=()):
        kernel = KERNELS[name]
        arguments = checked_arguments(kernel, values, lambda array: isinstance(array, np.ndarray))
        addresses, keep = argument_addresses(arguments)
        number = native_instantiations(kernel.source, kernel.by_pixel).index((kernel, tuple(variant)))
        if kernel.by_pixel:
            how = _describe(kernel, arguments, values["n_pixels"])
        else:
            how = (ctypes.c_uint * 4)(*grid, block[0])
        status = library(kernel.source, kernel.by_pixel).gpucoron_launch(
            number, how, ctypes.c_uint(self.n_threads), addresses
        )
        del keep
        if status != 0:
            msg = f"kernel {name}{tuple(variant)} is not in the compiled library"
            raise RuntimeError(msg)


def _describe(kernel, arguments, n_pixels):
    """Describe a kernel's arrays as rows of pixels; what is no array has no rows."""
    described = (Array * len(arguments))()
    for place, declared, value in zip(described, kernel.arguments, arguments, strict=True):
        if isinstance(value, np.ndarray) and declared.is_shared:
            # A row whose pixels are one.
            place.base, place.rows, place.item, place.is_read_only = value.ctypes.data, 1, 0, True
        elif isinstance(value, np.ndarray):
            n_items = value.size
            if not value.flags.c_contiguous:
                # Integrations apart: what lies between them is a row like any other.
                n_items = value.strides[0] // value.itemsize * (len(value) - 1) + value[0].size
            rows, rest = divmod(n_items, n_pixels)
            if rest:
                msg = f"kernel {kernel.name}: {declared.name} of shape {value.shape} has no rows of {n_pixels} pixels"
                raise ValueError(msg)
            place.base, place.rows, place.item = value.ctypes.data, rows, value.itemsize
            place.is_read_only = declared.is_read_only
    return described
