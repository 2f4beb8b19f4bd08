"""The scripts of benchmarks/validation run, and the validation page reports their results."""

import json
import os
import subprocess
import sys

import pytest

from tests.cases.paths import ROOT

SCRIPTS = ROOT / "benchmarks" / "validation"
RESULTS = SCRIPTS / "results"


@pytest.fixture
def page_writer(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import validation_page

    return validation_page


def test_page_is_that_of_the_results(page_writer, tmp_path):
    page_writer.write_validation_page(RESULTS, tmp_path / "validation.md")
    assert (tmp_path / "validation.md").read_text() == (ROOT / "docs" / "validation.md").read_text(), (
        "docs/validation.md is not what benchmarks/validation/results says; write it with "
        "python benchmarks/validation --only none"
    )


def test_results_are_whole_and_small(page_writer):
    found = page_writer.find_results(RESULTS)
    assert found.keys() >= {"rates", "jumps", "subtract_1overf", "contrast", "custom", "pipeline"}
    assert sum(path.stat().st_size for path in found.values()) < 500_000
    for name, path in found.items():
        figures = json.loads(path.read_text())
        assert not figures["quick"]
        assert len(figures["seeds"]) >= (3 if name == "pipeline" else 20), path.name


@pytest.mark.parity
@pytest.mark.slow
def test_every_script_runs_at_its_smallest_size(tmp_path):
    command = [sys.executable, str(SCRIPTS), "--quick", "--results", str(tmp_path), "--page", str(tmp_path / "page.md")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "page.md").read_text()
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == [
        "## In short",
        "## From file to rate",
        "## Rates and their errors",
        "## Jumps",
        "## 1/f noise",
        "## Noise for companions",
        "## Two rolls",
        "## The other custom steps",
    ]
    assert "nan" not in page.lower().split()
    pipeline = json.loads((tmp_path / "pipeline.json").read_text())
    assert all(case["apart"] == case["flags"] == 0 for case in pipeline["cases"].values())
