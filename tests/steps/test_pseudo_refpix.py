"""refpix with pseudo-reference pixels: rows as in spaceKLIP, columns as a separate correction."""

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, HOT, REFERENCE_PIXEL
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.steps import refpix
from gpucoron.steps.refpix import AUTOMATIC, PseudoReference, choose_pseudo_reference, default_pseudo_reference
from tests.cases.refpix import nircam_facts

BACKEND = get_backend("numpy", n_threads=1)


def make_facts(**changed):
    """Return facts of a subarray away from the border of the detector."""
    return nircam_facts(
        **{"subarray": "SUB320A430R", "xstart": 814, "ystart": 1502, "xsize": 42, "ysize": 36, **changed}
    )


def make_exposure(rng, facts):
    """Make a drifting ramp with row noise, bright outliers, bad pixels and a ZEROFRAME with zeros."""
    shape = (2, 3, facts.ysize, facts.xsize)
    data = rng.normal(12000, 20, shape) + rng.normal(0, 100, shape[:2])[..., None, None]
    data += rng.normal(0, 40, shape[:3])[..., None] + 50 * (np.arange(facts.xsize) % 2)
    data[rng.random(shape) < 0.01] += 5000
    pixeldq = rng.choice([0, DO_NOT_USE, HOT], p=[0.85, 0.1, 0.05], size=shape[2:]).astype(np.uint32)
    if facts.ystart == 1:
        pixeldq[:4] |= REFERENCE_PIXEL
    zeroframe = rng.normal(11000, 20, (2, *shape[2:])) + rng.normal(0, 40, (2, facts.ysize))[..., None]
    zeroframe[rng.random(zeroframe.shape) < 0.1] = 0
    return Exposure(data=data.astype(np.float32), pixeldq=pixeldq, zeroframe=zeroframe.astype(np.float32), facts=facts)


def copy_of(exposure):
    arrays = {name: getattr(exposure, name).copy() for name in ("data", "pixeldq", "zeroframe")}
    return Exposure(**arrays, facts=exposure.facts)


def run_jwst_with_rows(exposure, rows, siglimit, odd_even_columns):
    """Run spaceKLIP's sequence: flag the rows as reference pixels, run jwst's step."""
    from jwst.refpix import reference_pixels
    from stdatamodels.jwst.datamodels import RampModel

    facts = exposure.facts
    model = RampModel(data=exposure.data.copy(), pixeldq=exposure.pixeldq.copy())
    model.zeroframe = exposure.zeroframe.copy()
    model.meta.instrument.name, model.meta.instrument.detector = facts.instrument, facts.detector
    for name in ("xstart", "ystart", "xsize", "ysize", "fastaxis", "slowaxis"):
        setattr(model.meta.subarray, name, getattr(facts, name))
    model.meta.subarray.name = facts.subarray
    model.meta.exposure.noutputs, model.meta.exposure.zero_frame = facts.noutputs, facts.zero_frame
    for part in rows:
        model.pixeldq[part] |= REFERENCE_PIXEL
    kernel = {"refpix_algorithm": "median", "sirs_kernel_model": None}
    kernel |= {"sigreject": 4.0, "gaussmooth": 1.0, "halfwidth": 30}
    status = reference_pixels.correct_model(model, odd_even_columns, False, 11, 1.0, True, kernel, siglimit)
    assert status == 0
    return model.data, model.zeroframe


