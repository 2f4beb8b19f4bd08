"""The CUDA device: CuPy arrays and raw kernels."""

import threading
from contextlib import suppress

import numpy as np

from gpucoron.backends.devices.cuda_loader import KernelLoader, find_device, import_cupy
from gpucoron.backends.devices.kernel_device import KernelDevice
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.kernel_files import KERNELS, kernel_folder
from gpucoron.errors import BackendUnavailableError

#: several threads share a pixel while one thread per pixel would fill the device less often than this, one wave of
#: resident threads after another: with few waves, the last one leaves much of the device idle
BUSY_WAVES = 4

#: fraction of the free memory that an exposure may use: allocations leave gaps
USABLE = 0.9

#: bytes above which an array is copied in pieces: CuPy would copy it into pinned memory as a whole, and keep the copy
LARGE = 2**20

#: messages of CUDA's runtime and driver when the memory is full
CUDA_IS_FULL = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


def available(device=0, cupy=None):
    """Return whether the CUDA backend can run here; never raises.

    Parameters
    ----------
    device : int
    cupy : module, optional
        A replacement for CuPy in a test.

    Returns
    -------
    (bool, str)
        Whether it can run, and the name of the device or the reason why not.
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
    """Return the total memory of a device in bytes, without initializing it."""
    return int(import_cupy()[0].cuda.runtime.getDeviceProperties(device)["totalGlobalMem"])


class CudaDevice(KernelDevice):
    """A GPU: heavy operations by CUDA kernels, light ones by CuPy.

    Each call makes the GPU the current device of the calling thread.

    Parameters
    ----------
    device : int
        CUDA's number of the device.
    max_memory : int, optional
        Bytes that an exposure may use on the device; by default 90 % of the free memory. An exposure that needs more
        is processed in chunks.
    scratch_dir : path, optional
        Folder for the ramps of an exposure that is too large for the memory of both device and host.
    defines : sequence of str
        Macros ('NAME=value') to compile the kernels with, for measurements of variants.
    cupy : module, optional
        A replacement for CuPy in a test.
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

    @property
    def summary(self):
        return f"GPU {self.device}"

    @property
    def key(self):
        return f"cuda {self.device}"

    @property
    def ndimage(self):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage

    @property
    def fft(self):
        import cupyx.scipy.fft

        return cupyx.scipy.fft

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
        # A plain MemoryError may come from the host. CUDA's allocations raise an error of CUDA.
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
        """Return two buffers in pinned memory: the CPU uses one while the other is copied."""
        if not self._pinned:
            self._pinned = [_PinnedBuffer(self.xp, 2 * self.words_at_once) for _ in range(2)]
        return self._pinned

    def _upload_buffers(self, n_words):
        return [_UploadBuffer(buffer, self.xp.empty(n_words, np.uint16)) for buffer in self._pinned_buffers()]

    def _send(self, array, on_device):
        """Copy a host array to a device array of the same shape, through pinned memory."""
        if not array.flags.c_contiguous and array[0].nbytes >= LARGE:
            # A contiguous copy would be as large as the array.
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
        """Copy a device array to a host array of the same shape, through pinned memory."""
        source, target = array.reshape(-1), on_host.reshape(-1)

        def finish(buffer, part, piece):
            buffer.wait()
            target[piece] = part

        before = None
        with self._transfer:
            for buffer, piece in self._pieces(source):
                part = buffer.take(source.dtype, piece.stop - piece.start)
                buffer.fetch(source[piece], part)
                if before is not None:
                    finish(*before)
                before = buffer, part, piece
            if before is not None:
                finish(*before)

    def _pieces(self, flat):
        """Yield (buffer, slice) for the pieces of a flat array that fit into a pinned buffer; the buffers alternate."""
        buffers = self._pinned_buffers()
        at_once = max(1, 2 * self.words_at_once // flat.dtype.itemsize)
        for number, start in enumerate(range(0, flat.size, at_once)):
            yield buffers[number % len(buffers)], slice(start, min(flat.size, start + at_once))

    def choose_lanes(self, n_pixels, n_units, name=None, variant=()):
        return 4 if n_units >= 4 and n_pixels < BUSY_WAVES * self._resident_threads(name, variant) else 1

    def _resident_threads(self, name, variant):
        """Return how many threads of a kernel are resident at a time: its registers and shared memory limit them."""
        attributes = self._device.attributes
        each = attributes["MaxThreadsPerMultiProcessor"]
        if name is not None:
            function = self._loader.function(self.device, name, variant)
            self._device.use()
            n_blocks = self.xp.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
                function.ptr, self.block_threads, 0
            )
            each = n_blocks * self.block_threads
        return attributes["MultiProcessorCount"] * each

    def launch(self, name, grid, block, values, variant=()):
        arguments = checked_arguments(KERNELS[name], values, self._is_here)
        function = self._loader.function(self.device, name, variant)
        self._device.use()
        # A null pointer is passed as eight zero bytes; the meaning of None depends on the version of CuPy.
        function(grid, block, tuple(np.uint64(0) if value is None else value for value in arguments))

    def _is_here(self, array):
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device


class _PinnedBuffer:
    """Pinned host memory, which the device reads and writes directly, in the order of the current stream."""

    def __init__(self, cupy, n_bytes):
        self._current_stream = cupy.cuda.get_current_stream
        # The array keeps the memory alive.
        self._bytes = np.frombuffer(cupy.cuda.alloc_pinned_memory(n_bytes), np.uint8, n_bytes)
        self._done = None

    def take(self, dtype, n_values):
        """Wait for the last copy; return an array of ``n_values`` in the buffer."""
        self.wait()
        return self._bytes[: n_values * dtype.itemsize].view(dtype)

    def send(self, values, target):
        """Start to copy values in the buffer to the device."""
        stream = self._current_stream()
        target.data.copy_from_host_async(values.ctypes.data, values.nbytes, stream)
        self._done = stream.record()

    def fetch(self, source, values):
        """Start to copy a device array to values in the buffer."""
        stream = self._current_stream()
        source.data.copy_to_host_async(values.ctypes.data, values.nbytes, stream)
        self._done = stream.record()

    def wait(self):
        """Wait until the last copy is complete."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None

    def __del__(self):
        # Otherwise CuPy's pool could reuse the memory while the device still reads it.
        with suppress(Exception):
            self.wait()


class _UploadBuffer:
    """A pinned buffer for raw counts, and the array on the device to which they are copied."""

    def __init__(self, pinned, on_device):
        self._pinned, self._on_device = pinned, on_device

    def fill(self, read, n_words):
        words = self._pinned.take(self._on_device.dtype, n_words)
        read(words)
        target = self._on_device[:n_words]
        self._pinned.send(words, target)
        return target
