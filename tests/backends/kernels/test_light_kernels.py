"""Kernels of light steps return the bits of NumPy: on the CPU with the host build, and on a GPU."""

import numpy as np
import pytest

from gpucoron.backends import BACKENDS, get_backend
from gpucoron.backends.backend import Backend
from gpucoron.backends.devices import launch
from gpucoron.backends.kernel_files import MOST_COLUMNS
from gpucoron.backends.operations.ipc import kernels as ipc_kernels
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.steps import dark_current, dq_init, ipc, ramp_fit, reset, superbias
from gpucoron.steps.dark_line import fit_line
from gpucoron.steps.ipc import ReferenceEdges
from tests.cases.backends import backend_params, usable_backend

DEFINITION = get_backend("numpy", n_threads=1)
SHAPES = ((3, 7, 5, 13), (19, 2, 3, 5), (1, 1, 1, 1), (2, 40, 1, 33))
ODD = (np.nan, np.inf, -np.inf, -0.0, 0.0, 3e38)


@pytest.fixture(scope="module", params=backend_params([name for name in BACKENDS if name != "numpy"]))
def backend(request):
    """All backends that run kernels; native also where it would choose NumPy as faster."""
    made = usable_backend(request.param, request.config)
    return Backend(made.device.kernels) if request.param == "native" else made


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def draw(rng, shape):
    """Draw values, every sixth of them an odd one."""
    return np.where(rng.random(shape) < 0.16, rng.choice(ODD, shape), rng.normal(100, 30, shape)).astype(np.float32)


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    known = ~np.isnan(expected)
    kind = np.dtype(f"u{expected.itemsize}")
    np.testing.assert_array_equal(found[known].view(kind), expected[known].view(kind))


def run_both(backend, function, data, *arrays, **options):
    """Run a function that changes its first array on copies, on a backend and in NumPy; return both results."""
    results = []
    for each in (backend, DEFINITION):
        changed, *others = (each.to_device(array.copy()) for array in (data, *arrays))
        with np.errstate(all="ignore"):
            function(changed, *others, backend=each, **options)
        results.append(each.to_host(changed))
    return results


# ------------------------------------------------------------------------------------------------- frames of references


@pytest.mark.parametrize("first", [1, 2, 9])
@pytest.mark.parametrize("threads", [1, 2**20])
@pytest.mark.parametrize("shape", SHAPES)
def test_dark(backend, rng, monkeypatch, shape, threads, first):
    """Darks of the same length, too short, averaged, and averaged beyond the last frame."""
    monkeypatch.setattr(launch, "MANY_THREADS", threads)
    patterns = [((1, 0), (1, 0), shape[1]), ((1, 0), (1, 0), 2), ((1, 0), (3, 2), 5 * shape[1]), ((1, 0), (4, 1), 6)]
    for dark_pattern, pattern, n_frames in [*patterns, ((1, 0), (1, 2), 9)]:
        data, dark = draw(rng, shape), draw(rng, (3, n_frames, *shape[2:]))
        options = {
            "dark_pattern": dark_current.ReadPattern(*dark_pattern), "pattern": dark_current.ReadPattern(*pattern),
            "first_integration": first, "by_integration": True,
        }  # fmt: skip
        found, expected = run_both(backend, dark_current.subtract_dark, data, dark, **options)
        assert_same_bits(found, expected)
        assert not np.array_equal(expected, data, equal_nan=True)


def test_dark_along_lines(backend, rng):
    shape, n_frames = (4, 9, 5, 7), 6
    data, dark = draw(rng, shape), np.cumsum(draw(rng, (n_frames, *shape[2:])), axis=0)
    for pattern in ((1, 0), (2, 1)):
        results = []
        for each in (backend, DEFINITION):
            changed, on_device = each.to_device(data.copy()), each.to_device(dark)
            with np.errstate(all="ignore"):
                lines = [fit_line(on_device, xp=each.xp)]
                patterns = dark_current.ReadPattern(1, 0), dark_current.ReadPattern(*pattern)
                n_beyond = dark_current.subtract_dark(changed, on_device, *patterns, lines=lines, backend=each)
            results.append(each.to_host(changed))
        assert n_beyond > 0
        assert_same_bits(*results)


@pytest.mark.parametrize("shape", SHAPES)
def test_reset_and_superbias(backend, rng, shape):
    data = draw(rng, shape)
    for reset_ngroups, first in ((1, 1), (5, 2), (99, 1)):
        anomaly = draw(rng, (3, reset_ngroups, *shape[2:]))
        found, expected = run_both(backend, reset.subtract_reset, data, anomaly, first_integration=first)
        assert_same_bits(found, expected)
        assert_same_bits(found[:, reset_ngroups:], data[:, reset_ngroups:])
    bias, zeroframe = draw(rng, shape[2:]), draw(rng, (shape[0], *shape[2:]))
    found, expected = run_both(backend, superbias.subtract_superbias, data, bias, zeroframe)
    assert_same_bits(found, expected)

    def swapped(zeroframe, data, bias, **options):
        superbias.subtract_superbias(data, bias, zeroframe, **options)

    found, expected = run_both(backend, swapped, zeroframe, data, bias)
    assert_same_bits(found, expected)
    assert (found[zeroframe == 0] == 0).all()