@pytest.mark.parity
@pytest.mark.parametrize(
    ("placed", "asked", "rows"),
    [
        ({}, {"nlower": 4, "nupper": 4}, [slice(0, 4), slice(32, 36)]),
        ({}, {"nlower": 2, "nupper": 0, "nrow_off": 3, "odd_even_columns": False}, [slice(3, 5)]),
        ({"fastaxis": 1, "slowaxis": -2}, {"nlower": 3, "nupper": 5, "nrow_off": 1}, [slice(1, 4), slice(30, 35)]),
        ({}, {"nlower": AUTOMATIC, "nupper": AUTOMATIC, "siglimit": 2.0}, [slice(0, 4), slice(32, 36)]),
        ({"ystart": 1}, {"nlower": AUTOMATIC, "nupper": AUTOMATIC}, [slice(0, 4)]),
        ({"ystart": 1}, {"nlower": AUTOMATIC, "nupper": 2}, [slice(0, 4), slice(34, 36)]),
        ({"ystart": 2011}, {"nlower": AUTOMATIC, "nupper": AUTOMATIC}, [slice(34, 36)]),
    ],
)
def test_rows_as_spaceklip(rng, placed, asked, rows):
    exposure, parameters = make_exposure(rng, make_facts(**placed)), refpix.STEP.settings(**asked)
    data, zeroframe = run_jwst_with_rows(exposure, rows, parameters.siglimit, parameters.odd_even_columns)
    before = copy_of(exposure)
    outcome = refpix.run(exposure, {}, parameters, BACKEND)
    assert outcome.status == "COMPLETE" and not outcome.reason
    np.testing.assert_array_equal(exposure.data, data)
    np.testing.assert_array_equal(exposure.zeroframe, zeroframe)
    # The rows are unflagged again.
    np.testing.assert_array_equal(exposure.pixeldq, before.pixeldq)
    assert not np.array_equal(exposure.data, before.data)


@pytest.mark.parametrize("asked", [{}, {"nlower": 0, "nupper": 0, "nrow_off": 0, "nleft": 0, "nright": 0}])
def test_off_is_jwsts_step(rng, asked):
    exposure = make_exposure(rng, make_facts())
    before = copy_of(exposure)
    outcome = refpix.run(exposure, {}, refpix.STEP.settings(**asked), BACKEND)
    assert outcome.reason == "no valid reference pixels: nothing was changed"
    np.testing.assert_array_equal(exposure.data, before.data)


def side_by_jwst(ramp, pixeldq, columns, length):
    """Smooth the columns of each group with jwst's running median: (ngroups, ny)."""
    from jwst.refpix.reference_pixels import NIRDataset

    dataset = NIRDataset.__new__(NIRDataset)
    return np.array([dataset.median_filter(group[:, columns], pixeldq[:, columns], length) for group in ramp])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("asked", "left", "right"),
    [
        ({"nleft": 4, "nright": 4}, slice(0, 4), slice(38, 42)),
        ({"nleft": 2, "nright": 6, "ncol_off": 3, "side_gain": 0.7}, slice(3, 5), slice(33, 39)),
        ({"nleft": 4, "nright": 0, "side_smoothing_length": 3}, slice(0, 4), None),
        ({"nleft": 0, "nright": 4, "nlower": 4, "nupper": 4}, None, slice(38, 42)),
    ],
)
def test_sides_as_jwsts_full_frames(rng, asked, left, right):
    """The smoothing, the average of both sides and the gain are those of jwst's full-frame correction."""
    from jwst.refpix.reference_pixels import NIRDataset

    exposure, parameters = make_exposure(rng, make_facts()), refpix.STEP.settings(**asked)
    # Rows without a good pixel on one side, or on both, in the whole window.
    exposure.pixeldq[:16, :6] |= DO_NOT_USE
    exposure.pixeldq[:14, 33:] |= DO_NOT_USE
    rows_only = copy_of(exposure)
    refpix.run(rows_only, {}, refpix.STEP.settings(**{**asked, "nleft": 0, "nright": 0}), BACKEND)

    dataset = NIRDataset.__new__(NIRDataset)
    expected = rows_only.data.copy()
    for ramp in expected:
        nothing = np.full(ramp.shape[:2], np.nan)
        length = parameters.side_smoothing_length
        signals = [
            nothing if columns is None else side_by_jwst(ramp, exposure.pixeldq, columns, length)
            for columns in (left, right)
        ]
        for group, of_left, of_right in zip(ramp, *signals, strict=True):
            group[:] = group - parameters.side_gain * dataset.combine_with_nans(of_left, of_right)[:, None]

    outcome = refpix.run(exposure, {}, parameters, BACKEND)
    assert outcome.status == "COMPLETE" and not outcome.reason
    np.testing.assert_array_equal(exposure.data, expected)
    assert (exposure.data[:, :, 20:] != rows_only.data[:, :, 20:]).mean() > 0.9


