"""A stand-in for CuPy with two devices: it notes launches, and runs them through the host build if it is given one.

Like a device it does nothing at once: copies and launches wait in a queue until somebody waits for them, so that a
buffer which is filled again too early shows in the numbers.
"""

import ctypes
from types import SimpleNamespace

import numpy as np

from gpucoron.backends.kernel_sources import KERNELS


class FakeArray(np.ndarray):
    """An array that claims to lie on a device."""

    device = SimpleNamespace(id=0)
    cupy = None

    def __array_finalize__(self, origin):
        self.device = getattr(origin, "device", FakeArray.device)
        self.cupy = getattr(origin, "cupy", None)

    @property
    def data(self):
        return SimpleNamespace(copy_from_host_async=self._copy_from_host_async)

    def sum(self, *arguments, **options):
        self.cupy.finish()
        return self.view(np.ndarray).sum(*arguments, **options)

    def _copy_from_host_async(self, address, n_bytes, stream):
        assert n_bytes == self.nbytes
        words = (ctypes.c_char * n_bytes).from_address(address)

        def copy():
            self.view(np.ndarray)[...] = np.frombuffer(words, self.dtype).reshape(self.shape)

        self.cupy.queue.append(copy)


def on_device(array, device=0, cupy=None):
    fake = np.asarray(array).view(FakeArray)
    fake.device = SimpleNamespace(id=device)
    fake.cupy = cupy
    return fake


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class FakeCupy:
    """What the CUDA backend uses of CuPy.

    Parameters
    ----------
    compute_capability : str
    runner : HostBackend, optional
        Runs the launches; without it they are only noted.
    memory : int
        Bytes on each device.
    """

    ndarray = FakeArray
    __version__ = "0"

    def __init__(self, compute_capability="90", runner=None, memory=2**40):
        self.launches = []
        self.loaded = []
        self.compiled = []
        self.queue = []
        self.pinned = []
        self.current = None
        self.memory = memory
        #: allocations that fail before others succeed
        self.failures = 0
        self.releases = 0
        fake = self

        class Device:
            def __init__(self, number):
                self.id = number
                self.compute_capability = compute_capability
                self.attributes = {"MultiProcessorCount": 132, "MaxThreadsPerMultiProcessor": 2048}

            def use(self):
                fake.current = self.id

            def synchronize(self):
                fake.finish()

            def __enter__(self):
                self.before, fake.current = fake.current, self.id
                return self

            def __exit__(self, *error):
                fake.current = self.before

        class Stream:
            def record(self):
                marker = fake.queue[-1] if fake.queue else None
                return SimpleNamespace(synchronize=lambda: fake.finish(marker) if marker else None)

        class Module:
            def load(self, code):
                fake.loaded.append((fake.current, code))

            def get_function(self, name):
                def launch(grid, block, arguments):
                    fake.launches.append(SimpleNamespace(name=name, grid=grid, block=block, arguments=arguments))
                    if runner is not None:
                        fake.queue.append(lambda: run_on_host(runner, name, grid, block, arguments))

                return launch

        self.cuda = SimpleNamespace(
            Device=Device,
            Stream=Stream,
            get_current_stream=Stream,
            alloc_pinned_memory=self._alloc_pinned_memory,
            function=SimpleNamespace(Module=Module),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 2,
                getDeviceProperties=lambda device: {"name": b"Fake"},
                memGetInfo=lambda: (fake.memory, fake.memory),
            ),
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0), getSupportedArchs=lambda: (75, 80, 90)),
        )

    def finish(self, until=None):
        """Do what waits in the queue, in its order."""
        while self.queue:
            work = self.queue.pop(0)
            work()
            if work is until:
                break

    def _alloc_pinned_memory(self, n_bytes):
        self.pinned.append(n_bytes)
        return bytearray(n_bytes)

    def get_default_memory_pool(self):
        def release():
            self.releases += 1

        return SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=release)

    def _allocated(self, array):
        if self.failures:
            self.failures -= 1
            raise OutOfMemoryError("Out of memory allocating 1 bytes")
        return on_device(array, self.current, self)

    def empty(self, shape, dtype):
        return self._allocated(np.full(shape, 123, dtype))

    def zeros(self, shape, dtype):
        return self._allocated(np.zeros(shape, dtype))

    def ones(self, shape, dtype):
        return self._allocated(np.ones(shape, dtype))

    def asarray(self, array):
        if isinstance(array, FakeArray):
            return array
        return self._allocated(np.array(array, order="C"))

    def ascontiguousarray(self, array):
        return np.asanyarray(array, order="C")

    def asnumpy(self, array):
        self.finish()
        return np.array(array)


def lowered_name(kernel, variant):
    """Name an instantiation as the fake compiler does."""
    return f"{kernel.name}{variant}"


def run_on_host(runner, name, grid, block, arguments):
    """Run a launch through the host build."""
    kernel, variant = next(
        (kernel, variant)
        for kernel in KERNELS.values()
        for variant in kernel.variants
        if lowered_name(kernel, variant) == name
    )
    values = {}
    for argument, value in zip(kernel.arguments, arguments, strict=True):
        if isinstance(value, np.ndarray):
            values[argument.name] = value.view(np.ndarray)
        else:
            values[argument.name] = None if argument.is_array else value
    runner.launch(name.partition("(")[0], grid, block, values, variant)


def make_fake_cupy(monkeypatch, folder, **options):
    """Make a fake CuPy, a compiler that only notes what it was asked for, and an empty cache folder."""
    from gpucoron.backends import cuda_loader

    fake = FakeCupy(**options)

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
