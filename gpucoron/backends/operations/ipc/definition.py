"""The deconvolution of the capacitive coupling between pixels, frame by frame and in place.

One function over the array namespace; kernels take the place of it for 3 x 3 and 5 x 5 pixels.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np


def deconvolve_ipc(data, kernel, edges, *, planes_at_once=1, xp=np):
    """Convolve frames with a deconvolution kernel, in place; reference pixels neither change nor contribute.

    Parameters
    ----------
    data : (..., ny, nx) float32, DN
        C-contiguous.
    kernel : (ky, kx) or, one per pixel, (ky, kx, ny, nx) float32
    edges : ReferenceEdges
    planes_at_once : int
        Frames per pass; more of them mean fewer, larger operations, and more scratch memory. The result is the same.
    xp : module
        Namespace of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``ipc_convolve``. The order of the sum is jwst's: the kernel row by row, its middle last. Products
    with a zero of the kernel are kept, for they spread NaN.
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
    # A kernel with an even side has its middle right of the centre; the border is wider before the pixels then.
    inner = (Ellipsis, slice(middle_row, middle_row + ny), slice(middle_column, middle_column + nx))
    for start in range(0, planes.shape[0], planes_at_once):
        chunk = planes[start : start + planes_at_once]
        n = chunk.shape[0]
        padded[:n][inner] = chunk[science]
        total[:n] = 0
        for row, column in order:
            # The kernel is flipped, as in a convolution; its middle falls on the pixel itself.
            y, x = height - row - 1, width - column - 1
            if (row, column) == (middle_row, middle_column):
                y, x = row, column
            xp.multiply(kernel[row, column], padded[:n, y : y + ny, x : x + nx], out=product[:n])
            total[:n] += product[:n]
        chunk[science] = total[:n]


def deconvolve_frames(device, data, kernel, edges):
    """Do as `deconvolve_ipc`, a share of the frames on each thread; one frame at a time stays in the cache.

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
        # A thread has its own error state.
        with np.errstate(all="ignore"):
            deconvolve_ipc(data[bounds[share] : bounds[share + 1]], kernel, edges)

    if n_shares == 1:
        deconvolve(0)
        return
    with ThreadPoolExecutor(n_shares) as pool:
        list(pool.map(deconvolve, range(n_shares)))