def test_sides_take_out_noise_of_rows(rng):
    """Noise common to a few rows is removed; that of single rows is smoothed and stays."""
    facts = make_facts(ysize=200)
    slow = np.cumsum(rng.normal(0, 3, (2, 3, facts.ysize)), axis=2).astype(np.float32)
    exposure = make_exposure(rng, facts)
    exposure.data[:] = slow[..., None] + rng.normal(0, 2, exposure.data.shape)
    before = exposure.data.mean(axis=3).std()
    refpix.run(exposure, {}, refpix.STEP.settings(nleft=4, nright=4), BACKEND)
    assert exposure.data.mean(axis=3).std() < 0.3 * before


def test_zeros_of_the_zeroframe(rng):
    """Zeros mark bad data: they are kept, and excluded from the running median."""
    exposure = make_exposure(rng, make_facts())
    zeroframe = np.full_like(exposure.zeroframe, 100)
    zeroframe[:, 18:] += 7
    zeroframe[:, :, :3] = zeroframe[:, :, 20] = 0
    exposure.zeroframe, exposure.pixeldq = zeroframe, np.zeros_like(exposure.pixeldq)
    bad = zeroframe == 0
    refpix.run(exposure, {}, refpix.STEP.settings(nlower=4, nupper=0, nleft=4, odd_even_columns=False), BACKEND)
    np.testing.assert_array_equal(exposure.zeroframe[bad], 0)
    # The only good column on the left has all of the level of a row.
    np.testing.assert_allclose(exposure.zeroframe[~bad], 0, atol=1e-4)


@pytest.mark.parametrize(
    ("placed", "expected"),
    [
        # coronagraphic subarrays are far from every edge
        ({"xstart": 814, "ystart": 1502, "xsize": 320, "ysize": 320}, (4, 4, 4, 4)),
        ({"xstart": 1, "ystart": 1, "xsize": 64, "ysize": 64}, (4, 0, 4, 0)),
        ({"xstart": 1887, "ystart": 3, "xsize": 160, "ysize": 160}, (2, 0, 0, 2)),
        ({"xstart": 1, "ystart": 1790, "xsize": 2048, "ysize": 256}, (0, 1, 4, 4)),
        ({"xstart": 5, "ystart": 1985, "xsize": 64, "ysize": 64}, (0, 4, 4, 4)),
        ({"xstart": 1, "ystart": 1, "xsize": 2048, "ysize": 2048}, (4, 4, 4, 4)),
    ],
)
def test_defaults_follow_the_border(placed, expected):
    assert default_pseudo_reference(Facts("NIRCAM", **placed)) == expected


def test_parameters_are_checked():
    facts = make_facts()
    chosen = choose_pseudo_reference(refpix.STEP.settings(nlower=AUTOMATIC, nright=3, nrow_off=2), facts)
    assert chosen == PseudoReference(nlower=4, nright=3, nrow_off=2)
    with pytest.raises(ValueError, match="nupper must be 0 or more, or -1 for automatic, not -2"):
        choose_pseudo_reference(refpix.STEP.settings(nupper=-2), facts)
    with pytest.raises(ValueError, match="nrow_off must be 0 or more, not -1"):
        choose_pseudo_reference(refpix.STEP.settings(nlower=4, nrow_off=-1), facts)
    with pytest.raises(ValueError, match="36 rows, too few for 38"):
        choose_pseudo_reference(refpix.STEP.settings(nupper=4, nrow_off=34), facts)
    with pytest.raises(ValueError, match="42 columns, too few for 43"):
        choose_pseudo_reference(refpix.STEP.settings(nleft=43), facts)


