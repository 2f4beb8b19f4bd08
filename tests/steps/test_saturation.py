"""saturation compared with stcal and jwst, and alone."""

import itertools

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.masks import grow_cross, grow_square
from gpucoron.dq import AD_FLOOR, DO_NOT_USE, NO_SAT_CHECK, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import saturation
from tests.cases.saturation import THRESHOLD, saturating_ramps, saturation_reference


def make_zeroframe(rng, ramps):
    zeroframe = ramps[:, 0] * rng.choice([0.0, 0.9, 7.0], p=[0.05, 0.9, 0.05], size=ramps[:, 0].shape)
    zeroframe[0, 5, 5] = np.nan
    return zeroframe.astype(np.float32)


@pytest.mark.parity
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    ("nframes", "n_pix_grow_sat", "with_bias", "ngroups"),
    [(None, 1, False, 7), (1, 1, True, 7), (4, 0, True, 7), (4, 1, True, 7), (8, 2, False, 7), (4, 3, True, 7)]
    + [(4, 1, True, 2), (4, 1, True, 1)],
)
def test_same_flags_as_stcal(rng, nframes, n_pix_grow_sat, with_bias, ngroups, n_threads):
    from stcal.saturation.saturation import flag_saturated_pixels
    from stdatamodels.jwst.datamodels import dqflags

    data = saturating_ramps(rng)[:, :ngroups]
    threshold, dq = saturation_reference(rng)
    groupdq = rng.choice([0, 1, 2, 4], p=[0.96, 0.02, 0.005, 0.015], size=data.shape).astype(np.uint8)
    pixeldq = rng.integers(0, 2**20, data.shape[2:], dtype=np.uint32)
    bias = rng.normal(7000, 500, data.shape[2:]).astype(np.float32) if with_bias else None
    if with_bias:
        bias[rng.random(bias.shape) < 0.02] = np.nan
    zeroframe = make_zeroframe(rng, data)
    if ngroups > 4 and nframes is not None:
        # Values within rounding of the diluted threshold, and bright pixels without one, before a saturated group.
        data[:, 4, 6:18:4] = data[:, 4, 7:18:4] = 65535
        dilution = (3 * nframes + (nframes + 1) / 2) / (4 * nframes)
        data[:, 3, 6:18:4] = np.float32(np.float64(threshold[6:18:4]) * dilution)
        data[:, 3, 7:18:4], dq[7:18:4] = 60000, NO_SAT_CHECK

    pattern = None
    if nframes is not None:
        pattern = [[1 + group * nframes + read for read in range(nframes)] for group in range(ngroups)]
    expected_groupdq, expected_pixeldq, expected_zeroframe = flag_saturated_pixels(
        data.copy(),
        groupdq.copy(),
        pixeldq.copy(),
        threshold.copy(),
        dq.copy(),
        65535.0,
        dqflags.pixel,
        n_pix_grow_sat=n_pix_grow_sat,
        zframe=zeroframe.copy(),
        read_pattern=pattern,
        bias=bias,
    )

    for array in (threshold, dq):
        array.flags.writeable = False
    before = data.copy()
    exposure = Exposure(
        data=data,
        groupdq=groupdq,
        pixeldq=pixeldq,
        zeroframe=zeroframe,
        facts=Facts("NIRCAM", nframes=nframes, zero_frame=True),
    )
    references = {
        "saturation": Reference(data=threshold, dq=dq),
        "superbias": None if bias is None else Reference(data=bias),
    }
    parameters = saturation.STEP.settings(
        n_pix_grow_sat=n_pix_grow_sat, use_readpatt=nframes is not None, grow_diagonal=True, flag_rcsat=False
    )
    outcome = saturation.run(exposure, references, parameters, get_backend("numpy", n_threads=n_threads))

    assert outcome.status == "COMPLETE"
    np.testing.assert_array_equal(exposure.groupdq, expected_groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, expected_pixeldq)
    np.testing.assert_array_equal(exposure.zeroframe, expected_zeroframe)
    np.testing.assert_array_equal(exposure.data, before)
    n_saturated = np.any(expected_groupdq & SATURATED, axis=(0, 1)).sum()
    assert outcome.flagged["saturated pixels"] == n_saturated > 0


