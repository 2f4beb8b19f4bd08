"""ipc: deconvolve the capacitive coupling between pixels."""

from collections import namedtuple

from gpucoron.steps import Outcome, skipped

#: Reference rows and columns at the four edges of a subarray.
ReferenceEdges = namedtuple("ReferenceEdges", "bottom top left right")


def reference_edges(facts):
    """Count the rows and columns of reference pixels at the edges of an exposure's subarray.

    A near-infrared detector has four on each side of 2048 x 2048 pixels, MIRI four columns on the left and the right
    of 1032.
    """
    x, y = facts.xstart - 1, facts.ystart - 1
    if facts.instrument == "MIRI":
        return ReferenceEdges(0, 0, max(0, 4 - x), max(0, x + facts.xsize - 1028))
    return ReferenceEdges(
        max(0, 4 - y),
        max(0, y + facts.ysize - 2044),
        max(0, 4 - x),
        max(0, x + facts.xsize - 2044),
    )


def deconvolve_coupling(data, kernel, edges, *, planes_at_once=1, xp):
    """Convolve every group with a deconvolution kernel, in place; reference pixels neither change nor contribute.

    Parameters
    ----------
    data : (nints, ngroups, ny, nx) float32, DN
        C-contiguous.
    kernel : (ky, kx) or (ky, kx, ny, nx) float32
        One kernel, or one per pixel.
    edges : ReferenceEdges
    planes_at_once : int
        Groups per pass; more of them mean fewer, larger operations, and more scratch memory. The result is the same.
    xp : module
        Namespace of the arrays.

    Notes
    -----
    Source: jwst 3.0, ``ipc_convolve``. The order of the sum is jwst's: the kernel row by row, its middle last. Products
    with a zero of the kernel are kept, for they spread NaN.
    """
    height, width = kernel.shape[:2]
    middle_row, middle_column = height // 2, width // 2
    ny = data.shape[2] - edges.bottom - edges.top
    nx = data.shape[3] - edges.left - edges.right
    science = (Ellipsis, slice(edges.bottom, edges.bottom + ny), slice(edges.left, edges.left + nx))
    if kernel.ndim == 4:
        kernel = kernel[science]
    order = [(row, column) for row in range(height) for column in range(width)]
    order.remove((middle_row, middle_column))
    order.append((middle_row, middle_column))

    planes = data.reshape(-1, *data.shape[2:])
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


def run(exposure, references, parameters, backend):
    """Run the step; see `gpucoron.steps`."""
    reference = references["ipc"]
    if reference is None:
        return skipped("there is no ipc reference")
    facts, kernel = exposure.facts, reference.data
    ny, nx = exposure.data.shape[2:]
    if kernel.ndim == 4 and kernel.shape[2:] != (ny, nx):
        y, x = facts.ystart - 1, facts.xstart - 1
        kernel = kernel[:, :, y : y + ny, x : x + nx]
    # One plane stays in a CPU's cache; a GPU wants few, large operations.
    planes_at_once = exposure.data.shape[1] if backend.name == "cuda" else 1
    deconvolve_coupling(exposure.data, kernel, reference_edges(facts), planes_at_once=planes_at_once, xp=backend.xp)
    return Outcome()