# --------------------------------------------------------------------------------------------------- flags of groups


@pytest.mark.parametrize("shape", [*SHAPES, (2, 300, 2, 3), (9, 5, 1, 70)])
def test_suppressed_ramps(backend, rng, shape):
    for share in (0.0, 0.3, 1 / shape[1], 1.0):
        flags = rng.choice([DO_NOT_USE, SATURATED, JUMP_DET, CHARGELOSS, 255], shape)
        groupdq = np.where(rng.random(shape) < share, rng.choice([0, PERSISTENCE], shape), flags).astype(np.uint8)
        found, expected = run_both(backend, ramp_fit.suppress_single_groups, groupdq)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [*SHAPES, (9, 40, 1, 33)])
def test_flags_of_pixels(backend, rng, shape):
    for share in (0.0, 0.2, 1.0):
        groupdq, mask = rng.integers(0, 256, shape).astype(np.uint8), np.zeros(shape[2:], np.uint32)
        mask[rng.random(mask.shape) < share] = DO_NOT_USE | 1 << 20
        pixeldq = rng.integers(0, 2**32, mask.shape).astype(np.uint32)
        found, expected = run_both(backend, dq_init.initialize_flags, groupdq, pixeldq, mask)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(found, groupdq | (mask & DO_NOT_USE))


@pytest.mark.parametrize("shape", [(3, 7, 5, 13), (4, 8, 3, 5), (1, 3, 1, 1), (11, 40, 1, 33)])
def test_first_groups(backend, rng, shape):
    """Ramps that saturate early, not in all later groups either, and none that do."""
    most = shape[1] - 2
    for share in (0.0, 0.02, 0.3, 0.9):
        for skips in ((0, most), (1, 1), (most, most // 2), (min(3, most), min(4, most))):
            flags = rng.choice([SATURATED, SATURATED | DO_NOT_USE, JUMP_DET], shape)
            groupdq = np.where(rng.random(shape) < share, flags, 0).astype(np.uint8)
            pixeldq = rng.integers(0, 8, shape[2:]).astype(np.uint32)
            results = []
            for each in (backend, DEFINITION):
                changed, of_pixels = each.to_device(groupdq.copy()), each.to_device(pixeldq.copy())
                parts = [(slice(0, 1), skips[0]), (slice(1, None), skips[1])][: 1 + (shape[0] > 1)]
                counts = each.flag_first_groups(changed, of_pixels, parts)
                results.append((counts, each.to_host(changed), each.to_host(of_pixels)))
            (counts, *found), (expected_counts, *expected) = results
            assert counts == expected_counts
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


# ----------------------------------------------------------------------------------------------------- reference pixels


@pytest.mark.parametrize("siglimit", [3.0, 1.1, 0.4, 0.0, np.inf])
@pytest.mark.parametrize("n_pixels", [1, 2, 7, 8, 9, 130, 260, 1100, 1282])
def test_clipped_means(backend, rng, n_pixels, siglimit):
    """Numbers of pixels below and above those that NumPy sums in one piece, in two kinds and in one."""
    frames = np.round(rng.normal(100, 30, (12, 3, n_pixels)), 3).astype(np.float32)
    frames[1:8][rng.random((7, 3, n_pixels)) < 0.1] *= 40
    frames[3, 0, 0], frames[4, 1, -1], frames[5] = np.nan, np.inf, -0.0
    frames[6] = np.inf
    frames[7] = rng.choice([0.0, -0.0, 1e-30], frames[7].shape)
    frames[8] = rng.integers(0, 3, frames[8].shape)
    frames[9] = 3e38
    pixels = rng.permutation(3 * n_pixels)[: 2 * n_pixels].astype(np.int32)
    with np.errstate(all="ignore"):
        for n_first in (n_pixels, 1, 2 * n_pixels):
            expected = DEFINITION.clip_levels(frames, pixels, n_first, siglimit)
            found = backend.to_host(backend.clip_levels(backend.to_device(frames.copy()), pixels, n_first, siglimit))
            assert_same_bits(found, expected)


# ------------------------------------------------------------------------------------------------------------------ ipc


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("nx", [700, MOST_COLUMNS])
def test_ipc_of_frames_that_are_loaded_in_pieces(backend, rng, monkeypatch, nx, per_pixel, side):
    """Frames of which a block keeps one, some, or a whole number of rows at a time, of one frame or of two."""
    monkeypatch.setattr(ipc_kernels, "_MANY_FRAMES", 3)
    for n_frames in (1, 3):
        shape = (n_frames, 1, 17, nx)
        data = np.where(rng.random(shape) < 0.01, rng.choice(ODD, shape), rng.normal(100, 30, shape)).astype(np.float32)
        kernel = rng.normal(0, 0.01, (side, side, *(shape[2:] if per_pixel else ()))).astype(np.float32)
        edges = ReferenceEdges(1, 2, 4, 0)
        found, expected = run_both(backend, ipc.deconvolve_ipc, data, kernel, edges=edges)
        assert_same_bits(found, expected)
