"""The real CuPy checks its stand-in: it can be imported without a driver, and refuses most invalid calls before it
touches a device.

Each call is made twice: in NumPy for the values, and before that in the real CuPy on *ghosts*, CuPy arrays of the same
shape, strides and dtype over memory of no device. CuPy then refuses them, returns a view, or fails because there is no
driver; in the last case it has accepted the arguments. The real CuPy also selects the loop of a ufunc.
"""

import sys
import traceback
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from tests.tools import peers

#: folder of the unpacked wheels of CuPy and its dependencies; other parts of the environment must not see them
FOLDER = peers.FOLDER / "cupy"
MISSING = f"the real CuPy is neither installed nor unpacked in {FOLDER}: run make, which puts it there"
HAS_GPU = "there is a GPU: test_gpu.py asks the real CuPy there"

_PACKAGES = ("cupy", "cupyx", "cupy_backends", "cuda")
_DRIVER = "cupy_backends.cuda.api.driver"
_NEEDED = (
    "cupy",
    "cupy.fft._fft",
    "cupyx.scipy.fft",
    "cupyx.scipy.ndimage",
    "cupyx.scipy.special",
    "cupy._sorting.search",
    "cupy_backends.cuda.libs",
    _DRIVER,
)

#: format of an array in a message
_WRITTEN = ("__repr__", "__str__", "__format__")

#: result of a call that needed a device
TOUCHED = object()


class DifferentDtype(TypeError):
    """CuPy would return an array of another dtype than NumPy."""


@cache
def find_judge():
    """Import CuPy without changing this process.

    Returns
    -------
    (Judge, '') or (None, str)
        The reason if there is none. On a machine with a GPU there is none, because there CuPy would compute on ghosts.
    """
    installed = find_spec("cupy") is not None
    if not (installed or (FOLDER / "cupy").is_dir()):
        return None, MISSING
    before = set(sys.modules)
    if not installed:
        sys.path.insert(0, str(FOLDER))
    try:
        for name in _NEEDED:
            import_module(name)
        cupy = sys.modules["cupy"]
    except ImportError as error:
        return None, f"the real CuPy cannot be imported: {error}"
    finally:
        modules = {name: sys.modules[name] for name in set(sys.modules) - before if name.split(".")[0] in _PACKAGES}
        if not installed:
            sys.path.remove(str(FOLDER))
            for name in modules:
                del sys.modules[name]
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        n_devices = 0
    if n_devices:
        return None, HAS_GPU
    return Judge(cupy, modules), ""


def judge_or_skip():
    """Return the judge; without one skip the test, or fail if the run is in CI."""
    judge, reason = find_judge()
    if reason == HAS_GPU:
        pytest.skip(reason)
    if judge is None:
        peers.miss(reason)
    return judge


