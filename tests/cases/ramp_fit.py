"""Ramps to fit, and their fit by stcal."""

import platform

import numpy as np

from gpucoron.backends import get_backend
from gpucoron.dq import AD_FLOOR, CHARGELOSS, DO_NOT_USE, HOT, JUMP_DET, PERSISTENCE, SATURATED
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.steps.ramp_fit import STEP, fit, fit_segments

TIMES = {"group_time": 10.73676, "frame_time": 1.07368, "nframes": 8}
FIELDS = {"rate": "slope", "dq": "dq", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise", "err": "err"}
#: stcal is compiled without fused operations on x86-64 only; there its results are bit-identical
SAME_BITS = platform.machine() == "x86_64"

#: kinds of ramps: the flags of their groups
RAMPS = {
    "one jump": [0, 0, 4, 0, 0, 0, 0, 0],
    "several jumps": [0, 0, 4, 0, 4, 4, 0, 0],
    "jump in the first group": [4, 0, 0, 0, 0, 0, 0, 0],
    "jump in the last group": [0, 0, 0, 0, 0, 0, 0, 4],
    "jump before a lone group": [1, 1, 1, 1, 1, 1, 4, 0],
    "only jumps": [4, 4, 4, 4, 4, 4, 4, 4],
    "jump and more in one group": [0, 0, 0, 5, 0, 0, 0, 0],
    "jump with persistence": [0, 0, 0, 36, 0, 0, 0, 0],
    "do not use in the middle": [0, 0, 0, 1, 0, 0, 0, 0],
    "do not use at both ends": [1, 0, 0, 0, 0, 0, 0, 1],
    "lone groups": [0, 1, 0, 1, 0, 1, 0, 1],
    "one good group, first": [0, 2, 2, 2, 2, 2, 2, 2],
    "one good group, later": [1, 1, 0, 2, 2, 2, 2, 2],
    "two good groups": [0, 0, 2, 2, 2, 2, 2, 2],
    "one good group and persistence": [0, 32, 32, 2, 2, 2, 2, 2],
    "only persistence": [32, 32, 32, 32, 32, 32, 32, 32],
    "saturated from the first": [2, 2, 2, 2, 2, 2, 2, 2],
    "saturated in the first only": [2, 0, 0, 0, 0, 0, 0, 0],
    "saturated and do not use": [3, 3, 1, 1, 3, 3, 3, 3],
    "all do not use": [1, 1, 1, 1, 1, 1, 1, 1],
    "charge loss from the third": [0, 0, 129, 129, 129, 129, 129, 129],
    "charge loss from the first": [129, 129, 129, 129, 129, 129, 129, 129],
    "charge loss without do not use": [0, 0, 128, 128, 0, 0, 0, 0],
    "charge loss and saturation": [0, 0, 0, 129, 129, 131, 131, 131],
    "charge loss after a jump": [0, 0, 4, 0, 129, 129, 129, 129],
}


def simulate(seed, nints, ngroups, ny=9, nx=11, *, flagged=0.1, step=None):
    """Make ramps with all kinds of defects, DN in multiples of ``step``; return arrays by the names of fit_ramps."""
    rng = np.random.default_rng(seed)
    shape, cube, image = (nints, ngroups, ny, nx), (nints, ny, nx), (ny, nx)
    flux = 10 ** rng.uniform(-1, 3.5, image)
    data = rng.normal(0, 8, shape) + np.cumsum(rng.poisson(flux, shape), axis=1)
    if step:
        data = np.round(data / step) * step
    groupdq = np.zeros(shape, np.uint8)
    for flag, share in (
        (JUMP_DET, 1.0),
        (DO_NOT_USE, 0.3),
        (PERSISTENCE, 0.3),
        (CHARGELOSS | DO_NOT_USE, 0.2),
        (CHARGELOSS, 0.05),
        (AD_FLOOR, 0.1),
    ):
        groupdq[rng.random(shape) < share * flagged] |= flag
    saturated_from = np.where(rng.random(cube) < flagged, rng.integers(0, ngroups, cube), ngroups)
    groupdq[np.arange(ngroups)[:, None, None] >= saturated_from[:, None]] |= SATURATED
    data[rng.random(shape) < flagged / 20] = np.nan
    data[rng.random(shape) < flagged / 200] = np.inf
    pixeldq = np.zeros(image, np.uint32)
    for flag in (DO_NOT_USE, HOT, SATURATED):
        pixeldq[rng.random(image) < 0.02] |= flag
    gain = rng.normal(1.8, 0.1, image)
    for value in (0, -1, np.nan):
        gain[rng.random(image) < 0.02] = value
    readnoise = rng.normal(12, 1, image)
    for value in (0, np.nan, np.inf):
        readnoise[rng.random(image) < 0.01] = value
    dark = rng.normal(0.05, 0.1, image)
    dark[rng.random(image) < 0.02] = np.nan
    zeroframe = rng.normal(50, 30, cube)
    zeroframe[rng.random(cube) < 0.3] = 0
    zeroframe[rng.random(cube) < 0.03] = np.nan
    arrays = {
        "data": data,
        "gain": gain,
        "readnoise": readnoise,
        "dark_current": dark,
        "zeroframe": zeroframe,
    }
    return {
        "groupdq": groupdq,
        "pixeldq": pixeldq,
        **{name: array.astype(np.float32) for name, array in arrays.items()},
    }


def plain(nints=1, ngroups=6, ny=1, nx=1, rate=7.0):
    """Make linear, unflagged ramps of ``rate`` DN per group and good pixels."""
    image = (ny, nx)
    data = np.broadcast_to(100 + rate * np.arange(ngroups, dtype=np.float32)[:, None, None], (nints, ngroups, ny, nx))
    return {
        "data": data.astype(np.float32),
        "groupdq": np.zeros((nints, ngroups, ny, nx), np.uint8),
        "pixeldq": np.zeros(image, np.uint32),
        "gain": np.full(image, 2, np.float32),
        "readnoise": np.full(image, 10, np.float32),
    }


def fit_with_stcal(
    arrays, *, instrument="NIRCAM", suppress_one_group=False, with_original=True, save_opt=False, **times
):
    """Run stcal's ramp_fit_data on copies; return its results, or None, and the edited groupdq.

    The results are those of the image and of the cube, and with ``save_opt`` those of the segments.
    """
    from stcal.ramp_fitting.ramp_fit import ramp_fit_data
    from stcal.ramp_fitting.ramp_fit_class import RampData
    from stdatamodels.jwst.datamodels import dqflags

    arrays = {name: array.copy() for name, array in arrays.items()}
    times = TIMES | times
    ramp_data = RampData()
    ramp_data.algorithm = "OLS_C"
    ramp_data.set_arrays(
        arrays["data"],
        arrays["groupdq"],
        arrays["pixeldq"],
        arrays.get("dark_current", np.zeros(arrays["gain"].shape, np.float32)),
        orig_gdq=arrays["groupdq"].copy() if with_original and np.any(arrays["groupdq"] & CHARGELOSS) else None,
        zeroframe=arrays.get("zeroframe"),
    )
    ramp_data.set_meta(
        instrument, times["frame_time"], times["group_time"], times.get("groupgap", 0), times["nframes"],
        times.get("drop_frames", 0),
    )  # fmt: skip
    ramp_data.set_dqflags(dqflags.pixel)
    ramp_data.suppress_one_group_ramps = suppress_one_group
    with np.errstate(all="ignore"):
        results = ramp_fit_data(ramp_data, save_opt, arrays["readnoise"], arrays["gain"], "OLS_C", "optimal", "none")
    return None if results[0] is None else results[: 3 if save_opt else 2], arrays["groupdq"]


def assert_same_segments(segments, expected, *, exact=SAME_BITS):
    """Compare the optional product with stcal: shapes and NaN equal, values bit-identical or close."""
    assert vars(segments).keys() == expected.keys()
    for name, wanted in expected.items():
        mine = getattr(segments, name)
        assert (mine.shape, mine.dtype) == (wanted.shape, wanted.dtype), name
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(wanted), err_msg=name)
        known = ~np.isnan(wanted)
        if exact:
            # zeros of different signs differ
            bits = (values[known].view(np.uint32) for values in (mine, wanted))
            np.testing.assert_array_equal(*bits, err_msg=name)
        else:
            np.testing.assert_allclose(mine[known], wanted[known], rtol=2e-6, atol=1e-8, err_msg=name)


