"""refpix compared with jwst."""

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import DO_NOT_USE, REFERENCE_PIXEL
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.steps import refpix
from tests.cases.refpix import nircam_facts, run_jwst

BACKEND = get_backend("numpy", n_threads=1)


def nircam_arrays(rng, facts):
    """Make a drifting ramp with outliers, and pixel flags with good and bad reference pixels."""
    shape = (2, 3, facts.ysize, facts.xsize)
    data = rng.normal(12000, 30, shape) + rng.normal(0, 100, shape[:2])[..., None, None]
    data += 50 * (np.arange(facts.xsize) % 2)
    data[rng.random(shape) < 0.01] += 5000
    rows, columns = np.indices(shape[2:])
    rows, columns = rows + facts.ystart - 1, columns + facts.xstart - 1
    on_edge = (rows < 4) | (rows >= 2044) | (columns < 4) | (columns >= 2044)
    pixeldq = np.where(on_edge, REFERENCE_PIXEL, 0).astype(np.uint32)
    pixeldq[rng.random(shape[2:]) < 0.1] |= DO_NOT_USE
    zeroframe = rng.normal(11000, 30, (2, *shape[2:]))
    zeroframe[rng.random(zeroframe.shape) < 0.05] = 0
    return data.astype(np.float32), pixeldq, zeroframe.astype(np.float32)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("placed", "changed"),
    [
        ({"xstart": 1, "ystart": 1}, {}),
        ({"xstart": 1, "ystart": 1, "zero_frame": False}, {"odd_even_columns": False}),
        ({"xstart": 2009, "ystart": 2013, "fastaxis": 1, "slowaxis": -2, "detector": "NRCA2"}, {"siglimit": 2.0}),
        # an odd corner and an odd width: the mirrored columns change their parity
        ({"xstart": 4, "ystart": 700, "xsize": 39}, {}),
        ({"xstart": 814, "ystart": 1502}, {}),
    ],
)
def test_nircam_subarrays_as_jwst(rng, placed, changed):
    facts, parameters = nircam_facts(**placed), refpix.STEP.settings(**changed)
    data, pixeldq, zeroframe = nircam_arrays(rng, facts)
    if facts.xstart == 4:
        # One column of reference pixels has one parity only, for which jwst fails; also use a neighbouring column.
        pixeldq[:, 1] |= REFERENCE_PIXEL
    status, expected, expected_zeroframe = run_jwst(
        data, pixeldq, zeroframe if facts.zero_frame else None, facts, parameters
    )
    exposure = Exposure(data=data.copy(), pixeldq=pixeldq.copy(), zeroframe=zeroframe.copy(), facts=facts)
    outcome = refpix.run(exposure, {}, parameters, BACKEND)

    assert status == 0 and outcome.status == "COMPLETE"
    np.testing.assert_array_equal(exposure.data, expected)
    np.testing.assert_array_equal(exposure.zeroframe, expected_zeroframe if facts.zero_frame else zeroframe)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)
    has_reference_pixels = placed["xstart"] != 814
    assert (not np.array_equal(exposure.data, data)) == has_reference_pixels == (not outcome.reason)


def test_one_parity_only(rng):
    """jwst fails if all good reference pixels have one column parity; gpucoron uses their mean for all columns."""
    facts = nircam_facts(xstart=4, ystart=700, zero_frame=False)
    data, pixeldq, _ = nircam_arrays(rng, facts)
    alike = data.copy()
    used = refpix.correct_nir_subarray(data, pixeldq, facts, backend=BACKEND)
    refpix.correct_nir_subarray(alike, pixeldq, facts, odd_even_columns=False, backend=BACKEND)
    assert used > 0
    np.testing.assert_array_equal(data, alike)


def miri_case(rng, case):
    data = rng.normal(20000, 8, (1 if case != "two" else 2, 3, 1024, 1032)).astype(np.float32)
    data += rng.normal(0, 40, data.shape[:2]).astype(np.float32)[..., None, None]
    data[..., rng.integers(0, 1024, 30), rng.integers(0, 4, 30)] += 900
    pixeldq = np.zeros(data.shape[2:], np.uint32)
    pixeldq[rng.random(pixeldq.shape) < 0.02] = DO_NOT_USE
    if case == "constant":
        # All differences of one reference column are equal: jwst continues in float64 from there.
        data[:, 1:] += 30000
        data[..., 2] = np.float32([1000.1, 31003.7, 31009.3])[:, None]
    if case == "missing":
        pixeldq[1::2, 1030] = DO_NOT_USE
    return data, pixeldq


