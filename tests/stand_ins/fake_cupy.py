"""A stand-in for CuPy with two devices: it records launches, and runs them with the host build if it has one.

Like a device it delays its work: copies and launches wait in the queue of their stream until they are waited for, so
that a buffer that is reused too early changes the results. An operation on arrays follows all queued work of its
stream; work of other streams needs an event: see `fake_streams`. The arrays are not NumPy arrays, and refuse what CuPy
refuses: see `strict_cupy`. If the real CuPy is not installed, names, arguments and dtypes are not checked.
"""

import ctypes
import sys
import threading
import weakref
from collections import Counter
from types import ModuleType, SimpleNamespace

import numpy as np
import scipy.fft
import scipy.ndimage

from gpucoron.backends.kernel_files import KERNELS
from tests.stand_ins.fake_streams import make_streams
from tests.stand_ins.real_cupy import find_judge
from tests.stand_ins.strict_cupy import FakeArray, FakeModule, FakeUfunc, check_devices, operate, wrap

__all__ = ["FakeArray", "FakeCupy", "OutOfMemoryError", "make_fake_cupy", "on_device"]

#: value of uninitialized memory
GARBAGE = 123


class OutOfMemoryError(MemoryError):
    """Same name as in CuPy."""


class CUDARuntimeError(RuntimeError):
    """Same name as in CuPy."""


class CUDADriverError(RuntimeError):
    """Same name as in CuPy."""


class PinnedMemory(bytearray):
    """Host memory that a device may read and write directly."""

    __hash__ = object.__hash__

    def holds(self, address, n_bytes):
        start = ctypes.addressof(ctypes.c_char.from_buffer(self))
        return start <= address <= address + n_bytes <= start + len(self)


