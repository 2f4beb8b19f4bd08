"""The fastest CPU device: NumPy, and kernels compiled for this CPU for the operations in which they are faster.

Results have the same bits as NumPy's. Until the kernels of an operation are compiled, and if they cannot be, NumPy runs
it; docs/performance.md lists which operations use kernels, and why.
"""

import ctypes

import numpy as np

from gpucoron.backends.devices.build import Array, argument_addresses, library, native_instantiations
from gpucoron.backends.devices.build import native_available as available
from gpucoron.backends.devices.compilations import are_ready, begin_common
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.kernel_files import KERNELS

__all__ = ["NativeDevice", "NativeKernels", "available"]


class NativeDevice(NumpyDevice):
    """Operations by kernels compiled for this CPU, or by NumPy where that is faster.

    Parameters
    ----------
    n_threads, max_memory, scratch_dir, tile_bytes
        As for `gpucoron.backends.devices.numpy_device.NumpyDevice`.
    """

    name = "native"

    def __init__(self, n_threads=None, **options):
        super().__init__(n_threads, **options)
        self.kernels = NativeKernels(self.n_threads)
        begin_common()

    def execute(self, operation, arguments, settings):
        libraries = () if operation.native is None else operation.native(settings, *arguments)
        if libraries and are_ready(libraries):
            return operation.run(self.kernels, arguments, settings, operation.kernels)
        return super().execute(operation, arguments, settings)


class NativeKernels(HostDevice):
    """Launches kernels in libraries compiled for this CPU."""

    name = "native"
    # One thread processes a frame, so threads never wait.
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
        if status == 2:
            msg = f"kernel {name}: too little memory for the scratch arrays of {self.n_threads} threads"
            raise MemoryError(msg)
        if status != 0:
            msg = f"kernel {name}{tuple(variant)} is not in the compiled library"
            raise RuntimeError(msg)


def _describe(kernel, arguments, n_pixels):
    """Describe the arguments of a kernel as arrays of rows of pixels; other arguments have no rows."""
    described = (Array * len(arguments))()
    for place, declared, value in zip(described, kernel.arguments, arguments, strict=True):
        if isinstance(value, np.ndarray) and declared.is_shared:
            # Item size 0: the same for all pixels.
            place.base, place.rows, place.item, place.is_read_only = value.ctypes.data, 1, 0, True
        elif isinstance(value, np.ndarray):
            n_items = value.size
            if not value.flags.c_contiguous:
                # Gaps between integrations count as rows.
                n_items = value.strides[0] // value.itemsize * (len(value) - 1) + value[0].size
            rows, rest = divmod(n_items, n_pixels)
            if rest:
                msg = f"kernel {kernel.name}: {declared.name} of shape {value.shape} has no rows of {n_pixels} pixels"
                raise ValueError(msg)
            place.base, place.rows, place.item = value.ctypes.data, rows, value.itemsize
            place.is_read_only = declared.is_read_only
    return described
