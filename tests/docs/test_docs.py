"""The examples of the README and the documentation run as described, on a small simulated exposure."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cases.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "recipes").glob("*.md"))]
#: this page's examples need no exposure and print their results; test_array_functions.py runs them
PAGES.remove(ROOT / "docs" / "api.md")

#: requirements of examples that a test machine does not meet
NEEDS = {
    "dask_jobqueue": "a cluster with a queue",
    "dask_cuda": "a machine with GPUs",
    '"cuda"': "a GPU",
    "spaceKLIP": "spaceKLIP itself",
    "--serve": "a person who ends it; tests/report/test_serve.py does",
    "--scheduler": "a Dask scheduler; tests/batch/test_batch_dask.py starts one",
    "/archive/": "a cluster with a queue",
}
ARCHIVE_NAME = "jw01386001001_0310a_00001_nrcalong_uncal.fits"
#: of the page on ramps, which asks for a pixel at x = 52
SIMULATED_NAME = "jw01386001001_02101_00001_nrcalong_uncal.fits"


def blocks_of(page):
    """List the code blocks of a page: (language, text)."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _examples():
    for page in PAGES:
        for number, (language, text) in enumerate(blocks_of(page)):
            is_command = language in ("", "console", "bash") and re.search(r"^(\S*/)?gpucoron ", text, re.MULTILINE)
            if (language == "python" or is_command) and not any(need in text for need in NEEDS):
                yield pytest.param(language, text, id=f"{page.stem}-{number}")


EXAMPLES = list(_examples())


def test_there_are_examples():
    assert {"python", ""} <= {example.values[0] for example in EXAMPLES}
    assert len(EXAMPLES) >= 8


def test_the_views_of_the_report_are_described():
    script = (ROOT / "gpucoron" / "report" / "assets" / "views.js").read_text()
    keys = re.findall(r'^    key: "([\w-]+)"', script, flags=re.MULTILINE)
    page = (ROOT / "docs" / "report.md").read_text()
    assert len(keys) == 4
    assert [key for key in keys if f"`{key}`" not in page] == []
    recipes = "".join(path.read_text() for path in (ROOT / "docs" / "recipes").glob("*.md"))
    places = re.findall(r"^\((view-\w+)\)=$", page, flags=re.MULTILINE)
    assert len(places) == 4
    assert [place for place in places if f"({place})" not in recipes] == []


@pytest.fixture(scope="module")
def case(exposures):
    return exposures("NIRCAM", "SUB320A335R", "RAPID", 5, 2, shape=(32, 64))


@pytest.fixture(scope="module")
def stage1(case, tmp_path_factory):
    """The products of the exposure, with which some pages continue."""
    from gpucoron.engine import reduce_file

    folder = tmp_path_factory.mktemp("stage1")
    shutil.copy(case.path, folder / "x_uncal.fits")
    with case.cache.activate():
        reduce_file(folder / "x_uncal.fits", folder / "stage1", profile="jwst")
    return folder / "stage1"


@pytest.fixture
def folder(case, stage1, tmp_path, monkeypatch):
    """A folder with the files that the examples name: one exposure under their names, and its products."""
    monkeypatch.chdir(tmp_path)
    Path("raw").mkdir()
    shutil.copytree(stage1, "stage1")
    for name in ("x_uncal.fits", "y_uncal.fits", ARCHIVE_NAME, SIMULATED_NAME, f"raw/{ARCHIVE_NAME}"):
        shutil.copy(case.path, name)
    with case.cache.activate():
        yield tmp_path


@pytest.mark.parametrize(("language", "text"), EXAMPLES)
def test_example_runs(language, text, folder):
    if language == "python":
        exec(compile(text, "example", "exec"), {"__name__": "example"})
    else:
        for line in text.splitlines():
            _run_command(line)


def _run_command(line):
    from gpucoron.cli import main

    command = line.split("#")[0].split()
    if command and command[0].endswith("gpucoron"):
        arguments = command[1:]
        assert main([*arguments, "--overwrite"] if arguments[0] in ("run", "batch") else arguments) == 0, line
