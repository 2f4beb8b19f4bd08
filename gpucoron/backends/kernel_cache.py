"""The folder of compiled kernels: list, check, fill and empty it.

The name of each file holds a digest of all that its code depends on: sources, options, compiler and CPU. So a folder
may hold kernels of several versions, compilers and machines, and none is ever replaced by another.
"""

import re
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpucoron.backends.devices import build, cuda_loader
from gpucoron.backends.kernel_files import CUDA_SOURCES, SOURCES, cache_folder
from gpucoron.backends.operations import OPERATIONS
from gpucoron.files import first_line

_LIBRARY = re.compile(r"(native|host)-(\w+?)(?:-pixels|-plain)?-[0-9a-f]{20}\.(so|lock)")
_CODE = re.compile(r"(\w+)-(?:sm|compute)_\w+-[0-9a-f]{20}\.bin")
#: file name without the ending -> kernel file
_SOURCE_OF = {Path(source).stem: source for source in SOURCES}
#: folder in which a library is compiled
_DRAFT = re.compile(rf"((?:native|host)-\w+?(?:-pixels|-plain)?-[0-9a-f]{{20}})-\w+{re.escape(build.DRAFT)}")
#: folder in which code for a GPU is written, without a lock
_WRITTEN = re.compile(r"\.gpucoron-\w+")
#: code is written in seconds; an older folder is that of a process that was killed
_ABANDONED = 24 * 3600.0
#: runs in a process of its own, because loading a damaged library can end it
_LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).gpucoron_launch"


@dataclass(frozen=True)
class CachedKernel:
    """A compiled kernel file.

    Attributes
    ----------
    path : Path
    backend : {'native', 'host', 'cuda'}
    source : str
        The kernel file, such as 'jump.cu'.
    n_bytes : int
    is_used : bool or None
        Whether this version uses it on this machine; None if that is unknown.
    """

    path: Path
    backend: str
    source: str
    n_bytes: int
    is_used: bool | None


def list_kernels():
    """List the compiled kernels in the cache folder.

    Returns
    -------
    tuple of CachedKernel
        Sorted by name; links and files of other programs are left out.
    """
    used, is_cuda_known = _used_paths()
    found = []
    for path in _files():
        library, code = _LIBRARY.fullmatch(path.name), _CODE.fullmatch(path.name)
        if library is not None and library[3] == "so":
            found.append(
                CachedKernel(
                    path, library[1], _SOURCE_OF.get(library[2], f"{library[2]}.cu"), _size(path), path in used
                )
            )
        elif code is not None:
            is_used = path in used if is_cuda_known else None
            found.append(CachedKernel(path, "cuda", f"{code[1]}.cu", _size(path), is_used))
    return tuple(found)


def libraries():
    """Return the native libraries that operations use: pairs of kernel file and whether by pixel."""
    return tuple(dict.fromkeys(library for operation in OPERATIONS for library in operation.libraries))


def _used_paths():
    """Return the paths of all kernels that this version uses here, and whether those of the GPU are known."""
    used = set()
    if build.native_available()[0]:
        used |= {build.native_path(*library) for library in libraries()}
    targets = _cuda_targets()
    for loader, target in targets:
        used |= {loader.path(source, target) for source in CUDA_SOURCES}
    return used, bool(targets)


def _cuda_targets():
    """Return (loader, compile target) for each kind of GPU of this machine; empty without CuPy or without a GPU."""
    cupy, _ = cuda_loader.import_cupy()
    if cupy is None or not cuda_loader.find_device(cupy)[0]:
        return []
    loader = cuda_loader.KernelLoader(cupy)
    devices = [cupy.cuda.Device(number) for number in range(cupy.cuda.runtime.getDeviceCount())]
    targets = {cuda_loader.choose_target(cupy.cuda.nvrtc, device.compute_capability) for device in devices}
    return [(loader, target) for target in sorted(targets)]


