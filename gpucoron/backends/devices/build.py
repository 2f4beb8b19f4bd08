"""Shared libraries of the CUDA kernels for the CPU: compiled at first use, cached, and called through ctypes.

The sources are those of the GPU. The host build (`kernels/host/cuda_shim.hpp`) tests them without a GPU, with real
threads and barriers. The native build (`kernels/host/native.hpp`) is optimized for speed: kernels in which a thread
accesses only its own pixel are compiled for one pixel with a contiguous time axis, the others as loops over blocks of
one thread.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np

from gpucoron.backends.kernel_files import cache_folder, instantiations, kernel_folder, source_digest

#: no contraction, as on the device; warnings are errors
HOST_OPTIONS = (
    "-std=c++20", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-pthread",
    "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas",
)  # fmt: skip

#: no contraction, as on the device; no option may change the bits of a result
NATIVE_OPTIONS = (
    "-std=c++20", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC",
    "-shared", "-pthread", "-w",
)  # fmt: skip

#: environment variable. With the value 0 NumPy runs all operations and nothing is compiled. With the value wait,
#: kernels are compiled before they are first needed, otherwise in the background while NumPy does their work.
SWITCH = "GPUCORON_NATIVE"
#: end of the name of the folder in which a library is compiled; its name begins with that of the library
DRAFT = ".draft"
#: seconds between attempts to get the lock of a library that another process is compiling
_PAUSE = 0.1
#: compilers at a lower priority leave the processor to the run
_NICENESS = 10


def host_available():
    """Return whether the kernels can be compiled for the host.

    Returns
    -------
    (bool, str)
        Whether they can, and the compiler or the reason why not.
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
    """Return whether the kernels can be compiled natively; the result is as in `host_available`."""
    if os.environ.get(SWITCH, "1") == "0":
        return False, f"the environment sets {SWITCH}=0"
    try:
        compiler = _native_compiler()
    except ValueError as error:
        return False, f"CXX={os.environ['CXX']} is not a command: {error}"
    if compiler is None:
        return False, "there is no g++ (or compiler named by CXX) to compile the kernels for this CPU"
    try:
        kernel_folder()
        _target(compiler, "-march=native")
    except (OSError, subprocess.SubprocessError) as error:
        return False, f"the kernels cannot be compiled for this CPU: {error}"
    return True, f"kernels compiled by {' '.join(compiler)}"


def waits_for_compilations():
    """Return whether an operation waits for its kernels to be compiled, instead of working in NumPy meanwhile."""
    return os.environ.get(SWITCH) == "wait"


def _native_compiler():
    command = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    found = shutil.which(command[0])
    return None if found is None else (found, *command[1:])


@cache
def _target(compiler, *options):
    """Return a digest of the compiler's version and its options for this CPU; each CPU needs its own libraries."""
    command = [*compiler, *options, "-E", "-v", "-x", "c++", os.devnull]
    result = subprocess.run(command, capture_output=True, check=True)
    return hashlib.sha256(result.stderr).hexdigest()


@cache
def host_library(source, sanitize="", defines=()):
    """Load a kernel file's library of the host build; see `compile_for_host`."""
    return _load(compile_for_host(source, sanitize, defines))


@cache
def library(source, by_pixel):
    """Load the native library of a kernel file; compile it if necessary.

    Parameters
    ----------
    source : str
        As in `gpucoron.backends.kernel_files.SOURCES`.
    by_pixel : bool
        The library with the kernels in which a thread accesses only its own pixel, or with the others.

    Raises
    ------
    RuntimeError, OSError
        It cannot be compiled or loaded; the message includes that of the compiler.
    """
    usable, reason = native_available()
    if not usable:
        raise RuntimeError(reason)
    return _load(_build(*_native_recipe(source, by_pixel)))


def native_path(source, by_pixel):
    """Return the path in the cache folder of a native library, whether it is compiled or not; see `library`.

    Raises
    ------
    OSError, subprocess.SubprocessError
        There is no compiler.
    """
    return _path(*_native_recipe(source, by_pixel))


def compile_natively(source, by_pixel, *, in_background=False):
    """Compile a native library without loading it, unless it is cached; return its path. See `library`.

    In the background, `stop_compilers` ends it, with a RuntimeError.
    """
    return _build(*_native_recipe(source, by_pixel), in_background=in_background)


