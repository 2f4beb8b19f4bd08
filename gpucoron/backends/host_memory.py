"""The host's memory: how much of it is free, and ramps in a file on disk for where it is too little.

A ramp in such a file is an array like any other: every step and every operation works on it unchanged, so that a limit
cannot show in a result. What is bounded is how much of it is resident: a thread looks at the process's memory, and the
file's pages go back to the system when the limit draws near. They are read again when they are needed.
"""

import logging
import mmap
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from gpucoron.backends.numpy_backend import NumpyBackend
from gpucoron.errors import OutputError

log = logging.getLogger(__name__)

#: a part of the limit that stays free, for what is touched until the next look
_SPARE = 0.15
#: pages that the system maps together when one of them is read (Linux's fault_around_bytes)
_MAPPED_TOGETHER = 2**16
#: seconds between two looks
_INTERVAL = 0.001

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_memory():
    """Tell how many bytes this process may still take, by the host and by its control group; None where unknown."""
    known = [number for number in (_free_of_host(), *map(_free_of_cgroup, _CGROUPS)) if number is not None]
    return min(known, default=None)


def _free_of_host():
    numbers = _named_numbers("/proc/meminfo")
    return numbers["MemAvailable:"] * 1024 if "MemAvailable:" in numbers else None


def _free_of_cgroup(files):
    limit_file, usage_file, stat_file, reclaimable = files
    try:
        limit, usage = int(Path(limit_file).read_text()), int(Path(usage_file).read_text())
    except (OSError, ValueError):  # no such group, or the word "max"
        return None
    return max(0, limit - usage + _named_numbers(stat_file).get(reclaimable, 0))


def _named_numbers(path):
    try:
        lines = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def resident_memory():
    """Tell how many bytes this process has in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return 0


class ScratchBackend(NumpyBackend):
    """The CPU backend for one exposure that is larger than the memory: its ramps are in files without a name.

    Parameters
    ----------
    backend : NumpyBackend
        Whose threads and limit apply.
    max_memory : int
        Bytes that the process may have in memory.
    """

    def __init__(self, backend, max_memory):
        super().__init__(n_threads=backend.n_threads, max_memory=max_memory, scratch_dir=backend.scratch_dir)
        self._mappings = []
        self._reach = 0

    def empty(self, shape, dtype):
        """Make an array without values; one with four axes is in a file, and so is not resident as a whole."""
        if len(shape) != 4:
            return np.empty(shape, dtype)
        dtype = np.dtype(dtype)
        n_bytes = max(1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        folder = self.scratch_dir or tempfile.gettempdir()
        try:
            # Nothing is left behind, however the process ends: the file has no name. Room on the disk is claimed now,
            # for later there would be no error to catch.
            with tempfile.TemporaryFile(dir=folder, prefix=".gpucoron-") as file:
                _claim(file.fileno(), n_bytes)
                mapping = mmap.mmap(file.fileno(), n_bytes)
        except OSError as error:
            msg = (
                f"{folder}: no room for a scratch file of {n_bytes / 1e9:.3g} GB ({error.strerror}); free some, choose "
                "another output folder, or allow more memory (--max-memory, max_memory=...)"
            )
            raise OutputError(msg) from error
        self._mappings.append(mapping)
        # A tile of rows lies in every frame: each thread soon touches as much as this.
        self._reach += min(n_bytes, shape[0] * shape[1] * _MAPPED_TOGETHER * self.n_threads)
        return np.frombuffer(mapping, dtype).reshape(shape)

    def zeros(self, shape, dtype):
        # A new file holds zeros.
        return self.empty(shape, dtype) if len(shape) == 4 else np.zeros(shape, dtype)

    def copy(self, array):
        copied = self.empty(array.shape, array.dtype)
        copied[...] = array
        return copied

    def memory_limit(self, held=0):
        return None

    @contextmanager
    def bounded(self):
        """Keep the process within its memory as long as the context lasts."""
        stop = threading.Event()
        watch = threading.Thread(target=self._watch, args=(stop,), name="gpucoron-memory", daemon=True)
        watch.start()
        try:
            yield
        finally:
            stop.set()
            watch.join()
            self.give_back()

    def _watch(self, stop):
        while not stop.wait(_INTERVAL):
            self.look()

    def look(self):
        """Give the ramps' pages back where the process comes near its limit."""
        high = (1 - _SPARE) * self.max_memory - min(self._reach, self.max_memory // 2)
        resident = resident_memory()
        if resident > high or not resident:
            self.give_back()

    def give_back(self):
        """Take the ramps out of memory; their values are in the file."""
        for mapping in self._mappings:
            mapping.madvise(mmap.MADV_DONTNEED)

    @property
    def remark(self):
        """Say how an exposure is worked on, for the log."""
        folder = self.scratch_dir or tempfile.gettempdir()
        return f"is larger than the {self.max_memory / 1e9:.3g} GB allowed; its ramps are in a scratch file in {folder}"


def _claim(descriptor, n_bytes):
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, n_bytes)
    else:
        os.ftruncate(descriptor, n_bytes)
