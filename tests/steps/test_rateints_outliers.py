"""apply_rateints_outliers: spaceKLIP's outliers, and a refit of the affected pixels with the bits of a full refit."""

import copy

import numpy as np
import pytest

from gpucoron.backends import get_backend
from gpucoron.dq import CHARGELOSS, DO_NOT_USE, JUMP_DET, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps import apply_rateints_outliers as step
from gpucoron.steps import ramp_fit
from gpucoron.steps.apply_rateints_outliers import find_outliers
from tests.cases.paths import DATA

ORACLE = DATA / "rateints_outliers.npz"
SLOPES = ("rate", "dq", "var_poisson", "var_rnoise", "err")
BACKEND = get_backend("numpy", n_threads=2)


# --- the search -------------------------------------------------------------------------------------------------------


def test_outliers_are_spaceklips():
    oracle = np.load(ORACLE)
    bad = find_outliers(oracle["cube"], sigma_cut=float(oracle["sigma_cut"]), backend=BACKEND)
    np.testing.assert_array_equal(bad, oracle["bad"])
    assert bad.sum() > 10 and np.isnan(oracle["cube"]).any()


def test_first_cut_not_the_second():
    """The first cut, by the MAD, keeps values that a second cut, by the scatter of the rest, would remove."""
    cube = np.zeros((11, 1, 1), np.float32)
    # MAD 4: the first cut is at 3 x 4 / 0.6745 = 17.8; the standard deviation of the others is 3.2.
    cube[:, 0, 0] = (-4, -4, -4, -4, 0, 0, 4, 4, 4, 4, 17)
    assert not find_outliers(cube, sigma_cut=3).any()
    cube[10] = 18
    np.testing.assert_array_equal(find_outliers(cube, sigma_cut=3).ravel(), [False] * 10 + [True])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_equal_values(dtype):
    """If most values are equal, the mean deviation replaces the MAD: 10 sigma are 12.5 mean deviations."""
    cube = np.full((20, 1, 3), 7, dtype)
    cube[3, 0, 0] += 100
    cube[4:6, 0, 1] += 100
    expected = np.zeros(cube.shape, bool)
    # One of 20 is at 20 times the mean deviation, two of 20 at 10 times it.
    expected[3, 0, 0] = True
    np.testing.assert_array_equal(find_outliers(cube), expected)


def test_nan_is_an_outlier_and_not_in_the_statistics(rng):
    cube = rng.normal(0, 1, (15, 4, 5)).astype(np.float32)
    cube[6] = np.nan
    cube[:, 2, 2] = np.nan
    cube[3, 1, 1] = 60
    expected = np.isnan(cube)
    expected[3, 1, 1] = True
    np.testing.assert_array_equal(find_outliers(cube), expected)


def test_infinity_is_an_outlier(rng):
    cube = rng.normal(0, 1, (15, 1, 2)).astype(np.float32)
    cube[4, 0, 0] = cube[5, 0, 1] = np.inf
    np.testing.assert_array_equal(find_outliers(cube), np.isinf(cube))


@pytest.mark.parametrize(("shape", "nint_min"), [((9, 3, 3), 10), ((4, 3, 3), 5), ((30, 40), 10)])
def test_too_few_integrations(shape, nint_min):
    cube = np.zeros(shape, np.float32)
    cube[0, 0] = 1e6
    assert not find_outliers(cube, nint_min=nint_min).any()


def test_tiles_make_no_difference(rng, monkeypatch):
    cube = rng.standard_t(1.5, (12, 17, 9)).astype(np.float32)
    whole = find_outliers(cube)
    monkeypatch.setattr(step, "row_tiles", lambda shape: [slice(0, 1), slice(1, 10), slice(10, 17)])
    np.testing.assert_array_equal(find_outliers(cube), whole)
    assert whole.any()


# --- the step ---------------------------------------------------------------------------------------------------------