class FakeCupy:
    """The part of CuPy that gpucoron uses.

    Parameters
    ----------
    compute_capability : str
    runner : HostDevice or its Backend, optional
        Runs the launches; without it they are only recorded.
    memory : int
        Bytes on each device.
    judge : real_cupy.Judge or None
        The real CuPy; by default the installed one. None: nothing is checked.

    Attributes
    ----------
    counts : Counter
        Kernel launches ('launches'), CuPy operations on the device ('operations'), synchronizations ('syncs'),
        'bytes up', 'bytes down', and the 'bytes' that launches and operations read and write, if they touch each
        value once.
    asked : set of (str, int, str)
        File and line where a name of the module was used; 'ndimage.<name>' for those of ``cupyx.scipy.ndimage``,
        'fft.<name>' for those of ``cupyx.scipy.fft``.
    live, peak : int
        Bytes of the arrays on all devices, now and at most.
    whole_copies : list of int
        Bytes of each array that CuPy itself copied up or down.
    pinned : list of int
        Bytes of each piece of pinned memory.
    """

    ndarray = FakeArray
    __version__ = "0"

    def __init__(self, compute_capability="90", runner=None, memory=2**40, judge="found"):
        self.judge = find_judge()[0] if judge == "found" else judge
        self.memory = memory
        self.launches, self.loaded, self.compiled = [], [], []
        self.pinned, self.whole_copies = [], []
        self.counts, self.asked = Counter(), set()
        #: number of allocations that fail before others succeed
        self.failures = 0
        self.releases = self.pinned_releases = 0
        self.live = self.peak = 0
        self._pinned_memory = weakref.WeakSet()
        self._thread = threading.local()
        self._streams = make_streams(self)
        self.cuda = self._make_cuda(compute_capability, getattr(runner, "device", runner))
        self.ndimage = self._make_module("ndimage", scipy.ndimage)
        self.fft = self._make_module("fft", scipy.fft)

    def _make_module(self, name, module):
        real = None if self.judge is None else self.judge.modules[f"cupyx.scipy.{name}"]
        return FakeModule(self, name, module, real)

    def _make_cuda(fake, compute_capability, runner):
        class Device:
            def __init__(self, number):
                self.id = number
                self.compute_capability = compute_capability
                self.attributes = {"MultiProcessorCount": 132, "MaxThreadsPerMultiProcessor": 2048}

            def use(self):
                fake.current = self.id

            def synchronize(self):
                fake.counts["syncs"] += 1
                fake._streams.finish(self.id)

            def __enter__(self):
                self.before, fake.current = fake.current, self.id
                return self

            def __exit__(self, *error):
                fake.current = self.before

        class Function:
            def __init__(self, name):
                self.name, self.ptr = name, id(self)

            def __call__(self, grid, block, arguments):
                fake._launch(runner, self.name, grid, block, arguments)

        class Module:
            def load(self, code):
                fake.loaded.append((fake.current, code))

            def get_function(self, name):
                return Function(name)

        def count_resident_blocks(function, block_threads, shared_bytes):
            # as limited by about 100 registers per thread
            assert isinstance(function, int)
            assert shared_bytes == 0
            return min(4, 2048 // block_threads)

        return SimpleNamespace(
            Device=Device,
            Stream=fake._streams.Stream,
            Event=fake._streams.Event,
            get_current_stream=fake._streams.current,
            get_elapsed_time=fake._streams.get_elapsed_time,
            alloc_pinned_memory=fake._alloc_pinned_memory,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            function=SimpleNamespace(Module=Module),
            driver=SimpleNamespace(
                CUDADriverError=CUDADriverError, occupancyMaxActiveBlocksPerMultiprocessor=count_resident_blocks
            ),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDeviceCount=lambda: 2,
                getDeviceProperties=lambda device: {"name": b"Fake", "totalGlobalMem": fake.memory},
                memGetInfo=lambda: (fake.memory, fake.memory),
            ),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0), getSupportedArchs=lambda: (75, 80, 90)),
        )

    # -------------------------------------------------------------------------------------------- devices and queue

    @property
    def current(self):
        """The current device of the thread."""
        return getattr(self._thread, "device", 0)

    @current.setter
    def current(self, device):
        self._thread.device = device

    @property
    def streams_of_thread(self):
        """Device -> current stream of the thread."""
        if not hasattr(self._thread, "streams"):
            self._thread.streams = {}
        return self._thread.streams

    @property
    def queue(self):
        """All work that waits, stream by stream."""
        return [work for stream in self._streams.all() for work in stream._queue]

    def finish(self):
        """Wait for the work of all streams."""
        self._streams.finish()

    def operate_on(self, reads, writes=()):
        """Finish the work of the current stream, and order an operation on arrays after it."""
        stream = self._streams.current()
        stream._run(stream._order(reads, writes))

    def _launch(self, runner, name, grid, block, arguments):
        for value in arguments:
            if isinstance(value, FakeArray) and value.device.id != self.current:
                msg = f"{name}: an array of device {value.device.id} for a kernel on device {self.current}"
                raise ValueError(msg)
        self.counts["launches"] += 1
        self.counts["bytes"] += _traffic(KERNELS[name.partition("(")[0]], arguments)
        self.launches.append(SimpleNamespace(name=name, grid=grid, block=block, arguments=arguments))
        if runner is not None:
            declared = KERNELS[name.partition("(")[0]].arguments
            arrays = [
                (value, kind.is_read_only)
                for value, kind in zip(arguments, declared, strict=False)
                if isinstance(value, FakeArray)
            ]
            self._streams.current()._add(
                lambda: run_on_host(runner, name, grid, block, arguments),
                [array for array, is_read_only in arrays if is_read_only],
                [array for array, is_read_only in arrays if not is_read_only],
            )

    # -------------------------------------------------------------------------------------------------------- memory

    def allocated(self, values):
        """Put values on the current device."""
        if self.failures:
            self.failures -= 1
            raise OutOfMemoryError("Out of memory allocating 1 bytes")
        self.live += values.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(values, self._free, values.nbytes)
        array = FakeArray(values, self.current, self)
        self._streams.current()._order((), [array])
        return array

    def _free(self, n_bytes):
        self.live -= n_bytes

    def get_default_memory_pool(self):
        def release():
            self.releases += 1

        return SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=release)

    def get_default_pinned_memory_pool(self):
        def release():
            self.pinned_releases += 1

        return SimpleNamespace(free_all_blocks=release)

    def _alloc_pinned_memory(self, n_bytes):
        memory = PinnedMemory(n_bytes)
        self.pinned.append(n_bytes)
        self._pinned_memory.add(memory)
        return memory

    def live_pinned_bytes(self):
        """Count the bytes of pinned memory in use."""
        return sum(map(len, self._pinned_memory))

    def pointer(self, array):
        """Return the equivalent of ``array.data`` in CuPy."""

        def start(address, n_bytes, stream, is_up):
            assert n_bytes == array.nbytes, f"{n_bytes} bytes for an array of {array.nbytes}"
            assert array.raw.flags.c_contiguous, "a plain copy of memory to or from an array with gaps"
            owners = [memory for memory in self._pinned_memory if memory.holds(address, n_bytes)]
            assert owners, "an asynchronous copy to or from memory that is not pinned"
            owner = weakref.ref(owners[0])

            def work():
                assert owner() is not None, "pinned memory was given back before the copy was done"
                on_host = np.frombuffer((ctypes.c_char * n_bytes).from_address(address), array.dtype)
                on_host = on_host.reshape(array.shape)
                np.copyto(*((array.raw, on_host) if is_up else (on_host, array.raw)))

            stream = stream or self._streams.current()
            stream._add(work, *(((), [array]) if is_up else ([array], ())))

        def copy_from_host_async(address, n_bytes, stream=None):
            self.counts["bytes up"] += n_bytes
            start(address, n_bytes, stream, True)

        def copy_to_host_async(address, n_bytes, stream=None):
            self.counts["bytes down"] += n_bytes
            start(address, n_bytes, stream, False)

        return SimpleNamespace(
            ptr=array.raw.ctypes.data, copy_from_host_async=copy_from_host_async, copy_to_host_async=copy_to_host_async
        )

    def note_download(self, n_bytes):
        """Record that CuPy copies a whole array down, and wait for it."""
        self.counts["syncs"] += 1
        self.counts["bytes down"] += n_bytes
        self.whole_copies.append(n_bytes)

    # ----------------------------------------------------------------------------------------------------- functions

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        real = None if self.judge is None else getattr(self.judge.cupy, name)
        self.note_asked(name)
        known = getattr(np, name)
        if isinstance(known, np.ufunc):
            return FakeUfunc(self, known, real)
        if isinstance(known, type) or not callable(known):
            return known
        return lambda *arguments, **options: operate(self, name, known, arguments, options, real)

    def note_asked(self, name):
        """Record where a name was used: in the caller of the function that calls this one."""
        frame = sys._getframe(2)
        self.asked.add((frame.f_code.co_filename, frame.f_lineno, name))

    def wrap(self, name, result, seen, given):
        return wrap(self, name, result, seen, given)

    def empty(self, shape, dtype=float, order="C"):
        self.note_asked("empty")
        self._check("empty", shape, dtype, order)
        return self.allocated(np.full(shape, GARBAGE, dtype, order))

    def empty_like(self, prototype, **options):
        self.note_asked("empty_like")
        real = None if self.judge is None else self.judge.cupy.empty_like
        made = operate(self, "empty_like", np.empty_like, (prototype,), options, real)
        made.raw[...] = GARBAGE
        return made

    def matmul(self, *arguments, **options):
        # not a ufunc in CuPy
        self.note_asked("matmul")
        real = None if self.judge is None else self.judge.cupy.matmul
        return operate(self, "matmul", np.matmul, arguments, options, real)

    def asarray(self, array, dtype=None, **options):
        self.note_asked("asarray")
        if isinstance(array, FakeArray):
            if dtype in (None, array.dtype) and not options:
                # CuPy returns it unchanged, but not without a device
                check_devices(self, [array])
                return array
            real = None if self.judge is None else self.judge.cupy.asarray
            return operate(self, "asarray", np.asarray, (array,), {"dtype": dtype, **options}, real)
        self._check("asarray", array, dtype, **options)
        values = np.array(array, dtype, order="C")
        self.whole_copies.append(values.nbytes)
        self.counts["bytes up"] += values.nbytes
        return self.allocated(values.astype(values.dtype.newbyteorder("="), copy=False))

    def asnumpy(self, array, **options):
        self.note_asked("asnumpy")
        return array.get(**options) if isinstance(array, FakeArray) else np.asarray(array)

    def _check(self, name, *arguments, **options):
        if self.judge is not None:
            self.judge.ask(getattr(self.judge.cupy, name), *arguments, **options)


