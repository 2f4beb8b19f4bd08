"""How much memory the heavy operations and a whole exposure need: bytes per row of the image, and fixed.

A test holds these numbers against what the kernels' launchers allocate. An array that is added there is added here.
"""

from dataclasses import dataclass

from gpucoron.backends.devices.launch import words_of
from gpucoron.backends.tiles import TILE_BYTES

#: allocations are rounded up, and each operation makes small arrays besides
FIXED_BYTES = 2**14

#: a ramp's sample and its flags
SAMPLE_BYTES = 5

#: light steps look at one integration at a time: flags as numbers, masks of them, a corrected copy
SCRATCH_BYTES = 16

#: the same of most steps: flags and masks of them
FLAG_BYTES = 4

#: references, per pixel: images, and darks or reset frames as long as a few integrations
REFERENCE_IMAGES, REFERENCE_INTEGRATIONS = 40, 3

#: rate, dq, two variances and err, 4 bytes each; writing needs two more
PRODUCT_BYTES = 20

#: a row, and two above and below it
LEAST_ROWS = 5

#: arrays of a tile's size that NumPy makes on the way
TILE_ARRAYS = 10
THREAD_BYTES = TILE_ARRAYS * TILE_BYTES


def _saturation(nints, ngroups):
    # the groups that grow: saturated, and spoiled where those are kept
    return 2 * 4 * nints * words_of(ngroups)


def _jumps(nints, ngroups):
    # jumps that reach their neighbours, the median, the count
    return 4 * nints * words_of(ngroups) + 8 + 4


def _fit(nints, ngroups):
    # slope sums and two or three kinds of weights, float64; states; the products of the integrations and of the image
    return (4 * 8 + 4 + 20) * nints + 8 + 20


#: operation -> bytes per pixel besides the arrays that it is given, from nints and ngroups
_WORKING_BYTES = {
    "measure_scatter": lambda nints, ngroups: 4 * nints,
    "subtract_wave": lambda nints, ngroups: 0,
    "linearity": lambda nints, ngroups: 0,
    "flag_saturation": _saturation,
    "clip_jumps": lambda nints, ngroups: 0,
    "detect_jumps": _jumps,
    "fit_ramps": _fit,
    "fit_pedestal": lambda nints, ngroups: 16 * nints,
    "fit_mean_slope": lambda nints, ngroups: 8,
    "fit_likelihood_ramps": lambda nints, ngroups: 20 * nints,
}


@dataclass(frozen=True)
class Need:
    """Memory that an operation needs: ``per_row`` bytes for each row of the image, and ``fixed`` ones."""

    per_row: int
    fixed: int

    def of(self, n_rows):
        """Bytes for so many rows."""
        return self.fixed + n_rows * self.per_row

    def rows_within(self, limit):
        """Rows that fit into ``limit`` bytes; not below zero."""
        return max(0, (limit - self.fixed) // self.per_row)


def memory_needed(operation, nints, ngroups, nx, given_per_row):
    """Tell what an operation needs on the device, its arguments included.

    Parameters
    ----------
    operation : str
        A method of `gpucoron.backends.base.Backend`, or 'clip_jumps'.
    nints, ngroups, nx : int
        Of the ramps.
    given_per_row : int
        Bytes of one row of all arrays that it is given.

    Returns
    -------
    Need
    """
    return Need(given_per_row + nx * _WORKING_BYTES[operation](nints, ngroups), FIXED_BYTES)


def exposure_memory(shape, *, has_zeroframe=False):
    """Estimate what a whole exposure needs on the device, from the first step to the last.

    Parameters
    ----------
    shape : (nints, ngroups, ny, nx)
    has_zeroframe : bool

    Returns
    -------
    int
        Bytes: the exposure's arrays and references, and the largest working memory of any step.
    """
    nints, ngroups, ny, nx = shape
    held = SAMPLE_BYTES * nints * ngroups + 4 + (4 * nints if has_zeroframe else 0)
    references = 4 * (REFERENCE_IMAGES + REFERENCE_INTEGRATIONS * ngroups)
    working = max(need(nints, ngroups) for need in _WORKING_BYTES.values())
    return ny * nx * (held + references + max(working, SCRATCH_BYTES * ngroups)) + FIXED_BYTES


def scratch_memory(shape, *, cleans_groups=False):
    """Estimate what an exposure needs in memory where its ramps are in files, besides its references.

    Parameters
    ----------
    shape : (nints, ngroups, ny, nx)
    cleans_groups : bool
        1/f noise is removed from groups.

    Returns
    -------
    images, light, chunk, per_thread : int
        Bytes: images and products; what light steps work with; the smallest chunk of rows for a heavy operation, and
        what a thread needs for it.
    """
    nints, ngroups, ny, nx = shape
    images = (PRODUCT_BYTES * (nints + 1) + 8 * nints) * ny * nx
    chunk = memory_needed("fit_ramps", nints, ngroups, nx, 2 * SAMPLE_BYTES * nints * ngroups * nx).of(LEAST_ROWS)
    light = (SCRATCH_BYTES if cleans_groups else FLAG_BYTES) * ngroups * ny * nx
    return images, light, chunk, max(THREAD_BYTES, TILE_ARRAYS * 4 * nints * ngroups * nx)
