"""The CUDA device: CuPy arrays and raw kernels."""

from contextlib import contextmanager
from itertools import cycle

import numpy as np

from gpucoron.backends.devices.cuda_loader import KernelLoader, find_device, import_cupy
from gpucoron.backends.devices.kernel_device import KernelDevice
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.kernel_files import KERNELS, kernel_folder
from gpucoron.backends.tiles import available_cores
from gpucoron.errors import BackendUnavailableError

#: several threads share a pixel while one thread per pixel would fill the device less often than this, one wave of
#: resident threads after another: with few waves, the last one leaves much of the device idle
BUSY_WAVES = 4

#: fraction of the free memory that an exposure may use: allocations leave gaps
USABLE = 0.9

#: bytes above which an array is copied in pieces: CuPy would copy it into pinned memory as a whole, and keep the copy
LARGE = 2**20

#: most threads that read a file: one copies 6 to 8 GB/s from the page cache, PCI Express takes up to 50 GB/s
MOST_READERS = 8

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

    Each call makes the GPU the current device of the calling thread, and works in the thread's current stream. Several
    threads may reduce an exposure each, in streams of their own (`own_stream`), with buffers of their own.

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
    works_later = True
    #: larger than on a CPU, where tiles fit into the cache
    tile_bytes = 2**26

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
        # Pairs of pinned buffers, and streams, that no thread uses.
        self._pinned, self._streams = [], []
        self.reading_threads = min(MOST_READERS, available_cores())
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
        return self._fetch([array])[0]

    def to_hosts(self, arrays):
        return self._fetch(arrays) if len(arrays) > 1 else [self.to_host(array) for array in arrays]

    def zeros(self, shape, dtype):
        self._device.use()
        return self.xp.zeros(shape, dtype)

    def synchronize(self):
        # Not the whole device: other threads may work in other streams.
        self._device.use()
        self.xp.cuda.get_current_stream().synchronize()

    @contextmanager
    def own_stream(self):
        # Copies and kernels share it: while counts are copied, their conversion takes a twentieth of the time.
        self._device.use()
        before = self.xp.cuda.get_current_stream()
        # Streams are used again, because CuPy's memory pool keeps the memory of each stream for itself.
        try:
            stream = self._streams.pop()
        except IndexError:
            stream = self.xp.cuda.Stream(non_blocking=True)
        # Arrays that exist already, and memory that comes back, may still be in use.
        stream.wait_event(before.record())
        stream.use()
        try:
            yield
            # The caller may use the arrays that were made here.
            self._device.use()
            before.wait_event(stream.record())
        finally:
            self._device.use()
            before.use()
            self._streams.append(stream)

    def mark(self):
        self._device.use()
        return self.xp.cuda.get_current_stream().record(self.xp.cuda.Event())

    def seconds_between(self, start, stop):
        return self.xp.cuda.get_elapsed_time(start, stop) / 1e3

    def forget(self):
        # Memory goes back to the stream in which it was allocated, while others may still read it.
        self._device.synchronize()
        super().forget()

    def is_late_error(self, error):
        return isinstance(error, (self.xp.cuda.runtime.CUDARuntimeError, self.xp.cuda.driver.CUDADriverError))

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
        with self._device:
            self.forget()
            self.xp.get_default_memory_pool().free_all_blocks()
            self._pinned.clear()
            self.xp.get_default_pinned_memory_pool().free_all_blocks()

    def load_counts(self, shape, read, *, offset=True):
        self._device.use()
        return super().load_counts(shape, read, offset=offset)

    def load_parts(self, shape, dtype, parts):
        self._device.use()
        on_device = self.xp.empty(shape, dtype)
        for place, part in zip(on_device, parts, strict=True):
            self._send(np.broadcast_to(part, place.shape), place)
        return on_device

    @contextmanager
    def _pinned_buffers(self):
        """Lend two buffers in pinned memory: the CPU uses one while the other is copied."""
        try:
            buffers = self._pinned.pop()
        except IndexError:
            buffers = [_PinnedBuffer(self.xp, 2 * self.words_at_once) for _ in range(2)]
        try:
            yield buffers
        finally:
            self._pinned.append(buffers)

    @contextmanager
    def _upload_buffers(self, n_words):
        with self._pinned_buffers() as buffers:
            yield [_UploadBuffer(buffer, self.xp.empty(n_words, np.uint16)) for buffer in buffers]

    def _send(self, array, on_device):
        """Copy a host array to a device array of the same shape, through pinned memory."""
        if not array.flags.c_contiguous and array[0].nbytes >= LARGE:
            # A contiguous copy would be as large as the array.
            for part, place in zip(array, on_device, strict=True):
                self._send(part, place)
            return
        values, target = np.ascontiguousarray(array).reshape(-1), on_device.reshape(-1)
        at_once = max(1, 2 * self.words_at_once // target.itemsize)
        with self._pinned_buffers() as buffers:
            for buffer, start in zip(cycle(buffers), range(0, target.size, at_once), strict=False):
                piece = slice(start, min(target.size, start + at_once))
                part = buffer.take(target.dtype, piece.stop - piece.start)
                part[...] = values[piece]
                buffer.send(part, target[piece])

    def _fetch(self, arrays):
        """Copy device arrays to the host through pinned memory: small ones together, large ones in pieces."""
        self._device.use()
        on_host = [np.empty(array.shape, array.dtype) for array in arrays]

        def finish(buffer, places, targets):
            buffer.wait()
            for place, target in zip(places, targets, strict=True):
                target[...] = place

        before = None
        with self._pinned_buffers() as buffers:
            for buffer, (sources, targets) in zip(cycle(buffers), self._loads(arrays, on_host), strict=False):
                places = buffer.fetch(sources)
                if before is not None:
                    finish(*before)
                before = buffer, places, targets
            if before is not None:
                finish(*before)
        return on_host

    def _loads(self, arrays, on_host):
        """Yield pieces of device arrays that fit into a pinned buffer together, and the places of these on the host."""
        n_bytes = 2 * self.words_at_once
        sources, targets, left = [], [], n_bytes
        for array, target in zip(arrays, on_host, strict=True):
            source, target = self.xp.ascontiguousarray(array).reshape(-1), target.reshape(-1)
            start = 0
            while start < source.size:
                n = min(source.size - start, left // source.itemsize)
                if n > 0:
                    piece = slice(start, start + n)
                    sources.append(source[piece])
                    targets.append(target[piece])
                    left -= _whole_words(n * source.itemsize)
                    start += n
                else:
                    yield sources, targets
                    sources, targets, left = [], [], n_bytes
        if sources:
            yield sources, targets

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

    def fetch(self, sources):
        """Wait for the last copy; start to copy flat device arrays to the buffer, and return where they will be."""
        self.wait()
        stream, start, places = self._current_stream(), 0, []
        for source in sources:
            place = self._bytes[start : start + source.nbytes].view(source.dtype)
            source.data.copy_to_host_async(place.ctypes.data, place.nbytes, stream)
            places.append(place)
            start += _whole_words(source.nbytes)
        self._done = stream.record()
        return places

    def wait(self):
        """Wait until the last copy is complete."""
        if self._done is not None:
            self._done.synchronize()
            self._done = None

    def __del__(self):
        # Otherwise CuPy's pool could reuse the memory while the device still reads it.
        # Without a function of a module: modules are gone when the interpreter ends.
        try:
            self.wait()
        except Exception:
            return


def _whole_words(n_bytes):
    """Round up to a multiple of 16 bytes, so that the next array in a buffer is aligned."""
    return -(-n_bytes // 16) * 16


class _UploadBuffer:
    """A pinned buffer for raw counts, and the array on the device to which they are copied."""

    def __init__(self, pinned, on_device):
        self._pinned, self._on_device = pinned, on_device
        self._words = None

    def take(self, n_words):
        self._words = self._pinned.take(self._on_device.dtype, n_words)
        return self._words

    def send(self):
        target = self._on_device[: self._words.size]
        self._pinned.send(self._words, target)
        return target
