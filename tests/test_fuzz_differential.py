"""Drawn cases through jwst and through every way of ours: the same flags, the same NaN, the same values.

``--fuzz 2000`` runs so many cases, ``--fuzz-case 1234`` one of them. A failure tells what was drawn and the first step
that differs.
"""

import shutil

import drawn_exposures
import numpy as np
import pytest
from drawn_exposures import PER_SUBARRAY, SEED, draw_case
from fuzz_sides import judge

pytestmark = pytest.mark.parity

#: cases with every run of the tests
FEW = 60


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
    """Give this process a folder for the references that those of the cases are made of."""
    drawn_exposures.use_bases(tmp_path_factory.mktemp("bases"))


def test_drawn_cases(numbers, tmp_path, record_property):
    failures = []
    for number in numbers:
        folder = tmp_path / str(number)
        case = draw_case(number, folder)
        outcome = judge(case, folder, np.random.default_rng([SEED, number, 1]))
        record_property("fuzz", ["differential", number, outcome.kind, outcome.why])
        if outcome.kind == "different":
            failures.append(f"{case.told()}\n  -> {outcome.why}")
        shutil.rmtree(folder)
    assert not failures, "\n\n".join(failures)
