"""Ramp fitting: flags, rates and variances equal to stcal's OLS_C, for any tile and thread; and the step."""

import logging

import numpy as np
import pytest

from gpucoron.backends.devices.numpy_device import NumpyDevice
from gpucoron.backends.operations.ramp_fit import RampFitSettings, definition
from gpucoron.backends.operations.ramp_fit.definition import fit_ramps
from gpucoron.backends.operations.ramp_fit.median_network import MOST_PLANES, median_of_planes
from gpucoron.backends.operations.ramp_fit.segments import find_segments, weight_table
from gpucoron.dq import (
    CHARGELOSS,
    DO_NOT_USE,
    GOOD,
    JUMP_DET,
    NO_GAIN_VALUE,
    PERSISTENCE,
    SATURATED,
)
from gpucoron.steps.ramp_fit import find_usable_groups, fit, run, select_groups, suppress_single_groups
from tests.cases.ramp_fit import (
    FIELDS,
    RAMPS,
    TIMES,
    assert_same,
    fit_and_compare,
    make_step_inputs,
    plain,
    simulate,
)

SETTINGS = RampFitSettings(**TIMES)


@pytest.mark.parity
@pytest.mark.parametrize("nints", [1, 2, 3, 12])
@pytest.mark.parametrize("ngroups", [1, 2, 3, 4, 5, 10, 19, 40])
@pytest.mark.parametrize("flagged", [0.02, 0.4])
def test_everything_at_once(nints, ngroups, flagged):
    for seed, (suppress, zeroframe, dark, step) in enumerate(
        [(False, True, True, None), (True, True, False, None), (False, False, True, 20), (True, False, True, 1)]
    ):
        arrays = simulate([seed, nints, ngroups], nints, ngroups, flagged=flagged, step=step)
        if not zeroframe:
            del arrays["zeroframe"]
        if not dark:
            del arrays["dark_current"]
        if suppress and ngroups == 1:
            continue  # then neither stcal's caller nor gpucoron suppresses
        fit_and_compare(arrays, suppress_one_group=suppress, nframes=(1, 8, 4, 2)[seed])


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(1, 5, 1, 1), (9, 12, 1, 1), (1, 30, 1, 2), (3, 3, 4, 1), (2, 3, 70, 90)])
def test_odd_shapes(shape):
    # one ramp, one column, more ramps than a block holds: NumPy must not sum in another order
    fit_and_compare(simulate(5, *shape, flagged=0.01))
    fit_and_compare(simulate(6, *shape, flagged=0.3))


@pytest.mark.parity
@pytest.mark.parametrize("nx", [1, 2, 5])
@pytest.mark.parametrize("flags", [GOOD, PERSISTENCE])
def test_a_constant_ramp_has_the_same_rounding_noise(nx, flags):
    # Its slope is a rounding residual of the order of the sums: about 1e-14 DN/s.
    arrays = plain(nints=1, ngroups=41, nx=nx, rate=0.0)
    arrays["groupdq"][...] = flags
    arrays["data"] += np.float32(0.7)
    arrays["readnoise"] *= np.float32(1.1)
    rate, _ = fit_and_compare(arrays)
    assert np.abs(rate.rate).max() < 1e-8


@pytest.mark.parity
def test_large_variances_become_zero():
    arrays = plain(nints=2, ngroups=5, ny=3, nx=60)
    arrays["readnoise"][:] = np.geomspace(10, 1e7, 60)
    arrays["gain"][2] = 1e-7
    arrays["groupdq"][0, 2, 1] = JUMP_DET
    arrays["groupdq"][1, 2:, 1] = CHARGELOSS | DO_NOT_USE
    _, rateints = fit_and_compare(arrays)
    assert (rateints.err == 0).any()


