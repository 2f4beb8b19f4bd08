"""Run every kernel on small arrays through the host build: what the sanitizers watch. Not a test by itself.

Usage: exercise_kernels.py all | overrun | race
"""

import sys

import numpy as np

from gpucoron.backends.host_backend import HostBackend
from gpucoron.backends.kernel_launch import geometry
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED

TIMES = {"group_time": 2.0, "frame_time": 0.5, "nframes": 4}


def make_ramps(rng, shape):
    """Make ramps with jumps, flags of all kinds and NaN; data, groupdq, gain, read noise."""
    data = np.cumsum(rng.normal(30, 9, shape) + (rng.random(shape) < 0.05) * 700, axis=1).astype(np.float32)
    data[rng.random(shape) < 0.01] = np.nan
    flags = [0, DO_NOT_USE, SATURATED, JUMP_DET, CHARGELOSS | DO_NOT_USE]
    groupdq = rng.choice(flags, p=[0.9, 0.02, 0.03, 0.03, 0.02], size=shape).astype(np.uint8)
    image = shape[2:]
    return data, groupdq, rng.uniform(1, 3, image).astype(np.float32), rng.uniform(5, 15, image).astype(np.float32)


def exercise(sharing):
    """Launch everything; ``sharing`` with threads that share a pixel."""
    rng = np.random.default_rng(1)
    backend = HostBackend(2, lanes=4 if sharing else 1)
    alone = HostBackend(1)
    backend.convert_counts(np.arange(300, dtype=np.uint16), offset=True)
    for shape in ((2, 7, 5, 13), (1, 3, 1, 1), (3, 32, 3, 9)):
        data, groupdq, gain, readnoise = make_ramps(rng, shape)
        image = shape[2:]
        for length in (2, 5, 11):
            coeffs = rng.normal(0, 1e-6, (length, *image)).astype(np.float32)
            backend.linearity(data.copy(), groupdq, coeffs)
            backend.linearity(data.copy(), groupdq, coeffs, inverse_coeffs=coeffs, nframes=4)
        for nframes in (None, 1, 4):
            threshold, checked = np.full(image, 150, np.float32), rng.random(image) < 0.9
            backend.flag_saturation(
                data, groupdq.copy(), threshold, checked, n_pix_grow_sat=2, nframes=nframes, bias=gain
            )
        after = {"after_jump_flag_n1": 2, "after_jump_flag_e1": 100.0}
        for options in ({}, {"min_diffs_single_pass": 1, **after}, {"min_diffs_single_pass": 500, **after}):
            backend.detect_jumps(data, groupdq.copy(), gain, readnoise, **options)
        # Clipping reads flag bytes next to those that it sets: harmless, but formally a race.
        for options in ({"only_use_ints": False}, {}):
            alone.detect_jumps(data, groupdq.copy(), gain, readnoise, minimum_sigclip_groups=1, **options)
        backend.detect_jumps(data[:, :2].copy(), groupdq[:, :2].copy(), gain, readnoise)
        pixeldq, zeroframe = np.zeros(image, np.uint32), np.ones((shape[0], *image), np.float32)
        backend.fit_ramps(data, groupdq, pixeldq, gain, readnoise, **TIMES, zeroframe=zeroframe, dark_current=gain)
        cut = data[:, 1:], groupdq[:, 1:]
        backend.fit_ramps(*cut, pixeldq, gain, readnoise, **TIMES, original_groupdq=groupdq[:, 1:])
        exercise_custom(backend, data, groupdq)


def exercise_custom(backend, data, groupdq):
    """Launch the kernels of the coronagraphic steps."""
    limit = np.full(data.shape[2:], 150.0)
    pedestal, _ = backend.fit_pedestal(data, groupdq, limit, group_time=2.0)
    backend.fit_mean_slope(data, groupdq, pedestal, limit, group_time=2.0)


def overrun():
    """Tell a kernel that an array is larger than it is."""
    backend = HostBackend(1)
    grid, block = geometry(4096, 32)
    backend.launch("drop_redundant_jumps", grid, block, {"groupdq": np.ones(64, np.uint8), "n_samples": 4096})


def race():
    """Let threads write where others read."""
    buffer = np.zeros(8192, np.uint16)
    grid, block = geometry(4096, 32)
    values = {"raw": buffer[:4096], "counts": buffer.view(np.float32), "n_words": 4096}
    HostBackend(2).launch("convert_counts", grid, block, values, (False,))


if __name__ == "__main__":
    if sys.argv[1] == "all":
        exercise(sharing=False)
        exercise(sharing=True)
    else:
        {"overrun": overrun, "race": race}[sys.argv[1]]()
