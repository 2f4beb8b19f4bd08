"""The host's memory: how much of it is free, and the backend for an exposure of which it holds only a part."""

import logging
import mmap
import sys
import tempfile
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np

from gpucoron.backends.base import Backend, LikelihoodFit
from gpucoron.backends.memory import scratch_memory
from gpucoron.backends.scratch_ramps import ScratchRamp, Window
from gpucoron.backends.spilling import SpillingBackend
from gpucoron.errors import OutputError

log = logging.getLogger(__name__)

#: part of what is left that a chunk does not take: memory that is given back is not always gone at once
_SPARE = 0.15
#: bytes of ramps that light steps see together; each thread may have as much again that another one took from it
_WINDOW = 2**23

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


def forget_high_water():
    """Start the kernel's mark of the largest resident memory anew (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def high_water():
    """Read the largest resident memory of this process, bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class ScratchBackend(SpillingBackend):
    """The CPU backend for one exposure that is larger than the memory: its ramps are in files without a name.

    Heavy operations get some rows at a time, which are read from the file and written back; light steps look through a
    small window.

    Parameters
    ----------
    backend : NumpyBackend
        Runs the chunks.
    max_memory : int
        Bytes that the process may have in memory.
    """

    def __init__(self, backend, max_memory):
        super().__init__(backend, max_memory)
        self.limit, self.scratch_dir = max_memory, backend.scratch_dir
        self._share_among(backend.n_threads)
        self.window = Window(_WINDOW)

    def take_workers(self):
        # The CPU does light steps and heavy operations alike.
        return Backend.take_workers(self)

    def _share_among(self, n_threads):
        self.n_threads = n_threads
        self.inner = type(self.inner)(n_threads, max_memory=self.limit, scratch_dir=self.scratch_dir)

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
        for index, integration in enumerate(array):
            copied[index] = integration
        return copied

    def to_host(self, array):
        # Whoever takes a whole ramp has the system bring it in, beyond all limits; the next step gives it back.
        return array.plain() if isinstance(array, ScratchRamp) else array

    def take_rows(self, array, rows):
        return array.take_rows(rows) if isinstance(array, ScratchRamp) else super().take_rows(array, rows)

    def put_rows(self, array, rows, values):
        if isinstance(array, ScratchRamp):
            array.put_rows(rows, values)
        else:
            super().put_rows(array, rows, values)

    def fit_pedestal(self, data, groupdq, limit, *, group_time):
        nints, _, ny, nx = data.shape
        answer = np.empty((2, nints, ny, nx))

        def fit(rows, own):
            answer[..., rows, :] = self.inner.fit_pedestal(
                *self._send(rows, data, groupdq, limit), group_time=group_time
            )

        self._in_chunks("fit_pedestal", (data, groupdq, limit), fit)
        return tuple(answer)

    def fit_mean_slope(self, data, groupdq, pedestal, limit, *, group_time):
        slope = np.empty(data.shape[2:])
        given = (data, groupdq, pedestal, limit)

        def fit(rows, own):
            slope[rows] = self.inner.fit_mean_slope(*self._send(rows, *given), group_time=group_time)

        self._in_chunks("fit_mean_slope", given, fit)
        return slope

    def fit_likelihood_ramps(
        self, data, groupdq, gain, readnoise, read_times, *, dark_current=None, zeroframe=None, **options
    ):
        nints, _, ny, nx = data.shape
        given = (data, groupdq, gain, readnoise, dark_current, zeroframe)
        names = [each.name for each in fields(LikelihoodFit) if each.name != "diffs2use"]
        whole = {name: np.empty((nints, ny, nx), np.float32) for name in names}

        def fit(rows, own):
            part, flags, *images, dark, zero = self._send(rows, *given)
            fitted = self.inner.fit_likelihood_ramps(
                part, flags, *images, read_times, dark_current=dark, zeroframe=zero, **options
            )
            for name, values in whole.items():
                values[..., rows, :] = getattr(fitted, name)
            self.put_rows(groupdq, rows, flags)

        self._in_chunks("fit_likelihood_ramps", given, fit)
        return LikelihoodFit(**whole, diffs2use=None)

    def synchronize(self):
        # Between two steps nobody looks at a ramp.
        self.window.give_back()

    def settle(self, shape, *, cleans_groups=False):
        self.window.give_back()
        images, light, chunk, per_thread = scratch_memory(shape, cleans_groups=cleans_groups)
        resident = resident_memory()
        left = self.limit - resident - images
        n_threads = max(1, min(self.n_threads, (left - chunk) // per_thread))
        if n_threads < self.n_threads:
            log.info("%d threads instead of %d: there is no memory for more", n_threads, self.n_threads)
            self._share_among(n_threads)
        self.max_memory = max(chunk, int((1 - _SPARE) * (left - n_threads * per_thread)))
        needed = resident + images + max(light, chunk + per_thread)
        if needed > self.limit:
            log.warning(
                "max_memory (--max-memory) is %.0f MB, but this exposure needs %.0f MB at least: %.0f MB are in memory "
                "already, programs and references; it goes on with as little as it can",
                self.limit / 1e6, needed / 1e6, resident / 1e6,
            )  # fmt: skip

    @property
    def remark(self):
        """Say how an exposure is worked on, for the log."""
        folder = self.scratch_dir or tempfile.gettempdir()
        return f"is larger than the {self.limit / 1e9:.3g} GB allowed; its ramps are in a scratch file in {folder}"