@pytest.mark.parity
@pytest.mark.parametrize("zeroframe", [None, 0.0, 60.0])
@pytest.mark.parametrize("suppress", [False, True])
@pytest.mark.parametrize("name", RAMPS)
def test_one_ramp(name, suppress, zeroframe):
    arrays = plain(nints=2, ngroups=8, nx=2)
    arrays["groupdq"][0, :, 0, 0] = RAMPS[name]
    arrays["groupdq"][:, :, 0, 1] = RAMPS[name]
    arrays["data"] += np.random.default_rng(1).normal(0, 5, arrays["data"].shape).astype(np.float32)
    if zeroframe is not None:
        arrays["zeroframe"] = np.full((2, 1, 2), zeroframe, np.float32)
    fit_and_compare(arrays, suppress_one_group=suppress)


@pytest.mark.parity
@pytest.mark.parametrize("where", [0, 3, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("flags", [GOOD, JUMP_DET])
def test_values_that_are_not_finite(where, value, flags):
    arrays = plain(ngroups=8, nx=2)
    arrays["data"][0, where, 0, 0] = value
    arrays["groupdq"][0, 4] = flags
    fit_and_compare(arrays)


@pytest.mark.parity
def test_no_group_of_any_ramp_is_usable():
    arrays = plain(nints=2)
    arrays["groupdq"][...] = SATURATED
    assert fit_and_compare(arrays) == (None, None)
    arrays["zeroframe"] = np.full((2, 1, 1), 30, np.float32)
    assert fit_and_compare(arrays) == (None, None)


@pytest.mark.parity
@pytest.mark.parametrize("lost", [(), (0,), (7,), (0, 7), (0, 1, 2, 7), (6, 7), tuple(range(7)), tuple(range(8))])
def test_miri_groups(lost):
    arrays = simulate(len(lost), 2, 8, flagged=0.2)
    arrays["groupdq"][:, list(lost)] |= DO_NOT_USE
    fit_and_compare(arrays, instrument="MIRI")
    fit_and_compare(arrays, instrument="MIRI", suppress_one_group=True)
    fit_and_compare(arrays, instrument="NIRCAM")


@pytest.mark.parity
@pytest.mark.parametrize(("late", "ngroups"), [(1, 4), (2, 5), (3, 12), (4, 30), (5, 5), (3, 5)])
def test_first_groups_lost_in_most_pixels(late, ngroups, monkeypatch):
    """MIRI's first groups after rscd are bad in most pixels, not in all; some lose another group."""
    arrays = simulate(late, 3, ngroups, flagged=0.01)
    rng = np.random.default_rng(late)
    arrays["groupdq"][:, :late, rng.random(arrays["gain"].shape) < 0.9] = DO_NOT_USE
    arrays["groupdq"][rng.random(arrays["groupdq"].shape) < 0.02] |= DO_NOT_USE
    fit_and_compare(arrays, instrument="MIRI")
    fit_and_compare(arrays, instrument="MIRI", suppress_one_group=True)
    whole, fit_whole_ramps = [], definition.fit_whole_ramps

    def note(samples, first, *others):
        whole.append((first, len(samples)))
        return fit_whole_ramps(samples, first, *others)

    monkeypatch.setattr(definition, "fit_whole_ramps", note)
    definition.fit_ramps(NumpyDevice(n_threads=1), **arrays, settings=SETTINGS)
    assert whole == ([(late, ngroups - late)] if ngroups - late > 2 else [])


@pytest.mark.parametrize("shape", [(5, 10, 17, 13), (2, 40, 17, 13), (3, 2, 17, 13)])
def test_tiles_and_threads_change_nothing(shape):
    arrays = simulate(3, *shape, flagged=0.05)
    arrays["groupdq"][:, :, :3] = 0  # tiles of clean ramps only
    arrays["groupdq"][:, :, 6:8] |= PERSISTENCE  # and of flagged ones only
    arrays["groupdq"][:, :1, 8:11] = DO_NOT_USE  # most start with the second group in some, but not in others
    arrays["original_groupdq"] = arrays["groupdq"]
    before = {name: array.copy() for name, array in arrays.items()}
    expected = fit_ramps(NumpyDevice(1, tile_bytes=2**30), **arrays, settings=SETTINGS)
    for n_threads, tile_bytes in ((1, 1), (3, 1), (2, 4 * 13 * shape[0] * shape[1] * 5)):
        products = fit_ramps(NumpyDevice(n_threads, tile_bytes=tile_bytes), **arrays, settings=SETTINGS)
        for ours, theirs in zip(products, expected, strict=True):
            for name in FIELDS:
                assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name], err_msg=f"{name} was changed")


