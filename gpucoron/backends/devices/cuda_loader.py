"""Compile the CUDA kernels with NVRTC and cache them, per device.

This module and `cuda_device` are the only ones that import cupy. NVRTC is called directly: CuPy's compiler function
adds ``-ftz=true`` to every kernel and needs a driver.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from gpucoron.backends.kernel_files import (
    DEVICE_OPTIONS,
    KERNELS,
    cache_folder,
    instantiations,
    read_headers,
    read_source,
    source_digest,
)
from gpucoron.files import appearing

#: the oldest CuPy with the arithmetic of NumPy 2 and a sort that fails when memory is full (14.0 returns wrong values),
#: and the oldest NVRTC in the tests; the extras in pyproject.toml have the same bounds
OLDEST_CUPY = (14, 1)
OLDEST_NVRTC = (12, 4)

_HOW_TO_GET_CUPY = "pip install 'gpucoron[cuda13]' or 'gpucoron[cuda12]'"


def import_cupy():
    """Import CuPy.

    Returns
    -------
    (module, str) or (None, str)
        CuPy and its version, or None and the reason. A broken installation is reported, not raised.
    """
    try:
        import cupy
    except ImportError as error:
        if error.name == "cupy":
            return None, f"CuPy is not installed ({_HOW_TO_GET_CUPY})"
        if _numbers(np.__version__) < (2,):
            return None, _needs_numpy_2()
        return None, f"CuPy cannot be imported: {_in_one_line(error)}"
    except Exception as error:
        return None, f"CuPy cannot be imported: {_in_one_line(error)}"
    # An empty folder called cupy can be imported too.
    found = getattr(cupy, "__version__", "?")
    if _numbers(found) < OLDEST_CUPY:
        return None, f"CuPy {found} is too old: CuPy {_dotted(OLDEST_CUPY)} or newer is needed ({_HOW_TO_GET_CUPY})"
    if _numbers(np.__version__) < (2,):
        return None, _needs_numpy_2()
    return cupy, f"CuPy {found}"


def _needs_numpy_2():
    return f"CuPy 14 needs NumPy 2, and NumPy {np.__version__} is installed (pip install 'numpy>=2')"


def _numbers(version):
    """Return the first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", str(version))[:2])


def _dotted(numbers):
    return ".".join(map(str, numbers))