def test_window_longer_than_the_subarray(rng):
    exposure = make_exposure(rng, make_facts(ysize=5))
    with pytest.raises(ValueError, match="side_smoothing_length must be less than twice the subarray's 5 rows"):
        refpix.run(exposure, {}, refpix.STEP.settings(nleft=4), BACKEND)


@pytest.fixture
def rng():
    return np.random.default_rng(22)


def make_light(rng, nints, nframes=1, groupgap=0):
    """Make groups of a uniform light, different for odd columns, with drifting pedestals: (exposure, light, drifts)."""
    facts = make_facts(nframes=nframes, groupgap=groupgap)
    times = np.arange(6.0) * (nframes + groupgap) + (nframes - 1) / 2
    slope = np.where(np.arange(facts.xsize) % 2, 7.0, 5.0)
    light = 12000 + times[:, None, None] * slope * np.ones((facts.ysize, 1))
    drifts = rng.normal(0, 100, (nints, 6, 1, 1))
    zeroframe = np.broadcast_to(light[0] - times[0] * slope, (nints, *light.shape[1:]))
    exposure = Exposure(
        data=(light + drifts).astype(np.float32), pixeldq=np.zeros(light.shape[1:], np.uint32),
        zeroframe=(zeroframe + 30).astype(np.float32), facts=facts,
    )  # fmt: skip
    return exposure, light, drifts


@pytest.mark.parametrize(("nframes", "groupgap"), [(1, 0), (4, 1)])
def test_the_light_of_the_rows_stays(rng, nframes, groupgap):
    exposure, light, drifts = make_light(rng, 5, nframes, groupgap)
    parameters = refpix.STEP.settings(nlower=4, nupper=4, keep_light=True)
    assert refpix.run(exposure, {}, parameters, BACKEND).status == "COMPLETE"
    # what remains of the drifts is the straight line through their average over the integrations
    times = np.arange(6.0) * (nframes + groupgap) + (nframes - 1) / 2
    line = np.polynomial.Polynomial.fit(times, drifts.mean(axis=0).ravel(), 1)
    expected = light + line(times)[:, None, None]
    # float32 has steps of 0.001 at 12000 DN
    np.testing.assert_allclose(exposure.data, np.broadcast_to(expected, exposure.data.shape), atol=0.01)
    # the ZEROFRAME is the first read of the same ramp, so that its own drift of 30 DN is removed
    np.testing.assert_allclose(exposure.zeroframe, 12000 + line(0), atol=0.01)


def test_without_keep_light_the_rows_are_subtracted_as_a_whole(rng):
    exposure, _light, _drifts = make_light(rng, 2)
    refpix.run(exposure, {}, refpix.STEP.settings(nlower=4, nupper=4), BACKEND)
    np.testing.assert_allclose(exposure.data, 0, atol=0.01)


def test_the_light_stays_in_arrays_and_needs_two_groups(rng):
    exposure, light, _drifts = make_light(rng, 3)
    rows = np.full_like(exposure.pixeldq, REFERENCE_PIXEL)
    data = exposure.data.copy()
    assert refpix.correct_nir_subarray(data, rows, exposure.facts, keep_light=True, backend=BACKEND) == rows.size
    assert np.ptp(data, axis=0).max() < 0.01
    np.testing.assert_allclose(np.diff(data.mean(axis=(0, 2, 3)), n=2), 0, atol=0.01)
    single = Exposure(data=exposure.data[:, :1].copy(), pixeldq=exposure.pixeldq, facts=exposure.facts)
    refpix.run(single, {}, refpix.STEP.settings(nlower=4, nupper=4, keep_light=True), BACKEND)
    # a single group has no slope to keep
    np.testing.assert_allclose(single.data, 0, atol=0.01)