def test_block_size_changes_nothing(monkeypatch):
    arrays = simulate(4, 3, 12, flagged=0.1)
    expected = fit_ramps(NumpyDevice(1), **arrays, settings=SETTINGS)
    for samples in (1, 50, 1000):
        monkeypatch.setattr("gpucoron.backends.operations.ramp_fit.segments.BLOCK_SAMPLES", samples)
        products = fit_ramps(NumpyDevice(1), **arrays, settings=SETTINGS)
        for ours, theirs in zip(products, expected, strict=True):
            for name in FIELDS:
                assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


def test_a_straight_ramp_has_its_rate_and_variances():
    """The textbook values, not stcal's: rate, 12 R^2 / (n^3 - n), Poisson noise over the length."""
    arrays = plain(nints=4, ngroups=6, rate=8.0)
    rate, rateints = fit(**arrays, group_time=2.0, nframes=1, suppress_one_group=False)
    assert rate.rate[0, 0] == pytest.approx(4.0)
    read_noise = 10 / np.sqrt(2)
    var_rnoise = 12 * read_noise**2 / (6**3 - 6) / 2.0**2
    var_poisson = 4.0 / (2.0 * 2.0 * 5)
    np.testing.assert_allclose(rateints.rate, 4.0)
    np.testing.assert_allclose(rateints.var_rnoise, var_rnoise, rtol=1e-6)
    np.testing.assert_allclose(rateints.var_poisson, var_poisson, rtol=1e-6)
    np.testing.assert_allclose(rateints.err, np.sqrt(var_poisson + var_rnoise), rtol=1e-6)
    assert rate.var_rnoise[0, 0] == pytest.approx(var_rnoise / 4)
    assert rate.var_poisson[0, 0] == pytest.approx(var_poisson / 4)
    assert not rate.dq.any()


def test_bad_gain_is_flagged_in_both_products():
    arrays = plain(nints=2, nx=3)
    arrays["gain"][0] = [2, -1, np.nan]
    for product in fit(**arrays, **TIMES):
        assert not product.dq[..., 0].any()
        assert (product.dq[..., 1:] == NO_GAIN_VALUE | DO_NOT_USE).all()
        assert np.isnan(product.rate[..., 1:]).all()
        assert not product.err[..., 1:].any()
    assert not arrays["pixeldq"].any()


def test_partial_saturation_is_flagged_and_keeps_its_rate():
    arrays = plain(nints=2)
    arrays["groupdq"][0, 4:] = SATURATED
    rate, rateints = fit(**arrays, **TIMES)
    assert rateints.dq.ravel().tolist() == [SATURATED, GOOD]
    assert rate.dq[0, 0] == SATURATED
    assert np.isfinite(rateints.rate).all()


def test_segments():
    flags = np.array([[0, 0, 4, 0, 0, 1, 0, 4, 4, 0], [0, 1, 0, 1, 4, 1, 2, 2, 2, 2], [1] * 10], np.uint8)
    segments = find_segments(flags.T)
    assert segments.ramp.tolist() == [0, 0, 0, 1]
    assert segments.start.tolist() == [0, 2, 8, 0]
    assert segments.length.tolist() == [2, 3, 2, 1]


