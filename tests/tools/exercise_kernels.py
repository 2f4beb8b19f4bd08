"""Run every kernel on small arrays, for the sanitizers, on the host or on a GPU. This is not a test.

Usage: python -m tests.tools.exercise_kernels all | overrun | race [--backend host | cuda]
"""

import argparse
from contextlib import contextmanager

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.backends.devices.launch import geometry
from gpucoron.backends.kernel_files import CUDA_SOURCES, KERNELS, LANES, SOURCES
from gpucoron.backends.operations import background_mask, find_lost_groups
from gpucoron.backends.operations.dark_current import DarkCurrentSettings, ReadPattern
from gpucoron.backends.operations.jump.definition import AFTER_CLIPPING, ITERATIVE, ONE_PASS
from gpucoron.backends.operations.subtract_1overf import BackgroundSettings
from gpucoron.backends.operations.subtract_1overf.spectrum import PowerLaw, Spectrum
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.steps.ipc import ReferenceEdges

SHAPES = ((2, 7, 5, 13), (1, 3, 1, 1), (3, 32, 3, 9))
#: ramps whose differences do not fit into shared memory, for the search and for sigma clipping
LONG, MANY = (3, 300, 1, 2), (390, 3, 1, 2)
TIMES = {"group_time": 2.0, "frame_time": 0.5, "nframes": 4}


def make_ramps(rng, shape):
    """Make ramps with jumps, flags of all kinds and NaN; return data, groupdq, gain, read noise."""
    data = np.cumsum(rng.normal(30, 9, shape) + (rng.random(shape) < 0.05) * 700, axis=1).astype(np.float32)
    data[rng.random(shape) < 0.01] = np.nan
    flags = [0, DO_NOT_USE, SATURATED, JUMP_DET, CHARGELOSS | DO_NOT_USE]
    groupdq = rng.choice(flags, p=[0.9, 0.02, 0.03, 0.03, 0.02], size=shape).astype(np.uint8)
    image = shape[2:]
    return data, groupdq, rng.uniform(1, 3, image).astype(np.float32), rng.uniform(5, 15, image).astype(np.float32)


