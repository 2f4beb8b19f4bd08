"""What the steps ask of a GPU, counted over the stand-in for CuPy: launches and waits are few, and do not grow.

A launch, and each operation of CuPy, costs microseconds of the CPU; a wait lets the GPU run dry. A loop in Python over
groups or integrations with one of either takes longer than the kernels of the step.
"""

import pytest

from tests.cases import gpu_counts
from tests.cases.gpu_counts import CASES, Costs
from tests.cases.paths import ROOT
from tests.pipeline.strict_cases import CASES as STRICT
from tests.pipeline.strict_cases import DEFAULTS, EXPOSURES
from tests.stand_ins.real_cupy import judge_or_skip

#: most launches (kernels and operations of CuPy) and waits of all steps of a case
MOST = {"miri-250x60": (200, 10), "miri-20x250": (200, 10), "nircam-10x20": (200, 10)}


@pytest.mark.parametrize("name", CASES)
def test_launches_and_waits(name, monkeypatch, tmp_path):
    """The page has the counts of each step: one that asks more than before fails, and so does a page that is old."""
    judge_or_skip()
    costs = gpu_counts.count(CASES[name], monkeypatch, tmp_path)
    lines = gpu_counts.table(name, costs)
    print("", *lines, sep="\n")
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    on_page = gpu_counts.counted_lines(page)
    missing = [line for line in lines if line not in on_page]
    assert not missing, "these counts are new: python -m tests.cases.gpu_counts docs/gpu.md"
    together = sum((costs[step] for step in costs.keys() - {"load", "products"}), Costs())
    most_launches, most_waits = MOST[name]
    assert together.launches <= most_launches
    assert together.waits <= most_waits


# ----------------------------------------------------------------------------------- no step asks once per integration

#: case of the strict pipeline -> the numbers of integrations that are compared
GROWING = {
    "MIRI with emicorr": (4, 9),
    "averaged groups": (2, 6),
    "likely": (2, 6),
    "charge migration": (2, 6),
    "clean_flicker_noise": (2, 5),
    "spaceKLIP, rates": (3, 9),
    "spaceKLIP, groups": (3, 9),
    "1/f, kriging": (3, 9),
    "persistence": (3, 9),
    "snowballs": (2, 4),
    "showers": (4, 6),
}
#: (case, step) -> why it asks more of larger exposures
GROWS = {
    ("MIRI with emicorr", "emicorr"): "a launch matches four integrations",
    ("1/f, kriging", "subtract_1overf"): "it iterates to a tolerance",
    ("snowballs", "jump"): "regions are found on the host",
    ("showers", "jump"): "regions are found on the host",
}


@pytest.mark.parametrize("name", GROWING)
def test_launches_and_waits_do_not_grow_with_the_integrations(name, exposures, monkeypatch, tmp_path):
    judge_or_skip()
    case = STRICT[name]
    (*which, _), options = EXPOSURES[case.exposure]
    few, many = (
        gpu_counts.count_run(
            exposures(*which, nints, **{**DEFAULTS, **options}), case, monkeypatch, tmp_path / str(nints)
        )
        for nints in GROWING[name]
    )
    assert set(few) == set(many)
    grows = {step for step in few if many[step].launches > few[step].launches or many[step].waits > few[step].waits}
    assert grows == {step for of_case, step in GROWS if of_case == name}