def test_weights_are_those_of_fixsen():
    table = weight_table(5)
    np.testing.assert_allclose(table[:, 0], 1)
    np.testing.assert_allclose(table[:, 2], [1, 0.5, 0, 0.5, 1])
    np.testing.assert_allclose(table[:, 3], [1, 0.125, 0, 0.125, 1])


@pytest.mark.parametrize("n", range(1, MOST_PLANES + 1))
def test_median_network(n):
    # Zeros and ones in every order up to 2^12 columns prove a network of comparisons; larger ones are sampled.
    if n <= 12:
        planes = (np.arange(2**n) >> np.arange(n)[:, None] & 1).astype(float)
    else:
        planes = np.random.default_rng(0).integers(0, 2, (n, 4096)).astype(float)
    found = median_of_planes(planes.copy(), np.empty(planes.shape[1]))
    np.testing.assert_array_equal(found, np.median(planes, axis=0))


def test_select_groups(caplog):
    def selected(firstgroup, lastgroup):
        groupdq = np.full((1, 5, 1, 1), JUMP_DET, np.uint8)
        select_groups(groupdq, firstgroup, lastgroup)
        assert ((groupdq & JUMP_DET) != 0).all()
        return np.flatnonzero((groupdq[0, :, 0, 0] & DO_NOT_USE) == 0).tolist()

    assert selected(None, None) == [0, 1, 2, 3, 4]
    assert selected(1, None) == [1, 2, 3, 4]
    assert selected(1, 3) == [1, 2, 3]
    assert not caplog.records
    assert selected(-2, 3) == [0, 1, 2, 3]
    assert selected(2, 8) == [2, 3, 4]
    assert selected(3, 3) == [0, 1, 2, 3, 4]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3


@pytest.mark.parity
@pytest.mark.parametrize("firstgroup", [None, -1, 0, 2, 4, 5, 7])
@pytest.mark.parametrize("lastgroup", [None, -1, 0, 2, 4, 5, 9])
def test_select_groups_as_jwst(firstgroup, lastgroup):
    from jwst.ramp_fitting.ramp_fit_step import set_groupdq

    mine, theirs = np.zeros((2, 2, 5, 2, 2), np.uint8)
    select_groups(mine, firstgroup, lastgroup)
    set_groupdq(firstgroup, lastgroup, 5, theirs, {"DO_NOT_USE": DO_NOT_USE})
    np.testing.assert_array_equal(mine, theirs)


def test_suppress_single_groups():
    groupdq = np.array([[0, 2, 2], [0, 32, 2], [32, 2, 2], [0, 0, 2], [1, 1, 1]], np.uint8).T[None, :, :, None].copy()
    before = groupdq.copy()
    suppress_single_groups(groupdq)
    assert (groupdq != before).any(axis=1).ravel().tolist() == [True, False, True, False, False]
    assert (groupdq[:, :, [0, 2]] & DO_NOT_USE).all()


def test_find_usable_groups(caplog):
    groupdq = np.zeros((2, 6, 1, 2), np.uint8)
    groupdq[:, [0, 1, 5]] |= DO_NOT_USE
    groupdq[:, 2:4, 0, 1] |= JUMP_DET
    assert find_usable_groups(groupdq) == slice(2, 5)
    assert not (groupdq[:, 2] & JUMP_DET).any()
    assert (groupdq[:, 3, 0, 1] & JUMP_DET).all()
    groupdq[0, 0, 0, 0] = GOOD
    assert find_usable_groups(groupdq) == slice(0, 5)
    groupdq[:, 1:] |= DO_NOT_USE
    assert find_usable_groups(groupdq) == slice(0, 5)  # only the last group at the end is removed
    groupdq[...] |= DO_NOT_USE
    assert find_usable_groups(groupdq) is None
    assert caplog.records[-1].levelname == "ERROR"