@pytest.mark.parametrize(
    ("ramp", "nframes", "expected"),
    [
        # pass 1 only: single reads are not averaged
        ((9000, 45000, 60000, 60000), 1, (0, 0, SATURATED, SATURATED)),
        # pass 2: the second group reaches 50000 x 6.5 / 8, and the first predicted saturation, so pass 3 does nothing
        ((20000, 45000, 60000, 60000), 4, (0, DO_NOT_USE, SATURATED, SATURATED)),
        ((20000, 40000, 60000, 60000), 4, (0, 0, SATURATED, SATURATED)),
        # pass 3: far below the diluted threshold, but a jump of more than a quarter of the remaining range
        ((9000, 29000, 60000, 60000), 4, (0, DO_NOT_USE, SATURATED, SATURATED)),
        ((9000, 19000, 60000, 60000), 4, (0, 0, SATURATED, SATURATED)),
        # the first group predicts 10000 / 2.5 x 12 above the bias of 8000: expected saturation
        ((18000, 30000, 60000, 60000), 4, (0, 0, SATURATED, SATURATED)),
        # the A/D floor, which does not propagate, and a dip after saturation, which stays flagged
        ((0, 9000, 60000, 9000), 4, (AD_FLOOR | DO_NOT_USE, 0, SATURATED, SATURATED)),
    ],
)
def test_passes_by_hand(ramp, nframes, expected):
    data = np.array(ramp, np.float32).reshape(1, 4, 1, 1)
    groupdq = np.zeros(data.shape, np.uint8)
    threshold, bias = np.full((1, 1), THRESHOLD, np.float32), np.full((1, 1), 8000, np.float32)
    get_backend("numpy", n_threads=1).flag_saturation(
        data, groupdq, threshold, np.ones((1, 1), bool), n_pix_grow_sat=0, nframes=nframes, bias=bias
    )
    assert tuple(groupdq.ravel()) == expected


@pytest.mark.parity
@pytest.mark.parametrize("n_pixels", [1, 2, 3])
def test_growth_is_stcals(rng, n_pixels):
    from stcal.saturation.saturation import _adjacent_pixels

    for shape, density in itertools.product([(24, 20), (2 * n_pixels, 9), (9, 2 * n_pixels)], [0.02, 0.2]):
        flags = rng.choice([0, 2, 1], p=[1 - density, density / 2, density / 2], size=shape).astype(np.uint8)
        expected = _adjacent_pixels(flags.copy(), 2, n_pixels)
        np.testing.assert_array_equal(flags | grow_square(flags & 2, n_pixels), expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (3, 2)])
@pytest.mark.parametrize("n_pixels", [0, 1, 2, 6])
def test_growth_on_tiny_images(shape, n_pixels):
    """stcal fails on these; gpucoron follows the definition of a dilation."""
    mask = np.zeros(shape, bool)
    mask[0, 0] = True
    rows, columns = np.indices(shape)
    np.testing.assert_array_equal(grow_square(mask, n_pixels), np.maximum(rows, columns) <= n_pixels)


def test_growth_of_a_cross(rng):
    from scipy.ndimage import binary_dilation, generate_binary_structure

    masks = rng.random((3, 12, 9)) < 0.1
    for mask, grown in zip(masks, grow_cross(masks), strict=True):
        np.testing.assert_array_equal(grown, binary_dilation(mask, generate_binary_structure(2, 1)))


def test_skipped_without_reference():
    outcome = saturation.run(None, {"saturation": None}, None, get_backend("numpy", n_threads=1))
    assert outcome.status == "SKIPPED" and outcome.reason


@pytest.fixture
def rng():
    return np.random.default_rng(20)
