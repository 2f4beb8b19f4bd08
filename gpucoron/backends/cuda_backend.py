"""The CUDA backend: CuPy arrays and the raw kernels."""

import numpy as np

from gpucoron.backends.cuda_loader import KernelLoader, find_device, import_cupy
from gpucoron.backends.kernel_backend import KernelBackend
from gpucoron.backends.kernel_launch import checked_arguments
from gpucoron.backends.kernel_sources import KERNELS, kernel_folder
from gpucoron.errors import BackendUnavailableError

#: one more thread per pixel pays until this share of the device's threads is taken
BUSY = 0.5


def available(device=0, cupy=None):
    """Tell whether the CUDA backend can run here; never raises.

    Parameters
    ----------
    device : int
    cupy : module, optional
        What stands in for CuPy in a test.

    Returns
    -------
    (bool, str)
        Whether it can, and on what; or why not.
    """
    if cupy is None:
        cupy, reason = import_cupy()
        if cupy is None:
            return False, reason
    usable, reason = find_device(cupy, device)
    if not usable:
        return False, reason
    try:
        kernel_folder()
    except FileNotFoundError as error:
        return False, str(error)
    return True, reason


class CudaBackend(KernelBackend):
    """Heavy operations by CUDA kernels, light ones by CuPy.

    A call makes the backend's device the current one of the calling thread.

    Parameters
    ----------
    device : int
        As CUDA counts them.
    cupy : module, optional
        What stands in for CuPy in a test.
    """

    name = "cuda"

    def __init__(self, device=0, *, cupy=None):
        usable, reason = available(device, cupy)
        if not usable:
            msg = f"backend 'cuda' cannot run here: {reason}"
            raise BackendUnavailableError(msg)
        self.xp = import_cupy()[0] if cupy is None else cupy
        self.device = int(device)
        self._device = self.xp.cuda.Device(self.device)
        self._device.use()
        self._loader = KernelLoader(self.xp)
        attributes = self._device.attributes
        self._n_threads = attributes["MultiProcessorCount"] * attributes["MaxThreadsPerMultiProcessor"]

    @property
    def ndimage(self):
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage

    def to_device(self, array):
        self._device.use()
        if isinstance(array, np.ndarray) and not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        return self.xp.asarray(array)

    def to_host(self, array):
        return self.xp.asnumpy(array)

    def synchronize(self):
        self._device.synchronize()

    def choose_lanes(self, n_pixels, n_units):
        # Small subarrays alone do not fill a large device.
        return 4 if n_units >= 4 and n_pixels < BUSY * self._n_threads else 1

    def launch(self, name, grid, block, values, variant=()):
        arguments = checked_arguments(KERNELS[name], values, self._is_here)
        function = self._loader.function(self.device, name, variant)
        self._device.use()
        # A null pointer travels as eight zero bytes; None means different things to different versions of CuPy.
        function(grid, block, tuple(np.uint64(0) if value is None else value for value in arguments))

    def _is_here(self, array):
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device