def find_damage(kernel):
    """Describe the damage of a compiled kernel; '' if there is none.

    Code for a GPU is compared with its digest. A library must be complete; those that this version uses are loaded, in
    a process of their own.
    """
    try:
        if kernel.backend == "cuda":
            content = kernel.path.read_bytes()
            return "" if cuda_loader.unpack_code(content) is not None else "its content differs from its digest"
        if not _is_complete(kernel.path):
            return "the library is truncated"
        if kernel.is_used:
            command = [sys.executable, "-I", "-S", "-c", _LOAD, str(kernel.path)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode != 0:
                lines = done.stderr.strip().splitlines()
                return f"it cannot be loaded ({lines[-1] if lines else f'exit code {done.returncode}'})"
    except (OSError, ValueError) as error:
        return first_line(error)
    return ""


def _is_complete(path):
    """Return whether an ELF file reaches to the end of its section headers, which are last; others are not checked."""
    if sys.platform != "linux":
        return path.stat().st_size > 0
    with path.open("rb") as file:
        head = file.read(64)
        if len(head) < 64 or head[:4] != b"\x7fELF":
            return False
        (start,), (size, number) = struct.unpack_from("<Q", head, 40), struct.unpack_from("<HH", head, 58)
        return path.stat().st_size >= start + size * number


def compile_all(tell=lambda what: None):
    """Compile all kernels that this version uses on this machine, unless they are there.

    Parameters
    ----------
    tell : callable
        Called with a text before each file that is compiled.

    Returns
    -------
    notes : list of str
        Backends whose kernels cannot be compiled, with the reason.

    Raises
    ------
    RuntimeError, OSError
        The compiler failed, or the folder cannot be written to.
    """
    notes = []
    usable, reason = build.native_available()
    for source, by_pixel in libraries() if usable else ():
        if not build.native_path(source, by_pixel).exists():
            tell(f"{source} for this CPU{', by pixel' if by_pixel else ''}")
            build.compile_natively(source, by_pixel)
    if not usable:
        notes.append(f"native: {reason}")
    cupy, reason = cuda_loader.import_cupy()
    usable, reason = (False, reason) if cupy is None else cuda_loader.find_device(cupy)
    if not usable:
        notes.append(f"cuda: {reason}")
    for loader, target in _cuda_targets():
        for source in CUDA_SOURCES:
            if not loader.path(source, target).exists():
                tell(f"{source} for {target}")
            loader.code(source, target)
            if not loader.path(source, target).exists():
                msg = f"{loader.path(source, target)}: could not be written; set GPUCORON_CACHE to another folder"
                raise OSError(msg)
    return notes


def remove_kernels(kernels):
    """Remove compiled kernels, and what compilations that were killed have left.

    Processes that have loaded a kernel keep it. Files of a compilation that is under way stay.

    Parameters
    ----------
    kernels : iterable of CachedKernel

    Returns
    -------
    removed : list of CachedKernel

    Raises
    ------
    OSError
        A file cannot be removed; all others have been.
    """
    removed, errors = [], []
    for kernel in kernels:
        try:
            kernel.path.unlink(missing_ok=True)
            removed.append(kernel)
        except OSError as error:
            errors.append(error)
    for path in _unfinished():
        build.remove_unfinished(path)
    _remove_abandoned()
    if errors:
        raise errors[0]
    return removed


def _unfinished():
    """Return the paths of libraries that do not exist but have a lock, or whose compilation was begun and not ended."""
    locked = {path.with_suffix(".so") for path in _files() if path.suffix == ".lock"}
    folder = cache_folder()
    drafts = [_DRAFT.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
    return {path for path in locked if not path.exists()} | {folder / f"{draft[1]}.so" for draft in drafts if draft}


def _remove_abandoned():
    """Remove the folders of processes that were killed while they wrote code for a GPU."""
    folder = cache_folder()
    for draft in folder.iterdir() if folder.is_dir() else ():
        is_draft = _WRITTEN.fullmatch(draft.name) and draft.is_dir() and not draft.is_symlink()
        if is_draft and time.time() - draft.stat().st_mtime > _ABANDONED:
            with suppress(OSError):
                for file in draft.iterdir():
                    file.unlink()
                draft.rmdir()


def _files():
    """List the regular files of the cache folder whose names are those of kernels or their locks."""
    folder = cache_folder()
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if _LIBRARY.fullmatch(path.name) or _CODE.fullmatch(path.name)]
    return sorted(path for path in named if path.is_file() and not path.is_symlink())


def _size(path):
    try:
        return path.stat().st_size
    except OSError:  # another process has removed it
        return 0
