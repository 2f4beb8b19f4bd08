"""Shared libraries of the CUDA kernels for the CPU: compiled when first asked for, kept, and how they are called.

The sources are the device's. The host build (`kernels/host/cuda_shim.hpp`) proves them where there is no GPU, threads
and barriers included. The native build (`kernels/host/native.hpp`) is as fast as the compiler can make it: kernels of
which a thread keeps to its own pixel are compiled for one pixel with its time axis contiguous; the others, and only if
asked for, as loops over blocks of one thread.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from gpucoron.backends.kernel_files import cache_folder, instantiations, kernel_folder, source_digest
from gpucoron.files import appearing

#: no contraction, as on the device; warnings are errors
HOST_OPTIONS = (
    "-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread",
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
)  # fmt: skip

#: no contraction, as on the device; nothing here may change a bit of an answer
NATIVE_OPTIONS = (
    "-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
    "-shared", "-pthread", "-w",
)  # fmt: skip

#: with this in the environment nothing is compiled natively and NumPy does all
SWITCH = "GPUCORON_NATIVE"


def host_available():
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


def native_available():
    """Tell whether the kernels can be compiled natively, as `host_available` does for the host."""
    if os.environ.get(SWITCH, "1") == "0":
        return False, f"{SWITCH}=0 in the environment"
    compiler = _native_compiler()
    if compiler is None:
        return False, "there is no g++ (or what CXX names) to compile the kernels for this CPU"
    try:
        kernel_folder()
        _target(compiler, "-march=native")
    except (OSError, subprocess.SubprocessError) as error:
        return False, f"the kernels cannot be compiled for this CPU: {error}"
    return True, f"kernels compiled by {' '.join(compiler)}"


def _native_compiler():
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    found = shutil.which(words[0])
    return None if found is None else (found, *words[1:])


@cache
def _target(compiler, *options):
    """Digest what the compiler makes of this CPU, and its version: a library of another CPU is never loaded."""
    command = [*compiler, *options, "-E", "-v", "-x", "c++", os.devnull]
    told = subprocess.run(command, capture_output=True, check=True, text=True)
    return hashlib.sha256(told.stderr.encode()).hexdigest()


@cache
def host_library(source, sanitize="", defines=()):
    """Load a kernel file's library of the host build; see `compile_for_host`."""
    return _load(compile_for_host(source, sanitize, defines))


@cache
def library(source, by_pixel):
    """Load a kernel file's native library, compiled if need be.

    Parameters
    ----------
    source : str
        As in `gpucoron.backends.kernel_files.SOURCES`.
    by_pixel : bool
        Which of its kernels: those of which a thread keeps to its own pixel, or the others.

    Raises
    ------
    RuntimeError, OSError
        It cannot be compiled or loaded; the message holds what the compiler said.
    """
    usable, reason = native_available()
    if not usable:
        raise RuntimeError(reason)
    name = f"native-{Path(source).stem}-{'pixels' if by_pixel else 'plain'}"
    options = [*NATIVE_OPTIONS, *(["-DGPUCORON_PIXELS"] if by_pixel else [])]
    return _load(_build(name, source, native_source(source, by_pixel), _native_compiler(), options))


def _load(path):
    loaded = ctypes.CDLL(str(path))
    loaded.gpucoron_launch.restype = ctypes.c_int
    return loaded


def compile_for_host(source, sanitize="", defines=()):
    """Compile one kernel file for the host, unless that was done before.

    Parameters
    ----------
    source : str
        As in `gpucoron.backends.kernel_files.SOURCES`.
    sanitize : str
        For g++'s ``-fsanitize``.
    defines : sequence of str
        Macros: 'NAME=value'.

    Returns
    -------
    pathlib.Path
        The shared library, in the cache folder.

    Raises
    ------
    RuntimeError
        The compiler is missing or failed; the message holds what it said.
    """
    usable, compiler = host_available()
    if not usable:
        raise RuntimeError(compiler)
    options = [*HOST_OPTIONS, *(f"-D{define}" for define in defines)]
    if sanitize:
        # Instrumented code takes long to optimise.
        options += [f"-fsanitize={sanitize}", "-g1", "-O0", "-fno-sanitize-recover=undefined"]
    return _build(f"host-{Path(source).stem}", source, host_source(source), (compiler,), options)


