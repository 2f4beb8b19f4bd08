"""Process images one by one on several threads; an image and its temporary arrays fit into the cache."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from gpucoron.backends.blas import one_blas_thread


def for_each_frame(function, n_frames, n_threads):
    """Call ``function(index)`` for each frame, in any order."""
    if n_threads <= 1 or n_frames <= 1:
        for index in range(n_frames):
            function(index)
        return
    with ThreadPoolExecutor(min(n_threads, n_frames)) as pool:
        list(pool.map(function, range(n_frames)))


def one_by_one(function, items):
    """Return the results for all items."""
    return [function(item) for item in items]


@contextmanager
def sharing(device):
    """Yield a function like `one_by_one` that calls ``function`` on the threads of a host device.

    It is for a few large pieces of work that do not depend on each other.
    """
    if device.n_threads <= 1 or not device.on_host:
        yield one_by_one
        return
    with ThreadPoolExecutor(device.n_threads) as pool:
        yield lambda function, items: list(pool.map(function, items))


def for_each_block(function, n, device, n_bytes):
    """Call ``function(slice)`` for batches of ``n`` images or integrations; on the host, on threads.

    Parameters
    ----------
    function : callable
    n : int
    device : Device
    n_bytes : int
        Bytes of temporary arrays for each.
    """
    batches = list(device.batches(n, n_bytes))
    with one_blas_thread():
        n_threads = device.n_threads if device.on_host else 1
        for_each_frame(lambda index: function(batches[index]), len(batches), n_threads)