def fit_segments_and_compare(arrays, *, backend="numpy", suppress_one_group=False, instrument="NIRCAM", **times):
    """Compare the products and the segments of a fit with those of stcal; return them."""
    expected, edited = fit_with_stcal(
        arrays, suppress_one_group=suppress_one_group, instrument=instrument, save_opt=True, **times
    )
    mine = {name: array.copy() for name, array in arrays.items()}
    found = fit_segments(
        **mine,
        **(TIMES | times),
        suppress_one_group=suppress_one_group,
        drop_flagged_groups=instrument == "MIRI",
        backend=backend,
    )
    np.testing.assert_array_equal(mine["groupdq"], edited)
    if expected is None:
        assert found == (None, None, None)
        return found
    assert_same(found[:2], expected[:2])
    assert_same_segments(found[2], expected[2])
    return found


def assert_same(products, expected):
    """Compare rate and rateints with stcal: flags and NaN equal, values bit-identical or, on other compilers, close."""
    for ours, theirs in zip(products, expected, strict=True):
        for name, key in FIELDS.items():
            mine, wanted = getattr(ours, name), theirs[key]
            assert mine.dtype == wanted.dtype
            if SAME_BITS or name == "dq":
                np.testing.assert_array_equal(mine, wanted, err_msg=name)
            else:
                np.testing.assert_allclose(mine, wanted, rtol=2e-6, atol=1e-8, err_msg=name)


