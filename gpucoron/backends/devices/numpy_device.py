"""The CPU backend: NumPy arrays, threads over tiles of rows."""

import numpy as np

from gpucoron.backends.base import Backend
from gpucoron.backends.tiles import available_cores


class NumpyBackend(Backend):
    """Heavy operations in NumPy.

    Parameters
    ----------
    n_threads : int, optional
        Threads for the heavy operations; by default the cores that this process may use.
    max_memory : int, optional
        Bytes that the process may have in memory, all told; by default what it has and what the host and the control
        group have free. The ramps of an exposure that needs more are in a scratch file, and the peak stays within a
        tenth of the limit. Where programs, references and products alone take more, a warning tells how much is needed.
        Steps that run jwst's code, and products that hold ramps, take whole ramps whatever the limit.
    scratch_dir : path, optional
        Where scratch files are; by default the folder for temporary files.
    """

    name = "numpy"
    xp = np
    on_host = True

    def __init__(self, n_threads=None, *, max_memory=None, scratch_dir=None):
        self.n_threads = available_cores() if n_threads is None else int(n_threads)
        self.max_memory = max_memory
        self.scratch_dir = scratch_dir

    @property
    def ndimage(self):
        import scipy.ndimage

        return scipy.ndimage

    def to_device(self, array):
        return array

    def to_host(self, array):
        return array

    def memory_limit(self, held=0):
        from gpucoron.backends.host_memory import free_memory, resident_memory
        from gpucoron.backends.memory import THREAD_BYTES

        free = free_memory() if self.max_memory is None else self.max_memory - resident_memory()
        return None if free is None else free - self.n_threads * THREAD_BYTES

    def spilling(self, limit):
        from gpucoron.backends.host_memory import ScratchBackend, resident_memory

        return ScratchBackend(self, self.max_memory or limit + resident_memory())

    def linearity(self, data, groupdq, coeffs, **options):
        from gpucoron.backends.operations.linearity.definition import linearity

        linearity(data, groupdq, coeffs, n_threads=self.n_threads, **options)

    def deconvolve_coupling(self, data, kernel, edges):
        from gpucoron.backends.operations.ipc.definition import deconvolve_on_threads

        deconvolve_on_threads(data, kernel, edges, n_threads=self.n_threads)

    def flag_saturation(self, data, groupdq, threshold, checked, **options):
        from gpucoron.backends.operations.saturation.definition import flag_saturation

        flag_saturation(data, groupdq, threshold, checked, n_threads=self.n_threads, **options)

    def detect_jumps(self, data, groupdq, gain, readnoise, **options):
        from gpucoron.backends.operations.jump.definition import detect_jumps

        return detect_jumps(data, groupdq, gain, readnoise, n_threads=self.n_threads, **options)

    def search_jumps(self, mode, data, groupdq, gain, readnoise, **options):
        """Search jumps in a mode that was chosen for the whole image; see there."""
        from gpucoron.backends.operations.jump.definition import search_jumps

        return search_jumps(mode, data, groupdq, gain, readnoise, n_threads=self.n_threads, **options)

    def clip_jumps(self, data, groupdq, gain, threshold, only_use_ints):
        """Flag outliers over the integrations, or over all differences of a pixel."""
        from gpucoron.backends.operations.jump.definition import clip_jumps

        clip_jumps(data, groupdq, gain, threshold, only_use_ints, n_threads=self.n_threads)

    def fit_ramps(self, data, groupdq, pixeldq, gain, readnoise, **options):
        from gpucoron.backends.operations.ramp_fit.definition import fit_ramps

        return fit_ramps(data, groupdq, pixeldq, gain, readnoise, n_threads=self.n_threads, **options)

    def measure_scatter(self, data):
        from gpucoron.backends.operations.emicorr.definition import measure_scatter

        return measure_scatter(data, n_threads=self.n_threads)

    def sum_by_phase(self, data, good, bins, n_bins):
        from gpucoron.backends.operations.emicorr.definition import sum_by_phase

        return sum_by_phase(data, good, bins, n_bins, n_threads=self.n_threads)

    def match_wave(self, sums, counts, wave, group_phases, n_trials):
        from gpucoron.backends.operations.emicorr.definition import match_wave

        return match_wave(sums, counts, wave, group_phases, n_trials, n_threads=self.n_threads)

    def subtract_wave(self, data, *wave_and_phases):
        from gpucoron.backends.operations.emicorr.definition import subtract_wave

        subtract_wave(data, *wave_and_phases, n_threads=self.n_threads)

    def fit_pedestal(self, data, groupdq, limit, *, group_time):
        from gpucoron.backends.operations.subtract_ktc.definition import fit_pedestal

        return fit_pedestal(data, groupdq, limit, group_time=group_time, n_threads=self.n_threads)

    def fit_mean_slope(self, data, groupdq, pedestal, limit, *, group_time):
        from gpucoron.backends.operations.subtract_ktc.definition import fit_mean_slope

        return fit_mean_slope(data, groupdq, pedestal, limit, group_time=group_time, n_threads=self.n_threads)

    def background_mask(self, images, bad, *, nsigma=3, niter=3):
        from gpucoron.backends.operations.subtract_1overf.background import background_mask

        return background_mask(images, bad, nsigma=nsigma, niter=niter, n_threads=self.n_threads)

    def fit_flicker(
        self,
        images,
        masks,
        *,
        model_type="savgol",
        vertical_corr=False,
        flatten_model=False,
        noutputs=1,
        channel_averaging=False,
    ):
        from gpucoron.backends.operations.subtract_1overf.flicker import fit_flicker

        return fit_flicker(
            images,
            masks,
            model_type=model_type,
            vertical_corr=vertical_corr,
            flatten_model=flatten_model,
            noutputs=noutputs,
            channel_averaging=channel_averaging,
            n_threads=self.n_threads,
        )

    def fit_likelihood(self, diffs, read_times, sig, **options):
        from gpucoron.backends.operations.likelihood.definition import fit_likelihood

        return fit_likelihood(diffs, read_times, sig, n_threads=self.n_threads, **options)

    def fit_likelihood_ramps(self, data, groupdq, gain, readnoise, read_times, **options):
        from gpucoron.backends.operations.likelihood.definition import fit_likelihood_ramps

        return fit_likelihood_ramps(data, groupdq, gain, readnoise, read_times, n_threads=self.n_threads, **options)
