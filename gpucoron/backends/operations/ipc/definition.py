"""IPC correction: deconvolution of the capacitive coupling between pixels, frame by frame and in place.

One function for NumPy and CuPy arrays. For 3 x 3 and 5 x 5 pixels there are also compiled kernels.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np


def deconvolve_ipc(data, kernel, edges, *, planes_at_once=1, xp=np):
    """Convolve frames with a deconvolution kernel, in place, without changing or using reference pixels.

    Parameters
    ----------
    data : (..., ny, nx) float32, DN
        C-contiguous.
    kernel : (ky, kx) or, one per pixel, (ky, kx, ny, nx) float32
    edges : ReferenceEdges
    planes_at_once : int
        Frames per pass; more frames mean fewer, larger operations and more scratch memory, with the same result.
    xp : module
        Namespace of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``ipc_convolve``. The sum has the order of jwst: the kernel row by row, its middle last. Products
    with zeros of the kernel are included, because they spread NaN.
    """
    height, width = kernel.shape[:2]
    middle_row, middle_column = height // 2, width // 2
    ny = data.shape[-2] - edges.bottom - edges.top
    nx = data.shape[-1] - edges.left - edges.right
    science = (Ellipsis, slice(edges.bottom, edges.bottom + ny), slice(edges.left, edges.left + nx))
    if kernel.ndim == 4:
        kernel = kernel[science]
    order = [(row, column) for row in range(height) for column in range(width)]
    order.remove((middle_row, middle_column))
    order.append((middle_row, middle_column))

    planes = data.reshape(-1, *data.shape[-2:])
    padded = xp.zeros((planes_at_once, ny + height - 1, nx + width - 1), dtype=data.dtype)
    product = xp.empty((planes_at_once, ny, nx), dtype=data.dtype)
    total = xp.empty_like(product)
    # In a kernel with an even side the middle is right of the centre, so the border before the pixels is wider.
    inner = (Ellipsis, slice(middle_row, middle_row + ny), slice(middle_column, middle_column + nx))
    for start in range(0, planes.shape[0], planes_at_once):
        chunk = planes[start : start + planes_at_once]
        n = chunk.shape[0]
        padded[:n][inner] = chunk[science]
        total[:n] = 0
        for row, column in order:
            # The kernel is flipped, as in a convolution; its middle multiplies the pixel itself.
            y, x = height - row - 1, width - column - 1
            if (row, column) == (middle_row, middle_column):
                y, x = row, column
            xp.multiply(kernel[row, column], padded[:n, y : y + ny, x : x + nx], out=product[:n])
            total[:n] += product[:n]
        chunk[science] = total[:n]


def deconvolve_frames(device, data, kernel, edges):
    """Apply `deconvolve_ipc` to frames on several threads, one frame at a time so that it stays in the cache.

    Parameters
    ----------
    device : Device
    data : (n, ny, nx) float32, DN
    kernel, edges
        As for `deconvolve_ipc`.
    """
    n_shares = max(1, min(device.n_threads, len(data)))
    bounds = [len(data) * share // n_shares for share in range(n_shares + 1)]

    def deconvolve(share):
        # NumPy's error state is per thread.
        with np.errstate(all="ignore"):
            deconvolve_ipc(data[bounds[share] : bounds[share + 1]], kernel, edges)

    if n_shares == 1:
        deconvolve(0)
        return
    with ThreadPoolExecutor(n_shares) as pool:
        list(pool.map(deconvolve, range(n_shares)))
