"""Work on a ramp in tiles of rows, on several threads.

NumPy releases the interpreter lock in the operations that matter, so threads are enough and no process is started. A
tile is a few rows of every group and integration: small enough for the cache, large enough that the lock is rarely
asked for. After short operations threads wait for each other: of 65536 float64 additions two threads do 1.6 times as
many as one, of 16384 at a time no more. No result may depend on the size of a tile or on the number of threads.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor

#: A tile's float32 samples take about this much; smaller tiles lose the second thread to the interpreter lock.
TILE_BYTES = 4 * 2**20


def available_cores():
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def row_tiles(shape, tile_bytes=TILE_BYTES):
    """Cut the rows of ``shape = (..., ny, nx)`` into slices of about ``tile_bytes`` of float32."""
    *leading, ny, nx = shape
    row_bytes = 4 * nx
    for extent in leading:
        row_bytes *= extent
    rows = max(1, min(ny, tile_bytes // max(1, row_bytes)))
    return [slice(start, min(start + rows, ny)) for start in range(0, ny, rows)]


def even_tile_bytes(shape, n_threads, tile_bytes=TILE_BYTES):
    """Make tiles smaller, so that every thread has as many: for results that do not depend on the tiles at all."""
    n_tiles = -(-len(row_tiles(shape, tile_bytes)) // n_threads) * n_threads
    row_bytes = 4 * math.prod(shape) // shape[-2]
    return -(-shape[-2] // n_tiles) * row_bytes


def for_each_tile(function, shape, n_threads, tile_bytes=TILE_BYTES):
    """Call ``function(rows)`` for each slice of rows; return the results in the order of the rows."""
    tiles = row_tiles(shape, tile_bytes)
    if n_threads <= 1 or len(tiles) == 1:
        return [function(rows) for rows in tiles]
    with ThreadPoolExecutor(min(n_threads, len(tiles))) as pool:
        return list(pool.map(function, tiles))