def fit_model_with_stcal(arrays, *, instrument, suppress_one_group, firstgroup, lastgroup):
    """Process a RampModel like jwst's step between the references and the products."""
    from jwst.ramp_fitting.ramp_fit_step import set_groupdq
    from stcal.ramp_fitting.ramp_fit import ramp_fit
    from stdatamodels.jwst.datamodels import RampModel, dqflags

    model = RampModel()
    for name in ("data", "groupdq", "pixeldq", "zeroframe"):
        setattr(model, name, arrays[name].copy())
    model.average_dark_current = arrays["dark_current"].copy()
    model.meta.instrument.name = instrument
    for name, value in TIMES.items():
        setattr(model.meta.exposure, name, value)
    model.meta.exposure.groupgap = 1
    if firstgroup is not None or lastgroup is not None:
        set_groupdq(firstgroup, lastgroup, model.data.shape[1], model.groupdq, dqflags.group)
    with np.errstate(all="ignore"):
        image, cube, _ = ramp_fit(
            model,
            False,
            arrays["readnoise"].copy(),
            arrays["gain"].copy(),
            "OLS_C",
            "optimal",
            "none",
            dqflags.pixel,
            suppress_one_group=suppress_one_group,
        )
    return image, cube


@pytest.mark.parity
@pytest.mark.parametrize("instrument", ["NIRCAM", "MIRI"])
@pytest.mark.parametrize("suppress_one_group", [False, True])
@pytest.mark.parametrize(
    ("ngroups", "firstgroup", "lastgroup"), [(1, None, None), (2, None, None), (8, None, None), (8, 2, 5), (8, 1, None)]
)
def test_step_as_jwst(instrument, suppress_one_group, ngroups, firstgroup, lastgroup):
    arrays = simulate(ngroups, 3, ngroups, flagged=0.1)
    if instrument == "MIRI" and ngroups > 2:
        arrays["groupdq"][:, [0, -1]] |= DO_NOT_USE
    choices = {"suppress_one_group": suppress_one_group, "firstgroup": firstgroup, "lastgroup": lastgroup}
    expected = fit_model_with_stcal(arrays, instrument=instrument, **choices)
    exposure, *others = make_step_inputs(arrays, instrument=instrument, **choices)
    outcome = run(exposure, *others)
    assert outcome.status == "COMPLETE"
    assert_same((exposure.rate, exposure.rateints), expected)


def test_step_notes_the_gain_factor():
    inputs = make_step_inputs(plain(), gain_factor=2.5)
    assert run(*inputs).meta == {"exposure.gain_factor": 2.5}
    assert run(*make_step_inputs(plain())).meta == {}


def test_step_without_usable_groups_has_no_products():
    arrays = plain()
    arrays["groupdq"][...] = SATURATED
    inputs = make_step_inputs(arrays)
    outcome = run(*inputs)
    assert outcome.status == "SKIPPED"
    assert "nothing to fit" in outcome.reason
    assert inputs[0].rate is None
    assert inputs[0].rateints is None


def test_step_without_a_reference_is_skipped():
    exposure, references, *others = make_step_inputs(plain())
    outcome = run(exposure, references | {"readnoise": None}, *others)
    assert (outcome.status, exposure.rate) == ("SKIPPED", None)


def test_likely_falls_back_below_four_groups(caplog):
    with caplog.at_level(logging.WARNING):
        inputs = make_step_inputs(plain(ngroups=3), algorithm="LIKELY")
        outcome = run(*inputs)
    assert outcome.status == "COMPLETE"
    assert "OLS_C" in outcome.reason
    assert "OLS_C" in caplog.text
    assert np.isfinite(inputs[0].rate.rate).all()


def test_wrong_arrays_are_named():
    arrays = plain()
    with pytest.raises(ValueError, match="ramp_fit.fit: groupdq: its values range from 300 to 300, beyond uint8"):
        fit(**(arrays | {"groupdq": np.full(arrays["data"].shape, 300)}), **TIMES)
    with pytest.raises(ValueError, match="ramp_fit.fit: gain: expected"):
        fit(**(arrays | {"gain": arrays["gain"][:, :0]}), **TIMES)