def _build(name, source, text, compiler, options):
    """Compile the text of a C++ file that includes a kernel file into the cache folder, unless it is there."""
    import fcntl

    target = _target(compiler, *(option for option in options if option.startswith("-march")))
    key = hashlib.sha256(repr((source_digest(source), text, options, compiler, target)).encode()).hexdigest()[:20]
    path = cache_folder() / f"{name}-{key}.so"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Built aside and moved into place: another process never loads half a library, and waits for this one's.
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with appearing(path) as (built,):
                _compile(compiler, options, source, text, built)
    return path


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


def host_source(source):
    """Write the C++ file that offers a kernel file's instantiations by number, types checked against the functions."""
    bodies = []
    for kernel, variant in instantiations(source):
        waits = str(kernel.waits[kernel.variants.index(variant)]).lower()
        named = f"{kernel.signature.replace('(*)', '(*kernel)')} = {kernel.expression(variant)};"
        bodies.append([named, f"gpucoron::host::launch<{waits}>(kernel, geometry, n_workers, arguments);"])
    return _offer("cuda_shim.hpp", source, "const unsigned* geometry", bodies)


@cache
def native_instantiations(source, by_pixel):
    """List what a native library has: (kernel, variant), without those of which threads share a pixel or a row."""
    return tuple(
        (kernel, variant)
        for kernel, variant in instantiations(source)
        if kernel.by_pixel == by_pixel and (kernel.lanes is None or variant[kernel.lanes] == 1)
    )


def native_source(source, by_pixel):
    """Write the C++ file of a native library, as `host_source`."""
    bodies = []
    for kernel, variant in native_instantiations(source, by_pixel):
        lines, passed = [], []
        for index, argument in enumerate(kernel.arguments):
            if by_pixel and argument.name == "n_pixels":
                lines.append(f"const auto n_pixels = *static_cast<const gpucoron::int64*>(arguments[{index}]);")
                passed.append("gpucoron::int64(1)")
            elif argument.is_array:
                place = f"at[{index}]" if by_pixel else f"*static_cast<void**>(arguments[{index}])"
                passed.append(f"({argument.declaration})({place})")
            else:
                name = f"value_{index}"
                lines.append(f"const auto {name} = *static_cast<const {argument.declaration}*>(arguments[{index}]);")
                passed.append(name)
        call = f"{kernel.expression(variant)}({', '.join(passed)});"
        if by_pixel:
            arrays = f"arrays, {len(kernel.arguments)}, n_pixels, n_workers"
            call = f"gpucoron::host::launch({arrays}, [&](char* const* at) {{ {call} }});"
        else:
            call = f"gpucoron::host::launch(geometry, n_workers, [&] {{ {call} }});"
        checked = f"[[maybe_unused]] {kernel.signature.replace('(*)', '(*checked)')} = {kernel.expression(variant)};"
        bodies.append([checked, *lines, call])
    taken = "const gpucoron::host::Array* arrays" if by_pixel else "const unsigned* geometry"
    return _offer("native.hpp", source, taken, bodies)


def _offer(header, source, taken, bodies):
    """Write what takes an instantiation's number and runs its lines; without the number it answers 1."""
    cases = ""
    for number, lines in enumerate(bodies):
        body = "\n      ".join([*lines, "return 0;"])
        cases += f"    case {number}: {{\n      {body}\n    }}\n"
    return (
        f'#include "host/{header}"\n#include "{source}"\n\n'
        f'extern "C" int gpucoron_launch(int number, {taken}, unsigned n_workers, void** arguments) {{\n'
        f"  switch (number) {{\n{cases}    default: return 1;\n  }}\n}}\n"
    )


class Array(ctypes.Structure):
    """An array as native.hpp has it."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("rows", ctypes.c_size_t),
        ("item", ctypes.c_size_t),
        ("is_read_only", ctypes.c_bool),
    )


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
