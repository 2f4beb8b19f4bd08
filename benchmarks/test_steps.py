"""Benchmarks of the heavy operations, by backend, with pytest-benchmark.

python -m pytest benchmarks/test_steps.py [-k "ramp_fit and native"] [--benchmark-compare]

The ramps have 10 groups x 20 integrations for NIRCam and 60 x 4 for MIRI, both without files. The plain test run
does not collect this file. Backends that are not available on this machine are skipped.
"""

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, JUMP_DET
from gpucoron.errors import BackendUnavailableError
from gpucoron.steps.emicorr import N_TRIALS, cubic_pieces
from gpucoron.steps.ipc import ReferenceEdges

SHAPES = {"nircam-10x20": (20, 10, 320, 320), "miri-60x4": (4, 60, 224, 288)}


@pytest.fixture(scope="module", params=["numpy", "native", "cuda"])
def backend(request):
    try:
        return get_backend(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=sorted(SHAPES))
def ramps(request):
    """Arrays on the host, by name: ramps with jumps and a few flags, and the references' images."""
    nints, ngroups, ny, nx = shape = SHAPES[request.param]
    rng = np.random.default_rng(6)
    flux = 10 ** rng.uniform(0.5, 3, (ny, nx))
    data = np.empty(shape, np.float32)
    for ramp in data:
        steps = rng.normal(flux, np.sqrt(flux), (ngroups, ny, nx)) + (rng.random((ngroups, ny, nx)) < 2e-4) * 3000
        ramp[...] = np.cumsum(steps, axis=0) + rng.normal(0, 8, steps.shape)
    groupdq = np.zeros(shape, np.uint8)
    if request.param.startswith("miri"):
        groupdq[:, :3, rng.random((ny, nx)) < 0.95] = DO_NOT_USE
    jumped = groupdq.copy()
    jumped[rng.random(shape) < 2e-4] |= JUMP_DET
    coeffs = np.stack([np.full((ny, nx), value, np.float32) for value in (0, 1, 1e-6, 1e-12, 1e-18)])
    return {
        "data": data, "groupdq": groupdq, "jumped": jumped, "coeffs": coeffs,
        "gain": np.full((ny, nx), 1.8, np.float32), "readnoise": np.full((ny, nx), 12, np.float32),
        "threshold": np.full((ny, nx), 4e4, np.float32), "checked": np.ones((ny, nx), bool),
        "pixeldq": np.zeros((ny, nx), np.uint32),
    }  # fmt: skip


def time_it(benchmark, backend, operation, ramps, names, *more, changed=0, **options):
    """Time an operation on device arrays; the argument ``changed`` is copied anew before each call."""
    arrays = [backend.to_device(ramps[name]) for name in names]

    def renew():
        fresh = list(arrays)
        fresh[changed] = backend.copy(arrays[changed])
        return (*fresh, *more), options

    def act(*given, **named):
        answer = getattr(backend, operation)(*given, **named)
        backend.synchronize()
        return answer

    benchmark.extra_info["megasamples"] = ramps["data"].size / 1e6
    benchmark.pedantic(act, setup=renew, rounds=5, warmup_rounds=1)


def test_saturation(benchmark, backend, ramps):
    names = ("data", "groupdq", "threshold", "checked")
    time_it(benchmark, backend, "flag_saturation", ramps, names, changed=1, nframes=1)


@pytest.mark.parametrize("kernel", ["3x3", "5x5", "3x3 per pixel"])
def test_ipc(benchmark, backend, ramps, kernel):
    side, image = int(kernel[0]), ramps["gain"].shape if "pixel" in kernel else ()
    weights = np.full((side, side, *image), 0.001, np.float32)
    weights[side // 2, side // 2] = 1
    names = ("data",)
    more = backend.to_device(weights), ReferenceEdges(0, 0, 0, 0)
    time_it(benchmark, backend, "deconvolve_ipc", ramps, names, *more)


def test_linearity(benchmark, backend, ramps):
    time_it(benchmark, backend, "linearity", ramps, ("data", "groupdq", "coeffs"))


def test_jump(benchmark, backend, ramps):
    time_it(benchmark, backend, "detect_jumps", ramps, ("data", "groupdq", "gain", "readnoise"), changed=1)


def test_ramp_fit(benchmark, backend, ramps):
    names = ("data", "jumped", "pixeldq", "gain", "readnoise")
    time_it(benchmark, backend, "fit_ramps", ramps, names, changed=1, group_time=1.07, frame_time=1.07)


def test_emicorr(benchmark, backend, ramps):
    """The four operations of emicorr with one wave."""
    nints, ngroups, ny, nx = ramps["data"].shape
    rng = np.random.default_rng(2)
    n_bins = 200
    wave = cubic_pieces(3 * np.sin(np.arange(n_bins) / n_bins * 2 * np.pi))
    pixels, groups = rng.random((ny, nx // 4)), np.arange(ngroups) * 0.37
    good = backend.to_device(np.ones((nints, ny, nx), bool))
    bins = (pixels * n_bins).astype(np.int32)
    original = backend.to_device(ramps["data"])

    def act(data):
        backend.measure_scatter(data)
        sums, counts = backend.sum_by_phase(data, good, bins, n_bins)
        backend.match_emicorr(sums, counts, wave, groups, N_TRIALS)
        backend.subtract_emicorr(data, wave, pixels, groups, rng.random(nints), np.ones(nints))
        backend.synchronize()

    benchmark.pedantic(act, setup=lambda: ((backend.copy(original),), {}), rounds=3, warmup_rounds=1)
