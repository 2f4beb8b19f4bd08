"""The fastest CPU backend: NumPy, except for the operations in which the kernels, compiled for this CPU, are faster.

The answers have NumPy's bits. Where the kernels cannot be compiled, NumPy does all; docs/performance.md says which
operation runs where, and why.
"""

import ctypes
import logging

import numpy as np

from gpucoron.backends.devices.build import Array, argument_addresses, library, native_instantiations
from gpucoron.backends.devices.host_device import HostBackend
from gpucoron.backends.devices.launch import checked_arguments
from gpucoron.backends.devices.numpy_device import NumpyBackend
from gpucoron.backends.kernel_files import KERNELS

log = logging.getLogger(__name__)

#: samples of a pixel from which on a kernel that takes one pixel after the other is faster: groups of all integrations
#: or, for the fit, which takes one ramp after the other, of one; docs/performance.md
MANY_SAMPLES = {"detect_jumps": 600, "fit_ramps": 66}


class NativeBackend(NumpyBackend):
    """Heavy operations by the kernels compiled for this CPU, by NumPy where that is faster.

    Parameters
    ----------
    n_threads, max_memory, scratch_dir
        As for `gpucoron.backends.devices.numpy_device.NumpyBackend`.
    """

    name = "native"

    def __init__(self, n_threads=None, *, max_memory=None, scratch_dir=None):
        super().__init__(n_threads, max_memory=max_memory, scratch_dir=scratch_dir)
        self.kernels = NativeKernels(self.n_threads)

    def deconvolve_coupling(self, data, kernel, edges):
        self._fastest("ipc.cu", data).deconvolve_coupling(data, kernel, edges)

    def linearity(self, data, groupdq, coeffs, **options):
        # Averaged reads are corrected by pixel, a polynomial is evaluated in strips: only what is needed is compiled.
        averaged = options.get("inverse_coeffs") is not None and data.shape[1] > 1
        self._fastest("linearity.cu", data, groupdq, kinds=(averaged,)).linearity(data, groupdq, coeffs, **options)

    def detect_jumps(self, data, groupdq, gain, readnoise, **options):
        return self._for_jumps(data, groupdq).detect_jumps(data, groupdq, gain, readnoise, **options)

    def search_jumps(self, mode, data, groupdq, gain, readnoise, **options):
        return self._for_jumps(data, groupdq).search_jumps(mode, data, groupdq, gain, readnoise, **options)

    def clip_jumps(self, data, groupdq, gain, threshold, only_use_ints):
        self._for_jumps(data, groupdq).clip_jumps(data, groupdq, gain, threshold, only_use_ints)

    def _for_jumps(self, data, groupdq):
        is_long = data.shape[0] * data.shape[1] >= MANY_SAMPLES["detect_jumps"]
        return self._fastest("jump.cu", data, groupdq) if is_long else super()

    def fit_ramps(self, data, groupdq, pixeldq, gain, readnoise, **options):
        arrays = (data, groupdq, pixeldq, gain, readnoise)
        if data.shape[1] < MANY_SAMPLES["fit_ramps"]:
            if _can_be_loaded("whole_ramps.cu"):
                # Short ramps are NumPy's but for this; its tiles are shared out among threads already.
                options["fit_whole"] = NativeKernels(1).fit_whole_ramps
            return super().fit_ramps(*arrays, **options)
        return self._fastest("ramp_fit.cu").fit_ramps(*arrays, **options)

    def subtract_wave(self, data, *wave_and_phases):
        self._fastest("emicorr.cu", data).subtract_wave(data, *wave_and_phases)

    def _fastest(self, source, *whole, kinds=(True, False)):
        """Choose who runs an operation: the kernels, or NumPy.

        Kernels that change an array, or take no cut ramps, need those named in ``whole`` in one piece.
        """
        is_whole = all(array.flags.c_contiguous for array in whole)
        return self.kernels if is_whole and _can_be_loaded(source, kinds) else super()


_refused = set()


def _can_be_loaded(source, kinds=(True, False)):
    """Tell whether a kernel file's libraries are there, compiled if need be; a refusal is told once.

    ``kinds`` are those that are needed: of kernels by pixel (True), of the others (False).
    """
    if source in _refused:
        return False
    try:
        for by_pixel in kinds:
            if native_instantiations(source, by_pixel):
                library(source, by_pixel)
    except (RuntimeError, OSError) as error:
        _refused.add(source)
        log.warning("NumPy takes the place of the native kernels of %s: %s", source, error)
        return False
    return True


class NativeKernels(HostBackend):
    """The launches of the kernels, in libraries compiled for this CPU."""

    name = "native"
    # Frames are gone through by one thread: nobody waits.
    frame_threads = 1
    strip_pixels = 1024

    def launch(self, name, grid, block, values, variant=()):
        kernel = KERNELS[name]
        arguments = checked_arguments(kernel, values, lambda array: isinstance(array, np.ndarray))
        addresses, keep = argument_addresses(arguments)
        number = native_instantiations(kernel.source, kernel.by_pixel).index((kernel, tuple(variant)))
        if kernel.by_pixel:
            how = _describe(kernel, arguments, values["n_pixels"])
        else:
            how = (ctypes.c_uint * 4)(*grid, block[0])
        status = library(kernel.source, kernel.by_pixel).gpucoron_launch(
            number, how, ctypes.c_uint(self.n_threads), addresses
        )
        del keep
        if status != 0:
            msg = f"kernel {name}{tuple(variant)} is not in the compiled library"
            raise RuntimeError(msg)


def _describe(kernel, arguments, n_pixels):
    """Describe a kernel's arrays as rows of pixels; what is no array has no rows."""
    described = (Array * len(arguments))()
    for place, declared, value in zip(described, kernel.arguments, arguments, strict=True):
        if isinstance(value, np.ndarray):
            n_items = value.size
            if not value.flags.c_contiguous:
                # Integrations apart: what lies between them is a row like any other.
                n_items = value.strides[0] // value.itemsize * (len(value) - 1) + value[0].size
            rows, rest = divmod(n_items, n_pixels)
            if rest:
                msg = f"kernel {kernel.name}: {declared.name} of shape {value.shape} has no rows of {n_pixels} pixels"
                raise ValueError(msg)
            place.base, place.rows, place.item = value.ctypes.data, rows, value.itemsize
            place.is_read_only = declared.is_read_only
    return described