class Exercise:
    """Launch kernels on one backend, with a number of threads per pixel where possible; record the launches."""

    def __init__(self, name, lanes):
        # A launch with one worker: kernels that write adjacent bytes on purpose are then no race.
        self.backend = get_backend("host", n_threads=2) if name == "host" else get_backend(name)
        self.alone = get_backend("host", n_threads=1) if name == "host" else self.backend
        self.launched = set()
        for device in {self.backend.device, self.alone.device}:
            device.choose_lanes = lambda *work: lanes
            device.launch = self._noting(device.launch)

    def _noting(self, launch):
        def launch_and_note(name, *arguments):
            self.launched.add(name)
            launch(name, *arguments)

        return launch_and_note

    def send(self, *arrays):
        """Copy arrays to the device, each into a separate allocation."""
        return [self.backend.to_device(np.array(array)) for array in arrays]

    @contextmanager
    def in_strips(self, n_pixels):
        """Use the kernels of a CPU, which process neighbouring pixels together; without effect on a GPU."""
        device = self.backend.device
        device.strip_pixels = n_pixels if self.backend.name == "host" else 0
        yield
        device.strip_pixels = 0

    def run(self):
        """Launch everything."""
        rng = np.random.default_rng(1)
        words = np.arange(300, dtype=np.uint16)

        def read(into, first):
            into[...] = words[first : first + into.size]

        for offset in (True, False):
            self.backend.load_counts((3, 100), read, offset=offset)
        for shape in SHAPES:
            self.run_shape(rng, shape)
        self.backend.synchronize()

    def run_shape(self, rng, shape):
        backend, image = self.backend, shape[2:]
        ramps = make_ramps(rng, shape)
        for taps in ((3, 3), (5, 5)):
            for kernel in (np.ones(taps, np.float32), np.ones(taps + image, np.float32)):
                backend.deconvolve_ipc(*self.send(ramps[0], kernel), ReferenceEdges(1, 0, 0, 0))
        frames = ramps[0].reshape(-1, *image)
        for along_y, n_outputs in ((False, 1), (False, 0), (True, 1), (True, 2)):
            n, rows, columns = len(frames), *(image[::-1] if along_y else image)
            sides = rng.random((n, rows, n_outputs))
            levels, rounded, corrected = self.send(rng.random((n, columns)), np.arange(n, dtype=np.uint8) % 2, frames)
            sides = self.send(sides)[0] if n_outputs and columns % n_outputs == 0 else None
            backend.subtract_levels(corrected, levels, sides, rounded, along_y=along_y, keeps_zeros=n_outputs == 1)
        for n_frames, pattern in ((shape[1], (1, 0)), (2, (1, 0)), (3 * shape[1], (2, 1))):
            data, dark = self.send(ramps[0], rng.normal(9, 1, (n_frames, *image)).astype(np.float32))
            backend.subtract_frames(data, dark, settings=DarkCurrentSettings(pattern=ReadPattern(*pattern)))
        pixels = rng.permutation(image[0] * image[1]).astype(np.int32)
        for n_first in (len(pixels), 1):
            backend.clip_levels(self.send(frames)[0], pixels, n_first, 1.5)
        for length in (2, 5, 11):
            coeffs = rng.normal(0, 1e-6, (length, *image)).astype(np.float32)
            data, groupdq, coeffs = self.send(*ramps[:2], coeffs)
            backend.linearity(data, groupdq, coeffs)
            with self.in_strips(7):
                backend.linearity(data, groupdq, coeffs)
            backend.linearity(data, groupdq, coeffs, inverse_coeffs=coeffs, nframes=4)
        for nframes in (None, 1, 4):
            limits = np.full(image, 150, np.float32), rng.random(image) < 0.9
            for diagonal, strip in ((True, 0), (False, 0), (True, 7), (False, 7)):
                data, groupdq, threshold, checked, bias = self.send(*ramps[:2], *limits, ramps[2])
                options = {"n_pix_grow_sat": 2, "nframes": nframes, "grow_diagonal": diagonal}
                with self.in_strips(strip):
                    backend.flag_saturation(data, groupdq, threshold, checked, bias, **options)
        data, groupdq, ends = self.send(*ramps[:2], np.zeros(image))
        times = 2.0 * np.arange(shape[0] * shape[1]).reshape(shape[:2])
        backend.open_windows(data, groupdq, ends, times, window=5, threshold=100.0)
        self.count_flags(ramps[1])
        self.run_jumps(ramps)
        self.find_showers(ramps)
        self.fit(ramps)

    def find_showers(self, ramps):
        """Launch the kernels of a CPU that search for showers; a GPU has none."""
        backend = self.backend
        data, groupdq, gain, readnoise = self.send(*ramps)
        excluded = backend.to_device(ramps[2] > 2.9)
        with self.in_strips(64):
            for searched in (True, False):
                middle = backend.median_differences(data, groupdq, gain, searched=searched)
                for statistics in ((middle, readnoise), backend.clip_differences(data, groupdq, gain)):
                    for radii in ((1.0, 2.6), (0.0, 5.0)):
                        options = dict(zip(("extend_inner_radius", "extend_outer_radius"), radii, strict=True))
                        backend.find_excess(data[0], groupdq[0], excluded, gain, *statistics, **options)

    def count_flags(self, groupdq):
        """Launch the kernels that count and join flags, also between words."""
        backend, shape = self.backend, groupdq.shape
        pixeldq = backend.zeros(shape[2:], np.uint32)
        apart = backend.to_device(np.append(groupdq.reshape(-1), np.uint8(0)))
        for flags in (*self.send(groupdq), apart[:-1].reshape(shape), apart[1:].reshape(shape)):
            for asked in ({"in_samples": 0xFF}, {"in_pixels": 0xFF}, {"in_groups": 4, "in_pixels": 2, "everywhere": 1}):
                backend.count_flags(flags, **asked)
            find_lost_groups(backend, flags)
            backend.join_integration_flags(backend.join_group_flags(flags, pixeldq))

    def run_jumps(self, ramps):
        """Launch the kernels that depend on the threads per pixel, and the other jump kernels."""
        backend = self.backend
        after = {"after_jump_flag_n1": 2, "after_jump_flag_e1": 100.0}
        for options in ({}, {"min_diffs_single_pass": 1, **after}, {"min_diffs_single_pass": 500, **after}):
            backend.detect_jumps(*self.send(*ramps), **options)
            with self.in_strips(64):
                backend.detect_jumps(*self.send(*ramps), **options)
        # Clipping reads flag bytes next to those that it sets: harmless, but formally a race.
        for options in ({"only_use_ints": False}, {}):
            self.alone.detect_jumps(*self.send(*ramps), minimum_sigclip_groups=1, **options)
        with self.in_strips(64):
            backend.search_jumps(*self.send(*ramps), AFTER_CLIPPING, ramps[1][:, :, 0, 0] > 255)
        backend.detect_jumps(*self.send(ramps[0][:, :2], ramps[1][:, :2], *ramps[2:]))

    def stream_jumps(self):
        """Launch the jump kernels on ramps that they read again and again."""
        rng = np.random.default_rng(5)
        ramps, many = make_ramps(rng, LONG), make_ramps(rng, MANY)
        lost = np.zeros(LONG[:2], bool)
        for mode in (ONE_PASS, ITERATIVE, AFTER_CLIPPING):
            self.backend.search_jumps(*self.send(*ramps), mode, lost)
        for only_use_ints in (True, False):
            self.alone.clip_jumps(*self.send(*many[:3]), only_use_ints=only_use_ints)

    def fit(self, ramps):
        backend, shape = self.backend, ramps[0].shape
        image, cube = shape[2:], (shape[0], *shape[2:])
        data, groupdq, gain, readnoise, zeroframe = self.send(*ramps, np.ones(cube, np.float32))
        pixeldq = backend.zeros(image, np.uint32)
        cut = data[:, 1:], groupdq[:, 1:]
        # without flags, and so long that medians are found in another way
        longer = self.send(np.repeat(ramps[0], 9, axis=1), np.zeros((shape[0], 9 * shape[1], *image), np.uint8))
        for n_pixels in (0, 1):
            with self.in_strips(n_pixels):
                backend.fit_ramps(
                    data, groupdq, pixeldq, gain, readnoise, **TIMES, zeroframe=zeroframe, dark_current=gain
                )
                backend.fit_ramps(*cut, pixeldq, gain, readnoise, **TIMES, original_groupdq=groupdq[:, 1:])
                backend.fit_ramps(*longer, pixeldq, gain, readnoise, **TIMES)
                # fewer segments and jumps than some ramps have: the others are left out
                shapes = (7 * shape[0], 2, *image), cube, (shape[0], 1, *image)
                product = (backend.zeros(each, np.float32) for each in shapes)
                backend.fit_segments(data, groupdq, pixeldq, gain, readnoise, *product, gain, zeroframe, **TIMES)
        self.run_custom(data, groupdq, gain, readnoise)
        backend.add_flags(groupdq, groupdq[0, 0])
        backend.suppress_single_groups(groupdq)
        # Threads read what others set: harmless, but formally a race.
        skip = shape[1] - 2
        self.alone.flag_first_groups(groupdq, pixeldq, [(slice(0, 1), skip), (slice(1, None), skip)])

    def run_custom(self, data, groupdq, gain, readnoise):
        """Launch the kernels of spaceKLIP's steps."""
        backend, ngroups = self.backend, data.shape[1]
        pedestal, _ = backend.fit_ktc(data, groupdq, gain * 1000, group_time=2.0)
        backend.fit_mean_slope(data, groupdq, pedestal, gain * 1000, group_time=2.0)
        times = [[10.0 * group + 1, 10.0 * group + 3] for group in range(ngroups)]
        steps = data[0, 1:].astype(np.float64) - data[0, :-1]
        for rules in ("spaceklip", "stcal", "sound"):
            backend.fit_likelihood(steps, times, readnoise, rules=rules, diffs2use=groupdq[0, 1:] == 0)
            backend.fit_likelihood(steps, times, readnoise, rules=rules, max_diffs_one_sided=ngroups)
            backend.fit_likelihood_ramps(data, groupdq.copy(), gain, readnoise, times, rules=rules, dark_current=gain)
        apart = [times[0][0], times[0][1:], *times[1:]]
        for width in (0, 7, 64):
            with self.in_strips(width):
                backend.fit_likelihood_ramps(data, groupdq.copy(), gain, readnoise, apart, zeroframe=data[:, 0] / 2)
                backend.fit_likelihood_ramps(data, groupdq.copy(), gain, readnoise, times, rules="sound")
                backend.fit_likelihood(steps, times, readnoise, diffs2use=groupdq[0, 1:] == 0)
                backend.fit_likelihood(steps, times, readnoise, reject_jumps=False)
        self.run_emicorr(ngroups)
        masks = groupdq[0, :3] == 0
        backend.background_mask(data[0, :3], ~masks, niter=5)
        for model_type in ("savgol", "median", "mean", "fft"):
            backend.fit_1overf(data[0, :3], masks, model_type=model_type, vertical_corr=True, flatten_model=True)
        self.run_kriging()
        if backend.name == "host":
            self.run_frames()

    def run_kriging(self):
        """Launch the kernels of kriging, with one output and with two."""
        rng = np.random.default_rng(5)
        for noutputs, own in ((1, None), (2, PowerLaw(0.1, 1.0))):
            options = {"spectrum": Spectrum(PowerLaw(1.0, 1.0), own), "noutputs": noutputs}
            images, variances = self.send(*rng.random((2, 3, 18, 26), np.float32))
            self.backend.krige_slopes(images[0], variances[0], center=(9.0, 12.0), **options)
            self.backend.krige_differences(images, variances, **options)
            self.backend.measure_1overf(images, variances > 0.1, noutputs=noutputs)

    def run_frames(self):
        """Launch the kernels that process a frame in a thread, also a frame without any value."""
        rng = np.random.default_rng(4)
        frames = rng.normal(size=(4, 17, 21)).astype(np.float32)
        frames[:3, 3:9, 5:9] += 9
        frames[1, 2, :], frames[2, :, 4], frames[3] = np.nan, np.inf, np.nan
        bad = rng.random(frames.shape) < 0.1
        with self.in_strips(7):
            device = self.backend.device
            for excluded in (None, bad):
                masks = background_mask.kernels(device, frames, excluded, settings=BackgroundSettings())
                self.backend.fit_1overf(frames, masks, vertical_corr=excluded is None, flatten_model=True)

    def run_emicorr(self, ngroups):
        """Launch the kernels of emicorr, on ramps with complete quads of columns, and with an empty bin."""
        backend, n_bins = self.backend, 6
        rng = np.random.default_rng(3)
        data, wave = rng.normal(900, 9, (5, ngroups, 3, 8)).astype(np.float32), rng.normal(size=(4, n_bins + 1))
        bins, phases = rng.integers(-1, n_bins - 1, (3, 2)).astype(np.int32), rng.random((3, 2))
        (data,) = self.send(data)
        groups = 0.3 * np.arange(ngroups)
        for strip in (0, 7):
            with self.in_strips(strip):
                good = backend.measure_scatter(data) > 0
                sums, counts = backend.sum_by_phase(data, good, bins, n_bins)
                backend.subtract_emicorr(data, wave, phases, groups, rng.random(5), rng.random(5))
        backend.match_emicorr(sums, counts, wave, groups, 10)


