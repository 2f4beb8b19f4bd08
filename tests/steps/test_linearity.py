"""linearity compared with stcal."""

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.operations.linearity import definition as numpy_linearity
from gpucoron.dq import NO_LIN_CORR, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import linearity

BACKEND = get_backend("numpy", n_threads=1)
SHAPE = (3, 6, 24, 20)


def coefficients(rng, n, sign):
    """Make coefficients of realistic size, some of them unusable for different reasons."""
    coeffs = rng.normal(1, 0.2, (n, *SHAPE[2:])) * (10.0 ** -(5 * np.arange(n)))[:, None, None] * sign
    coeffs[0] = rng.normal(0, 1, SHAPE[2:])
    coeffs[1] = rng.normal(1, 0.01, SHAPE[2:])
    coeffs[rng.integers(0, n, 5), rng.integers(0, 24, 5), rng.integers(0, 20, 5)] = np.nan
    coeffs[1, rng.random(SHAPE[2:]) < 0.02] = 0
    return coeffs.astype(np.float32)


def make_case(rng):
    ramps = np.arange(1, SHAPE[1] + 1)[:, None, None] * rng.gamma(1, 3000, (SHAPE[0], 1, *SHAPE[2:]))
    data = (ramps + rng.normal(0, 20, SHAPE)).astype(np.float32)
    data[rng.random(SHAPE) < 0.01] = np.nan
    # Saturation: none, from some group on, in all groups, and sometimes not monotonic.
    since = rng.integers(0, 15, SHAPE[0:1] + SHAPE[2:])
    groupdq = np.where(np.arange(SHAPE[1])[:, None, None] >= since[:, None], SATURATED, 0).astype(np.uint8)
    groupdq[rng.random(SHAPE) < 0.03] ^= SATURATED
    groupdq |= rng.choice([0, 1, 4, 64], size=SHAPE).astype(np.uint8)
    dq = np.where(rng.random(SHAPE[2:]) < 0.03, NO_LIN_CORR, 0).astype(np.uint32)
    dq[rng.random(SHAPE[2:]) < 0.03] |= 1
    zeroframe = (data[:, 0] * rng.choice([0.0, 0.5], p=[0.1, 0.9], size=data[:, 0].shape)).astype(np.float32)
    return data, groupdq, rng.integers(0, 2**20, SHAPE[2:], dtype=np.uint32), dq, zeroframe


@pytest.mark.parity
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("nframes", [1, 2, 8])
@pytest.mark.parametrize("with_inverse", [False, True])
@pytest.mark.parametrize("n_coeffs", [2, 6])
def test_same_bits_as_stcal(rng, monkeypatch, n_coeffs, with_inverse, nframes, n_threads):
    from stcal.linearity.linearity import linearity_correction
    from stdatamodels.jwst.datamodels import dqflags

    # Small tiles, so that there are several, of unequal height.
    monkeypatch.setattr(numpy_linearity, "SCRATCH_BYTES", 5 * 8 * max(nframes, 3) * SHAPE[3])
    monkeypatch.setattr(numpy_linearity, "TILE_BYTES", 11 * 4 * SHAPE[0] * SHAPE[1] * SHAPE[3])
    data, groupdq, pixeldq, dq, zeroframe = make_case(rng)
    coeffs = coefficients(rng, n_coeffs, 1)
    inverse = coefficients(rng, n_coeffs + 1, -1) if with_inverse else None
    read_by_read = with_inverse and nframes > 1
    pattern = [[1 + group * nframes + read for read in range(nframes)] for group in range(SHAPE[1])]
    with np.errstate(all="ignore"):
        expected = linearity_correction(
            data.copy(),
            groupdq,
            pixeldq.copy(),
            coeffs.copy(),
            dq.copy(),
            dqflags.pixel,
            zframe=zeroframe.copy(),
            ilin_coeffs=inverse.copy() if read_by_read else None,
            read_pattern=pattern if read_by_read else None,
        )

    for array in (coeffs, dq, inverse):
        if array is not None:
            array.flags.writeable = False
    exposure = Exposure(
        data=data.copy(),
        groupdq=groupdq.copy(),
        pixeldq=pixeldq.copy(),
        zeroframe=zeroframe.copy(),
        facts=Facts("NIRCAM", nframes=nframes, zero_frame=True),
    )
    references = {"linearity": Reference(coeffs=coeffs, dq=dq, inv_coeffs=inverse)}
    outcome = linearity.run(exposure, references, None, get_backend("numpy", n_threads=n_threads))

    assert outcome.status == "COMPLETE"
    for name, mine, theirs in zip(
        ("data", "pixeldq", "zeroframe"), (exposure.data, exposure.pixeldq, exposure.zeroframe), expected, strict=True
    ):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    np.testing.assert_array_equal(exposure.groupdq, groupdq)
    saturated = (groupdq & SATURATED) != 0
    np.testing.assert_array_equal(exposure.data[saturated], data[saturated])
    assert not np.array_equal(exposure.data, data, equal_nan=True)


def test_reads_matter(rng):
    """A check of the parity test: the read-averaged form must differ from the plain polynomial."""
    data, groupdq, *_ = make_case(rng)
    coeffs = np.zeros((3, *SHAPE[2:]), np.float32)
    coeffs[1], coeffs[2] = 1, 2e-6
    inverse = coeffs.copy()
    inverse[2] *= -1
    plain, averaged = data.copy(), data.copy()
    BACKEND.linearity(plain, groupdq, coeffs)
    BACKEND.linearity(averaged, groupdq, coeffs, inverse_coeffs=inverse, nframes=8)
    good = np.isfinite(plain) & np.isfinite(averaged) & ((groupdq & SATURATED) == 0)
    assert np.abs(plain - averaged)[good].max() > 0.1


def test_one_group_takes_the_polynomial(rng):
    """stcal fails on a single group of averaged reads; gpucoron applies the polynomial."""
    data = rng.normal(9000, 500, (2, 1, 5, 4)).astype(np.float32)
    coeffs = np.full((3, 5, 4), [[[0]], [[1]], [[1e-6]]], np.float32)
    expected = data + np.float32(1e-6) * data * data
    BACKEND.linearity(data, np.zeros(data.shape, np.uint8), coeffs, inverse_coeffs=coeffs, nframes=4)
    np.testing.assert_allclose(data, expected, rtol=1e-6)


def test_skipped_without_reference():
    assert linearity.run(None, {"linearity": None}, None, BACKEND).status == "SKIPPED"


@pytest.fixture
def rng():
    return np.random.default_rng(21)
