"""The heavy operations of the coronagraphic steps as launches of the CUDA kernels."""

from functools import lru_cache

import numpy as np

from gpucoron.backends.base import LikelihoodFit
from gpucoron.backends.devices.launch import geometry, words_of
from gpucoron.backends.kernel_files import ROW_LANES
from gpucoron.backends.operations.likelihood.definition import Covariance
from gpucoron.backends.operations.likelihood.jumps import RULES
from gpucoron.backends.operations.subtract_1overf.background import MAD_TO_SIGMA
from gpucoron.backends.operations.subtract_1overf.flicker import _CUT, _FLATTENING_WINDOW, _NARROWING, _ROUNDS, _WINDOW
from gpucoron.backends.operations.subtract_1overf.savgol import _BRIDGE, ORDER, odd_window, projection

#: numbers that a ramp's likelihood fit keeps per difference, as in likelihood_jumps.cuh
SCRATCH_ROWS = 5
#: bits of a kernel's ``rules``, as in likelihood.cuh
RULE_BITS = {"guess_from_used": 1, "scale_from_used": 2, "pairs_need_gain": 4, "settles_ties": 8}
REJECT_JUMPS = 16

_RESULTS = ("countrate", "uncert", "chisq", "var_poisson", "var_rdnoise")


class CustomKernels:
    """What `gpucoron.backends.devices.kernel_device.KernelBackend` has for the steps that are spaceKLIP's."""

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
        sig = self.to_device(sig) if isinstance(sig, np.ndarray) else self.xp.asarray(sig)
        sig = self._float64(self.xp.broadcast_to(sig, shape[1:]))
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
        if model_type == "fft":
            return super().fit_flicker(
                images,
                masks,
                model_type=model_type,
                vertical_corr=vertical_corr,
                flatten_model=flatten_model,
                noutputs=noutputs,
                channel_averaging=channel_averaging,
            )
        images = self.xp.ascontiguousarray(images, dtype=np.float32)
        masks = self.xp.ascontiguousarray(masks)
        if noutputs > 1:
            return self._fit_outputs(
                images, masks, model_type, vertical_corr, flatten_model, noutputs, channel_averaging
            )
        values, good = self._centre_frames(images, masks)
        model = self._fit_along(values, good, model_type, flatten_model)
        if vertical_corr:
            values, good = self._turn(values - model), self._turn(good)
            model += self._turn(self._fit_rows(values, good, model_type, images.shape[1] // 3 - 1))
        return model

    def _fit_outputs(self, images, masks, model_type, vertical_corr, flatten_model, noutputs, channel_averaging):
        """Fit each output amplifier by itself, what they have in common first; then columns over the whole image."""
        width = images.shape[2] // noutputs
        channels = [np.s_[:, :, k * width : (k + 1) * width] for k in range(noutputs)]
        # Every second output is read in the other direction.
        directions = [np.s_[:, :, :: -1 if k % 2 == 0 else 1] for k in range(noutputs)]
        shared = None
        if channel_averaging:
            mean, known = self._average_outputs(images, masks, channels, directions)
            values, good = self._centre_frames(mean, known)
            shared = self._fit_along(values, good, model_type, flatten_model)
        model = self.xp.empty(images.shape, np.float32)
        for channel, direction in zip(channels, directions, strict=True):
            values, good = self._centre_frames(*map(self.xp.ascontiguousarray, (images[channel], masks[channel])))
            common = np.float32(0) if shared is None else shared[direction]
            model[channel] = self._fit_along(values - common, good, model_type, flatten_model) + common
        if vertical_corr:
            values, good = self._centre_frames(self._turn(images - model), self._turn(masks))
            model += self._turn(self._fit_along(values, good, model_type, flatten_model))
        return model

    def _average_outputs(self, images, masks, channels, directions):
        """Average the outputs, turned so that they are read in the same direction; and tell where there is any."""
        total = count = np.float32(0)
        for channel, direction in zip(channels, directions, strict=True):
            image = self.xp.ascontiguousarray(images[channel])
            seen = self.xp.ascontiguousarray(masks[channel]) & ~self.xp.isnan(image)
            median, _ = self._find_medians(image, seen)
            total = total + self.xp.where(seen, image - median[:, None, None], np.float32(0))[direction]
            count = count + seen[direction]
        mean = self.xp.where(count > 0, total / self.xp.maximum(count, 1), np.float32(np.nan)).astype(np.float32)
        return self.xp.ascontiguousarray(mean), self.xp.ascontiguousarray(count > 0)

    def _turn(self, frames):
        return self.xp.ascontiguousarray(frames.swapaxes(1, 2))

    def _find_medians(self, frames, good=None, centres=None):
        """Find each frame's median and mean, or those of the distances from ``centres``; two (n,) float32."""
        n, ny, nx = frames.shape
        medians, means = (self.xp.empty(n, np.float32) for _ in range(2))
        grid, block = geometry(1, self.frame_threads, n)
        values = {
            "frames": frames, "good": None if good is None else good.view(np.uint8), "centres": centres,
            "medians": medians, "means": means, "n_frames": n, "n_pixels": ny * nx,
        }  # fmt: skip
        self.launch("find_frame_medians", grid, block, values)
        return medians, means

    def _centre_frames(self, images, masks):
        """Subtract the median of the good pixels; outliers and their four neighbours are not good."""
        n, ny, nx = images.shape
        medians, _ = self._find_medians(images)
        spread, mean = self._find_medians(images, centres=medians)
        spread = spread * np.float32(MAD_TO_SIGMA)
        reaches = _CUT * self.xp.where(spread < np.finfo(float).eps, mean / np.float32(0.8), spread)
        good = self.xp.empty(images.shape, np.uint8)
        values = {
            "frames": images, "masks": masks.view(np.uint8), "medians": medians, "reaches": reaches, "good": good,
            "n_frames": n, "ny": ny, "nx": nx,
        }  # fmt: skip
        self.launch("mark_good", *geometry(ny * nx, self.block_threads, n), values)
        medians, _ = self._find_medians(images, good)
        # Where nothing is good, nothing is subtracted.
        return images - self.xp.nan_to_num(medians)[:, None, None], good

    def _fit_along(self, values, good, model_type, flatten_model):
        model = self._fit_rows(values, good, model_type, _WINDOW)
        if not flatten_model:
            return model
        n, ny, nx = model.shape
        window = odd_window(min(ny - 1, _FLATTENING_WINDOW), ny)
        columns = self._turn(model).reshape(n * nx, ny)
        return model - self._turn(self._smooth_lines(columns, window).reshape(n, nx, ny))

    def _fit_rows(self, values, good, model_type, window):
        """Fit the noise along rows; ``good`` loses what strays from a smoothed model."""
        if model_type == "savgol":
            return self._smooth_rows(values, good, window)
        rows = self._summarize_rows(values, good, is_mean=model_type == "mean")
        return self.xp.ascontiguousarray(self.xp.broadcast_to(rows[:, :, None], values.shape))

    def _summarize_rows(self, values, good, is_mean=False, active=None):
        n, ny, nx = values.shape
        results = self.xp.zeros((n, ny), np.float32)
        # Rows are always shared, where threads can share at all: their values lie side by side.
        lanes = ROW_LANES[-1] if self.choose_lanes(1, nx) > 1 else 1
        arguments = {
            "frames": values, "good": good, "active": active, "results": results, "n_rows": n * ny, "ny": ny, "nx": nx,
            "mad_to_sigma": MAD_TO_SIGMA, "narrowing": _NARROWING,
        }  # fmt: skip
        grid, block = geometry(n * ny * lanes, self.block_threads)
        self.launch("summarize_rows", grid, block, arguments, (is_mean, lanes))
        return results

    def _smooth_rows(self, values, good, window):
        """Smooth each image as one line of rows; leave out where that strays from its row, and smooth again."""
        n, ny, nx = values.shape
        length = ny * nx
        window = odd_window(window, length)
        active = self.xp.ones(n, np.int32)
        filled, packed, model = (self.xp.empty((n, length), np.float32) for _ in range(3))
        places = self.xp.empty((n, length), np.int32)
        lines = {"lines": values, "good": good, "active": active, "packed": packed, "places": places}
        lines |= {"n_lines": n, "length": length}
        grid, block = geometry(length, self.block_threads, n)
        for round_ in range(_ROUNDS + 1):
            if round_:
                medians = self._summarize_rows(values, good, active=active)
                strays = {"models": model, "medians": medians, "good": good, "active": active}
                one_block = geometry(1, self.frame_threads, n)
                self.launch("leave_out_strays", *one_block, {**strays, "n_frames": n, "ny": ny, "nx": nx})
            n_before = self.xp.cumsum(good.reshape(n, length), axis=1, dtype=np.int32)
            self.launch("pack_good", grid, block, {**lines, "n_before": n_before})
            holes = {"n_before": n_before, "projections": self.to_device(_bridge_projections()), "filled": filled}
            self.launch("bridge_holes", grid, block, {**lines, **holes})
            self._smooth_lines(filled, window, active, model)
        return model.reshape(n, ny, nx)

    def _smooth_lines(self, lines, window, active=None, smooth=None):
        n, length = lines.shape
        smooth = self.xp.empty(lines.shape, np.float32) if smooth is None else smooth
        arguments = {
            "lines": lines, "active": active, "projection": self.to_device(_projection(window)), "smooth": smooth,
            "n_lines": n, "length": length, "window": window,
        }  # fmt: skip
        self.launch("smooth_lines", *geometry(length, self.block_threads, n), arguments)
        return smooth

    def _float64(self, array):
        return self.xp.ascontiguousarray(array, dtype=np.float64)


@lru_cache(32)
def _projection(window):
    """Make a fit's matrix (window, window), contiguous."""
    return np.ascontiguousarray(projection(window))


@lru_cache(1)
def _bridge_projections():
    """Put the matrices of the fits to 5, 7, ... 33 samples one after the other."""
    return np.concatenate([projection(window).reshape(-1) for window in range(ORDER + 2, _BRIDGE + 1, 2)])


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
