"""LIKELY of ramp_fit: flags, rates, errors and chi-square equal to stcal's, for any read pattern, on every backend."""

from dataclasses import replace

import numpy as np
import pytest

from gpucoron.backends.operations.likelihood.roots import numpy_has_these_bits
from gpucoron.dq import DO_NOT_USE
from gpucoron.steps import ramp_fit
from gpucoron.steps.likelihood import fit_exposure, list_read_times
from tests.cases.likelihood import (
    BACKEND,
    PATTERNS,
    draw_diffs,
    make_arrays,
    make_exposure,
    make_step_inputs,
    mask_with_stcal,
)

STCAL_NAMES = {"rate": "slope", "dq": "dq", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise", "err": "err"}


def fit_with_stcal(arrays, *, with_zeroframe, with_dark):
    """Fit copies with stcal's LIKELY; return image, cube and the edited groupdq."""
    from stcal.ramp_fitting.ramp_fit import ramp_fit_data
    from stcal.ramp_fitting.ramp_fit_class import RampData
    from stdatamodels.jwst.datamodels import dqflags

    dark = arrays["dark"] if with_dark else np.zeros_like(arrays["dark"])
    zeroframe = arrays["zeroframe"].copy() if with_zeroframe else None
    groupdq, times = arrays["groupdq"].copy(), arrays["times"]
    ramps = RampData()
    ramps.algorithm = "LIKELY"
    ramps.set_arrays(arrays["data"].copy(), groupdq, arrays["pixeldq"].copy(), dark, zeroframe=zeroframe)
    group_time = times["frame_time"] * (times["nframes"] + times["groupgap"])
    ramps.set_meta("NIRCAM", times["frame_time"], group_time, times["groupgap"], times["nframes"], 0)
    ramps.set_dqflags(dqflags.pixel)
    if "read_times" in arrays:
        # stcal changes the list
        ramps.read_pattern = [np.atleast_1d(times) for times in arrays["read_times"]]
    with np.errstate(all="ignore"):
        image, cube, _ = ramp_fit_data(
            ramps, False, arrays["readnoise"].copy(), arrays["gain"].copy(), "LIKELY", "optimal", "none"
        )
    return image, cube, groupdq


CASES = {
    "rapid": {},
    "four groups": {"ngroups": 4, "seed": 1},
    "five groups, one integration": {"ngroups": 5, "nints": 1, "seed": 2},
    "medium8": {"nframes": 8, "groupgap": 2, "seed": 3},
    "deep8": {"nframes": 8, "groupgap": 12, "seed": 4, "ngroups": 6},
    "bright2": {"nframes": 2, "seed": 5, "ngroups": 12},
    "long": {"seed": 6, "ngroups": 45, "shape": (8, 16), "frame_time": 0.24},
    "uneven": {"seed": 21, "read_times": PATTERNS["uneven"]},
    "uneven from several reads": {"seed": 22, "read_times": PATTERNS["uneven"][1:]},
}


@pytest.mark.parity
@pytest.mark.parametrize("with_dark", [False, True])
@pytest.mark.parametrize("with_zeroframe", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_likely_is_stcals(backend, case, with_zeroframe, with_dark, caplog):
    arrays = make_arrays(**CASES[case])
    image, cube, groupdq = fit_with_stcal(arrays, with_zeroframe=with_zeroframe, with_dark=with_dark)
    exposure = make_exposure(arrays, with_zeroframe=with_zeroframe, with_dark=with_dark)
    if "read_times" in arrays:
        exposure.facts = replace(exposure.facts, read_times=arrays["read_times"])
    assert_same_fit(backend, exposure, arrays, image, cube, groupdq)
    assert (groupdq != arrays["groupdq"]).any()
    one_read = np.size(arrays.get("read_times", [np.ones(arrays["times"]["nframes"])])[0]) == 1
    assert ("ZEROFRAME is not used" in caplog.text) == (with_zeroframe and one_read)


def assert_same_fit(backend, exposure, arrays, image, cube, groupdq):
    """Compare flags with stcal for equality, and rates, errors and chi-square, summed in another order, to 1e-5."""
    for name in ("data", "groupdq", "pixeldq", "zeroframe", "average_dark_current"):
        value = getattr(exposure, name)
        setattr(exposure, name, None if value is None else backend.to_device(value.copy()))
    references = (backend.to_device(arrays[name].copy()) for name in ("gain", "readnoise"))
    with np.errstate(all="raise"):
        rate, rateints, chisq = fit_exposure(exposure, *references, backend, dark_current=exposure.average_dark_current)
    np.testing.assert_array_equal(backend.to_host(exposure.groupdq), groupdq)
    for ours, theirs in ((rate, image), (rateints, cube)):
        for name, key in STCAL_NAMES.items():
            mine = backend.to_host(getattr(ours, name))
            assert mine.dtype == theirs[key].dtype
            rtol, atol = (0, 0) if name == "dq" else (1e-5, 1e-9)
            np.testing.assert_allclose(mine, theirs[key], rtol=rtol, atol=atol, err_msg=name)
    np.testing.assert_allclose(backend.to_host(chisq), image["chisq"], rtol=1e-5, atol=1e-6)


@pytest.mark.parity
def test_the_step_selects_groups_and_keeps_chi_square():
    arrays = make_arrays(7)
    inputs = make_step_inputs(arrays, step="ramp_fit", firstgroup=1, lastgroup=6, gain_factor=4.0)
    outcome = ramp_fit.run(*inputs)
    arrays["groupdq"] = arrays["groupdq"].copy()
    arrays["groupdq"][:, [0, 7]] |= DO_NOT_USE
    image, _, groupdq = fit_with_stcal(arrays, with_zeroframe=False, with_dark=False)
    exposure = inputs[0]
    assert (outcome.status, outcome.meta) == ("COMPLETE", {"exposure.gain_factor": 4.0})
    np.testing.assert_array_equal(exposure.groupdq, groupdq)
    np.testing.assert_allclose(exposure.likelihood_chisq, image["chisq"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(exposure.rate.rate, image["slope"], rtol=1e-5)


def test_explicit_read_times_go_before_the_pattern():
    arrays = make_arrays(8)
    regular = make_exposure(arrays, read_times=list_read_times(8, 1, 5.3, 1))
    twice = make_exposure(arrays, read_times=list_read_times(8, 1, 10.6, 1))
    plain = make_exposure(arrays)
    fits = [fit_exposure(e, arrays["gain"], arrays["readnoise"], BACKEND)[1] for e in (plain, regular, twice)]
    np.testing.assert_array_equal(fits[0].rate, fits[1].rate)
    same = np.isfinite(fits[0].rate) & (regular.groupdq == twice.groupdq).all(axis=1)
    assert 0.4 < np.median(fits[2].rate[same] / fits[0].rate[same]) < 0.6


@pytest.mark.parity
def test_a_ramp_does_not_depend_on_its_row():
    """Rounding selects among the last differences: stcal sums differently if no other ramp of the row is left.

    In stcal, one ramp then loses a different difference alone than in a row; gpucoron agrees with the row.
    """
    rng, times = np.random.default_rng(0), PATTERNS["one read"] + [1.07 * 9]
    drawn = draw_diffs(rng, times, 1500, faintest=-2, jumps=0.8, used=0.5)
    diffs, sig, used = (array[..., 1140:1160] for array in drawn)
    row = mask_with_stcal(diffs.copy(), times, sig, used)
    alone = [mask_with_stcal(diffs[:, k : k + 1].copy(), times, sig[k : k + 1], used[:, k : k + 1]) for k in range(20)]
    if numpy_has_these_bits():
        # elsewhere other ramps are close to a threshold
        assert (np.concatenate(alone, axis=1) != row).any(axis=0).sum() == 1
    for k in (slice(None), *(slice(k, k + 1) for k in range(20))):
        fit = BACKEND.fit_likelihood(diffs[:, k].copy(), times, sig[k], diffs2use=used[:, k], rules="stcal")
        np.testing.assert_array_equal(fit.diffs2use, row[:, k])
