"""NVRTC from the wheel ``nvidia-cuda-nvrtc``, with the functions of ``cupy.cuda.nvrtc``; needs no driver or CuPy."""

import ctypes
from importlib.util import find_spec
from pathlib import Path


class NvrtcError(Exception):
    """An error of NVRTC."""


def find_library(folder=None):
    """Find the library in the environment, or in a folder with an unpacked wheel; None if it is missing."""
    if folder is None:
        spec = find_spec("nvidia")
        folders = list(spec.submodule_search_locations) if spec else []
    else:
        folders = [Path(folder) / "nvidia"]
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return max(found, default=None)


class Nvrtc:
    """One library."""

    def __init__(self, path):
        # NVRTC looks for its companion library by name, and finds one that is already loaded.
        for companion in Path(path).parent.glob("libnvrtc-builtins.so.*"):
            ctypes.CDLL(str(companion))
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def _call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise NvrtcError(f"{name}: {self._library.nvrtcGetErrorString(status).decode()}")

    def getVersion(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return major.value, minor.value

    def getSupportedArchs(self):
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        archs = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", archs)
        return tuple(archs)

    def createProgram(self, source, name, headers, include_names):
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*headers)
        names = (ctypes.c_char_p * len(headers))(*include_names)
        self._call(
            "nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), len(headers), texts, names
        )
        return program

    def destroyProgram(self, program):
        self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def addNameExpression(self, program, expression):
        self._call("nvrtcAddNameExpression", program, expression.encode())

    def compileProgram(self, program, options):
        self._call(
            "nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*map(str.encode, options))
        )

    def getLoweredName(self, program, expression):
        lowered = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", program, expression.encode(), ctypes.byref(lowered))
        return lowered.value.decode()

    def _bytes(self, what, program):
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, content)
        return content.raw

    def getProgramLog(self, program):
        return self._bytes("ProgramLog", program).rstrip(b"\0").decode()

    def getCUBIN(self, program):
        return self._bytes("CUBIN", program)

    def getPTX(self, program):
        return self._bytes("PTX", program).rstrip(b"\0")
