"""The same file and references, reduced with jwst and with gpucoron: step by step and end to end.

The cases are in ``tests/cases/parity.py``. Quick cases always run; ``--full-parity`` runs all of them.
``--parity-page PATH`` writes the page of results.
"""

import numpy as np
import pytest

from gpucoron.steps import skipped
from tests.cases.parity import CASES, NOT_COMPARED
from tests.cases.parity_table import as_dicts, compare_arrays, name_flags
from tests.cases.paths import ROOT
from tests.cases.pipelines import run_jwst, run_ours

pytestmark = pytest.mark.parity

PAGE = ROOT / "docs" / "parity.md"


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full-parity")
        names = [name for name, case in CASES.items() if full or case.quick]
        metafunc.parametrize("case", [CASES[name] for name in names], ids=names)


def test_jwsts_answer(case, exposures, record_property, tmp_path):
    made = case.make(exposures)
    theirs_dir, ours_dir = (tmp_path / name for name in ("jwst", "gpucoron"))
    for folder in (theirs_dir, ours_dir):
        folder.mkdir()
    with made.cache.activate():
        theirs = run_jwst(made.path, case.steps, output_dir=str(theirs_dir))
        ours = run_ours(made.path, case.steps, output_dir=ours_dir)
    _show_what_it_is_about(case, theirs)

    rows, problems = [], []
    for step, arrays in theirs.ramps.items():
        row, trouble = compare_arrays(step, ours.ramps[step], arrays)
        rows.append(row)
        problems += trouble
    for product in ("rate", "rateints"):
        expected, found = getattr(theirs, product), getattr(ours, product)
        if (expected is None) != (found is None):
            problems.append(f"{product}: {'there should be none' if expected is None else 'missing'}")
        elif expected is not None:
            row, trouble = compare_arrays(product, found, expected)
            rows.append(row)
            problems += trouble
    problems += _compare_headers(theirs, ours)
    if case.writes:
        row, trouble = _compare_files(theirs_dir, ours_dir)
        rows.append(row)
        problems += trouble
    record_property("parity", [case.name, as_dicts(rows)])
    for row in rows:
        if row.bits or row.nans or row.largest > case.rtol:
            problems.append(f"{row.step}: {row.bits} DQ bits, {row.nans} NaN, largest difference {row.largest:.2g}")
    assert not problems, "\n".join([f"{case.name}, in the order of the steps:", *problems])


def _show_what_it_is_about(case, theirs):
    """Check that jwst had the effect that the case is for; otherwise equal results would prove nothing."""
    names = list(theirs.ramps)
    for step in case.about:
        before, after = theirs.ramps[names[names.index(step) - 1]], theirs.ramps[step]
        same = [np.array_equal(before[key], after[key], equal_nan=True) for key in ("data", "groupdq", "pixeldq")]
        assert not all(same), f"{case.name}: {step} changes nothing in jwst"
    last = theirs.ramps[names[-1]]
    found = name_flags(last["groupdq"]) | name_flags(last["pixeldq"])
    if theirs.rateints is not None:
        found |= name_flags(theirs.rateints["dq"])
    assert found >= set(case.shows), f"{case.name}: jwst does not set {set(case.shows) - found}"


def _compare_headers(theirs, ours):
    """Compare statuses, references and numbers of events."""
    if theirs.model is None:
        status = ours.run.records[-2].status
        return [] if status == skipped("").status else [f"ramp_fit: {status}, though jwst fits nothing"]
    ours_model, theirs_model = ours.rate_model, theirs.model
    expected = {key: value for key, value in theirs_model.meta.cal_step.instance.items() if value is not None}
    found = {key: value for key, value in ours_model.meta.cal_step.instance.items() if value is not None}
    # a dark that was switched off: jwst writes the alias of the class, which is not in its schema, or nothing
    expected.pop("dark_current", None)
    if "dark_sub" not in expected and found.get("dark_sub") == "SKIPPED":
        del found["dark_sub"]
    problems = [
        f"{step}: status {found.get(step)}, not {expected.get(step)}"
        for step in expected | found
        if found.get(step) != expected.get(step)
    ]
    names = [_reference_names(model) for model in (ours_model, theirs_model)]
    if names[0] != names[1]:
        problems.append(f"references: {names[0]}, not {names[1]}")
    if ours_model.meta.ref_file.crds.instance != theirs_model.meta.ref_file.crds.instance:
        problems.append("CRDS's context differs")
    for key in ("gain_factor", "primary_cosmic_rays", "extended_emission_events"):
        value, wanted = (getattr(model.meta.exposure, key) for model in (ours_model, theirs_model))
        if value != pytest.approx(wanted, nan_ok=True):
            problems.append(f"{key}: {value}, not {wanted}")
    for key in ("bunit_data", "calibration_software_version"):
        if getattr(ours_model.meta, key) != getattr(theirs_model.meta, key):
            problems.append(f"{key} differs")
    return problems


def _reference_names(model):
    return {
        reftype: entry["name"]
        for reftype, entry in model.meta.ref_file.instance.items()
        if isinstance(entry, dict) and entry.get("name")
    }


def _compare_files(theirs, ours):
    """Compare the optional products on disk, image by image."""
    from astropy.io import fits

    def read(folder):
        found = {}
        for path in sorted(folder.glob("*.fits")):
            with fits.open(path) as hdus:
                images = {hdu.name: np.array(hdu.data) for hdu in hdus if hdu.is_image and hdu.data is not None}
            found |= {f"{path.name} {name}": image for name, image in images.items()}
        return found

    expected, found = read(theirs), read(ours)
    assert expected, "jwst writes no extra product"
    if found.keys() != expected.keys():
        return compare_arrays("extra products", {}, {})[0], [f"extra products: {set(found) ^ set(expected)}"]
    row, problems = compare_arrays("extra products", {}, {})
    for name, image in expected.items():
        part, trouble = compare_arrays(name, {"data": found[name]}, {"data": image})
        row.nans, row.largest = row.nans + part.nans, max(row.largest, part.largest)
        problems += trouble
    return row, problems


def test_the_page_has_every_case():
    text = PAGE.read_text()
    missing = [name for name in CASES if f"`{name}`:" not in text or f"`{name}`: not run" in text]
    assert not missing, f"docs/parity.md lacks {missing}; make parity writes it"
    assert all(what in text for what, _why in NOT_COMPARED)


def test_the_matrix_covers_what_it_should():
    exposures = [case.exposure for case in CASES.values()]
    assert {e[1] for e in exposures if e[0] == "NIRCAM"} >= {
        "SUB320A335R", "SUB320A430R", "SUB320ALWB", "SUB640A210R", "SUB640ASWB", "SUB400X256ALWB", "FULL",
    }  # fmt: skip
    assert {e[1] for e in exposures if e[0] == "MIRI"} == {"MASK1065", "MASK1140", "MASK1550", "MASKLYOT", "FULL"}
    assert {e[2] for e in exposures} >= {"RAPID", "BRIGHT1", "SHALLOW4", "MEDIUM8", "DEEP2", "FASTR1", "SLOWR1"}
    assert {e[3] for e in exposures} >= {1, 2, 3, 4, 5, 9, 10, 11, 40, 101, 250}
    assert {e[4] for e in exposures} >= {1, 2, 3, 12, 60, 101}
