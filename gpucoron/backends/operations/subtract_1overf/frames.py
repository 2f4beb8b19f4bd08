"""Process images one by one on several threads; an image and its temporary arrays fit into the cache."""

from concurrent.futures import ThreadPoolExecutor


def for_each_frame(function, n_frames, n_threads):
    """Call ``function(index)`` for each frame, in any order."""
    if n_threads <= 1 or n_frames <= 1:
        for index in range(n_frames):
            function(index)
        return
    with ThreadPoolExecutor(min(n_threads, n_frames)) as pool:
        list(pool.map(function, range(n_frames)))
