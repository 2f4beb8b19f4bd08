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


@pytest.fixture
def recommended_page(page_writer):
    import recommended_page

    return recommended_page


def test_recommended_page_is_that_of_the_results(recommended_page, tmp_path):
    recommended_page.write_recommended_page(RESULTS, tmp_path / "recommended.md")
    assert (tmp_path / "recommended.md").read_text() == (ROOT / "docs" / "recommended.md").read_text(), (
        "docs/recommended.md is not what benchmarks/validation/results says; write it with "
        "python benchmarks/validation --only none"
    )


@pytest.mark.parametrize("name", ["nircam", "miri"])
def test_every_recommended_setting_has_its_reason(recommended_page, name):
    instrument, subarray, _title = recommended_page._INSTRUMENTS[name]
    settings = [setting for setting, _value, _default in recommended_page.list_settings(instrument, subarray)]
    assert sorted(settings) == sorted(recommended_page._REASONS[name])
    text = (ROOT / "docs" / "recommended.md").read_text()
    assert all(f"`{setting}`" in text for setting in settings)
    assert "not measured" not in text.split("## How it was measured")[0].replace("were not measured", "")


def test_recommended_page_without_results(recommended_page, tmp_path):
    recommended_page.write_recommended_page(tmp_path, tmp_path / "recommended.md")
    assert "| `refpix.keep_light` | `True` | `False` | - |" in (tmp_path / "recommended.md").read_text()


def test_models_of_1overf_are_compared_if_they_were_measured(recommended_page):
    method = {"ratio": {"mean": [1.1, 1.3], "error": [0.01, 0.02]}}
    part = {"nints": 6, "ngroups": 6, "strength": 3.0, "scene": "star", "methods": {"median": method}}
    lines = list(recommended_page._write_companion_noise({"companion_noise": {"cases": [part]}}))
    assert "| 6 x 6, star, 3 | 1.200 |" in lines
    assert list(recommended_page._write_companion_noise({})) == []


def test_page_is_that_of_the_results(page_writer, tmp_path):
    page_writer.write_validation_page(RESULTS, tmp_path / "validation.md")
    assert (tmp_path / "validation.md").read_text() == (ROOT / "docs" / "validation.md").read_text(), (
        "docs/validation.md is not what benchmarks/validation/results says; write it with "
        "python benchmarks/validation --only none"
    )


def test_results_are_whole_and_small(page_writer):
    found = page_writer.find_results(RESULTS)
    assert found.keys() >= {"rates", "jumps", "subtract_1overf", "contrast", "custom", "pipeline", "companion_noise"}
    assert found.keys() >= {"contrast_nircam", "contrast_miri", "hits"}
    # more than half of it is companion_noise: 7 scenes x 4 cases x 2 strengths x 6 methods
    assert sum(path.stat().st_size for path in found.values()) < 800_000
    for name, path in found.items():
        figures = json.loads(path.read_text())
        assert not figures["quick"]
        # whole pipelines take long
        assert len(figures["seeds"]) >= {"pipeline": 3, "contrast_miri": 6}.get(name, 20), path.name


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
    recommended = (tmp_path / "recommended.md").read_text()
    assert "nan" not in recommended.lower().split()
    for script in ("contrast_nircam", "contrast_miri"):
        (case,) = json.loads((tmp_path / f"{script}.json").read_text())["cases"].values()
        assert case["jwst defaults"]["inner"]["mean"] == case["jwst defaults"]["outer"]["mean"] == 1
        assert 0.8 < case["recommended"]["outer"]["mean"] < 1.2
        assert 0.8 < case["recommended"]["kept"]["mean"] < 1.2
    pipeline = json.loads((tmp_path / "pipeline.json").read_text())
    assert all(case["apart"] == case["flags"] == 0 for case in pipeline["cases"].values())
