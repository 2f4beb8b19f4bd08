"""The figures in the README and on the page on performance are those of the latest results, and versions agree."""

import json
import re
import shutil

import pytest

import gpucoron
from tests.cases.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import performance_tables
    import readme_tables

    return performance_tables, readme_tables


def test_readme_has_the_figures_of_the_results(tables):
    _performance, readme = tables
    assert readme.with_figures(README, RESULTS) == README, "write them with python docs/readme_tables.py"


def test_readme_follows_new_results(tables, tmp_path):
    """What is written is read from the results: other ones give another text, and a lost marker is an error."""
    _performance, readme = tables
    shutil.copytree(RESULTS, tmp_path / "results")
    newest = max((tmp_path / "results").glob("*-programme-*.json"))
    text = newest.read_text()
    changed = re.sub(r'"jwst": [0-9.]+,?\n( *)\}', r'"jwst": 4321.0\n\1}', text)
    assert changed.count("4321.0") == 2
    newest.write_text(changed)
    assert "| 4321 s |" in readme.with_figures(README, tmp_path / "results")
    with pytest.raises(ValueError, match="measured: end"):
        readme.with_figures(README.replace(readme.END, ""), RESULTS)


def test_every_table_of_results_is_on_the_page(tables, tmp_path):
    performance, _readme = tables
    performance.write_measured(RESULTS, tmp_path)
    page = (ROOT / "docs" / "performance.md").read_text()
    included = set(re.findall(r"\{include\} _generated/(performance_.*\.md)", page))
    assert {path.name for path in tmp_path.iterdir()} == included
    assert all("commit" in path.read_text() for path in tmp_path.iterdir())


def test_missing_results_name_their_benchmark(tables, tmp_path):
    performance, _readme = tables
    with pytest.raises(FileNotFoundError, match=r"bench_engine\.py"):
        performance.write_measured(tmp_path, tmp_path)


def test_readme_counts_the_modes_of_the_parity_page():
    (modes,) = re.findall(r"beside gpucoron in (\d+) modes", README)
    assert (
        f"Of {modes} cases, {modes} have equal DQ bits and NaN everywhere" in (ROOT / "docs" / "parity.md").read_text()
    )


def test_versions_agree():
    """A release has its section in the changelog, and its version in the citation."""
    released = re.search(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    assert cited == released
    assert gpucoron.__version__ == released or ".dev" in gpucoron.__version__


def test_readme_has_the_figures_of_the_recommended_settings():
    """The sentences are written by hand; their numbers are those of benchmarks/validation."""
    text = " ".join(README.split())
    nircam, miri = (
        json.loads((ROOT / "benchmarks" / "validation" / "results" / f"contrast_{name}.json").read_text())["cases"]
        for name in ("nircam", "miri")
    )

    def mean(case, key, choice="recommended"):
        return case[choice][key]["mean"]

    def lower(case, key):
        return f"{100 * (1 - mean(case, key)):.0f} %"

    bright, faint, saturated, few = (
        *(nircam[f"{name} star"] for name in ("bright", "faint", "saturated")), miri["few groups"],
    )  # fmt: skip
    assert lower(saturated, "inner") == lower(saturated, "outer")
    kept = bright["recommended"]["kept"]
    beyond, within = lower(bright, "outer"), lower(bright, "inner")
    others = (
        f"{lower(faint, 'outer')} and {lower(faint, 'inner')} for a faint star, {lower(saturated, 'inner')} for one"
    )
    for sentence in (
        f"{beyond} lower beyond 1.5\" than with jwst's defaults, and {within} lower within ({others} that saturates)",
        f"kept its flux ({kept['mean']:.3f} ± {kept['error']:.3f})",
        f"{mean(bright, 'pull_width'):.2f} times ERR instead of {mean(bright, 'pull_width', 'jwst defaults'):.2f}",
        f"the noise of single pixels was {lower(few, 'pixels_inner')} lower than with jwst's defaults",
        f"{mean(few, 'pull_width'):.2f} times ERR instead of {mean(few, 'pull_width', 'jwst defaults'):.2f}",
    ):
        assert sentence in text
