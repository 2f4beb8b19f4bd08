"""First contact: the machine, the compiler, and CuPy's own operations."""

import ctypes
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec

import bench_gpu
import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.devices import build, cuda_loader
from gpucoron.backends.devices.cuda_loader import KernelLoader
from gpucoron.backends.kernel_files import CUDA_SOURCES, cache_folder, instantiations
from tests.tools.sanitize_gpu import find_sanitizer

#: packages that the tests and comparisons can run without
OPTIONAL = ("pytest", "xdist", "hypothesis", "astropy", "jwst")


def describe_machine(part):
    """Describe the machine, and check that the device can be used at all."""
    if not part.rehearse:
        for command in (["nvidia-smi", "-L"], ["nvcc", "--version"]):
            part.say("    ", _last_line(command))
    here = {name: find_spec(name) is not None for name in OPTIONAL}
    here |= {"g++": shutil.which("g++") is not None, "compute-sanitizer": find_sanitizer() is not None}
    part.keep(here=here)
    part.say("     installed:", ", ".join(name for name in here if here[name]))
    part.say("     not installed:", ", ".join(name for name in here if not here[name]))

    def describe():
        machine = bench_gpu.describe(part.backend)
        part.keep(machine=machine)
        return ", ".join(f"{key} {value}" for key, value in machine.items())

    part.check("the device can be used", describe)


def _last_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return (done.stdout.strip() or done.stderr.strip() or command[0]).splitlines()[-1]


def compile_everything(part):
    """Compile and load every kernel file in parallel, including every function of the table."""
    part.say(f"     kept in {cache_folder()} (GPUCORON_CACHE: {os.environ.get('GPUCORON_CACHE', 'not set')})")
    load, compiled = (_prepare_device if part.backend.name == "cuda" else _prepare_host)(part.backend)

    def timed(source):
        start, error = time.perf_counter(), None
        try:
            load(source)
        except Exception as raised:
            error = raised
        return source, time.perf_counter() - start, error

    start = time.perf_counter()
    with ThreadPoolExecutor(len(CUDA_SOURCES)) as pool:
        for future in as_completed([pool.submit(timed, source) for source in CUDA_SOURCES]):
            source, seconds, error = future.result()
            n_functions = len(instantiations(source))
            message = f"{n_functions} functions, {'compiled' if source in compiled else 'from the cache'}"
            if error is not None:
                # Print the first errors of the compiler; later ones follow from them.
                lines = [line for line in str(error).splitlines() if "error" in line] or str(error).splitlines()
                message = "\n".join(lines[:4])
            part.note(f"{source} is loaded", error is None, message, seconds)
    part.keep(seconds=time.perf_counter() - start, compiled=sorted(compiled))


def _prepare_device(backend):
    """Return a function that loads the kernels of a file on the device, and the set of the compiled files."""
    loader, compile_kernels, compiled = KernelLoader(backend.xp), cuda_loader.compile_kernels, set()

    def compile_and_note(nvrtc, source, *arguments):
        compiled.add(source)
        return compile_kernels(nvrtc, source, *arguments)

    def load(source):
        # A new thread has no CUDA context yet.
        backend.synchronize()
        for kernel, variant in instantiations(source):
            loader.function(backend.device.device, kernel.name, variant)

    cuda_loader.compile_kernels = compile_and_note
    return load, compiled


def _prepare_host(backend):
    """As `_prepare_device`, for the host build."""
    compiled, before = set(), {path.name for path in cache_folder().glob("host-*")}

    def load(source):
        library = build.compile_for_host(source)
        if library.name not in before:
            compiled.add(source)
        ctypes.CDLL(str(library))

    return load, compiled


#: CuPy features that the light steps and the launches use: of the namespace, its ndimage and arrays
OPERATIONS = {
    "flags are set row by row": lambda xp, ndimage, data, flags: [_set_flags(flags.copy())],
    "flags are counted": lambda xp, ndimage, data, flags: [xp.count_nonzero(flags & 4), (flags > 0).sum()],
    "running sums": lambda xp, ndimage, data, flags: [xp.cumsum(flags, axis=1, dtype=np.int32)],
    "sums of whole numbers": lambda xp, ndimage, data, flags: [flags.sum(axis=0, dtype=np.int64)],
    "NaN": lambda xp, ndimage, data, flags: [xp.isnan(data), xp.nan_to_num(data), xp.isfinite(data).all(axis=0)],
    "medians": lambda xp, ndimage, data, flags: [xp.median(xp.nan_to_num(data), axis=1), xp.nanmedian(data, axis=0)],
    "choices": lambda xp, ndimage, data, flags: [xp.where(flags > 2, data, np.float32(0)), xp.maximum(flags, 3)],
    "axes": lambda xp, ndimage, data, flags: [
        xp.ascontiguousarray(xp.moveaxis(data, 0, 1)),
        xp.ascontiguousarray(xp.broadcast_to(flags[:1], flags.shape)),
        xp.stack([data, data])[:, 1:-1],
        xp.concatenate([flags, flags])[xp.nonzero(flags[:, 0])[0]],
    ],
    "float32 stays float32": lambda xp, ndimage, data, flags: [data * 2 - data[:1] / 3, xp.sqrt(xp.abs(data))],
    "masks grow": lambda xp, ndimage, data, flags: [
        ndimage.binary_dilation(flags > 3, structure=xp.ones((3, 3), bool)),
    ],
}


def _set_flags(flags):
    for row in flags[1:]:
        row |= flags[0]
        row &= np.uint8(0xFB)
    return flags


def try_operations(part):
    """Compare CuPy's own operations with NumPy's, and time the smallest: light steps consist of thousands of them."""
    rng = np.random.default_rng(4)
    data, flags = rng.normal(5, 3, (37, 53)).astype(np.float32), rng.integers(0, 6, (37, 53)).astype(np.uint8)
    data[rng.random(data.shape) < 0.05] = np.nan
    for name, operation in OPERATIONS.items():

        def run(backend, operation=operation):
            given = backend.to_device(data.copy()), backend.to_device(flags.copy())
            answers = operation(backend.xp, backend.ndimage, *given)
            return {str(number): backend.xp.asarray(answer) for number, answer in enumerate(answers)}

        part.compare(name, run, get_backend("numpy", n_threads=1))
    part.check("the cost of an operation", lambda: _time_operations(part))


def _time_operations(part):
    backend, n = part.backend, 20 if part.rehearse else 2000
    flags, plane = backend.zeros((60, 64), np.uint8), backend.zeros((64,), np.uint8)

    def set_row():
        row = flags[3]
        row |= plane

    operations = {
        "row |= row": set_row,
        "flags[3]": lambda: flags[3],
        "int((flags != 0).sum())": lambda: int((flags != 0).sum()),
        "empty((60, 64))": lambda: backend.empty((60, 64), np.float32),
    }
    microseconds = {}
    for name, operation in operations.items():
        operation()
        backend.synchronize()
        start = time.perf_counter()
        for _ in range(n):
            operation()
        backend.synchronize()
        microseconds[name] = (time.perf_counter() - start) / n * 1e6
    part.keep(microseconds=microseconds)
    return ", ".join(f"{name} {cost:.1f} us" for name, cost in microseconds.items())