@pytest.mark.parity
@pytest.mark.parametrize(
    ("case", "odd_even_rows"),
    [("two", True), ("one", False), ("constant", True), ("missing", True), ("missing", False)],
)
def test_miri_full_frames_as_jwst(rng, case, odd_even_rows):
    data, pixeldq = miri_case(rng, case)
    facts = Facts(
        instrument="MIRI",
        detector="MIRIMAGE",
        subarray="FULL",
        xstart=1,
        ystart=1,
        xsize=1032,
        ysize=1024,
        fastaxis=1,
        slowaxis=2,
        noutputs=4,
        zero_frame=False,
    )
    parameters = refpix.STEP.settings(odd_even_rows=odd_even_rows)
    status, expected, _ = run_jwst(data, pixeldq, None, facts, parameters)
    exposure = Exposure(data=data, pixeldq=pixeldq, facts=facts)
    outcome = refpix.run(exposure, {}, parameters, BACKEND)
    assert status == 0 and outcome.status == "COMPLETE"
    np.testing.assert_array_equal(exposure.data, expected)
    assert bool(outcome.reason) == (case == "missing" and odd_even_rows)


@pytest.mark.parity
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_clipping_is_scipys(rng, size):
    from scipy.stats import sigmaclip

    values = rng.standard_t(2, (40, size)).astype(np.float32) + np.float32(1000)
    values[3] = values[3, 0]
    if size > 2:
        values[5, 1] = np.nan
    means, constant = refpix.clipped_means(values, 2.5)
    with np.errstate(all="ignore"), pytest.warns() if size > 2 else np.errstate():
        expected = [
            row.mean(dtype=np.float64) if row.std(dtype=np.float64) == 0 else sigmaclip(row, 2.5, 2.5)[0].mean()
            for row in values
        ]
    np.testing.assert_array_equal(means, np.array(expected, np.float32))
    assert constant[3] and (size == 1 or constant.sum() == 1)


def test_what_is_skipped():
    """MIRI subarrays, and subarrays that do not fit into the detector."""
    data = np.zeros((1, 2, 32, 32), np.float32)
    exposure = Exposure(data=data, pixeldq=np.zeros((32, 32), np.uint32), facts=nircam_facts(instrument="MIRI"))
    assert refpix.run(exposure, {}, refpix.STEP.settings(), BACKEND).status == "SKIPPED"

    for noutputs in (1, 4):
        exposure.facts = nircam_facts(xstart=2040, xsize=32, noutputs=noutputs)
        assert refpix.run(exposure, {}, refpix.STEP.settings(), BACKEND).status == "SKIPPED"


@pytest.mark.parity
@pytest.mark.parametrize(
    "placed",
    [
        {"fastaxis": -2, "slowaxis": -1, "xstart": 2009, "ystart": 1, "instrument": "NIRISS", "detector": "NIS"},
        {"fastaxis": 2, "slowaxis": 1, "xstart": 814, "ystart": 1, "instrument": "NIRISS", "detector": "NIS"},
        # without reference pixels; jwst then uses the first and last columns
        {"fastaxis": 2, "slowaxis": 1, "xstart": 814, "ystart": 1502, "subarray": "SUB32", "instrument": "NIRSPEC"},
    ],
)
def test_subarrays_that_are_read_along_y(rng, placed):
    facts = nircam_facts(**placed)
    data, pixeldq, zeroframe = nircam_arrays(rng, facts)
    _, expected, expected_zeroframe = run_jwst(data, pixeldq, zeroframe, facts, refpix.STEP.settings())
    exposure = Exposure(data=data.copy(), pixeldq=pixeldq.copy(), zeroframe=zeroframe, facts=facts)
    refpix.run(exposure, {}, refpix.STEP.settings(), BACKEND)
    np.testing.assert_array_equal(exposure.data, expected)
    np.testing.assert_array_equal(exposure.zeroframe, expected_zeroframe)
    np.testing.assert_array_equal(exposure.pixeldq, pixeldq)
    assert not np.array_equal(exposure.data, data)


@pytest.fixture
def rng():
    return np.random.default_rng(22)
