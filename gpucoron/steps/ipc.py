"""ipc: deconvolve the capacitive coupling between pixels."""

from collections import namedtuple
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpucoron import get_by_old_name
from gpucoron.parameters import SPACEKLIP_CLASS
from gpucoron.steps.arguments import Array, BackendLike, on_arrays
from gpucoron.steps.declaration import Outcome, Preset, Step, skipped, whole_frame
from gpucoron.steps.values import Kind, Switch, check_numbers

STEP = Step(
    name="ipc",
    title="deconvolve the coupling between pixels",
    jwst_class="IPCStep",
    references=("ipc",),
    profiles=dict.fromkeys(("spaceklip", SPACEKLIP_CLASS), Preset({"skip": True}, instruments=("MIRI",))),
    keywords={"skip_ipc": "skip"},
    reach=whole_frame,  # the reference decides on the size of the kernel
)

#: number of reference rows and columns at the four edges of a subarray
ReferenceEdges = namedtuple("ReferenceEdges", "bottom top left right")


def reference_edges(facts):
    """Count the rows and columns of reference pixels at the edges of an exposure's subarray.

    A near-infrared detector has four on each side of 2048 x 2048 pixels, MIRI four columns on the left and the right
    of 1032.
    """
    x, y = facts.xstart - 1, facts.ystart - 1
    if facts.is_miri:
        return ReferenceEdges(0, 0, max(0, 4 - x), max(0, x + facts.xsize - 1028))
    return ReferenceEdges(
        max(0, 4 - y),
        max(0, y + facts.ysize - 2044),
        max(0, 4 - x),
        max(0, x + facts.xsize - 2044),
    )


#: for a subarray without reference pixels
NO_EDGES = ReferenceEdges(0, 0, 0, 0)


def _check_edges(edges):
    check_numbers(edges, 4)
    if any(value != int(value) for value in edges):
        raise ValueError(edges)


_EDGES = Kind("numbers of rows and columns, (bottom, top, left, right)", _check_edges)


@on_arrays(
    data=Array("... ny nx", unit="DN", in_place="in_place"),
    kernel=Array("ky kx | ky kx ny nx"),
    edges=_EDGES,
    in_place=Switch(),
)
def correct_ipc(
    data: ArrayLike,
    kernel: ArrayLike,
    edges: ReferenceEdges = NO_EDGES,
    *,
    in_place: bool = False,
    backend: BackendLike = None,
) -> NDArray[np.float32]:
    """Correct every group for the coupling, by a convolution with a deconvolution kernel.

    Parameters
    ----------
    data : (..., ny, nx) float32, DN
        Ramps, or any other stack of frames.
    kernel : (ky, kx) or, one per pixel, (ky, kx, ny, nx) float32
    edges : ReferenceEdges
        Rows and columns of reference pixels, (bottom, top, left, right). They are not corrected and do not contribute.
    in_place : bool
        Change ``data`` in place instead of a copy.
    backend : str or Backend, optional
        The default is the device of the arrays.

    Returns
    -------
    (..., ny, nx) float32, DN

    Notes
    -----
    Source: jwst 3.0, ``ipc_convolve``.

    Examples
    --------
    >>> frame = np.zeros((3, 3))
    >>> frame[1, 1] = 100
    >>> kernel = [[0, -0.01, 0], [-0.01, 1.04, -0.01], [0, -0.01, 0]]
    >>> correct_ipc(frame, kernel, backend="cpu").round(2).tolist()
    [[0.0, -1.0, 0.0], [-1.0, 104.0, -1.0], [0.0, -1.0, 0.0]]
    """
    edges = ReferenceEdges(*edges)
    rows, columns = data.shape[-2] - edges.bottom - edges.top, data.shape[-1] - edges.left - edges.right
    if min(edges) < 0 or min(rows, columns) < 1:
        msg = f"edges: {tuple(edges)} of frames of {data.shape[-2]} x {data.shape[-1]} pixels leave no pixels"
        raise ValueError(msg)
    backend.deconvolve_ipc(data.reshape(-1, 1, *data.shape[-2:]), kernel, edges)
    return data


@on_arrays(
    data=Array("... ny nx", unit="DN", in_place=True),
    kernel=Array("ky kx | ky kx ny nx"),
    edges=_EDGES,
)
def deconvolve_ipc(
    data: NDArray[Any], kernel: ArrayLike, edges: ReferenceEdges = NO_EDGES, *, backend: BackendLike = None
) -> None:
    """Correct the coupling in place: `correct_ipc` with ``in_place``, without a return value.

    Parameters
    ----------
    data : (..., ny, nx) float32, DN
        Changed in place.
    kernel, edges
        As for `correct_ipc`.
    backend : str or Backend, optional
        The default is the device of the arrays.
    """
    correct_ipc(data, kernel, edges, in_place=True, backend=backend)


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
    correct_ipc(exposure.data, kernel, reference_edges(facts), in_place=True, backend=backend)
    return Outcome()


def __getattr__(name):
    return get_by_old_name(__name__, name)
