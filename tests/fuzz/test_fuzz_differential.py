"""Random cases with jwst and every configuration of gpucoron: the same flags, the same NaN, the same values.

``--fuzz 2000`` runs 2000 cases, ``--fuzz-case 1234`` a single case. A failure reports what was drawn and the first
step that differs.
"""

import json
import re
import shutil

import numpy as np
import pytest

from tests.fuzz import drawn_exposures
from tests.fuzz.comparison import judge
from tests.fuzz.drawn_exposures import PER_SUBARRAY, SEED, draw_case
from tests.tools import fuzz_summary

pytestmark = pytest.mark.parity

#: number of cases in every test run
FEW = 40


def pytest_generate_tests(metafunc):
    if "numbers" not in metafunc.fixturenames:
        return
    one, n = metafunc.config.getoption("--fuzz-case"), metafunc.config.getoption("--fuzz")
    n = FEW if n is None else n
    parts = [range(start, min(n, start + PER_SUBARRAY)) for start in range(0, n, PER_SUBARRAY)]
    parts = parts if one is None else [range(one, one + 1)]
    metafunc.parametrize("numbers", parts, ids=[f"{part[0]}-{part[-1]}" for part in parts])


@pytest.fixture(scope="module", autouse=True)
def bases(tmp_path_factory):
    """Give this process a folder for the full references of the cases."""
    drawn_exposures.use_bases(tmp_path_factory.mktemp("bases"))


def test_drawn_cases(numbers, tmp_path, record_property):
    failures = []
    for number in numbers:
        folder = tmp_path / str(number)
        case = draw_case(number, folder)
        outcome = judge(case, folder, np.random.default_rng([SEED, number, 1]))
        record_property("fuzz", ["differential", number, outcome.kind, outcome.why])
        if outcome.kind == "different":
            failures.append(f"{case.description()}\n  -> {outcome.why}")
        shutil.rmtree(folder)
    assert not failures, "\n\n".join(failures)


def test_the_summary_counts_each_case_once(tmp_path, monkeypatch):
    first = [["differential", 0, "equal", ""], ["differential", 1, "jwst fails", "one group"]]
    again = [["differential", 1, "different", "jump: 3 DQ bits"]]
    tests = ("test_fuzz_differential", first), ("test_fuzz_differential", again), ("test_fuzz_files", [])
    lines = [json.dumps({"test": f"tests/{name}.py::x", "outcome": "passed", "fuzz": each}) for name, each in tests]
    found, reasons, different = fuzz_summary.count(lines)
    assert found == {"differential": {"equal": 1, "different": 1}, "files, tests of ten cases": {"passed": 1}}
    assert different == {1: "jump: 3 DQ bits"}
    kept = {"date": "2026-01-02", "versions": {"jwst": "3.0"}, "counts": found, "reasons": reasons}
    (tmp_path / "fuzz.json").write_text(json.dumps(kept))
    monkeypatch.setattr(fuzz_summary, "KEPT", tmp_path / "fuzz.json")
    page = "# Parity\n\n## Jump\n\nrow\n\n## Not compared\n\nrest\n"
    once = fuzz_summary.put_into(page)
    assert "(2026-01-02; jwst 3.0) had 2 cases." in once and "| different | 1 |" in once
    assert once == fuzz_summary.put_into(once)
    assert re.findall("^## .*", once, re.M) == ["## Jump", "## Drawn cases", "## Not compared"]
