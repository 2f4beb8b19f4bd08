"""Work on a ramp in tiles of rows, on several threads.

NumPy releases the interpreter lock in long operations, so threads run in parallel. A tile is a few rows of every group
and integration: small enough for the cache, large enough that threads rarely wait for the lock. (Two threads are 1.6
times as fast as one with 65536 float64 additions at a time, no faster with 16384.) Results must not depend on the size
of a tile or on the number of threads.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

#: Bytes of the float32 samples in a tile; smaller tiles are slower because threads wait for the interpreter lock.
TILE_BYTES = 4 * 2**20


def available_cores():
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def row_tiles(shape, tile_bytes=TILE_BYTES):
    """Return slices of the rows of ``shape = (..., ny, nx)``, of about ``tile_bytes`` of float32 each."""
    *leading, ny, nx = shape
    row_bytes = 4 * nx
    for extent in leading:
        row_bytes *= extent
    rows = max(1, min(ny, tile_bytes // max(1, row_bytes)))
    return [slice(start, min(start + rows, ny)) for start in range(0, ny, rows)]


def even_tile_bytes(shape, n_threads, tile_bytes=TILE_BYTES):
    """Return a smaller tile size with which all threads get the same number of tiles."""
    n_tiles = -(-len(row_tiles(shape, tile_bytes)) // n_threads) * n_threads
    row_bytes = 4 * math.prod(shape) // shape[-2]
    return -(-shape[-2] // n_tiles) * row_bytes


def for_each_tile(function, shape, n_threads, tile_bytes=TILE_BYTES):
    """Call ``function(rows)`` for each slice of rows, on threads; return the results in the order of the rows."""
    tiles = row_tiles(shape, tile_bytes)
    if n_threads <= 1 or len(tiles) == 1:
        return [function(rows) for rows in tiles]
    with ThreadPoolExecutor(min(n_threads, len(tiles))) as pool:
        return list(pool.map(function, tiles))