class Judge:
    """The real CuPy, which checks calls.

    Parameters
    ----------
    cupy : module
    modules : dict
        Name -> module, of CuPy and its dependencies.
    """

    def __init__(self, cupy, modules):
        self.cupy, self.modules = cupy, modules
        driver = self._module(_DRIVER)
        self._needs_device = (cupy.cuda.runtime.CUDARuntimeError, driver.CUDADriverError)
        core = cupy._core
        math, statistics, logic = core._routines_math, core._routines_statistics, core._routines_logic
        #: functions and methods of one kernel, for which CuPy reports the dtype of the result
        self._kernels = {
            "where": cupy._sorting.search._where_ufunc, "clip": math.clip, "sum": math.sum_auto_dtype,
            "prod": math.prod_auto_dtype, "nansum": math.nansum_auto_dtype, "min": statistics.amin,
            "max": statistics.amax, "amin": statistics.amin, "amax": statistics.amax, "all": logic.all,
            "any": logic.any,
        }  # fmt: skip
        self._scalar = core._scalar.CScalar
        self._fft = self._module("cupy.fft._fft")
        self._stand_in_for_libraries()
        self._monkeypatch, self._n_modules = None, len(sys.modules)
        self._loops = {}

    def _module(self, name):
        return self.modules.get(name) or import_module(name)

    def _stand_in_for_libraries(self):
        """Replace cuFFT and cuBLAS, which CuPy loads before it checks any argument; after that they need a device."""
        needs_device = self.cupy.cuda.runtime.getDeviceCount
        names = {"CUFFT_FORWARD": -1, "CUFFT_INVERSE": 1, "CUFFT_R2C": 0x2A, "CUFFT_C2R": 0x2C, "CUFFT_C2C": 0x29}
        names |= {"CUFFT_D2Z": 0x6A, "CUFFT_Z2D": 0x6C, "CUFFT_Z2Z": 0x69}
        self.cupy.cuda.cufft = SimpleNamespace(**names, get_current_plan=needs_device)
        batched = dict.fromkeys(("dgetrfBatched", "dgetrsBatched"), needs_device)
        self._module("cupy_backends.cuda.libs").cublas = SimpleNamespace(**batched)

    def install(self, monkeypatch):
        """Let CuPy's own imports find CuPy, until the end of the test."""
        self._monkeypatch = monkeypatch
        for name, module in self.modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        self._n_modules = len(sys.modules)

    def _note_imports(self):
        """Remove modules that CuPy imports later at the end of the test, too."""
        for name in [name for name in sys.modules if name.split(".")[0] in _PACKAGES and name not in self.modules]:
            self.modules[name] = sys.modules.pop(name)
            self._monkeypatch.setitem(sys.modules, name, self.modules[name])
        self._n_modules = len(sys.modules)

    def ghost(self, array, device):
        """Make a CuPy array over the memory of a NumPy array; it must never be read."""
        memory = self.cupy.cuda.memory
        owner = memory.UnownedMemory(array.ctypes.data, max(array.nbytes, 1), array, device_id=device)
        pointer = memory.MemoryPointer(owner, 0)
        return self.cupy.ndarray(array.shape, array.dtype, memptr=pointer, strides=array.strides)

    def ask(self, function, *arguments, **options):
        """Call a function of CuPy on ghosts; return its result or `TOUCHED`, or raise what CuPy raises."""
        try:
            return function(*arguments, **options)
        except self._needs_device as error:
            frames = traceback.walk_tb(error.__traceback__)
            if any(frame.f_code.co_name.endswith(_WRITTEN) for frame, _ in frames):
                # CuPy tried to format an array for an error message.
                msg = f"{getattr(function, '__name__', function)} refuses its arguments"
                raise TypeError(msg) from error
            return TOUCHED
        finally:
            if self.modules and len(sys.modules) != self._n_modules:
                self._note_imports()

    def output_dtypes(self, ufunc, arguments, options):
        """Return the dtypes of the loop that a ufunc would run.

        Parameters
        ----------
        ufunc : cupy.ufunc
        arguments : list
            Ghosts and scalars; also outputs if they are positional.
        options : dict

        Returns
        -------
        tuple of dtype

        Raises
        ------
        TypeError, ValueError
            As raised by CuPy: keywords, host arrays, dtypes without a loop, an ``out`` of the wrong dtype or shape.
        """
        key = (ufunc.name, *map(_kind, arguments), *((name, _kind(value)) for name, value in sorted(options.items())))
        if key not in self._loops:
            self.ask(ufunc, *arguments, **options)
            inputs = [
                value if isinstance(value, self.cupy.ndarray) else self._scalar(value)
                for value in arguments[: ufunc.nin]
            ]
            dtype = options.get("dtype")
            dtype = None if dtype is None else np.dtype(dtype)
            loop = ufunc._ops.guess_routine(ufunc.name, {}, inputs, dtype, ufunc._out_ops)
            self._loops[key] = loop.resolve_dtypes(inputs, [])[1]
        dtypes = self._loops[key]
        outputs = options.get("out")
        if outputs is None:
            outputs = tuple(arguments[ufunc.nin :])
        casting = options.get("casting", ufunc._default_casting)
        for output, dtype in zip(outputs if isinstance(outputs, tuple) else (outputs,), dtypes, strict=False):
            if not isinstance(output, self.cupy.ndarray):
                msg = "Output arguments type must be cupy.ndarray"
                raise TypeError(msg)
            if not np.can_cast(dtype, output.dtype, casting):
                msg = f"{ufunc.name}: cannot cast {dtype} to the output's {output.dtype} by the rule {casting!r}"
                raise TypeError(msg)
            if output.shape != np.broadcast_shapes(*(getattr(value, "shape", ()) for value in arguments[: ufunc.nin])):
                msg = "Out shape is mismatched"
                raise ValueError(msg)
        return dtypes

    def result_dtype(self, name, arguments, options):
        """Return the dtype of the result of a function of one kernel, or of a transform; None for other functions."""
        if name in ("rfft", "irfft"):
            dtype = self._fft._output_dtype(arguments[0].dtype, "R2C" if name == "rfft" else "C2R")
            return np.result_type(dtype, np.complex64) if name == "rfft" else np.dtype(dtype).type(0).real.dtype
        kernel = self._kernels.get(name)
        if kernel is None or options.get("dtype") is not None or options.get("out") is not None:
            return None
        inputs = [
            value if isinstance(value, self.cupy.ndarray) else self._scalar(value) for value in arguments[: kernel.nin]
        ]
        if name == "where":
            inputs[0] = self.cupy.ndarray((), bool, memptr=inputs[0].data)
        loop = kernel._ops.guess_routine(kernel.name, {}, inputs, None, None)
        return loop.resolve_dtypes(inputs, [])[1][0]


def _kind(value):
    """Return the property of a ufunc's argument that selects its loop."""
    if isinstance(value, (tuple, list)):
        return type(value), *map(_kind, value)
    if isinstance(value, (type, str, np.dtype)) or value is None:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return int, value >= 2**63
    return type(value), getattr(value, "dtype", None)
