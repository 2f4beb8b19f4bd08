"""The heavy operations of the coronagraphic steps as launches of the CUDA kernels."""

import numpy as np

from gpucoron.backends.base import LikelihoodFit
from gpucoron.backends.kernel_launch import words_of
from gpucoron.backends.numpy_ops.likelihood import Covariance
from gpucoron.backends.numpy_ops.likelihood_jumps import RULES

#: numbers that a ramp's likelihood fit keeps per difference, as in likelihood_jumps.cuh
SCRATCH_ROWS = 5
#: bits of a kernel's ``rules``, as in likelihood.cuh
RULE_BITS = {"guess_from_used": 1, "scale_from_used": 2, "pairs_need_gain": 4, "settles_ties": 8}
REJECT_JUMPS = 16

_RESULTS = ("countrate", "uncert", "chisq", "var_poisson", "var_rdnoise")


class CustomKernels:
    """What `gpucoron.backends.kernel_backend.KernelBackend` has for the steps that are spaceKLIP's."""

    #: bytes of device memory that likelihood fits may take beside the ramps; more lets more of them be under way
    scratch_bytes = 2**29

    def fit_pedestal(self, data, groupdq, limit, *, group_time):
        nints, ngroups, ny, nx = data.shape
        data, groupdq = self._contiguous(data), self._contiguous(groupdq)
        pedestal, slope = (self.xp.empty((nints, ny, nx), np.float64) for _ in range(2))
        self._over_pixels(
            "fit_pedestals", ny * nx, nints, data=data, groupdq=groupdq, limit=self._float64(limit),
            pedestal=pedestal, slope=slope, n_ints=nints, n_groups=ngroups, group_time=group_time,
        )  # fmt: skip
        return pedestal, slope

    def fit_mean_slope(self, data, groupdq, pedestal, limit, *, group_time):
        nints, ngroups, ny, nx = data.shape
        ramp = {"data": self._contiguous(data), "n_ints": nints, "n_groups": ngroups}
        n_usable = self.xp.empty((nints, ny, nx), np.int32)
        groupdq = self._contiguous(groupdq)
        self._over_pixels("count_usable_groups", ny * nx, nints, groupdq=groupdq, n_usable=n_usable, **ramp)
        slope = self.xp.empty((ny, nx), np.float64)
        self._over_pixels(
            "fit_mean_slopes", ny * nx, 1, n_usable=n_usable, pedestal=self._float64(pedestal),
            limit=self._float64(limit), slope=slope, group_time=group_time, **ramp,
        )  # fmt: skip
        return slope

    def fit_likelihood(
        self,
        diffs,
        read_times,
        sig,
        *,
        diffs2use=None,
        reject_jumps=True,
        threshold_oneomit=20.25,
        threshold_twoomit=23.8,
        rules="spaceklip",
    ):
        shape = diffs.shape
        used = self.xp.empty(shape, np.uint8)
        if diffs2use is not None:
            diffs2use = self.xp.ascontiguousarray(diffs2use != 0).view(np.uint8)
        sig = self._float64(self.xp.broadcast_to(self.xp.asarray(sig), shape[1:]))
        results = {name: self.xp.empty(shape[1:], np.float64) for name in _RESULTS}
        self._over_ramps(
            "fit_differences", used[0].size, read_times, diffs=self._float64(diffs), diffs2use=diffs2use, sig=sig,
            used=used, n_diffs=shape[0], n_ramps=used[0].size, threshold_one=threshold_oneomit,
            threshold_two=threshold_twoomit, rules=_rule_bits(rules) + REJECT_JUMPS * bool(reject_jumps), **results,
        )  # fmt: skip
        return LikelihoodFit(**results, diffs2use=used)

    def fit_likelihood_ramps(
        self,
        data,
        groupdq,
        gain,
        readnoise,
        read_times,
        *,
        dark_current=None,
        zeroframe=None,
        unusable=0xFF,
        threshold_oneomit=20.25,
        threshold_twoomit=23.8,
        rules="stcal",
    ):
        nints, ngroups, ny, nx = data.shape
        gain, readnoise, dark_current, zeroframe = map(self._contiguous, (gain, readnoise, dark_current, zeroframe))
        flags = self._contiguous(groupdq)
        results = {name: self.xp.empty((nints, ny, nx), np.float32) for name in _RESULTS}
        n_reads = 0 if zeroframe is None else 1 + len(np.atleast_1d(read_times[1]))
        self._over_ramps(
            "fit_groups", nints * ny * nx, read_times, data=self._contiguous(data), groupdq=flags, gain=gain,
            readnoise=readnoise, dark_current=dark_current, zeroframe=zeroframe, n_ints=nints, n_groups=ngroups,
            n_pixels=ny * nx, n_reads=n_reads, unusable=unusable, threshold_one=threshold_oneomit,
            threshold_two=threshold_twoomit, rules=_rule_bits(rules) + REJECT_JUMPS, **results,
        )  # fmt: skip
        if flags is not groupdq:
            groupdq[...] = flags
        return LikelihoodFit(**results, diffs2use=None)

    def _over_ramps(self, name, n_threads, read_times, **values):
        """Launch a likelihood fit with as many threads as there is scratch memory for."""
        table = tabulate_covariance(Covariance.of(read_times))
        n_diffs = table.shape[1]
        bytes_each = 8 * SCRATCH_ROWS * (n_diffs + 1) + 4 * words_of(n_diffs)
        blocks = max(
            1, min(-(-n_threads // self.block_threads), self.scratch_bytes // bytes_each // self.block_threads)
        )
        n_threads = blocks * self.block_threads
        values |= {
            "coefficients": self.to_device(table),
            "scratch": self.xp.empty((SCRATCH_ROWS, n_diffs + 1, n_threads), np.float64),
            "words": self.xp.empty((words_of(n_diffs), n_threads), np.uint32),
        }
        self.launch(name, (blocks, 1, 1), (self.block_threads, 1, 1), values)

    def _float64(self, array):
        return self.xp.ascontiguousarray(array, dtype=np.float64)


def tabulate_covariance(covariance):
    """Make the table (10, ndiffs) float64 that the likelihood kernels read, rows as in likelihood.cuh."""
    (alphas, alpha_of), (betas, beta_of) = covariance.kinds()
    table = np.zeros((10, len(covariance.delta_t)))
    table[0] = covariance.delta_t
    table[1], table[2] = covariance.alpha_photon, covariance.alpha_read
    table[3, :-1], table[4, :-1] = covariance.beta_photon, covariance.beta_read
    table[5:7] = np.array(alphas)[alpha_of].T
    if betas:
        table[7:9, :-1] = np.array(betas)[beta_of].T
    table[9, :-1] = covariance.reads[1:-1] > 1
    return table


def _rule_bits(rules):
    return sum(bit for name, bit in RULE_BITS.items() if getattr(RULES[rules], name))
