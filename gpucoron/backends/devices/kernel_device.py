"""The heavy operations as launches of the CUDA kernels: what the device and its stand-in on the host share."""

from abc import abstractmethod

import numpy as np

from gpucoron.backends.base import Backend, Slopes
from gpucoron.backends.devices.kernel_custom import CustomKernels
from gpucoron.backends.devices.kernel_interference import InterferenceKernels
from gpucoron.backends.devices.launch import frames_apart, geometry, words_of
from gpucoron.backends.kernel_files import MOST_COLUMNS, POLYNOMIAL_LENGTHS, SIDES
from gpucoron.backends.operations.ipc.definition import deconvolve_coupling
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING, MINIMUM_GROUPS, NOT_SEARCHED, choose_search
from gpucoron.backends.operations.ramp_fit.median_network import median_network
from gpucoron.backends.operations.ramp_fit.segments import weight_table
from gpucoron.dq import DO_NOT_USE, JUMP_DET, SATURATED


class KernelBackend(CustomKernels, InterferenceKernels, Backend):
    """A backend of which the heavy operations are kernels. `launch` is what a subclass adds."""

    #: threads in a block
    block_threads = 128
    #: threads that go through a frame together
    frame_threads = 256
    #: pixels that a thread takes together, frame by frame, where that is faster: on a CPU; else 0
    strip_pixels = 0
    #: counts that are read while as many are sent
    words_at_once = 2**24

    @abstractmethod
    def launch(self, name, grid, block, values, variant=()):
        """Run a kernel of the table with arguments by name, after checking them."""

    @abstractmethod
    def choose_lanes(self, n_pixels, n_units):
        """Choose how many threads share a pixel that has ``n_units`` pieces of work."""

    def _over_pixels(self, name, n_pixels, n_rows, variant=(), **values):
        grid, block = geometry(n_pixels, self.block_threads, n_rows)
        self.launch(name, grid, block, {"n_pixels": n_pixels, **values}, variant)

    def load_counts(self, shape, read, *, offset=True):
        counts = self.xp.empty(shape, np.float32)
        flat = counts.reshape(-1)
        at_once = min(flat.size, self.words_at_once)
        buffers = self._upload_buffers(at_once)
        try:
            for number, start in enumerate(range(0, flat.size, at_once)):
                piece = flat[start : start + at_once]
                raw = buffers[number % len(buffers)].fill(read, piece.size)
                self.convert_counts(raw, piece, offset=offset)
        finally:
            # Nothing may be under way to or from the buffers when they go.
            self.synchronize()
        return counts

    def convert_counts(self, raw, counts, *, offset):
        """Convert counts as FITS stores them.

        Parameters
        ----------
        raw : array of uint16
            Big-endian words, as they are in the file.
        counts : array of float32, DN
            Of as many values; filled.
        offset : bool
            The words are signed with BZERO = 32768, as FITS stores unsigned numbers.
        """
        grid, block = geometry(raw.size, self.block_threads)
        self.launch("convert_counts", grid, block, {"raw": raw, "counts": counts, "n_words": raw.size}, (bool(offset),))

    def _upload_buffers(self, n_words):
        """Make what `load_counts` sends words with, in turn: ``fill(read, n)`` gives them on the device."""
        return [_HostBuffer(n_words)]

    def deconvolve_coupling(self, data, kernel, edges):
        nints, ngroups, ny, nx = data.shape
        height, width = kernel.shape[:2]
        if height != width or width not in SIDES or nx > MOST_COLUMNS:
            # A device wants few, large operations.
            deconvolve_coupling(data, kernel, edges, planes_at_once=ngroups, xp=self.xp)
            return
        values = {"data": data, "kernel": self._contiguous(kernel), "n_frames": nints * ngroups, "ny": ny, "nx": nx}
        grid, block = geometry(1, self.frame_threads, nints * ngroups)
        self.launch("deconvolve_coupling", grid, block, {**values, **edges._asdict()}, (width, kernel.ndim == 4))

    def linearity(self, data, groupdq, coeffs, *, inverse_coeffs=None, nframes=1):
        nints, ngroups, ny, nx = data.shape
        coeffs, inverse_coeffs = self._contiguous(coeffs), self._contiguous(inverse_coeffs)
        if (inverse_coeffs is None or ngroups == 1) and self.strip_pixels:
            grid, block = geometry(1, 1, -(-ny * nx // self.strip_pixels))
            values = {"data": data, "groupdq": groupdq, "coeffs": coeffs, "n_coeffs": len(coeffs)}
            values |= {"n_frames": nints * ngroups, "n_pixels": ny * nx, "strip": self.strip_pixels}
            self.launch("correct_strips", grid, block, values, (_length(coeffs),))
            return
        if inverse_coeffs is None or ngroups == 1:
            self._over_pixels(
                "correct_polynomial", ny * nx, nints * ngroups, (_length(coeffs),),
                data=data, groupdq=groupdq, coeffs=coeffs, n_coeffs=len(coeffs), n_frames=nints * ngroups,
            )  # fmt: skip
            return
        same = len(coeffs) == len(inverse_coeffs)
        self._over_pixels(
            "correct_reads", ny * nx, nints, (_length(coeffs) if same else 0,),
            data=data, groupdq=groupdq, coeffs=coeffs, inverse_coeffs=inverse_coeffs, n_coeffs=len(coeffs),
            n_inverse=len(inverse_coeffs), n_ints=nints, n_groups=ngroups, n_frames=nframes,
        )  # fmt: skip

    def flag_saturation(
        self, data, groupdq, threshold, checked, *, n_pix_grow_sat=1, nframes=None, bias=None, grow_diagonal=True
    ):
        nints, ngroups, ny, nx = data.shape
        threshold, checked, bias = map(self._contiguous, (threshold, checked, bias))
        ramp = {"n_ints": nints, "n_groups": ngroups}
        shape = (nints, words_of(ngroups), ny, nx)

        def grow(marked, flag, radius, corners=True):
            grid, block = geometry(ny * nx, self.block_threads, nints * words_of(ngroups))
            values = {"groupdq": groupdq, "words": marked, "flag": flag, "radius": max(radius, 0), "ny": ny, "nx": nx}
            self.launch("grow_flags", grid, block, {**values, **ramp}, (corners,))

        square = n_pix_grow_sat if grow_diagonal else 0
        saturated = self.xp.empty(shape, np.uint32)
        self._over_pixels(
            "mark_saturation", ny * nx, nints, data=data, groupdq=groupdq, threshold=threshold, words=saturated, **ramp
        )
        grow(saturated, SATURATED, square)
        # A group of one read is not diluted.
        diluted = nframes is not None and nframes > 1
        second = nframes is not None and ngroups > 2
        spoiled = None
        if diluted:
            spoiled = saturated if grow_diagonal else self.xp.empty(shape, np.uint32)
        if diluted or second:
            self._over_pixels(
                "mark_dilution", ny * nx, nints, (diluted, second),
                data=data, groupdq=groupdq, threshold=threshold, checked=checked.view(np.uint8), bias=bias,
                words=spoiled, n_frames=nframes, **ramp,
            )  # fmt: skip
        if diluted:
            grow(spoiled, DO_NOT_USE, square)
        if not grow_diagonal:
            grow(saturated, SATURATED, n_pix_grow_sat, corners=False)

    def detect_jumps(
        self,
        data,
        groupdq,
        gain,
        readnoise,
        *,
        rejection_threshold=4.0,
        three_group_rejection_threshold=6.0,
        four_group_rejection_threshold=5.0,
        flag_4_neighbors=True,
        max_jump_to_flag_neighbors=1000.0,
        min_jump_to_flag_neighbors=10.0,
        after_jump_flag_e1=0.0,
        after_jump_flag_n1=0,
        after_jump_flag_e2=0.0,
        after_jump_flag_n2=0,
        min_diffs_single_pass=10,
        minimum_groups=MINIMUM_GROUPS,
        minimum_sigclip_groups=100,
        only_use_ints=True,
        nframes=1,
    ):
        mode = choose_search(
            self._frames_all_flagged(groupdq, DO_NOT_USE),
            min_diffs_single_pass,
            minimum_sigclip_groups,
            only_use_ints,
            minimum_groups,
        )
        if mode is None:
            grid, block = geometry(groupdq.size, self.block_threads)
            self.launch("drop_redundant_jumps", grid, block, {"groupdq": groupdq, "n_samples": groupdq.size})
            return NOT_SEARCHED
        if mode == AFTER_CLIPPING:
            self.clip_jumps(data, groupdq, gain, rejection_threshold, only_use_ints)
            self._clear_frames_full_of_jumps(groupdq)
        n_flagged = self.search_jumps(
            mode, data, groupdq, gain, readnoise, rejection_threshold=rejection_threshold,
            three_group_rejection_threshold=three_group_rejection_threshold,
            four_group_rejection_threshold=four_group_rejection_threshold, flag_4_neighbors=flag_4_neighbors,
            max_jump_to_flag_neighbors=max_jump_to_flag_neighbors,
            min_jump_to_flag_neighbors=min_jump_to_flag_neighbors,
            after_jump_flag_e1=after_jump_flag_e1, after_jump_flag_n1=after_jump_flag_n1,
            after_jump_flag_e2=after_jump_flag_e2, after_jump_flag_n2=after_jump_flag_n2, nframes=nframes,
        )  # fmt: skip
        return int(n_flagged.sum(dtype=np.int64))

    def search_jumps(
        self,
        mode,
        data,
        groupdq,
        gain,
        readnoise,
        *,
        rejection_threshold,
        three_group_rejection_threshold,
        four_group_rejection_threshold,
        flag_4_neighbors,
        max_jump_to_flag_neighbors,
        min_jump_to_flag_neighbors,
        after_jump_flag_e1,
        after_jump_flag_n1,
        after_jump_flag_e2,
        after_jump_flag_n2,
        nframes,
    ):
        """Search every pixel's jumps in a mode that was chosen before; then the neighbours, and the groups after jumps.

        Returns
        -------
        (ny, nx) int32
            How many groups of each pixel have JUMP_DET before the neighbours are flagged.
        """
        nints, ngroups, ny, nx = data.shape
        gain, readnoise = self._contiguous(gain), self._contiguous(readnoise)
        ramp = {"n_ints": nints, "n_groups": ngroups}
        reaching = None
        if flag_4_neighbors:
            reaching = self.xp.zeros((nints, words_of(ngroups), ny, nx), np.uint32)
        follows = after_jump_flag_n1 > 0 or after_jump_flag_n2 > 0
        medians = self.xp.empty((ny, nx), np.float64) if follows else None
        n_flagged = self.xp.empty((ny, nx), np.int32)
        lanes = 1 if mode == AFTER_CLIPPING else self.choose_lanes(ny * nx, nints * words_of(ngroups))
        grid, block = geometry(ny * nx * lanes, self.block_threads)
        values = {
            "data": data, "groupdq": groupdq, "gain": gain, "readnoise": readnoise, "reaching": reaching,
            "medians": medians, "n_flagged": n_flagged, "n_pixels": ny * nx, "n_frames": nframes,
            "threshold": rejection_threshold, "three_groups": three_group_rejection_threshold,
            "four_groups": four_group_rejection_threshold, "smallest": min_jump_to_flag_neighbors,
            "largest": max_jump_to_flag_neighbors, **ramp,
        }  # fmt: skip
        self.launch("search_jumps", grid, block, values, (mode, lanes))
        if flag_4_neighbors:
            grid, block = geometry(ny * nx, self.block_threads, nints * words_of(ngroups))
            values = {"groupdq": groupdq, "reaching": reaching, "ny": ny, "nx": nx, **ramp}
            self.launch("flag_neighbors", grid, block, values)
        if follows:
            self._over_pixels(
                "flag_after_jumps", ny * nx, nints, data=data, groupdq=groupdq, gain=gain, medians=medians,
                e1=after_jump_flag_e1, n1=after_jump_flag_n1, e2=after_jump_flag_e2, n2=after_jump_flag_n2, **ramp,
            )  # fmt: skip
        return n_flagged

    def clip_jumps(self, data, groupdq, gain, threshold, only_use_ints):
        """Flag each pixel's outliers over the integrations, or over all of its groups."""
        nints, ngroups, ny, nx = data.shape
        self._over_pixels(
            "clip_jumps", ny * nx, ngroups - 1 if only_use_ints else 1, (not only_use_ints,), data=data,
            groupdq=groupdq, gain=self._contiguous(gain), n_ints=nints, n_groups=ngroups, threshold=threshold,
        )  # fmt: skip

    def _clear_frames_full_of_jumps(self, groupdq):
        nints, ngroups, ny, nx = groupdq.shape
        flagged = self._mark_frames_all_flagged(groupdq, JUMP_DET | DO_NOT_USE)
        self._over_pixels(
            "clear_lone_jumps", ny * nx, nints * ngroups, groupdq=groupdq, all_flagged=flagged, n_frames=nints * ngroups
        )

    def _frames_all_flagged(self, groupdq, mask):
        """Tell of which frames every pixel has a bit of ``mask``: (nints, ngroups) bool on the host."""
        return self.to_host(self._mark_frames_all_flagged(groupdq, mask)).astype(bool)

    def _mark_frames_all_flagged(self, groupdq, mask):
        nints, ngroups, ny, nx = groupdq.shape
        all_flagged = self.xp.ones((nints, ngroups), np.int32)
        # One block walks through a frame, and leaves it at the first pixel without the flag.
        grid, block = geometry(1, self.frame_threads, nints * ngroups)
        values = {"groupdq": groupdq, "mask": mask, "all_flagged": all_flagged}
        self.launch("planes_all_flagged", grid, block, {**values, "n_frames": nints * ngroups, "n_pixels": ny * nx})
        return all_flagged

    def fit_whole_ramps(self, samples, first, gain, read_noise, group_time):
        """Fit ramps without a flag; see `gpucoron.backends.operations.ramp_fit.definition.fit_whole_ramps`.

        They have three groups at least, and at most `median_network.MOST_PLANES` differences.
        """
        ngroups, n_ramps = samples.shape
        nints = n_ramps // gain.size
        comparisons = np.array([pair[:2] for pair in median_network(ngroups - 1)], np.int32)
        slopes, medians = (self.xp.empty(n_ramps, np.float64) for _ in range(2))
        values = {
            "samples": samples, "gain": gain, "readnoise": read_noise, "slopes": slopes, "medians": medians,
            "weights": self.to_device(weight_table(ngroups)), "comparisons": self.to_device(comparisons),
            "n_groups": ngroups, "first": first, "n_comparisons": len(comparisons), "n_ints": nints,
            "n_pixels": gain.size, "group_time": group_time,
        }  # fmt: skip
        self.launch("fit_whole_ramps", *geometry(1, self.frame_threads, -(-gain.size // 64) * nints), values)
        return slopes, medians

    def fit_ramps(
        self,
        data,
        groupdq,
        pixeldq,
        gain,
        readnoise,
        *,
        group_time,
        frame_time,
        nframes=1,
        groupgap=0,
        dark_current=None,
        zeroframe=None,
        original_groupdq=None,
        suppress_one_group=False,
    ):
        nints, ngroups, ny, nx = data.shape
        # stcal reads times as float32 and goes on in float64.
        frame = float(np.float32(frame_time))
        times = {
            "group_time": float(np.float32(group_time)), "frame_time": frame,
            "one_group_time": (nframes + 1.0) * frame / 2.0, "noise_divisor": np.sqrt(2.0 * nframes),
        }  # fmt: skip
        image, cube = (ny, nx), (nints, ny, nx)
        pixeldq, gain, readnoise, dark_current, zeroframe = map(
            self._contiguous, (pixeldq, gain, readnoise, dark_current, zeroframe)
        )
        data, groupdq, original_groupdq, apart = self._side_by_side(data, groupdq, original_groupdq)
        pixels = {"gain": gain, "readnoise": readnoise}
        ramp = {"n_ints": nints, "n_groups": ngroups, "frames_apart": apart}
        sums = {name: self.xp.empty(cube, np.float64) for name in ("slope_sums", "read_weights")}
        states = self.xp.empty(cube, np.uint32)
        rateints = self._empty_slopes(cube)
        median_rates = self.xp.empty(cube, np.float64)
        self._over_pixels(
            "fit_integrations", ny * nx, nints, data=data, groupdq=groupdq, pixeldq=pixeldq, zeroframe=zeroframe,
            median_rates=median_rates, states=states, dq=rateints.dq, suppress_one_group=int(suppress_one_group),
            **pixels, **sums, **ramp, **times,
        )  # fmt: skip
        signal = self.xp.empty(image, np.float64)
        self._over_pixels("average_median_rates", ny * nx, 1, median_rates=median_rates, signal=signal, n_ints=nints)
        # The median rates have served: their array takes the next kernel's weights.
        poisson_weights = median_rates
        restored_weights = None if original_groupdq is None else self.xp.empty(cube, np.float64)
        self._over_pixels(
            "weigh_integrations", ny * nx, nints, groupdq=groupdq, original_groupdq=original_groupdq,
            dark_current=dark_current, signal=signal, poisson_weights=poisson_weights,
            restored_weights=restored_weights, states=states, **vars(rateints), **pixels, **sums, **ramp, **times,
        )  # fmt: skip
        rate = self._empty_slopes(image)
        self._over_pixels(
            "combine_integrations", ny * nx, 1, pixeldq=pixeldq, gain=gain, poisson_weights=poisson_weights,
            restored_weights=restored_weights, states=states, dq_ints=rateints.dq, n_ints=nints, **sums, **vars(rate),
        )  # fmt: skip
        return rate, rateints

    def _contiguous(self, array):
        return None if array is None else self.xp.ascontiguousarray(array)

    def _side_by_side(self, *ramps):
        """Give ramps with integrations equally far apart, and how many frames that is; copies only if need be."""
        apart = {frames_apart(ramp) for ramp in ramps if ramp is not None}
        if len(apart) == 1 and None not in apart:
            return *ramps, apart.pop()
        return *map(self._contiguous, ramps), ramps[0].shape[1]

    def _empty_slopes(self, shape):
        images = [self.xp.empty(shape, np.float32) for _ in range(4)]
        return Slopes(images[0], self.xp.empty(shape, np.uint32), *images[1:])


class _HostBuffer:
    """A buffer that the kernels reach where it is."""

    def __init__(self, n_words):
        self._words = np.empty(n_words, np.uint16)

    def fill(self, read, n_words):
        words = self._words[:n_words]
        read(words)
        return words


def _length(coeffs):
    """The length that the kernel of a polynomial is compiled for."""
    return len(coeffs) if len(coeffs) in POLYNOMIAL_LENGTHS else 0
