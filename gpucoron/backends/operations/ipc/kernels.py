"""IPC correction by a kernel; see `gpucoron.backends.operations.ipc.definition`."""

from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import MOST_COLUMNS, SIDES
from gpucoron.backends.operations.ipc.definition import deconvolve_ipc

#: bytes of the frames that array functions process together: a GPU is faster with few, large operations
_BYTES_AT_ONCE = 2**26

#: frames that share a per-pixel kernel in the cache: on a CPU, and on a GPU if there are enough frames to keep it busy
_TOGETHER_ON_CPU, _TOGETHER, _MANY_FRAMES = 8, 2, 2048


def deconvolve_frames(device, data, kernel, edges):
    n_frames, ny, nx = data.shape
    height, width = kernel.shape[:2]
    kernel = device.contiguous(kernel)
    if height != width or width not in SIDES or nx > MOST_COLUMNS:
        at_once = max(1, min(n_frames, _BYTES_AT_ONCE // data[0].nbytes))
        deconvolve_ipc(data, kernel, edges, planes_at_once=at_once, xp=device.xp)
        return
    if device.strip_pixels:
        together, n_threads = _TOGETHER_ON_CPU, 1
    else:
        together = _TOGETHER if kernel.ndim == 4 and n_frames >= _MANY_FRAMES else 1
        n_threads = _threads(nx, 2 * device.frame_threads)
    values = {"data": data, "kernel": kernel, "n_frames": n_frames, "ny": ny, "nx": nx, **edges._asdict()}
    values["n_together"] = together
    grid, block = geometry(1, n_threads, -(-n_frames // together))
    device.launch("deconvolve_ipc", grid, block, values, (width, kernel.ndim == 4))


def _threads(nx, most):
    """Return the threads of a block, in whole warps, of which few are idle in the last pass through a row."""
    passes = -(-nx // most)
    return min(most, 32 * -(-nx // (32 * passes)))
