"""saturation with spaceKLIP's growth: without corners, with RC pixels, also in the ZEROFRAME."""

import copy
import itertools

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from gpucoron.backends import get_backend
from gpucoron.backends.masks import grow_cross
from gpucoron.dq import AD_FLOOR, DO_NOT_USE, GOOD, HOT, NO_SAT_CHECK, RC, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import saturation

SHAPE = (2, 6, 26, 22)


def make_exposure(rng, shape=SHAPE, instrument="NIRCAM"):
    """Make ramps that saturate, some late in a group, with RC pixels, earlier flags and a ZEROFRAME."""
    nints, ngroups, ny, nx = shape
    slope = rng.choice([10.0, 4000.0, 15000.0], p=[0.9, 0.06, 0.04], size=(nints, 1, ny, nx))
    data = 8000 + slope * np.arange(1, ngroups + 1)[:, None, None]
    late = rng.random((nints, ny, nx)) < 0.03
    data[:, 2:] += 60000 * late[:, None]
    data[:, 1] += rng.uniform(1000, 40000, late.shape) * late
    data[rng.random(shape) < 0.005] = 0
    data[0, 3:, 0, 0] = data[1, 2:, -1, 9] = 65535
    data = np.minimum(data, 65535).astype(np.float32)
    zeroframe = data[:, 0] * rng.choice([0.0, 0.9, 7.0], p=[0.02, 0.94, 0.04], size=(nints, ny, nx))
    return Exposure(
        data=data,
        groupdq=rng.choice([GOOD, DO_NOT_USE, SATURATED], p=[0.97, 0.02, 0.01], size=shape).astype(np.uint8),
        pixeldq=rng.choice([GOOD, RC, RC | HOT, HOT], p=[0.95, 0.02, 0.01, 0.02], size=(ny, nx)).astype(np.uint32),
        zeroframe=zeroframe.astype(np.float32),
        facts=Facts(instrument, nframes=4, zero_frame=True),
    )


def make_references(rng, shape=SHAPE[2:]):
    threshold = rng.normal(50000, 2000, shape).astype(np.float32)
    threshold[rng.random(shape) < 0.02] = np.nan
    dq = np.where(rng.random(shape) < 0.02, NO_SAT_CHECK, 0).astype(np.uint32)
    bias = rng.normal(7000, 500, shape).astype(np.float32)
    return {"saturation": Reference(data=threshold, dq=dq), "superbias": Reference(data=bias)}


def make_parameters(**changed):
    values = {"n_pix_grow_sat": 1, "use_readpatt": True, "grow_diagonal": False, "flag_rcsat": False}
    return saturation.STEP.settings(**values | changed)


def grow_as_scipy(masks, n_pixels):
    grown = [binary_dilation(mask, iterations=n_pixels) for mask in masks.reshape(-1, *masks.shape[-2:])]
    return np.array(grown).reshape(masks.shape)


def run_peer(exposure, references, parameters):
    """Run spaceKLIP's sequence on stcal: RC pixels first, the default flags with or without growth, then growth."""
    from stcal.saturation.saturation import flag_saturated_pixels
    from stdatamodels.jwst.datamodels import dqflags

    n_pixels, nframes = parameters.n_pix_grow_sat, exposure.facts.nframes
    ngroups = exposure.data.shape[1]
    rc = (exposure.pixeldq & RC) != 0
    groupdq = exposure.groupdq.copy()
    if parameters.flag_rcsat:
        groupdq[..., rc] |= SATURATED
    without_corners = not parameters.grow_diagonal and n_pixels > 0
    groupdq, pixeldq, zeroframe = flag_saturated_pixels(
        exposure.data.copy(),
        groupdq,
        exposure.pixeldq.copy(),
        references["saturation"].data.copy(),
        references["saturation"].dq.copy(),
        65535.0,
        dqflags.pixel,
        n_pix_grow_sat=0 if without_corners else n_pixels,
        zframe=exposure.zeroframe.copy(),
        read_pattern=[[1 + group * nframes + read for read in range(nframes)] for group in range(ngroups)],
        bias=references["superbias"].data,
    )
    if without_corners:
        groupdq[grow_as_scipy((groupdq & SATURATED) != 0, n_pixels)] |= SATURATED
        blank = zeroframe == 0
        if parameters.flag_rcsat:
            blank |= rc
        zeroframe[grow_as_scipy(blank, n_pixels)] = 0
    return groupdq, pixeldq, zeroframe