def exercise(name):
    first, *others = LANES
    alone = Exercise(name, first)
    alone.run()
    alone.stream_jumps()
    for lanes in others:
        shared = Exercise(name, lanes)
        shared.stream_jumps()
        for shape in SHAPES:
            shared.run_jumps(make_ramps(np.random.default_rng(2), shape))
    sources = CUDA_SOURCES if name == "cuda" else SOURCES
    missing = {each for each, kernel in KERNELS.items() if kernel.source in sources} - alone.launched
    if missing:
        raise SystemExit(f"kernels that were not launched: {', '.join(sorted(missing))}")


def overrun(name):
    """Pass a kernel a size larger than the array."""
    backend = Exercise(name, 1).alone
    grid, block = geometry(4096, 32)
    groupdq = backend.to_device(np.ones(64, np.uint8))
    backend.device.launch("drop_redundant_jumps", grid, block, {"groupdq": groupdq, "n_samples": 4096})
    backend.synchronize()


def race(name):
    """Let threads write where others read; on a GPU in shared memory, which racecheck watches."""
    if name == "cuda":
        race_in_shared_memory()
        return
    buffer = np.zeros(8192, np.uint16)
    grid, block = geometry(4096, 32)
    values = {"raw": buffer[:4096], "counts": buffer.view(np.float32), "n_words": 4096}
    get_backend("host", n_threads=2).device.launch("convert_counts", grid, block, values, (False,))


def race_in_shared_memory():
    import cupy

    code = """extern "C" __global__ void race(int* out) {
        __shared__ int shared[64];
        shared[threadIdx.x] = threadIdx.x;
        out[threadIdx.x] = shared[63 - threadIdx.x];
    }"""
    out = cupy.zeros(64, np.int32)
    cupy.RawKernel(code, "race")((1,), (64,), (out,))
    cupy.cuda.Device().synchronize()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["all", "overrun", "race"])
    parser.add_argument("--backend", default="host", choices=["host", "cuda"])
    options = parser.parse_args()
    if options.backend == "cuda":
        import cupy

        # Without the pool an array ends where its allocation ends, so that an overrun is detected.
        cupy.cuda.set_allocator(None)
    {"all": exercise, "overrun": overrun, "race": race}[options.what](options.backend)


if __name__ == "__main__":
    main()
