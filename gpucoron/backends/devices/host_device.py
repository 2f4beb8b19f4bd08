"""The CUDA kernels on the CPU: the same files, compiled by g++ against a small shim and called through ctypes.

It proves the kernels where there is no GPU. It is no faster than NumPy and is not meant for work.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from gpucoron.backends.devices.kernel_device import KernelDevice
from gpucoron.backends.devices.kernel_files import (
    KERNELS,
    cache_folder,
    instantiations,
    kernel_folder,
    source_digest,
)
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.tiles import available_cores
from gpucoron.files import appearing

#: no contraction, as on the device; warnings are errors
HOST_OPTIONS = (
    "-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread",
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
)  # fmt: skip


def available():
    """Tell whether the kernels can be compiled for the host.

    Returns
    -------
    (bool, str)
        Whether they can, and by what; or why not.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        return False, "there is no g++ to compile the kernels for the host"
    try:
        kernel_folder()
    except FileNotFoundError as error:
        return False, str(error)
    return True, compiler


class HostDevice(KernelDevice):
    """Heavy operations by the CUDA kernels, compiled for the host.

    Parameters
    ----------
    n_threads : int, optional
        Workers over the blocks of a launch; by default the cores that this process may use.
    sanitize : str, optional
        For g++'s ``-fsanitize``; by default what the environment's ``GPUCORON_HOST_SANITIZE`` says. The process must
        have the sanitizer's library loaded before (``LD_PRELOAD``).
    lanes : {1, 4}
        Threads that share a pixel where a kernel can do so.
    max_memory : int, optional
        Bytes that an exposure may take; by default there is no limit. An exposure that needs more is worked on in
        chunks, as on a device.
    scratch_dir : path, optional
        For the ramps of an exposure that the host's memory does not hold.
    defines : sequence of str
        Macros that the kernels are compiled with ('NAME=value'), for measurements of variants.
    """

    name = "host"
    xp = np
    # Few, since where threads wait for each other they are real ones; lanes need a whole warp.
    block_threads = 32
    frame_threads = 4

    words_at_once = 2**18

    # Block and grid sizes are global in the shim: one launch at a time.
    _launching = threading.Lock()

    def __init__(self, n_threads=None, *, sanitize=None, lanes=1, max_memory=None, scratch_dir=None, defines=()):
        self.n_threads = available_cores() if n_threads is None else int(n_threads)
        self._sanitize = os.environ.get("GPUCORON_HOST_SANITIZE", "") if sanitize is None else sanitize
        self._lanes = lanes
        self.max_memory, self.scratch_dir = max_memory, scratch_dir
        self._defines = tuple(defines)

    def memory_limit(self, held=0):
        return self.max_memory

    def choose_lanes(self, n_pixels, n_units):
        return self._lanes

    def launch(self, name, grid, block, values, variant=()):
        kernel = KERNELS[name]
        arguments = checked_arguments(kernel, values, lambda array: isinstance(array, np.ndarray))
        addresses, keep = argument_addresses(arguments)
        library = _library(kernel.source, self._sanitize, self._defines)
        number = instantiations(kernel.source).index((kernel, tuple(variant)))
        shape = (ctypes.c_uint * 4)(*grid, block[0])
        with self._launching:
            status = library.gpucoron_launch(number, shape, ctypes.c_uint(self.n_threads), addresses)
        del keep
        if status != 0:
            msg = f"kernel {name}{tuple(variant)} is not in the compiled library"
            raise RuntimeError(msg)


def argument_addresses(arguments):
    """Make what cuLaunchKernel takes: an array of addresses of the arguments, and what must live as long."""
    keep = []
    for argument in arguments:
        if argument is None:
            keep.append(ctypes.c_void_p(None))
        elif isinstance(argument, np.ndarray):
            keep.append(ctypes.c_void_p(argument.ctypes.data))
        else:
            keep.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item()))
    pointers = (ctypes.c_void_p * len(keep))(*(ctypes.cast(ctypes.byref(item), ctypes.c_void_p) for item in keep))
    return pointers, (keep, arguments)


@cache
def _library(source, sanitize, defines):
    library = ctypes.CDLL(str(compile_for_host(source, sanitize, defines)))
    library.gpucoron_launch.restype = ctypes.c_int
    return library


def compile_for_host(source, sanitize="", defines=()):
    """Compile one kernel file for the host, unless that was done before.

    Returns
    -------
    pathlib.Path
        The shared library, in the cache folder.

    Raises
    ------
    RuntimeError
        The compiler failed; the message holds what it said.
    """
    usable, compiler = available()
    if not usable:
        raise RuntimeError(compiler)
    options = [*HOST_OPTIONS, *(f"-D{define}" for define in defines)]
    if sanitize:
        # Instrumented code takes long to optimise.
        options += [f"-fsanitize={sanitize}", "-g1", "-O0", "-fno-sanitize-recover=undefined"]
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(repr((source_digest(source), host_source(source), options, version)).encode()).hexdigest()[:20]
    target = cache_folder() / f"host-{Path(source).stem}-{key}.so"
    return build_once([compiler], options, source, host_source(source), target)


def build_once(compiler, options, source, text, target):
    """Compile the text of a C++ file that includes a kernel file into a shared library, unless that was done before.

    Parameters
    ----------
    compiler : sequence of str
        The command and its own arguments.
    options : sequence of str
    source, text : str
        The kernel file's name, for messages; the C++ file.
    target : Path
        Of the library.

    Returns
    -------
    Path
        ``target``.

    Raises
    ------
    RuntimeError
        The compiler failed; the message holds what it said.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and moved into place: another process never loads half a library, and waits for this one's.
    with locked(target.with_suffix(".lock")):
        if not target.exists():
            with appearing(target) as (built,):
                _compile(compiler, options, source, text, built)
    return target


def _compile(compiler, options, source, text, built):
    folder = kernel_folder()
    with tempfile.TemporaryDirectory() as workplace:
        code = Path(workplace) / f"{Path(source).stem}.cpp"
        code.write_text(text, encoding="utf-8")
        command = [*compiler, *options, f"-I{folder / 'include'}", f"-I{folder}", str(code), "-o", str(built)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            msg = f"{compiler[0]} could not compile {source}:\n{result.stderr}"
            raise RuntimeError(msg)


@contextmanager
def locked(path):
    """Hold a file's lock, against other processes."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def host_source(source):
    """Write the C++ file that offers a kernel file's instantiations by number, types checked against the table."""
    cases = []
    for number, (kernel, variant) in enumerate(instantiations(source)):
        waits = str(kernel.waits[kernel.variants.index(variant)]).lower()
        cases.append(
            f"    case {number}: {{\n"
            f"      {kernel.signature.replace('(*)', '(*kernel)')} = {kernel.expression(variant)};\n"
            f"      gpucoron::host::launch<{waits}>(kernel, geometry, n_workers, arguments);\n"
            "      return 0;\n    }\n"
        )
    return (
        f'#include "host/cuda_shim.hpp"\n#include "{source}"\n\n'
        'extern "C" int gpucoron_launch(int number, const unsigned* geometry, unsigned n_workers, void** arguments) {\n'
        f"  switch (number) {{\n{''.join(cases)}    default: return 1;\n  }}\n}}\n"
    )
