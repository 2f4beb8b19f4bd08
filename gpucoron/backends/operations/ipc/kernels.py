"""IPC correction by a kernel; see `gpucoron.backends.operations.ipc.definition`."""

from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import MOST_COLUMNS, SIDES
from gpucoron.backends.operations.ipc.definition import deconvolve_ipc

#: bytes of the frames that array functions process together: a GPU is faster with few, large operations
_BYTES_AT_ONCE = 2**26


def deconvolve_frames(device, data, kernel, edges):
    n_frames, ny, nx = data.shape
    height, width = kernel.shape[:2]
    kernel = device.contiguous(kernel)
    if height != width or width not in SIDES or nx > MOST_COLUMNS:
        at_once = max(1, min(n_frames, _BYTES_AT_ONCE // data[0].nbytes))
        deconvolve_ipc(data, kernel, edges, planes_at_once=at_once, xp=device.xp)
        return
    values = {"data": data, "kernel": kernel, "n_frames": n_frames, "ny": ny, "nx": nx, **edges._asdict()}
    grid, block = geometry(1, device.frame_threads, n_frames)
    device.launch("deconvolve_ipc", grid, block, values, (width, kernel.ndim == 4))