def make_exposure(rng, instrument="NIRCAM", *, shape=(14, 7, 9, 11), start=None, charge_loss=True):
    """Make ramps with outliers of two kinds, jumps, saturation, charge migration, and pixels without a rate."""
    nints, ngroups, ny, nx = shape
    flux = 10 ** rng.uniform(1, 3, (ny, nx))
    data = rng.normal(0, 8, shape) + np.cumsum(rng.poisson(flux, shape), axis=1)
    if instrument == "MIRI":
        # The first integration settles: it differs from all others, in every pixel.
        data[0] += np.arange(ngroups)[:, None, None] * 400
    for _ in range(6):
        integration, y, x = rng.integers(1, nints), rng.integers(ny), rng.integers(nx)
        data[integration, :, y, x] += np.arange(ngroups) * 4e4
    groupdq = np.zeros(shape, np.uint8)
    groupdq[rng.random(shape) < 0.04] |= JUMP_DET
    groupdq[rng.random(shape) < 0.01] |= DO_NOT_USE
    if charge_loss:
        late = np.arange(ngroups)[:, None, None] >= rng.integers(1, 300, (nints, 1, ny, nx))
        groupdq[late] |= CHARGELOSS | DO_NOT_USE
    groupdq[np.arange(ngroups)[:, None, None] >= rng.integers(1, 300, (nints, 1, ny, nx))] |= SATURATED
    groupdq[:, :, 2, 3] |= DO_NOT_USE
    groupdq[5, :, 4, 4] |= SATURATED
    if instrument == "MIRI":
        groupdq[:, 0] |= DO_NOT_USE
        groupdq[:, -1] |= DO_NOT_USE
        groupdq[:, 1, 3:] |= JUMP_DET
    pixeldq = np.where(rng.random((ny, nx)) < 0.03, DO_NOT_USE, 0).astype(np.uint32)
    return Exposure(
        data=data.astype(np.float32),
        groupdq=groupdq,
        pixeldq=pixeldq,
        zeroframe=None if instrument == "MIRI" else rng.normal(300, 20, (nints, ny, nx)).astype(np.float32),
        average_dark_current=rng.uniform(0, 0.1, (ny, nx)).astype(np.float32),
        facts=Facts(
            instrument,
            integration_start=start,
            group_time=5.3,
            frame_time=1.07,
            nframes=2,
            groupgap=3,
        ),
    )


def make_references(rng, shape=(9, 11)):
    gain = rng.normal(1.9, 0.1, shape).astype(np.float32)
    gain[7, 7] = np.nan
    return {
        "gain": Reference(data=gain),
        "readnoise": Reference(data=rng.normal(9, 1, shape).astype(np.float32)),
    }


def fit_by(backend, suppress_one_group=False, calls=None):
    parameters = ramp_fit.STEP.settings(suppress_one_group=suppress_one_group)

    def fit(exposure, references):
        if calls is not None:
            calls.append(exposure.data.shape)
        return ramp_fit.run(exposure, references, parameters, backend)

    return fit


def make_parameters(**changed):
    return step.STEP.settings(**changed)


def assert_same_slopes(ours, expected, where=...):
    for product in ("rate", "rateints"):
        for name in SLOPES:
            mine, theirs = (getattr(getattr(exposure, product), name) for exposure in (ours, expected))
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine[where], theirs[where], err_msg=f"{product} {name}")


def refit_as_peer(exposure, references, fit):
    """Repeat spaceKLIP's sequence after a fit: flag outliers in all groups, and fit everything again."""
    first = 1 if exposure.facts.instrument == "MIRI" else 0
    bad = np.zeros(exposure.rateints.rate.shape, bool)
    bad[first:] = find_outliers(exposure.rateints.rate[first:])
    exposure.groupdq |= (bad[:, None] * (JUMP_DET | DO_NOT_USE)).astype(np.uint8)
    fit(exposure, references)
    return bad


@pytest.mark.parametrize("backend", [get_backend("numpy", n_threads=n) for n in (1, 2)], ids=["1 thread", "2 threads"])
@pytest.mark.parametrize("instrument", ["NIRCAM", "MIRI"])
def test_refit_of_some_pixels_is_the_full_refit(rng, instrument, backend):
    exposure, references = make_exposure(rng, instrument), make_references(rng)
    calls = []
    fit = fit_by(backend, calls=calls)
    fit(exposure, references)
    once, peer = copy.deepcopy(exposure), copy.deepcopy(exposure)
    bad = refit_as_peer(peer, references, fit)
    gain = references["gain"].data.copy()
    outcome = step.run(exposure, references, make_parameters(), backend, fit=fit)
    assert outcome.flagged["outliers"] == bad.sum()
    assert outcome.flagged["pixels fitted again"] == bad.any(axis=0).sum() == calls[-1][3] - 1
    assert 6 < bad.any(axis=0).sum() < bad[0].size / 2
    assert_same_slopes(exposure, peer)
    np.testing.assert_array_equal(exposure.groupdq, peer.groupdq)
    np.testing.assert_array_equal(references["gain"].data, gain)
    # ... and it had an effect: outliers exist, the image has changed, and the flags show it.
    found = np.nonzero(bad & (once.rateints.rate > 5000))
    assert found[0].size >= 5
    assert (exposure.rateints.rate[found] != once.rateints.rate[found]).all()
    assert (exposure.rateints.dq[found] & JUMP_DET == JUMP_DET).all()
    assert (exposure.rate.rate != once.rate.rate)[found[1:]].all()