def _in_one_line(error):
    """Return the message of an exception in one line; CuPy writes the cause at the end of a page of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =")]
    causes = [place for place, line in enumerate(lines) if line == "Original error:"]
    return " ".join(lines[causes[-1] + 1 :] if causes else lines)


def find_device(cupy, device=0):
    """Return whether a device can be used: (bool, name of the device or reason why not).

    A missing, old or broken driver is reported, not raised.
    """
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        if device >= count:
            return False, f"there is no CUDA device {device} ({count} found)"
        nvrtc = tuple(cupy.cuda.nvrtc.getVersion())
        name = cupy.cuda.runtime.getDeviceProperties(device)["name"]
    except Exception as error:
        return False, f"CUDA does not work: {_in_one_line(error)}"
    if nvrtc < OLDEST_NVRTC:
        found = f"CuPy finds {_dotted(nvrtc)} ({_HOW_TO_GET_CUPY})"
        return False, f"the kernels need NVRTC {_dotted(OLDEST_NVRTC)} or newer, but {found}"
    return True, name.decode() if isinstance(name, bytes) else str(name)


def compile_kernels(nvrtc, source, target, options=DEVICE_OPTIONS):
    """Compile all instantiations of one kernel file.

    Parameters
    ----------
    nvrtc : module
        ``cupy.cuda.nvrtc`` or a module with its functions.
    source : str
        As in `gpucoron.backends.kernel_files.SOURCES`.
    target : str
        'sm_90' for machine code, 'compute_90' for PTX.
    options : sequence of str

    Returns
    -------
    code : bytes
        A cubin or PTX.
    names : dict
        C++ name of an instantiation -> its name in the code.
    log : str
        Messages of the compiler.

    Raises
    ------
    RuntimeError
        The compiler failed; the message includes its log.
    """
    # NVRTC 12.4 leaves its thread in the locale "C": there Python would read and write files as ASCII from then on.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_compile, nvrtc, source, target, options).result()


def _compile(nvrtc, source, target, options):
    headers = read_headers()
    expressions = [kernel.expression(variant) for kernel, variant in instantiations(source)]
    program = nvrtc.createProgram(
        read_source(source),
        source,
        tuple(text.encode() for text in headers.values()),
        tuple(name.encode() for name in headers),
    )
    try:
        # NVRTC compiles only the instantiations of a template that are named.
        for expression in expressions:
            nvrtc.addNameExpression(program, expression)
        try:
            nvrtc.compileProgram(program, (f"-arch={target}", *options))
        except Exception as error:
            msg = f"NVRTC could not compile {source} for {target}: {error}\n{nvrtc.getProgramLog(program)}"
            raise RuntimeError(msg) from error
        names = {expression: nvrtc.getLoweredName(program, expression) for expression in expressions}
        code = nvrtc.getCUBIN(program) if target.startswith("sm_") else nvrtc.getPTX(program)
        log = nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)
    return (code if isinstance(code, bytes) else code.encode()), names, log


def choose_target(nvrtc, compute_capability):
    """Return the compile target: the device's architecture or, if NVRTC is older than that, PTX for the driver.

    Parameters
    ----------
    compute_capability : str
        As CuPy returns it: '90'.

    Raises
    ------
    RuntimeError
        This NVRTC no longer supports such an old device.
    """
    architecture = int(compute_capability)
    supported = [int(arch) for arch in nvrtc.getSupportedArchs()]
    if architecture in supported:
        return f"sm_{architecture}"
    older = [arch for arch in supported if arch < architecture]
    if not older:
        found = f"NVRTC {_dotted(nvrtc.getVersion())}"
        msg = f"{found} does not compile for sm_{architecture}: a CUDA toolkit of an earlier major version is needed"
        raise RuntimeError(msg)
    return f"compute_{max(older)}"


class KernelLoader:
    """Compiles and loads kernels, and caches them per device.

    Parameters
    ----------
    cupy : module
        CuPy, or a replacement in a test.
    defines : sequence of str
        Macros ('NAME=value') to compile with.
    """

    def __init__(self, cupy, defines=()):
        self._cupy = cupy
        self._options = (*DEVICE_OPTIONS, *(f"-D{define}" for define in defines))
        self._modules = {}
        self._functions = {}

    def function(self, device, name, variant=()):
        """Return the function of an instantiation on a device; compile and load it if necessary."""
        key = (device, name, tuple(variant))
        if key not in self._functions:
            kernel = KERNELS[name]
            expression = kernel.expression(variant)
            module, names = self._module(device, kernel.source)
            self._functions[key] = module.get_function(names[expression])
        return self._functions[key]

    def _module(self, device, source):
        if (device, source) not in self._modules:
            with self._cupy.cuda.Device(device) as current:
                code, names = self.code(source, choose_target(self._cupy.cuda.nvrtc, current.compute_capability))
                module = self._cupy.cuda.function.Module()
                module.load(code)
            self._modules[device, source] = (module, names)
        return self._modules[device, source]

    def code(self, source, target):
        """Return the compiled code of a kernel file from the cache folder; compile and store it if it is not there.

        Parameters
        ----------
        source, target : str
            As for `compile_kernels`.

        Returns
        -------
        code : bytes
        names : dict
            C++ name of an instantiation -> its name in the code.
        """
        nvrtc, path = self._cupy.cuda.nvrtc, self.path(source, target)
        with suppress(OSError):
            kept = unpack_code(path.read_bytes())
            if kept is not None:
                return kept
        code, names, _ = compile_kernels(nvrtc, source, target, self._options)
        # Without a writable cache folder, the next process compiles again.
        with suppress(OSError), appearing(path) as (draft,):
            draft.write_bytes(_pack(code, names))
        return code, names

    def path(self, source, target):
        """Return the path of the compiled code of a kernel file in the cache folder, whether it exists or not."""
        nvrtc = self._cupy.cuda.nvrtc
        key = repr((source_digest(source), source, target, self._options, tuple(nvrtc.getVersion())))
        digest = hashlib.sha256(key.encode()).hexdigest()[:20]
        return cache_folder() / f"{source.removesuffix('.cu')}-{target}-{digest}.bin"


def _pack(code, names):
    """Return code and names as the content of a cache file, with a digest that detects damaged copies."""
    head = json.dumps(names).encode()
    return b"\n".join([hashlib.sha256(head + code).hexdigest().encode(), head, code])


def unpack_code(content):
    """Return code and names; None if the file is damaged."""
    digest, _, rest = content.partition(b"\n")
    head, _, code = rest.partition(b"\n")
    return (code, json.loads(head)) if hashlib.sha256(head + code).hexdigest().encode() == digest else None
