"""Subtraction of the levels of reference pixels in NumPy, in place and with threads."""

import numpy as np

#: bytes of a copy of some rows, which stays in the cache
_BLOCK_BYTES = 2**19


def subtract_levels(device, frames, levels, sides, rounded, *, settings):
    """Subtract the levels of columns, then those of rows from frames, in place.

    Parameters
    ----------
    device : Device
    frames : (n, ny, nx) float32, DN
    levels : (n, nx) float64, DN
        Of each column; (n, ny) if the detector reads along y.
    sides : (n, ny, n_outputs) float64 or None, DN
        Of each row, for each of the outputs that share the columns; (n, nx, n_outputs) if the detector reads along y.
    rounded : (n,) uint8
        1 for frames that are rounded to float32 between the two.
    settings : LevelSettings

    Notes
    -----
    Source: jwst 3.0, ``NIRDataset``. The differences are float64, and rounded to float32 at the end.
    """
    if settings.along_y:
        frames = frames.swapaxes(1, 2)
    n, n_rows, n_columns = frames.shape
    # the rounded difference of two float32 numbers is the same in float32 and in float64
    is_float32 = sides is None and np.array_equal(levels, levels.astype(np.float32), equal_nan=True)
    dtype = np.float32 if is_float32 else np.float64
    levels = levels.astype(dtype, copy=False)
    step = max(1, _BLOCK_BYTES // (8 * n_columns))
    blocks = [(index, slice(start, start + step)) for index in range(n) for start in range(0, n_rows, step)]

    def subtract(part):
        buffer = np.empty((min(step, n_rows), n_columns), dtype)
        with np.errstate(all="ignore"):
            for index, rows in blocks[part]:
                frame = frames[index, rows]
                corrected = buffer[: len(frame)]
                # copies first: operations that also convert are slower
                corrected[...] = frame
                corrected -= levels[index]
                if sides is not None:
                    if rounded[index]:
                        corrected[...] = corrected.astype(np.float32)
                    _subtract_sides(corrected, sides[index, rows])
                if settings.keeps_zeros:
                    corrected[frame == 0] = 0
                frame[...] = corrected

    device.in_parts(subtract, len(blocks))


def _subtract_sides(block, sides):
    width = block.shape[1] // sides.shape[1]
    for output in range(sides.shape[1]):
        block[:, output * width : (output + 1) * width] -= sides[:, output : output + 1]