def was_stopped(source, by_pixel):
    """Return whether a compilation of a native library began in a process that ended before it was finished."""
    import fcntl

    path = native_path(source, by_pixel)
    try:
        with path.with_suffix(".lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no other process compiles it now
            return not path.exists()
    except OSError:
        return False


def _native_recipe(source, by_pixel):
    """Return the arguments of `_build` for a native library."""
    name = f"native-{Path(source).stem}-{'pixels' if by_pixel else 'plain'}"
    options = [*NATIVE_OPTIONS, *(["-DGPUCORON_PIXELS"] if by_pixel else [])]
    return name, source, native_source(source, by_pixel), _native_compiler(), options


def _load(path):
    loaded = ctypes.CDLL(str(path))
    loaded.gpucoron_launch.restype = ctypes.c_int
    return loaded


def compile_for_host(source, sanitize="", defines=()):
    """Compile one kernel file for the host, unless the library is cached.

    Parameters
    ----------
    source : str
        As in `gpucoron.backends.kernel_files.SOURCES`.
    sanitize : str
        Value of g++'s ``-fsanitize``.
    defines : sequence of str
        Macros: 'NAME=value'.

    Returns
    -------
    pathlib.Path
        The shared library, in the cache folder.

    Raises
    ------
    RuntimeError
        The compiler is missing or failed; the message includes its output.
    """
    usable, compiler = host_available()
    if not usable:
        raise RuntimeError(compiler)
    options = [*HOST_OPTIONS, *(f"-D{define}" for define in defines)]
    if sanitize:
        # Optimizing instrumented code is slow.
        options += [f"-fsanitize={sanitize}", "-g1", "-O0", "-fno-sanitize-recover=undefined"]
    return _build(f"host-{Path(source).stem}", source, host_source(source), (compiler,), options)


def _path(name, source, text, compiler, options):
    """Return the path of a library; its name has a digest of all that its code depends on."""
    target = _target(compiler, *(option for option in options if option.startswith("-march")))
    key = hashlib.sha256(repr((source_digest(source), text, options, compiler, target)).encode()).hexdigest()[:20]
    return cache_folder() / f"{name}-{key}.so"


def _build(name, source, text, compiler, options, *, in_background=False):
    """Compile a C++ text that includes a kernel file into the cache folder, unless the library is there."""
    path = _path(name, source, text, compiler, options)
    if path.exists():
        return path
    _make_writable(path.parent)
    # Written elsewhere and renamed: other processes wait for the lock and never load half a library.
    with _locked(path, in_background=in_background):
        if not path.exists():
            _remove_drafts(path)
            _compile(compiler, options, source, text, path, in_background)
    return path


def _make_writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{folder}: cannot write compiled kernels there ({error.strerror}); set GPUCORON_CACHE to another folder"
        raise RuntimeError(msg) from None


@contextmanager
def _locked(path, *, in_background=False, waits=True):
    """Hold the lock of a library.

    In the background, wait only until compilers are stopped (RuntimeError). Where ``waits`` is False, raise
    BlockingIOError if another process has it.
    """
    name = path.with_suffix(".lock")
    while True:
        with name.open("a") as lock:
            _get_lock(lock, in_background, waits)
            # `remove_unfinished` may have removed the file meanwhile: its lock would exclude no other process
            if _is_open(name, lock):
                yield
                return


def _is_open(path, file):
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _get_lock(lock, in_background, waits):
    import fcntl

    if waits and not in_background:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                raise
            if _are_stopped.wait(_PAUSE):
                raise RuntimeError(_STOPPED) from None
        else:
            return


def _remove_drafts(path):
    """Remove the folders in which processes that were killed compiled a library; its lock is held."""
    for draft in path.parent.glob(f"{path.stem}-*{DRAFT}"):
        shutil.rmtree(draft, ignore_errors=True)


def remove_unfinished(path):
    """Remove what killed compilations of a library have left, unless a process is compiling it.

    Parameters
    ----------
    path : Path
        Of the library, whether it exists or not.
    """
    with suppress(OSError), _locked(path, waits=False):
        _remove_drafts(path)
        if not path.exists():
            path.with_suffix(".lock").unlink()


def _compile(compiler, options, source, text, path, in_background):
    folder = kernel_folder()
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f"{path.stem}-", suffix=DRAFT, ignore_cleanup_errors=True
    ) as draft:
        code, built = Path(draft) / f"{Path(source).stem}.cpp", Path(draft) / path.name
        code.write_text(text, encoding="utf-8")
        command = [*compiler, *options, f"-I{folder / 'include'}", f"-I{folder}", str(code), "-o", str(built)]
        # A compiler that is stopped leaves its temporary files: they are removed with the folder.
        environment = {**os.environ, "TMPDIR": draft}
        if in_background:
            status, output = _run_in_background(command, environment)
        else:
            result = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", check=False
            )
            status, output = result.returncode, result.stderr
        if status != 0:
            msg = f"{compiler[0]} could not compile {source}:\n{output}"
            raise RuntimeError(msg)
        os.replace(built, path)


