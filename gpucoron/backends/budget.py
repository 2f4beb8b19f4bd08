"""Estimates of the memory that an exposure and its steps need."""

from gpucoron.backends.chunks import FIXED_BYTES
from gpucoron.backends.devices.numpy_device import THREAD_BYTES, TILE_ARRAYS
from gpucoron.backends.operations import OPERATIONS
from gpucoron.backends.operations.ramp_fit import fit_ramps

#: bytes of a sample of a ramp and its flags
SAMPLE_BYTES = 5

#: bytes per sample of one integration for light steps: flags as integers, masks, a corrected copy
SCRATCH_BYTES = 16

#: the same for most steps: flags and masks
FLAG_BYTES = 4

#: references, in images per pixel, and in integrations (darks, reset frames)
REFERENCE_IMAGES, REFERENCE_INTEGRATIONS = 40, 3

#: rate, dq, two variances and err, 4 bytes each; writing needs two more
PRODUCT_BYTES = 20

#: a row, and the two rows above and below
LEAST_ROWS = 5


def exposure_memory(shape, *, has_zeroframe=False):
    """Estimate the memory that a whole exposure needs on the device for all steps.

    Parameters
    ----------
    shape : (nints, ngroups, ny, nx)
    has_zeroframe : bool

    Returns
    -------
    int
        Bytes: arrays of the exposure, references, and the largest working memory of any step.
    """
    nints, ngroups, ny, nx = shape
    held = SAMPLE_BYTES * nints * ngroups + 4 + (4 * nints if has_zeroframe else 0)
    references = 4 * (REFERENCE_IMAGES + REFERENCE_INTEGRATIONS * ngroups)
    of_ramps = [each for each in OPERATIONS if each.cut == "rows" and not (each.at_home or each.of_others)]
    working = max(each.working_bytes(nints, ngroups) for each in of_ramps)
    tables = max(each.table_bytes(nints, ngroups) for each in of_ramps)
    return ny * nx * (held + references + max(working, SCRATCH_BYTES * ngroups)) + tables + FIXED_BYTES


def scratch_memory(shape, *, scratch_bytes=0):
    """Estimate the memory that an exposure needs when its ramps are in files, without its references.

    Parameters
    ----------
    shape : (nints, ngroups, ny, nx)
    scratch_bytes : int
        Bytes per sample of one integration that light work needs, if more than for flags and masks.

    Returns
    -------
    images, light, chunk, per_thread : int
        Bytes: images and products; working memory of light steps; the smallest chunk of rows for a heavy operation, and
        the memory of each thread in it.
    """
    nints, ngroups, ny, nx = shape
    images = (PRODUCT_BYTES * (nints + 1) + 8 * nints) * ny * nx
    of_row = nx * (2 * SAMPLE_BYTES * nints * ngroups + fit_ramps.working_bytes(nints, ngroups))
    light = max(scratch_bytes, FLAG_BYTES) * ngroups * ny * nx
    per_thread = max(THREAD_BYTES, TILE_ARRAYS * 4 * nints * ngroups * nx)
    return images, light, FIXED_BYTES + fit_ramps.table_bytes(nints, ngroups) + LEAST_ROWS * of_row, per_thread
