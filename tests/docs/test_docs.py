"""The examples of the README and the documentation run as described, on a small simulated exposure.

test_commands.py checks the commands that cannot be run here.
"""

import gc
import glob
import re
import shutil
from pathlib import Path

import pytest

import gpucoron
from tests.cases.pages import SHELL, blocks_of, commands_in, list_pages
from tests.cases.paths import ROOT

#: the examples of this page continue each other
SEQUENCE = ROOT / "docs" / "after_stage1.md"
#: examples of one need no exposure and print their results; test_array_functions.py runs them. Those of the other are
#: parts of a new step.
OTHERS = {ROOT / "docs" / "api.md", ROOT / "CONTRIBUTING.md"}
PAGES = [page for page in list_pages() if page not in {SEQUENCE, *OTHERS}]
#: the only example whose batch reduces; the others are planned, because each takes seconds to start its workers
BATCH = "batch-0"

#: requirements of examples that a test machine does not meet
NEEDS = {
    "dask_jobqueue": "a cluster with a queue",
    "dask_cuda": "a machine with GPUs",
    '"cuda"': "a GPU",
    "from spaceKLIP": "spaceKLIP itself",
    "--serve": "a person who ends it; tests/report/test_serve.py does",
    "--scheduler": "a Dask scheduler; tests/batch/test_batch_dask.py starts one",
    "/archive/": "a cluster with a queue",
    "$PWD/sim/crds": "references of a simulated programme; tests/cli/test_simulate.py makes and reduces one",
}
ARCHIVE_NAME = "jw01386001001_0310a_00001_nrcalong_uncal.fits"
#: of the page on ramps, which asks for a pixel at x = 52
SIMULATED_NAME = "jw01386001001_02101_00001_nrcalong_uncal.fits"


def _examples():
    for page in PAGES:
        for number, (language, text) in enumerate(blocks_of(page)):
            is_command = language in SHELL and re.search(r"^(\S*/)?gpucoron ", text, re.MULTILINE)
            if (language == "python" or is_command) and not any(need in text for need in NEEDS):
                name = f"{page.stem}-{number}"
                yield pytest.param(name, page, language, text, id=name)


EXAMPLES = list(_examples())


def test_there_are_examples():
    assert {"python", ""} <= {example.values[2] for example in EXAMPLES}
    assert len(EXAMPLES) >= 8
    assert {"README", "faq", "nircam", "mask_groups", "batch"} <= {page.stem for page in PAGES}


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
    for name in ("raw", "demo/raw"):
        Path(name).mkdir(parents=True)
    shutil.copytree(stage1, "stage1")
    named = ("x_uncal.fits", "y_uncal.fits", ARCHIVE_NAME, SIMULATED_NAME)
    for name in (*named, f"raw/{ARCHIVE_NAME}", f"demo/raw/{SIMULATED_NAME}"):
        shutil.copy(case.path, name)
    with case.cache.activate():
        yield tmp_path


@pytest.mark.parametrize(("name", "page", "language", "text"), EXAMPLES)
def test_example_runs(name, page, language, text, folder):
    if language == "python":
        # the pages of steps leave out the import
        imported = {"gpucoron": gpucoron} if page.parent.name == "steps" else {}
        exec(compile(text, "example", "exec"), {"__name__": "example", **imported})
    else:
        for words in commands_in(text):
            if words[0].endswith("gpucoron"):
                _run_command(words[1:], only_plan=name != BATCH)


def _run_command(arguments, *, only_plan=False):
    """Run a command of gpucoron in this process; products of earlier examples are replaced."""
    from gpucoron.cli import main

    arguments = [name for word in arguments for name in (sorted(glob.glob(word)) or [word])]
    if arguments[0] in ("run", "batch"):
        arguments = [*arguments, "--overwrite"]
    if arguments[0] == "simulate":
        arguments = [*arguments, "--shape", "24x32", "--groups", "2"]
    if arguments[0] == "batch" and only_plan:
        arguments = [*arguments, "--dry-run"]
    assert main(arguments) == 0, arguments


@pytest.mark.slow
def test_after_stage_1(tmp_path, monkeypatch, capsys, without_network):
    """The examples of the page continue each other: from a simulated observation to the planet."""
    from jwst.stpipe import Step

    from gpucoron.simulate.crds import CrdsCache

    monkeypatch.chdir(tmp_path)
    first, *others = blocks_of(SEQUENCE)
    namespace = {"__name__": "example"}
    exec(first[1], namespace)
    (*_, context) = sorted(Path("crds").rglob("*.pmap"))
    gc.freeze()  # jwst collects garbage after each step, which takes long with many old objects
    try:
        with CrdsCache(Path("crds").resolve(), context.name).activate():
            for language, text in others:
                if language == "python":
                    exec(text, namespace)
                    continue
                for words in commands_in(text):
                    if words[0] == "gpucoron":
                        _run_command(words[1:])
                    elif words[0] == "strun":
                        Step.from_cmdline(words[1:])
    finally:
        gc.unfreeze()
    assert len(list(Path("stage3").glob("*_psfsub.fits"))) == 2
    assert Path("stage3/combined_i2d.fits").is_file()
    printed = capsys.readouterr().out.splitlines()[-1]
    assert f"This prints `{printed}`" in SEQUENCE.read_text()