@pytest.mark.parametrize("instrument", ["NIRCAM", "MIRI"])
def test_untouched_pixels_keep_their_first_fit(rng, instrument):
    """With suppress_one_group a full refit would read flags that the first fit set or cleared."""
    exposure, references = make_exposure(rng, instrument), make_references(rng)
    # A ramp with one good group, the others lost to charge migration: its read noise depends on the earlier flags.
    exposure.groupdq[7, :, 6, 6] = CHARGELOSS | DO_NOT_USE
    exposure.groupdq[7, 2, 6, 6] = 0
    # MIRI's first usable group loses its JUMP_DET, and only then it is good.
    exposure.groupdq[8, :, 6, 7] = DO_NOT_USE
    exposure.groupdq[8, 1, 6, 7] = JUMP_DET
    fit = fit_by(BACKEND, suppress_one_group=True)
    fit(exposure, references)
    once, peer = copy.deepcopy(exposure), copy.deepcopy(exposure)
    touched = refit_as_peer(peer, references, fit).any(axis=0)
    step.run(exposure, references, make_parameters(), BACKEND, fit=fit)
    assert_same_slopes(exposure, peer, (..., touched))
    assert_same_slopes(exposure, once, (..., ~touched))
    np.testing.assert_array_equal(exposure.groupdq[..., touched], peer.groupdq[..., touched])


@pytest.mark.parametrize(("start", "has_first"), [(None, True), (1, True), (15, False)])
def test_first_integration_of_miri(rng, start, has_first):
    """MIRI's first integration is not compared but kept in the products; later segments lack it."""
    exposure, references = make_exposure(rng, "MIRI", start=start), make_references(rng)
    fit = fit_by(BACKEND)
    fit(exposure, references)
    once = copy.deepcopy(exposure.rateints.rate)
    step.run(exposure, references, make_parameters(), BACKEND, fit=fit)
    assert exposure.rateints.rate.shape == once.shape
    lost = np.isnan(exposure.rateints.rate[0]) & ~np.isnan(once[0])
    if has_first:
        np.testing.assert_array_equal(exposure.rateints.rate[0], once[0])
    else:
        assert lost.mean() > 0.3


def test_all_touched_pixels_without_a_rate(rng):
    """Pixels that are saturated in every integration are refitted alone; the fit must not fail."""
    exposure, references = make_exposure(rng, shape=(12, 5, 9, 11)), make_references(rng)
    exposure.data[:] = 100 * np.arange(5)[:, None, None] + rng.normal(0, 3, exposure.data.shape)
    exposure.groupdq[:] = 0
    exposure.pixeldq[:], exposure.zeroframe = 0, None
    references["gain"].data[7, 7] = 1.9
    exposure.groupdq[:, :, 3, 5] = SATURATED
    fit = fit_by(BACKEND)
    fit(exposure, references)
    outcome = step.run(exposure, references, make_parameters(), BACKEND, fit=fit)
    assert outcome.status == "COMPLETE" and outcome.flagged == {"outliers": 12, "pixels fitted again": 1}
    assert np.isnan(exposure.rate.rate).sum() == 1
    assert exposure.rateints.dq[0, 3, 5] & SATURATED


def test_groups_that_only_the_outliers_held(rng):
    """If only the outliers used MIRI's first group, every pixel loses it, so every pixel is refitted."""
    exposure, references = make_exposure(rng, "MIRI"), make_references(rng)
    exposure.data[3, :, 1, 1] += np.arange(7) * 1e5
    exposure.groupdq[3, :, 1, 1] = 0
    fit = fit_by(BACKEND)
    fit(exposure, references)
    peer = copy.deepcopy(exposure)
    assert refit_as_peer(peer, references, fit)[3, 1, 1]
    calls = []
    step.run(exposure, references, make_parameters(), BACKEND, fit=fit_by(BACKEND, calls=calls))
    assert calls == [exposure.data.shape]
    assert_same_slopes(exposure, peer)
    np.testing.assert_array_equal(exposure.groupdq, peer.groupdq)


def test_many_pixels_are_fitted_in_place(rng):
    exposure, references = make_exposure(rng), make_references(rng)
    calls = []
    fit = fit_by(BACKEND, calls=calls)
    fit(exposure, references)
    outcome = step.run(exposure, references, make_parameters(sigma_cut=1.0), BACKEND, fit=fit)
    assert outcome.flagged["pixels fitted again"] > 50 and calls[-1] == exposure.data.shape


def test_nothing_to_do(rng):
    exposure, references = make_exposure(rng, "MIRI", shape=(10, 7, 9, 11)), make_references(rng)
    fit = fit_by(BACKEND)
    outcome = step.run(exposure, references, make_parameters(), BACKEND, fit=fit)
    assert outcome.status == "SKIPPED" and "no rateints" in outcome.reason
    fit(exposure, references)
    before = copy.deepcopy(exposure)
    outcome = step.run(exposure, references, make_parameters(), BACKEND, fit=fit)
    assert outcome.status == "SKIPPED" and outcome.reason == "9 integrations to compare are fewer than 10"
    outcome = step.run(exposure, references, make_parameters(sigma_cut=1e9, nint_min=9), BACKEND, fit=fit)
    assert outcome.flagged["outliers"] == np.isnan(before.rateints.rate[1:]).sum()
    assert_same_slopes(exposure, before, (..., ~np.isnan(before.rateints.rate[1:]).any(axis=0)))


@pytest.fixture
def rng():
    return np.random.default_rng(23)
