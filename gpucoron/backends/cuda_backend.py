"""The CUDA backend: CuPy arrays and the raw kernels."""

import numpy as np

from gpucoron.backends.cuda_loader import KernelLoader, find_device, import_cupy
from gpucoron.backends.kernel_backend import KernelBackend
from gpucoron.backends.kernel_launch import checked_arguments
from gpucoron.backends.kernel_sources import KERNELS, kernel_folder
from gpucoron.errors import BackendUnavailableError

#: one more thread per pixel pays until this share of the device's threads is taken
BUSY = 0.5

#: share of the free memory that an exposure may take: allocations do not fit each other without gaps
USABLE = 0.9


def available(device=0, cupy=None):
    """Tell whether the CUDA backend can run here; never raises.

    Parameters
    ----------
    device : int
    cupy : module, optional
        What stands in for CuPy in a test.

    Returns
    -------
    (bool, str)
        Whether it can, and on what; or why not.
    """
    if cupy is None:
        cupy, reason = import_cupy()
        if cupy is None:
            return False, reason
    usable, reason = find_device(cupy, device)
    if not usable:
        return False, reason
    try:
        kernel_folder()
    except FileNotFoundError as error:
        return False, str(error)
    return True, reason


def device_memory(device):
    """Tell how many bytes of memory a device has, free or not; it is not taken into use for that."""
    return int(import_cupy()[0].cuda.runtime.getDeviceProperties(device)["totalGlobalMem"])


class CudaBackend(KernelBackend):
    """Heavy operations by CUDA kernels, light ones by CuPy.

    A call makes the backend's device the current one of the calling thread.

    Parameters
    ----------
    device : int
        As CUDA counts them.
    max_memory : int, optional
        Bytes that an exposure may take on the device; by default most of what is free there. An exposure that needs
        more is worked on in chunks.
    defines : sequence of str
        Macros that the kernels are compiled with ('NAME=value'), for measurements of variants.
    cupy : module, optional
        What stands in for CuPy in a test.
    """

    name = "cuda"

    def __init__(self, device=0, *, max_memory=None, defines=(), cupy=None):
        usable, reason = available(device, cupy)
        if not usable:
            msg = f"backend 'cuda' cannot run here: {reason}"
            raise BackendUnavailableError(msg)
        self.xp = import_cupy()[0] if cupy is None else cupy
        self.device = int(device)
        self._device = self.xp.cuda.Device(self.device)
        self._device.use()
        self.max_memory = max_memory
        self._loader = KernelLoader(self.xp, defines)
        attributes = self._device.attributes
        self._n_threads = attributes["MultiProcessorCount"] * attributes["MaxThreadsPerMultiProcessor"]

    @property
    def ndimage(self):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage

    def to_device(self, array):
        self._device.use()
        if isinstance(array, np.ndarray) and not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return self.xp.asarray(array)

    def to_host(self, array):
        return self.xp.asnumpy(array)

    def zeros(self, shape, dtype):
        self._device.use()
        return self.xp.zeros(shape, dtype)

    def synchronize(self):
        self._device.synchronize()

    def memory_limit(self, held=0):
        if self.max_memory is not None:
            return self.max_memory
        with self._device:
            free, _ = self.xp.cuda.runtime.memGetInfo()
            kept = self.xp.get_default_memory_pool().free_bytes()
        return held + int(USABLE * (free + kept))

    def release_memory(self):
        with self._device:
            self.xp.get_default_memory_pool().free_all_blocks()

    def load_counts(self, shape, read, *, offset=True):
        self._device.use()
        return super().load_counts(shape, read, offset=offset)

    def _upload_buffers(self, n_words):
        return [_PinnedBuffer(self.xp, n_words) for _ in range(2)]

    def choose_lanes(self, n_pixels, n_units):
        # Small subarrays alone do not fill a large device.
        return 4 if n_units >= 4 and n_pixels < BUSY * self._n_threads else 1

    def launch(self, name, grid, block, values, variant=()):
        arguments = checked_arguments(KERNELS[name], values, self._is_here)
        function = self._loader.function(self.device, name, variant)
        self._device.use()
        # A null pointer travels as eight zero bytes; None means different things to different versions of CuPy.
        function(grid, block, tuple(np.uint64(0) if value is None else value for value in arguments))

    def _is_here(self, array):
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device


class _PinnedBuffer:
    """Words on their way to the device: memory that it reads by itself, and where they arrive.

    All work is in the order of the current stream. Two such buffers take turns, so that the host reads the file into
    one while the other's words are copied and converted.
    """

    def __init__(self, cupy, n_words):
        self._stream = cupy.cuda.get_current_stream()
        # The array keeps the memory alive.
        self._words = np.frombuffer(cupy.cuda.alloc_pinned_memory(2 * n_words), np.uint16, n_words)
        self._arrived = cupy.empty(n_words, np.uint16)
        self._has_left = None

    def fill(self, read, n_words):
        if self._has_left is not None:
            self._has_left.synchronize()
        words = self._words[:n_words]
        read(words)
        arrived = self._arrived[:n_words]
        arrived.data.copy_from_host_async(words.ctypes.data, words.nbytes, self._stream)
        self._has_left = self._stream.record()
        return arrived
