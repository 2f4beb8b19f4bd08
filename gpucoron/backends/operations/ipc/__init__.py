"""Correction of interpixel capacitance (IPC), the capacitive coupling between pixels."""

from gpucoron import get_by_old_name
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.ipc import definition, kernels


def _native(settings, data, *others):
    """Return the native library if the frames are contiguous."""
    return [("ipc.cu", False)] if data.flags.c_contiguous else []


deconvolve_frames = Operation(
    definition.deconvolve_frames,
    kernels.deconvolve_frames,
    written=("data",),
    cut="items",
    whole=("kernel", "edges"),
    native=_native,
    libraries=(("ipc.cu", False),),
)


def deconvolve_ipc(backend, data, kernel, edges):
    """Convolve every group with a deconvolution kernel, in place, without changing or using reference pixels.

    Parameters
    ----------
    backend : Backend
    data : (nints, ngroups, ny, nx) float32, DN
        C-contiguous.
    kernel : (ky, kx) or, one per pixel, (ky, kx, ny, nx) float32
    edges : gpucoron.steps.ipc.ReferenceEdges

    Notes
    -----
    Source: jwst 3.0, ``ipc_convolve``.
    """
    if not data.flags.c_contiguous:
        msg = "data must be C-contiguous: it is edited in place"
        raise ValueError(msg)
    # As frames, so that chunks may be smaller than an integration.
    deconvolve_frames(backend, data.reshape(-1, *data.shape[-2:]), kernel, edges)


deconvolve_ipc = Operation(deconvolve_ipc, of_others=True)


def __getattr__(name):
    return get_by_old_name(__name__, name)
