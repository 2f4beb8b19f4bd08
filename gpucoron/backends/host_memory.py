"""The host's memory: how much of it is free, and the backend for an exposure of which it holds only a part."""

import logging
import mmap
import tempfile
from pathlib import Path

import numpy as np

from gpucoron.backends.numpy_backend import NumpyBackend
from gpucoron.backends.scratch_ramps import ScratchRamp, Window
from gpucoron.errors import OutputError

log = logging.getLogger(__name__)

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
        self.window = Window(2**23)

    def empty(self, shape, dtype):
        """Make an array without values; one with four axes is in a file, and so is not resident as a whole."""
        if len(shape) != 4:
            return np.empty(shape, dtype)
        folder = self.scratch_dir or tempfile.gettempdir()
        try:
            return self.window.zeros(folder, shape, dtype)
        except OSError as error:
            n_bytes = np.prod(shape, dtype=np.int64) * np.dtype(dtype).itemsize
            msg = (
                f"{folder}: no room for a scratch file of {n_bytes / 1e9:.3g} GB ({error.strerror}); free some, choose "
                "another output folder, or allow more memory (--max-memory, max_memory=...)"
            )
            raise OutputError(msg) from error

    def zeros(self, shape, dtype):
        # A new file holds zeros.
        return self.empty(shape, dtype) if len(shape) == 4 else np.zeros(shape, dtype)

    def copy(self, array):
        copied = self.empty(array.shape, array.dtype)
        for target, source in zip(copied, array, strict=True):
            target[...] = source
        return copied

    def to_host(self, array):
        return array.view(np.ndarray) if isinstance(array, ScratchRamp) else array

    def memory_limit(self, held=0):
        return None

    def synchronize(self):
        # Between two steps no part of a ramp is looked at.
        self.window.give_back()

    def settle(self, shape):
        self.window.give_back()
        import os
        self.window.n_bytes = int(float(os.environ.get("WIN", 32)) * 1e6)

    @property
    def remark(self):
        """Say how an exposure is worked on, for the log."""
        folder = self.scratch_dir or tempfile.gettempdir()
        return f"is larger than the {self.max_memory / 1e9:.3g} GB allowed; its ramps are in a scratch file in {folder}"
