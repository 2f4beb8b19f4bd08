"""Compile the CUDA kernels for the CPU that they run on, as fast as the compiler can make them, and keep them.

The sources are the device's. Kernels of which a thread keeps to its own pixel are compiled for one pixel with its time
axis contiguous (`kernels/host/native.hpp`); the others, and only if asked for, as loops over blocks of one thread.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

from gpucoron.backends.devices.host_device import build_once
from gpucoron.backends.devices.kernel_files import DTYPES, KERNELS, cache_folder, kernel_folder, source_digest

#: no contraction, as on the device; nothing here may change a bit of an answer
NATIVE_OPTIONS = (
    "-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
    "-shared", "-pthread", "-w",
)  # fmt: skip

#: with this in the environment nothing is compiled and NumPy does all
SWITCH = "GPUCORON_NATIVE"


class Array(ctypes.Structure):
    """An array as native.hpp has it."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("rows", ctypes.c_size_t),
        ("item", ctypes.c_size_t),
        ("is_read_only", ctypes.c_bool),
    )


def available():
    """Tell whether the kernels can be compiled for this CPU.

    Returns
    -------
    (bool, str)
        Whether they can, and by what; or why not.
    """
    if os.environ.get(SWITCH, "1") == "0":
        return False, f"{SWITCH}=0 in the environment"
    compiler = _compiler()
    if compiler is None:
        return False, "there is no g++ (or what CXX names) to compile the kernels for this CPU"
    try:
        kernel_folder()
        _target(compiler)
    except (FileNotFoundError, OSError, subprocess.SubprocessError) as error:
        return False, f"the kernels cannot be compiled for this CPU: {error}"
    return True, f"kernels compiled by {' '.join(compiler)}"


def _compiler():
    words = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    found = shutil.which(words[0])
    return None if found is None else (found, *words[1:])


@cache
def _target(compiler):
    """What the compiler makes of this CPU, and its version: a digest. A library of another CPU is never loaded."""
    told = subprocess.run(
        [*compiler, "-march=native", "-E", "-v", "-x", "c++", os.devnull], capture_output=True, check=True, text=True
    )
    return hashlib.sha256(told.stderr.encode()).hexdigest()


@cache
def library(source, by_pixel):
    """Load a kernel file's library, compiled if need be.

    Parameters
    ----------
    source : str
        As in `kernel_sources.SOURCES`.
    by_pixel : bool
        Which of its kernels: those of which a thread keeps to its own pixel, or the others.

    Raises
    ------
    RuntimeError, OSError
        It cannot be compiled or loaded; the message holds what the compiler said.
    """
    loaded = ctypes.CDLL(str(compile_natively(source, by_pixel)))
    loaded.gpucoron_launch.restype = ctypes.c_int
    return loaded


def compile_natively(source, by_pixel):
    """Compile a kernel file for this CPU, unless that was done before.

    Returns
    -------
    pathlib.Path
        The shared library, in the cache folder.
    """
    usable, reason = available()
    if not usable:
        raise RuntimeError(reason)
    compiler, text = _compiler(), native_source(source, by_pixel)
    options = [*NATIVE_OPTIONS, *(["-DGPUCORON_PIXELS"] if by_pixel else [])]
    key = repr((source_digest(source), text, options, compiler, _target(compiler)))
    kind = "pixels" if by_pixel else "plain"
    target = cache_folder() / f"native-{Path(source).stem}-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    return build_once(compiler, options, source, text, target)


@cache
def native_instantiations(source, by_pixel):
    """List what a native library has: (kernel, variant), without those of which threads share a pixel or a row."""
    return tuple(
        (kernel, variant)
        for kernel in KERNELS.values()
        if kernel.source == source and kernel.by_pixel == by_pixel
        for variant in kernel.variants
        if not (variant and kernel.name in ("search_jumps", "summarize_rows") and variant[1] > 1)
    )


def native_source(source, by_pixel):
    """Write the C++ file that offers the kernels by number; types are checked against the table."""
    types = {
        dtype: name if name in ("int", "float", "double") else f"gpucoron::{name}" for name, dtype in DTYPES.items()
    }
    cases = []
    for number, (kernel, variant) in enumerate(native_instantiations(source, by_pixel)):
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
                lines.append(f"const auto {name} = *static_cast<const {types[argument.dtype]}*>(arguments[{index}]);")
                passed.append(name)
        call = f"{kernel.expression(variant)}({', '.join(passed)});"
        if by_pixel:
            lines.append(
                f"gpucoron::host::launch(arrays, {len(kernel.arguments)}, n_pixels, n_workers, "
                f"[&](char* const* at) {{ {call} }});"
            )
        else:
            lines.append(f"gpucoron::host::launch(geometry, n_workers, [&] {{ {call} }});")
        body = "\n      ".join(
            [
                f"[[maybe_unused]] {kernel.signature.replace('(*)', '(*checked)')} = {kernel.expression(variant)};",
                *lines,
            ]
        )
        cases.append(f"    case {number}: {{\n      {body}\n      return 0;\n    }}\n")
    taken = "const gpucoron::host::Array* arrays" if by_pixel else "const unsigned* geometry"
    return (
        f'#include "host/native.hpp"\n#include "{source}"\n\n'
        f'extern "C" int gpucoron_launch(int number, {taken}, unsigned n_workers, void** arguments) {{\n'
        f"  switch (number) {{\n{''.join(cases)}    default: return 1;\n  }}\n}}\n"
    )
