"""A backend: where an exposure's arrays lie, which device runs its heavy operations, and how much memory that has.

Ramps are ``(nints, ngroups, ny, nx)``, C-contiguous: data float32, groupdq uint8; images are ``(ny, nx)``: pixeldq
uint32, everything else float32. Operations work in place on what they are given unless their docstring says that they
return something new. They neither log nor check parameters: the step has done that.
"""

import copy
import logging
import tempfile

import numpy as np

from gpucoron import get_by_old_name
from gpucoron.backends import operations, workers
from gpucoron.backends.budget import exposure_memory, scratch_memory
from gpucoron.backends.chunks import map_arrays
from gpucoron.backends.devices.numpy_device import NumpyDevice, ScratchFiles
from gpucoron.backends.process_memory import anonymous_memory
from gpucoron.backends.results import LikelihoodFit, Slopes

__all__ = ["Backend", "LikelihoodFit", "Slopes"]

log = logging.getLogger(__name__)

#: part of what is left that a chunk does not take: memory that is given back is not always gone at once
_SPARE = 0.15


class Backend:
    """Arrays of one memory, and the heavy operations on them.

    Parameters
    ----------
    device : Device
        Runs the heavy operations.
    home : Device, optional
        Holds the arrays; by default the device itself. Another one holds an exposure for which the device, or the
        host's memory, is too small.
    budget : int, optional
        Bytes that an operation may take then, which gets so many rows at a time.
    """

    detect_jumps = operations.detect_jumps
    clip_jumps = operations.clip_jumps
    search_jumps = operations.search_jumps
    linearity = operations.linearity
    deconvolve_ipc = operations.deconvolve_ipc
    flag_saturation = operations.flag_saturation
    measure_scatter = operations.measure_scatter
    sum_by_phase = operations.sum_by_phase
    match_emicorr = operations.match_emicorr
    subtract_emicorr = operations.subtract_emicorr
    fit_ktc = operations.fit_ktc
    fit_mean_slope = operations.fit_mean_slope
    background_mask = operations.background_mask
    fit_1overf = operations.fit_1overf
    fit_likelihood = operations.fit_likelihood
    fit_likelihood_ramps = operations.fit_likelihood_ramps
    fit_ramps = operations.fit_ramps

    def __init__(self, device, *, home=None, budget=None):
        self.device = device
        self.home = device if home is None else home
        self.budget = budget

    def __getattr__(self, name):
        return get_by_old_name("gpucoron.backends.backend.Backend", name, self)

    @property
    def name(self):
        """'numpy', 'native', 'host' or 'cuda'."""
        return self.device.name

    @property
    def on_host(self):
        """Whether the device's memory is the CPU's, which must not be requested again."""
        return self.device.on_host

    @property
    def xp(self):
        """Array namespace: numpy or cupy."""
        return self.home.xp

    @property
    def ndimage(self):
        """scipy.ndimage or cupyx.scipy.ndimage."""
        return self.home.ndimage

    def to_device(self, array):
        """Copy a host array to where the arrays lie (the same array where that is the host)."""
        if self.home.xp is np and not isinstance(array, np.ndarray):
            return self.device.to_host(array)
        return self.home.to_device(array)

    def to_host(self, array):
        """Copy an array to the host (the same array where it lies there); of a tuple or of Slopes, each array."""
        return map_arrays(array, lambda each: each if isinstance(each, np.ndarray) else self.device.to_host(each))

    def zeros(self, shape, dtype):
        """Make an array of zeros."""
        return self.home.zeros(shape, dtype)

    def empty(self, shape, dtype):
        """Make an array without values."""
        return self.home.empty(shape, dtype)

    def copy(self, array):
        """Copy an array."""
        return self.home.copy(array)

    def load_counts(self, shape, read, *, offset=True):
        """Read counts as FITS stores them; see `gpucoron.backends.devices.device.Device.load_counts`."""
        return self.home.load_counts(shape, read, offset=offset)

    def load_parts(self, shape, dtype, parts):
        """Make an array of its parts; see `gpucoron.backends.devices.device.Device.load_parts`."""
        return self.home.load_parts(shape, dtype, parts)

    def synchronize(self):
        """Wait until the device is done."""
        self.device.synchronize()

    def is_out_of_memory(self, error):
        """Tell whether an exception says that the device's memory is full."""
        return self.device.is_out_of_memory(error)

    def memory_limit(self, held=0):
        """Tell how many bytes an exposure may take, ``held`` there already among them; None: no limit."""
        return None if self.is_in_chunks else self.device.memory_limit(held)

    def release_memory(self):
        """Give memory back to the device that is kept for later arrays."""
        self.device.release_memory()

    def note_worker(self, name, *, alone=False):
        """Note that another one works on this thread's step: a backend, or 'jwst'; ``alone``: this backend does not."""
        workers.note(name, alone=alone)

    def take_workers(self):
        """Tell who has worked on this thread's step since this was asked last: names, this backend's own first."""
        names, alone = workers.take()
        if self.is_in_chunks and not self.on_host:
            # Whatever no chunk was sent for has been done on the host.
            return names or [self.home.name]
        return names if alone else list(dict.fromkeys([self.name, *names]))

    @property
    def is_in_chunks(self):
        """Whether the arrays lie elsewhere than the operations run, so that these get some rows at a time."""
        return self.home is not self.device

    def fitting(self, shape, *, has_zeroframe=False, held=0):
        """Give the backend for an exposure: this one, or that for chunks of rows where the memory is too small.

        Parameters
        ----------
        shape : (nints, ngroups, ny, nx)
        has_zeroframe : bool
        held : int
            Bytes that the exposure's arrays take on the device already.
        """
        limit = self.memory_limit(held)
        if limit is None:
            return self
        needed = exposure_memory(shape, has_zeroframe=has_zeroframe)
        return self if needed <= limit else self.in_chunks(limit, needed)

    def in_chunks(self, limit, needed=0):
        """Give the backend for an exposure that needs more memory than ``limit`` bytes.

        The arrays of a device's exposure lie in the host's memory; those for which that is too small, too, and those of
        the CPU in scratch files.

        Parameters
        ----------
        limit : int
            Bytes that an operation may take.
        needed : int
            Bytes that the exposure needs as a whole.
        """
        if self.on_host:
            device = copy.copy(self.device)
            device.max_memory = self.device.max_memory or limit + anonymous_memory()
            home = ScratchFiles(device.n_threads, max_memory=device.max_memory, scratch_dir=device.scratch_dir)
            return Backend(device, home=home, budget=max(1, int(limit)))
        home = NumpyDevice()
        there = home.memory_limit()
        if there is not None and needed > there:
            home = ScratchFiles(scratch_dir=self.device.scratch_dir)
        return Backend(self.device, home=home, budget=int(limit))

    def settle(self, shape, *, cleans_groups=False):
        """Divide the memory for the steps of an exposure, when its references are there.

        Parameters
        ----------
        shape : (nints, ngroups, ny, nx)
        cleans_groups : bool
            1/f noise is removed from groups.
        """
        if not (self.on_host and self.is_in_chunks):
            return
        limit, there = self.home.max_memory, anonymous_memory()
        images, light, chunk, per_thread = scratch_memory(shape, cleans_groups=cleans_groups)
        left = limit - there - images
        n_threads = max(1, min(self.device.n_threads, (left - chunk) // per_thread))
        if n_threads < self.device.n_threads:
            log.info("%d threads instead of %d: there is no memory for more", n_threads, self.device.n_threads)
            self.device = self.device.with_threads(n_threads)
            self.home = self.home.with_threads(n_threads)
        self.budget = max(chunk, int((1 - _SPARE) * (left - n_threads * per_thread)))
        needed = there + images + max(light, chunk + per_thread)
        if needed > limit:
            log.warning(
                "max_memory (--max-memory) is %.0f MB, but this exposure needs %.0f MB at least: %.0f MB are in memory "
                "already, programs and references; it goes on with as little as it can",
                limit / 1e6, needed / 1e6, there / 1e6,
            )  # fmt: skip

    @property
    def remark(self):
        """Say how an exposure is worked on, for the log."""
        if self.on_host:
            folder = self.home.scratch_dir or tempfile.gettempdir()
            limit = self.home.max_memory / 1e9
            return f"is larger than the {limit:.3g} GB allowed; its ramps are in a scratch file in {folder}"
        return f"stays on the host; {self.budget / 1e9:.3g} GB of backend {self.name!r} take it in chunks"