@pytest.mark.parity
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(("n_pixels", "flag_rcsat"), list(itertools.product([0, 1, 2, 3], [False, True])))
def test_flags_as_spaceklip(rng, n_pixels, flag_rcsat, n_threads):
    exposure, references = make_exposure(rng), make_references(rng)
    parameters = make_parameters(n_pix_grow_sat=n_pixels, flag_rcsat=flag_rcsat)
    groupdq, pixeldq, zeroframe = run_peer(exposure, references, parameters)
    if n_pixels == 0 and flag_rcsat:
        # A growth by zero pixels in spaceKLIP leaves RC pixels in the ZEROFRAME.
        zeroframe[:, (exposure.pixeldq & RC) != 0] = 0
    default = make_parameters(n_pix_grow_sat=n_pixels, grow_diagonal=True)
    default_groupdq, _, default_zeroframe = run_peer(exposure, references, default)

    before = exposure.data.copy()
    outcome = saturation.run(exposure, references, parameters, get_backend("numpy", n_threads=n_threads))
    np.testing.assert_array_equal(exposure.groupdq, groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)
    np.testing.assert_array_equal(exposure.zeroframe, zeroframe)
    np.testing.assert_array_equal(exposure.data, before)
    is_default = n_pixels == 0 and not flag_rcsat
    assert np.array_equal(groupdq, default_groupdq) == np.array_equal(zeroframe, default_zeroframe) == is_default
    assert outcome.flagged.get("RC pixels", 0) == (((exposure.pixeldq & RC) != 0).sum() if flag_rcsat else 0)


@pytest.mark.parity
def test_rc_pixels_with_growth_over_corners(rng):
    """Flags as in spaceKLIP; in the ZEROFRAME, RC pixels also count as saturated, which spaceKLIP omits."""
    exposure, references = make_exposure(rng), make_references(rng)
    parameters = make_parameters(grow_diagonal=True, flag_rcsat=True)
    groupdq, pixeldq, zeroframe = run_peer(exposure, references, parameters)
    rc = (exposure.pixeldq & RC) != 0
    saturation.run(exposure, references, parameters, get_backend("numpy", n_threads=1))
    np.testing.assert_array_equal(exposure.groupdq, groupdq)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)
    assert (zeroframe[:, rc] != 0).any()
    zeroframe[:, binary_dilation(rc, np.ones((3, 3)))] = 0
    np.testing.assert_array_equal(exposure.zeroframe, zeroframe)


@pytest.mark.parametrize(("grow_diagonal", "corner"), [(False, GOOD), (True, SATURATED)])
def test_corners_by_hand(grow_diagonal, corner):
    data = np.full((1, 2, 5, 5), 100, np.float32)
    data[0, 1, 2, 2] = 65000
    groupdq = np.zeros(data.shape, np.uint8)
    get_backend("numpy", n_threads=1).flag_saturation(
        data, groupdq, np.full((5, 5), 50000, np.float32), np.ones((5, 5), bool), grow_diagonal=grow_diagonal
    )
    assert not groupdq[0, 0].any()
    assert groupdq[0, 1, 1, 1] == groupdq[0, 1, 3, 1] == corner
    assert groupdq[0, 1, 1, 2] == groupdq[0, 1, 2, 3] == SATURATED
    assert np.count_nonzero(groupdq[0, 1]) == (9 if grow_diagonal else 5)


def test_only_saturation_grows_without_corners():
    """A diluted group with DO_NOT_USE, and the A/D floor, do not grow; a square would grow the first."""
    data = np.full((1, 4, 7, 7), 10000, np.float32)
    data[0, :, 3, 3] = (20000, 45000, 60000, 60000)
    data[0, 0, 0, 0] = 0
    answers = {}
    for grow_diagonal in (False, True):
        groupdq = np.zeros(data.shape, np.uint8)
        get_backend("numpy", n_threads=1).flag_saturation(
            data,
            groupdq,
            np.full((7, 7), 50000, np.float32),
            np.ones((7, 7), bool),
            nframes=4,
            grow_diagonal=grow_diagonal,
        )
        answers[grow_diagonal] = groupdq[0]
    assert np.count_nonzero(answers[False][1]) == 1 and answers[False][1, 3, 3] == DO_NOT_USE
    assert np.count_nonzero(answers[True][1]) == 9
    for groupdq in answers.values():
        assert np.count_nonzero(groupdq[0]) == 1 and groupdq[0, 0, 0] == AD_FLOOR | DO_NOT_USE


def test_miri_is_left_to_the_default(rng):
    """spaceKLIP's options are for NIRCam: for MIRI they have no effect."""
    exposure, references = make_exposure(rng, instrument="MIRI"), make_references(rng)
    default = copy.deepcopy(exposure)
    saturation.run(exposure, references, make_parameters(flag_rcsat=True), get_backend("numpy", n_threads=1))
    saturation.run(default, references, make_parameters(grow_diagonal=True), get_backend("numpy", n_threads=1))
    np.testing.assert_array_equal(exposure.groupdq, default.groupdq)
    np.testing.assert_array_equal(exposure.zeroframe, default.zeroframe)


@pytest.mark.parametrize("n_pixels", [0, 1, 2, 5])
def test_growth_is_a_diamond(n_pixels):
    mask = np.zeros((2, 9, 8), bool)
    mask[0, 4, 3] = mask[1, 0, 0] = True
    rows, columns = np.indices(mask.shape[1:])
    grown = grow_cross(mask, n_pixels)
    np.testing.assert_array_equal(grown[0], abs(rows - 4) + abs(columns - 3) <= n_pixels)
    np.testing.assert_array_equal(grown[1], rows + columns <= n_pixels)


@pytest.fixture
def rng():
    return np.random.default_rng(21)