_STOPPED = "the process ends before the compilation"
_are_stopped = threading.Event()
_starting = threading.Lock()
_compilers: set[subprocess.Popen] = set()


def _run_in_background(command, environment):
    """Run a compiler until it ends, or until `stop_compilers` stops it; return its status and what it printed."""
    with _starting:
        if _are_stopped.is_set():
            raise RuntimeError(_STOPPED)
        # A session of its own: g++ starts other programs, which are stopped together with it.
        compiler = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        _compilers.add(compiler)
    with suppress(OSError):
        os.setpriority(os.PRIO_PGRP, compiler.pid, _NICENESS)
    try:
        _, output = compiler.communicate()
    finally:
        with _starting:
            _compilers.discard(compiler)
    return compiler.returncode, output


def forget_compilers():
    """Forget the compilers that run in the background: they are of the parent of this forked process."""
    global _are_stopped, _starting
    _are_stopped, _starting = threading.Event(), threading.Lock()
    _compilers.clear()


def stop_compilers():
    """Stop the compilers that run in the background, and start no others."""
    _are_stopped.set()
    with _starting:
        for compiler in _compilers:
            with suppress(OSError):
                os.killpg(compiler.pid, signal.SIGKILL)


def host_source(source):
    """Return C++ code that calls the instantiations of a kernel file by number; the compiler checks their types."""
    bodies = []
    for kernel, variant in instantiations(source):
        waits = str(kernel.waits[kernel.variants.index(variant)]).lower()
        named = f"{kernel.signature.replace('(*)', '(*kernel)')} = {kernel.expression(variant)};"
        bodies.append([named, f"gpucoron::host::launch<{waits}>(kernel, geometry, n_workers, arguments);"])
    return _offer("cuda_shim.hpp", source, "const unsigned* geometry", bodies)


@cache
def native_instantiations(source, by_pixel):
    """Return (kernel, variant) of a native library: all in which threads do not share a pixel or a row."""
    return tuple(
        (kernel, variant)
        for kernel, variant in instantiations(source)
        if kernel.by_pixel == by_pixel and (kernel.lanes is None or variant[kernel.lanes] == 1)
    )


def native_source(source, by_pixel):
    """Return the C++ code of a native library, like `host_source`."""
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
            call = f"if (!gpucoron::host::launch({arrays}, [&](char* const* at) {{ {call} }})) return 2;"
        else:
            call = f"if (!gpucoron::host::launch(geometry, n_workers, [&] {{ {call} }})) return 2;"
        checked = f"[[maybe_unused]] {kernel.signature.replace('(*)', '(*checked)')} = {kernel.expression(variant)};"
        bodies.append([checked, *lines, call])
    taken = "const gpucoron::host::Array* arrays" if by_pixel else "const unsigned* geometry"
    return _offer("native.hpp", source, taken, bodies)


def _offer(header, source, taken, bodies):
    """Return the C++ code of a function that runs an instantiation by number.

    It returns 1 for unknown numbers, 2 if there was too little memory.
    """
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
    """The struct Array of native.hpp."""

    _fields_ = (
        ("base", ctypes.c_void_p),
        ("rows", ctypes.c_size_t),
        ("item", ctypes.c_size_t),
        ("is_read_only", ctypes.c_bool),
    )


def argument_addresses(arguments):
    """Return an array of the addresses of the arguments, as for cuLaunchKernel, and the objects to keep alive."""
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
