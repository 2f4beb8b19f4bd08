"""The kernels of a CPU, which process strips of neighbouring pixels, return the bits of the NumPy definition."""

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.backend import Backend
from gpucoron.steps.emicorr import cubic_pieces
from tests.cases.backends import backend_params, usable_backend

DEFINITION = get_backend("numpy", n_threads=1)


@pytest.fixture(params=backend_params(["native", "host"]))
def in_strips(request, monkeypatch):
    """Make a backend that processes strips of so many pixels, on two threads."""
    made = usable_backend(request.param, request.config, n_threads=2)
    device = made.device.kernels if request.param == "native" else made.device

    def make(n_pixels):
        monkeypatch.setattr(device, "strip_pixels", n_pixels)
        return Backend(device)

    return make


def assert_same_bits(found, expected):
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


#: ramps with fewer groups than are summed together, with more, and with incomplete vectors of quads
EMICORR_SHAPES = [(1, 1, 1, 4), (2, 3, 5, 12), (3, 8, 3, 36), (2, 19, 7, 40), (1, 260, 2, 16)]


@pytest.mark.parametrize("shape", EMICORR_SHAPES)
@pytest.mark.parametrize("strip", [5, 64, 10000])
def test_scatter(in_strips, shape, strip):
    rng = np.random.default_rng(5)
    data = rng.normal(900, 30, shape).astype(np.float32)
    where = rng.random(shape)
    data[where < 0.01] = np.nan
    data[(where > 0.01) & (where < 0.015)] = np.inf
    data[where > 0.99] = 3e38
    data[where > 0.995] = -0.0
    data[:, :, 0, 1] = 7
    data[:, :, 0, 2] = -0.0
    with np.errstate(all="ignore"):
        expected = DEFINITION.measure_scatter(data)
    found = in_strips(strip).measure_scatter(data)
    np.testing.assert_array_equal(found, expected)
    is_number = ~np.isnan(expected)
    assert_same_bits(found[is_number], expected[is_number])


@pytest.mark.parametrize("shape", EMICORR_SHAPES)
@pytest.mark.parametrize("n_bins", [1, 7, 300])
@pytest.mark.parametrize("share", [0, 0.1, 1])
def test_sums_by_phase(in_strips, shape, n_bins, share):
    rng = np.random.default_rng(6)
    data = (rng.normal(0, 1, shape) * 10.0 ** rng.integers(-9, 9, shape)).astype(np.float32)
    data[rng.random(shape) < 0.1] = -0.0
    good = rng.random((shape[0], *shape[2:])) >= share
    bins = rng.integers(0, n_bins, (shape[2], shape[3] // 4)).astype(np.int32)
    bins[rng.random(bins.shape) < share] = -1
    expected = DEFINITION.sum_by_phase(data, good, bins, n_bins)
    for ours, theirs in zip(in_strips(64).sum_by_phase(data, good, bins, n_bins), expected, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("shape", EMICORR_SHAPES)
@pytest.mark.parametrize("n_bins", [3, 64])
def test_emicorr_subtracted(in_strips, shape, n_bins):
    rng = np.random.default_rng(7)
    data = (rng.normal(0, 1, shape) * 10.0 ** rng.integers(-3, 6, shape)).astype(np.float32)
    data[rng.random(shape) < 0.05] = np.nan
    data[rng.random(shape) < 0.05] = -0.0
    nints, ngroups, ny, nx = shape
    phases = rng.uniform(-2, 3, (ny, nx // 4))
    # At the ends of the period and of pieces: the next number below zero has the phase 1 after rounding.
    phases.flat[::3] = np.resize([0.0, -1e-20, 1.0, 0.5 / n_bins, np.nextafter(1, 0), 1 - 0.5 / n_bins], phases.size)[
        ::3
    ]
    wave = cubic_pieces(rng.normal(0, 5, n_bins))
    groups, integrations = rng.uniform(0, 40, ngroups), rng.uniform(0, 9, nints)
    groups[0] = integrations[0] = 0
    tables = wave, phases, groups, integrations, rng.uniform(-9, 9, nints)
    found, expected = data.copy(), data.copy()
    DEFINITION.subtract_emicorr(expected, *tables)
    in_strips(64).subtract_emicorr(found, *tables)
    is_number = ~np.isnan(expected)
    np.testing.assert_array_equal(found, expected)
    assert_same_bits(found[is_number], expected[is_number])
    assert np.nanmax(np.abs(found - data)) > 1e-3


def test_emicorr_at_no_phase(in_strips):
    """A phase of NaN gives NaN, and does not read beyond the table."""
    data, wave = np.ones((1, 2, 1, 36), np.float32), cubic_pieces(np.arange(6.0))
    found = data.copy()
    in_strips(64).subtract_emicorr(found, wave, np.zeros((1, 9)), np.zeros(2), np.array([np.nan]), np.ones(1))
    assert np.isnan(found).all()


#: more and fewer pixels than a part of a strip and than a strip, one pixel, rows and columns of one pixel
SATURATION_SHAPES = [(1, 1, 1, 1), (2, 3, 1, 700), (1, 9, 600, 1), (2, 4, 24, 20), (1, 5, 37, 29), (2, 3, 93, 101)]


def flag_saturation(backend, arrays, **settings):
    data, groupdq, *others = arrays
    groupdq = groupdq.copy()
    backend.flag_saturation(data, groupdq, *others, **settings)
    return groupdq


@pytest.mark.parametrize("shape", SATURATION_SHAPES)
@pytest.mark.parametrize("nframes", [None, 1, 4])
@pytest.mark.parametrize("grow_diagonal", [True, False])
def test_saturation(in_strips, shape, nframes, grow_diagonal):
    rng = np.random.default_rng(8)
    backend, image = in_strips(64), shape[2:]
    slope = rng.choice([10.0, 4000.0, 15000.0], p=[0.97, 0.02, 0.01], size=(shape[0], 1, *image))
    data = (30000 + slope * np.arange(shape[1])[:, None, None]).astype(np.float32)
    threshold = rng.choice([40000, 50000, np.nan], size=image).astype(np.float32)
    threshold[0, 0] = data[0, -1, 0, 0] = 45000
    for value in (0, -0.0, -1, np.nan, np.inf, -np.inf):
        data[rng.random(shape) < 0.01] = value
    groupdq = np.where(rng.random(shape) < 0.1, rng.integers(0, 256, shape), 0).astype(np.uint8)
    bias = rng.normal(10000, 3000, image).astype(np.float32)
    for flags in (groupdq, groupdq & 0xFD, np.zeros_like(groupdq), np.full_like(groupdq, 255)):
        arrays = data, flags, threshold, rng.random(image) < 0.9, bias
        for growth in (0, 1, 2, 7, max(image)):
            settings = {"n_pix_grow_sat": growth, "nframes": nframes, "grow_diagonal": grow_diagonal}
            expected = flag_saturation(DEFINITION, arrays, **settings)
            assert_same_bits(flag_saturation(backend, arrays, **settings), expected)


def test_nothing_is_saturated(in_strips):
    data = np.full((2, 3, 70, 80), 100, np.float32)
    arrays = data, np.full(data.shape, 4, np.uint8), np.full((70, 80), 1e5, np.float32), np.ones((70, 80), bool)
    np.testing.assert_array_equal(flag_saturation(in_strips(64), arrays, n_pix_grow_sat=3, nframes=1), 4)