def fit_and_compare(arrays, *, suppress_one_group=False, instrument="NIRCAM", **times):
    """Fit with stcal and gpucoron, compare products and edited flags; return gpucoron's products."""
    expected, edited = fit_with_stcal(arrays, suppress_one_group=suppress_one_group, instrument=instrument, **times)
    mine = {name: array.copy() for name, array in arrays.items()}
    products = fit(
        **mine,
        **(TIMES | times),
        suppress_one_group=suppress_one_group,
        drop_flagged_groups=instrument == "MIRI",
        backend=get_backend("numpy", n_threads=1),
    )
    np.testing.assert_array_equal(mine["groupdq"], edited)
    for name in set(arrays) - {"groupdq"}:
        np.testing.assert_array_equal(mine[name], arrays[name], err_msg=f"{name} was changed")
    if expected is None:
        assert products == (None, None)
    else:
        assert_same(products, expected)
    return products


def make_step_inputs(arrays, *, instrument="NIRCAM", gain_factor=None, **parameters):
    """Make the inputs of the step, from copies."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    exposure = Exposure(
        data=arrays["data"],
        groupdq=arrays["groupdq"],
        pixeldq=arrays["pixeldq"],
        zeroframe=arrays.get("zeroframe"),
        average_dark_current=arrays.get("dark_current"),
        facts=Facts(instrument, groupgap=1, **TIMES),
    )
    references = {
        "gain": Reference(data=arrays["gain"], facts={"gain_factor": gain_factor}),
        "readnoise": Reference(data=arrays["readnoise"]),
    }
    for reference in references.values():
        reference.data.setflags(write=False)
    return exposure, references, STEP.settings(**parameters), get_backend("numpy", n_threads=1)
