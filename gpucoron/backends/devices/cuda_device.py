"""The CUDA backend: CuPy arrays and the raw kernels."""

import threading
from contextlib import suppress

import numpy as np

from gpucoron.backends.devices.cuda_loader import KernelLoader, find_device, import_cupy
from gpucoron.backends.devices.kernel_device import KernelDevice
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.kernel_files import KERNELS, kernel_folder
from gpucoron.errors import BackendUnavailableError

#: one more thread per pixel pays until this share of the device's threads is taken
BUSY = 0.5

#: share of the free memory that an exposure may take: allocations do not fit each other without gaps
USABLE = 0.9

#: bytes from which on an array travels in pieces: CuPy puts a whole array into pinned memory, which it then keeps
LARGE = 2**20

#: what CUDA's runtime and driver say where memory is full
CUDA_IS_FULL = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


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


class CudaDevice(KernelDevice):
    """A GPU: heavy operations by CUDA kernels, light ones by CuPy.

    A call makes it the current device of the calling thread.

    Parameters
    ----------
    device : int
        As CUDA counts them.
    max_memory : int, optional
        Bytes that an exposure may take on the device; by default most of what is free there. An exposure that needs
        more is worked on in chunks.
    scratch_dir : path, optional
        For the ramps of an exposure that neither the device nor the host holds.
    defines : sequence of str
        Macros that the kernels are compiled with ('NAME=value'), for measurements of variants.
    cupy : module, optional
        What stands in for CuPy in a test.
    """

    name = "cuda"

    def __init__(self, device=0, *, max_memory=None, scratch_dir=None, defines=(), cupy=None):
        usable, reason = available(device, cupy)
        if not usable:
            msg = f"backend 'cuda' cannot run here: {reason}"
            raise BackendUnavailableError(msg)
        self.xp = import_cupy()[0] if cupy is None else cupy
        self.device = int(device)
        self._device = self.xp.cuda.Device(self.device)
        self._device.use()
        self.max_memory, self.scratch_dir = max_memory, scratch_dir
        self._pinned, self._transfer = [], threading.RLock()
        self._loader = KernelLoader(self.xp, defines)
        attributes = self._device.attributes
        self._n_threads = attributes["MultiProcessorCount"] * attributes["MaxThreadsPerMultiProcessor"]

    @property
    def key(self):
        return f"cuda {self.device}"

    @property
    def ndimage(self):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage

    def to_device(self, array):
        self._device.use()
        if not isinstance(array, np.ndarray):
            return self.xp.asarray(array)
        dtype = array.dtype.newbyteorder("=")
        if array.nbytes < LARGE:
            return self.xp.asarray(array.astype(dtype, copy=False))
        on_device = self.xp.empty(array.shape, dtype)
        self._send(array, on_device)
        return on_device

    def to_host(self, array):
        if not isinstance(array, self.xp.ndarray) or array.nbytes < LARGE:
            return self.xp.asnumpy(array)
        self._device.use()
        on_host = np.empty(array.shape, array.dtype)
        self._fetch(self.xp.ascontiguousarray(array), on_host)
        return on_host

    def zeros(self, shape, dtype):
        self._device.use()
        return self.xp.zeros(shape, dtype)

    def synchronize(self):
        self._device.synchronize()

    def is_out_of_memory(self, error):
        # Not any MemoryError, which may be the host's. What CUDA takes beside CuPy's pool is told by CUDA.
        of_pool = isinstance(error, self.xp.cuda.memory.OutOfMemoryError)
        return of_pool or any(words in str(error) for words in CUDA_IS_FULL)

    def memory_limit(self, held=0):
        if self.max_memory is not None:
            return self.max_memory
        with self._device:
            free, _ = self.xp.cuda.runtime.memGetInfo()
            kept = self.xp.get_default_memory_pool().free_bytes()
        return held + int(USABLE * (free + kept))

    def release_memory(self):
        with self._device, self._transfer:
            self.xp.get_default_memory_pool().free_all_blocks()
            self._pinned = []
            self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def load_counts(self, shape, read, *, offset=True):
        self._device.use()
        with self._transfer:
            return super().load_counts(shape, read, offset=offset)

    def load_parts(self, shape, dtype, parts):
        self._device.use()
        on_device = self.xp.empty(shape, dtype)
        for place, part in zip(on_device, parts, strict=True):
            self._send(np.broadcast_to(part, place.shape), place)
        return on_device

    def _pinned_buffers(self):
        """Give two pieces of pinned memory, so that one is filled or emptied while the other travels."""
        if not self._pinned:
            self._pinned = [_PinnedBuffer(self.xp, 2 * self.words_at_once) for _ in range(2)]
        return self._pinned

    def _upload_buffers(self, n_words):
        return [_CountsOnTheirWay(buffer, self.xp.empty(n_words, np.uint16)) for buffer in self._pinned_buffers()]

    def _send(self, array, on_device):
        """Copy an array of the host to one of the same shape on the device, through pinned memory."""
        if not array.flags.c_contiguous and array[0].nbytes >= LARGE:
            # A copy in one piece would be as large as the array.
            for part, place in zip(array, on_device, strict=True):
                self._send(part, place)
            return
        values, target = np.ascontiguousarray(array).reshape(-1), on_device.reshape(-1)
        with self._transfer:
            for buffer, piece in self._pieces(target):
                part = buffer.take(target.dtype, piece.stop - piece.start)
                part[...] = values[piece]
                buffer.send(part, target[piece])

    def _fetch(self, array, on_host):
        """Copy an array of the device to one of the same shape on the host, through pinned memory."""
        source, target = array.reshape(-1), on_host.reshape(-1)

        def arrive(buffer, part, piece):
            buffer.wait()
            target[piece] = part

        before = None
        with self._transfer:
            for buffer, piece in self._pieces(source):
                part = buffer.take(source.dtype, piece.stop - piece.start)
                buffer.fetch(source[piece], part)
                if before is not None:
                    arrive(*before)
                before = buffer, part, piece
            if before is not None:
                arrive(*before)

    def _pieces(self, flat):
        """Cut a flat array into what fits into a pinned buffer: (buffer, slice), the buffers in turn."""
        buffers = self._pinned_buffers()
        at_once = max(1, 2 * self.words_at_once // flat.dtype.itemsize)
        for number, start in enumerate(range(0, flat.size, at_once)):
            yield buffers[number % len(buffers)], slice(start, min(flat.size, start + at_once))

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
    """A piece of the host's memory that the device reads and writes by itself, in the order of the current stream."""

    def __init__(self, cupy, n_bytes):
        self._current_stream = cupy.cuda.get_current_stream
        # The array keeps the memory alive.
        self._bytes = np.frombuffer(cupy.cuda.alloc_pinned_memory(n_bytes), np.uint8, n_bytes)
        self._done = None

    def take(self, dtype, n_values):
        """Give room for values, once the last copy to or from here is done."""
        self.wait()
        return self._bytes[: n_values * dtype.itemsize].view(dtype)

    def send(self, values, target):
        """Start the copy of what was put here to the device."""
        stream = self._current_stream()
        target.data.copy_from_host_async(values.ctypes.data, values.nbytes, stream)
        self._done = stream.record()

    def fetch(self, source, values):
        """Start the copy of what is on the device to here."""
        stream = self._current_stream()
        source.data.copy_to_host_async(values.ctypes.data, values.nbytes, stream)
        self._done = stream.record()

    def wait(self):
        """Wait until the last copy is done."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None

    def __del__(self):
        # CuPy's pool would give the memory to the next one while the device still reads it.
        with suppress(Exception):
            self.wait()


class _CountsOnTheirWay:
    """Raw counts that are read into pinned memory, and where they arrive on the device."""

    def __init__(self, pinned, arrived):
        self._pinned, self._arrived = pinned, arrived

    def fill(self, read, n_words):
        words = self._pinned.take(self._arrived.dtype, n_words)
        read(words)
        arrived = self._arrived[:n_words]
        self._pinned.send(words, arrived)
        return arrived
