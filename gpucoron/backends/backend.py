"""A backend: the memory with an exposure's arrays, the device for heavy operations, and the memory that it may use.

Ramps are ``(nints, ngroups, ny, nx)``, C-contiguous: data float32, groupdq uint8; images are ``(ny, nx)``: pixeldq
uint32, everything else float32. Operations change their arguments in place unless their docstring says that they return
new arrays. They neither log nor check parameters: the step does that before.
"""

import copy
import logging
import tempfile
from typing import Any, TypeAlias

import numpy as np

from gpucoron import get_by_old_name
from gpucoron.backends import operations, workers
from gpucoron.backends.budget import exposure_memory, scratch_memory
from gpucoron.backends.chunks import fetch
from gpucoron.backends.devices.device import Device
from gpucoron.backends.devices.numpy_device import NumpyDevice, ScratchFiles
from gpucoron.backends.process_memory import anonymous_memory
from gpucoron.backends.results import FlagCounts, LikelihoodFit, Slopes
from gpucoron.interactive import table

__all__ = ["Backend", "FlagCounts", "LikelihoodFit", "Slopes"]

log = logging.getLogger(__name__)

#: fraction of the remaining memory that a chunk leaves free: the system may reclaim freed memory late
_SPARE = 0.15


class Backend:
    """Arrays in one memory, and the heavy operations on them.

    Parameters
    ----------
    device : Device
        Runs the heavy operations.
    home : Device, optional
        Holds the arrays; by default the device itself. A separate one holds an exposure that is too large for the
        memory of the device or of the host.
    budget : int, optional
        Bytes that an operation may use in that case; it limits the rows that are processed at a time.
    """

    count_flags = operations.count_flags
    detect_jumps = operations.detect_jumps
    clip_jumps = operations.clip_jumps
    search_jumps = operations.search_jumps
    median_differences = operations.median_differences
    clip_differences = operations.clip_differences
    find_excess = operations.find_excess
    linearity = operations.linearity
    deconvolve_ipc = operations.deconvolve_ipc
    add_flags = operations.add_flags
    flag_first_groups = operations.flag_first_groups
    flag_saturation = operations.flag_saturation
    join_group_flags = operations.join_group_flags
    join_integration_flags = operations.join_integration_flags
    subtract_frames = operations.subtract_frames
    measure_scatter = operations.measure_scatter
    sum_by_phase = operations.sum_by_phase
    match_emicorr = operations.match_emicorr
    subtract_emicorr = operations.subtract_emicorr
    clip_levels = operations.clip_levels
    subtract_levels = operations.subtract_levels
    fit_ktc = operations.fit_ktc
    open_windows = operations.open_windows
    fit_mean_slope = operations.fit_mean_slope
    background_mask = operations.background_mask
    fit_1overf = operations.fit_1overf
    measure_1overf = operations.measure_1overf
    gather_contrasts = operations.gather_contrasts
    subtract_contrasts = operations.subtract_contrasts
    krige_slopes = operations.krige_slopes
    krige_differences = operations.krige_differences
    fit_likelihood = operations.fit_likelihood
    fit_likelihood_ramps = operations.fit_likelihood_ramps
    suppress_single_groups = operations.suppress_single_groups
    fit_ramps = operations.fit_ramps
    fit_segments = operations.fit_segments

    def __init__(self, device: Device, *, home: Device | None = None, budget: int | None = None) -> None:
        self.device = device
        self.home = device if home is None else home
        self.budget = budget

    def __getattr__(self, name):
        return get_by_old_name("gpucoron.backends.backend.Backend", name, self)

    def __repr__(self):
        chunks = f", in chunks of {self.budget / 1e9:.3g} GB" if self.is_in_chunks and self.budget else ""
        return f"<Backend {self.name}: {self.device.summary}{chunks}>"

    def _repr_html_(self):
        limit = self.device.max_memory
        rows = [
            ("name", self.name),
            ("device", self.device.summary),
            ("memory of the arrays", "host" if self.home.xp is np else self.home.summary),
            ("max_memory", "the free memory" if limit is None else f"{limit / 1e9:.3g} GB"),
            ("scratch_dir", str(self.device.scratch_dir or tempfile.gettempdir())),
        ]
        return table(repr(self)[1:-1], (), rows)

    @property
    def name(self) -> str:
        """'numpy', 'native', 'host' or 'cuda'."""
        return self.device.name

    @property
    def on_host(self) -> bool:
        """Whether the device uses the memory of the host, which must not be requested twice."""
        return self.device.on_host

    @property
    def xp(self) -> Any:
        """Array namespace: numpy or cupy."""
        return self.home.xp

    @property
    def ndimage(self) -> Any:
        """scipy.ndimage or cupyx.scipy.ndimage."""
        return self.home.ndimage

    def to_device(self, array: Any) -> Any:
        """Copy a host array to the memory of the exposure; return the same array if that is the host."""
        if self.home.xp is np and not isinstance(array, np.ndarray):
            return self.device.to_host(array)
        return self.home.to_device(array)

    def to_host(self, array: Any) -> Any:
        """Copy an array, or the arrays of a tuple or of Slopes together, to the host; return host arrays unchanged."""
        return fetch(array, self.device)

    def in_parts(self, function, n):
        """Do light work in parts; see `gpucoron.backends.devices.device.Device.in_parts`."""
        return self.home.in_parts(function, n)

    def batches(self, n, n_bytes):
        """Yield slices for light work; see `gpucoron.backends.devices.device.Device.batches`."""
        return self.home.batches(n, n_bytes)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array of zeros."""
        return self.home.zeros(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialized array."""
        return self.home.empty(shape, dtype)

    def copy(self, array: Any) -> Any:
        """Return a copy of an array."""
        return self.home.copy(array)

    def load_counts(self, shape, read, *, offset=True):
        """Read counts as FITS stores them; see `gpucoron.backends.devices.device.Device.load_counts`."""
        return self.home.load_counts(shape, read, offset=offset)

    def load_parts(self, shape, dtype, parts):
        """Return an array made of parts; see `gpucoron.backends.devices.device.Device.load_parts`."""
        return self.home.load_parts(shape, dtype, parts)

    def synchronize(self) -> None:
        """Wait until the device has finished the work of this thread."""
        self.device.synchronize()

    def own_stream(self):
        """Return a context for the work of one exposure; see `gpucoron.backends.devices.device.Device.own_stream`."""
        return self.device.own_stream()

    @property
    def works_later(self) -> bool:
        """Whether steps end before the device has done their work: not if each operation returns to the host."""
        return self.home.works_later

    def mark(self):
        """Mark the present moment in the work on an exposure, without waiting for it."""
        return self.home.mark()

    def seconds_between(self, start, stop) -> float:
        """Return the seconds between two marks that the device has reached: call `synchronize` before."""
        return self.home.seconds_between(start, stop)

    def is_late_error(self, error: BaseException) -> bool:
        """Return whether an exception may have been caused by an earlier step than that which raised it."""
        return self.works_later and self.device.is_late_error(error)

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an exception means that the memory of the device is full."""
        return self.device.is_out_of_memory(error)

    def memory_limit(self, held: int = 0) -> int | None:
        """Return how many bytes an exposure may use, including ``held`` already used; None means no limit."""
        return None if self.is_in_chunks else self.device.memory_limit(held)

    def release_memory(self) -> None:
        """Release memory that is cached for later arrays."""
        self.device.release_memory()

    def note_worker(self, name):
        """Record that another backend works on this thread's step."""
        workers.note(name)

    def take_workers(self):
        """Return the names of all backends that worked on this thread's step since the last call, this one first."""
        names = workers.take()
        if self.is_in_chunks and not self.on_host:
            # Work that sent no chunk to the device ran on the host.
            return names or [self.home.name]
        return list(dict.fromkeys([self.name, *names]))

    @property
    def is_in_chunks(self) -> bool:
        """Whether the device processes the exposure in chunks of rows, because its arrays are in another memory."""
        return self.home is not self.device

    def fitting(self, shape: tuple[int, ...], *, has_zeroframe: bool = False, held: int = 0) -> "Backend":
        """Return the backend for an exposure: this one, or one that works in chunks if the memory is too small.

        Parameters
        ----------
        shape : (nints, ngroups, ny, nx)
        has_zeroframe : bool
        held : int
            Bytes that the arrays of the exposure already use on the device.
        """
        limit = self.memory_limit(held)
        if limit is None:
            return self
        needed = exposure_memory(shape, has_zeroframe=has_zeroframe)
        return self if needed <= limit else self.in_chunks(limit, needed)

    def in_chunks(self, limit: int, needed: int = 0) -> "Backend":
        """Return the backend for an exposure that needs more memory than ``limit`` bytes.

        For a GPU the arrays stay in the memory of the host. For the CPU, or if the host has too little memory as well,
        ramps are in scratch files.

        Parameters
        ----------
        limit : int
            Bytes that an operation may use.
        needed : int
            Bytes that the whole exposure needs.
        """
        if self.on_host:
            device = copy.copy(self.device)
            device.max_memory = self.device.max_memory or limit + anonymous_memory()
            home: NumpyDevice = ScratchFiles(
                device.n_threads, max_memory=device.max_memory, scratch_dir=device.scratch_dir
            )
            return Backend(device, home=home, budget=max(1, int(limit)))
        home = NumpyDevice()
        there = home.memory_limit()
        if there is not None and needed > there:
            home = ScratchFiles(scratch_dir=self.device.scratch_dir)
        return Backend(self.device, home=home, budget=int(limit))

    def settle(self, shape, *, scratch_bytes=0):
        """Set the memory budget of operations, once the references of the exposure are loaded.

        Parameters
        ----------
        shape : (nints, ngroups, ny, nx)
        scratch_bytes : int
            Bytes per sample of one integration that light work needs, if more than for flags and masks.
        """
        if not (self.on_host and self.is_in_chunks):
            return
        limit, there = self.home.max_memory, anonymous_memory()
        images, light, chunk, per_thread = scratch_memory(shape, scratch_bytes=scratch_bytes)
        left = limit - there - images
        n_threads = max(1, min(self.device.n_threads, (left - chunk) // per_thread))
        if n_threads < self.device.n_threads:
            log.info("%d threads instead of %d: too little memory for more", n_threads, self.device.n_threads)
            self.device = self.device.with_threads(n_threads)
            self.home = self.home.with_threads(n_threads)
        self.budget = max(chunk, int((1 - _SPARE) * (left - n_threads * per_thread)))
        needed = there + images + max(light, chunk + per_thread)
        if needed > limit:
            log.warning(
                "max_memory (--max-memory) is %.0f MB, but this exposure needs at least %.0f MB; programs and "
                "references use %.0f MB already; the run continues with as little memory as possible",
                limit / 1e6, needed / 1e6, there / 1e6,
            )  # fmt: skip

    @property
    def remark(self):
        """Text for the log: how an exposure is processed in chunks."""
        if self.on_host:
            folder = self.home.scratch_dir or tempfile.gettempdir()
            limit = self.home.max_memory / 1e9
            return f"is larger than the {limit:.3g} GB allowed; its ramps are in a scratch file in {folder}"
        return f"stays on the host; backend {self.name!r} processes it in chunks of {self.budget / 1e9:.3g} GB"


#: an argument ``backend``: a name for `gpucoron.backends.get_backend`, a Backend, or None for the default
BackendLike: TypeAlias = str | Backend | None
