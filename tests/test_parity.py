"""The same file, the same references, through jwst and through gpucoron: step by step and end to end."""

import pytest
from jwst_side import SLOPE_ARRAYS, assert_same_flags, assert_same_values, run_jwst, run_ours

pytestmark = pytest.mark.parity

#: float32 rounding: the fit's powers and sums are taken in another order than in stcal's C
RTOL = 2e-6

CASES = {
    "nircam-rapid": (
        ("NIRCAM", "SUB320A335R", "RAPID", 5, 3),
        {"shape": (72, 88), "options": {"no_lin_corr_fraction": 0.01, "no_sat_check_fraction": 0.01, "margin": 4}},
        {},
    ),
    "nircam-shallow4-inverse": (
        ("NIRCAM", "SUB320A335R", "SHALLOW4", 6, 2),
        {"shape": (72, 88), "options": {"inverse_linearity": True, "nan_fraction": 0.003}},
        {},
    ),
    "nircam-deep8": (("NIRCAM", "SUB320A335R", "DEEP8", 4, 2), {"shape": (64, 72)}, {}),
    "nircam-640": (("NIRCAM", "SUB640A210R", "RAPID", 4, 2), {"shape": (56, 640)}, {}),
    "nircam-charge-migration": (
        ("NIRCAM", "SUB320A335R", "RAPID", 12, 2),
        {"shape": (64, 64), "seed": 3, "options": {"average_dark_current": True, "gain_factor": 2.0}},
        {"charge_migration": {"skip": False, "signal_threshold": 12000.0}},
    ),
    "miri-1550": (("MIRI", "MASK1550", "FASTR1", 20, 3), {"shape": (72, 96)}, {}),
    "miri-lyot": (("MIRI", "MASKLYOT", "FASTR1", 20, 3), {"shape": (64, 96)}, {"firstframe": {"skip": False}}),
    "miri-segment": (
        ("MIRI", "MASK1550", "FASTR1", 10, 3),
        {"shape": (48, 64), "first_integration": 4, "total_nints": 9},
        {"jump": {"rejection_threshold": 5.0}},
    ),
    # no bad input: the answer is jwst's
    "nircam-one-group": (("NIRCAM", "SUB320A335R", "SHALLOW4", 1, 2), {"shape": (32, 40)}, {}),
    "nircam-all-saturated": (
        ("NIRCAM", "SUB320A335R", "SHALLOW4", 4, 2),
        {"shape": (32, 40), "scene": 3e5},
        {"ramp_fit": {"suppress_one_group": False}},
    ),
    "miri-all-saturated": (("MIRI", "MASK1550", "FASTR1", 8, 2), {"shape": (32, 40), "scene": 3e6}, {}),
    "nircam-segment": (
        ("NIRCAM", "SUB320A335R", "RAPID", 4, 3),
        {"shape": (48, 64), "first_integration": 4, "total_nints": 6},
        {},
    ),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request, exposures):
    """Run one case through both."""
    arguments, options, steps = CASES[request.param]
    case = exposures(*arguments, **options)
    with case.cache.activate():
        return run_jwst(case.path, steps), run_ours(case.path, steps)


def test_every_step_gives_jwsts_ramp(pair):
    theirs, ours = pair
    assert set(ours.ramps) >= set(theirs.ramps)
    for name, arrays in theirs.ramps.items():
        for key in ("groupdq", "pixeldq"):
            assert_same_flags(ours.ramps[name][key], arrays[key], f"{name} {key}")
        assert_same_values(ours.ramps[name]["data"], arrays["data"], RTOL, f"{name} data")
        if ours.ramps[name]["zeroframe"] is not None:
            assert_same_values(ours.ramps[name]["zeroframe"], arrays["zeroframe"], RTOL, f"{name} zeroframe")


@pytest.mark.parametrize("product", ["rate", "rateints"])
def test_products_are_jwsts(pair, product):
    theirs, ours = (getattr(side, product) for side in pair)
    if theirs is None:  # nothing could be fitted: jwst writes no product
        assert ours is None
        return
    assert_same_flags(ours["dq"], theirs["dq"], product)
    for key in SLOPE_ARRAYS:
        if key != "dq":
            assert_same_values(ours[key], theirs[key], RTOL, f"{product} {key}")


def test_status_and_references_are_jwsts(pair):
    theirs = pair[0].model
    if theirs is None:
        assert pair[1].run.records[-2].status == "SKIPPED"
        return
    ours = pair[1].rate_model
    expected = {key: value for key, value in theirs.meta.cal_step.instance.items() if value is not None}
    found = {key: value for key, value in ours.meta.cal_step.instance.items() if value is not None}
    # a step that was switched off: jwst writes the class's alias, which is no keyword of its schema
    expected.pop("dark_current", None)
    assert found == expected
    assert _names(ours) == _names(theirs)
    assert ours.meta.ref_file.crds.instance == theirs.meta.ref_file.crds.instance
    assert ours.meta.calibration_software_version == theirs.meta.calibration_software_version
    for key in ("gain_factor", "primary_cosmic_rays", "extended_emission_events"):
        assert getattr(ours.meta.exposure, key) == pytest.approx(getattr(theirs.meta.exposure, key), nan_ok=True)
    assert ours.meta.bunit_data == theirs.meta.bunit_data


def _names(model):
    return {
        reftype: entry["name"]
        for reftype, entry in model.meta.ref_file.instance.items()
        if isinstance(entry, dict) and entry.get("name")
    }