def on_device(array, device=0, cupy=None):
    """Put values on a device without copying them through any buffer."""
    values = array.raw if isinstance(array, FakeArray) else np.asarray(array)
    return FakeArray(values, device, cupy or FakeCupy(judge=None))


def lowered_name(kernel, variant):
    """Return the name of an instantiation in the fake compiler."""
    return f"{kernel.name}{variant}"


def _traffic(kernel, arguments):
    """Return the bytes of a launch's arrays; those that it changes are read and written."""
    total = 0
    for argument, value in zip(kernel.arguments, arguments, strict=True):
        if isinstance(value, FakeArray):
            total += value.nbytes if argument.is_read_only else 2 * value.nbytes
    return total


def run_on_host(runner, name, grid, block, arguments):
    """Run a launch with the host build."""
    kernel, variant = next(
        (kernel, variant)
        for kernel in KERNELS.values()
        for variant in kernel.variants
        if lowered_name(kernel, variant) == name
    )
    values = {}
    for argument, value in zip(kernel.arguments, arguments, strict=True):
        if isinstance(value, FakeArray):
            values[argument.name] = value.raw
        else:
            values[argument.name] = None if argument.is_array else value
    runner.launch(name.partition("(")[0], grid, block, values, variant)


def make_fake_cupy(monkeypatch, folder, **options):
    """Make a fake CuPy with its ``cupyx``, a compiler that only records its calls, and an empty cache folder."""
    from gpucoron.backends.devices import cuda_loader

    fake = FakeCupy(**options)
    if fake.judge is not None:
        fake.judge.install(monkeypatch)
    cupyx = ModuleType("cupyx")
    cupyx.scipy = ModuleType("cupyx.scipy")
    # cupy.linalg imports it, for single matrices
    cupyx.lapack = ModuleType("cupyx.lapack")
    modules = {"cupyx": cupyx, "cupyx.scipy": cupyx.scipy}
    for name in ("ndimage", "fft"):
        modules[f"cupyx.scipy.{name}"] = getattr(fake, name)
        setattr(cupyx.scipy, name, getattr(fake, name))
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def compile_kernels(nvrtc, source, target, options=()):
        fake.compiled.append((source, target))
        names = {
            kernel.expression(variant): lowered_name(kernel, variant)
            for kernel in KERNELS.values()
            if kernel.source == source
            for variant in kernel.variants
        }
        return b"\x7fELF\ncode\n", names, ""

    monkeypatch.setattr(cuda_loader, "compile_kernels", compile_kernels)
    monkeypatch.setattr(cuda_loader, "cache_folder", lambda: folder / "cache")
    return fake
