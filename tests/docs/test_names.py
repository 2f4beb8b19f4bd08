"""One name per subject, from step to kernel: the table in CONTRIBUTING.md, and names that must not come back."""

import ast
import re
from dataclasses import is_dataclass

import pytest

from gpucoron.backends.kernel_files import KERNELS, SOURCES
from gpucoron.backends.operations import OPERATIONS
from gpucoron.steps import STEPS
from tests.cases.paths import ROOT

#: column of the table -> folder of its paths
FOLDERS = {
    "module": "gpucoron",
    "operations": "gpucoron/backends",
    "kernel files": "kernels",
    "test": "tests",
    "page": "docs",
}
#: names that a subject had before, as words of a name -> its name today
RETIRED = {
    "flicker": "subtract_1overf",
    "one_over_f": "subtract_1overf",
    "pedestals?": "subtract_ktc",
    "interference": "emicorr",
    "waves?": "emicorr",
    "coupling": "ipc",
}
#: jwst's own step, and files of measured figures, which keep the name under which they were measured
KEPT = ("clean_flicker_noise", "/results/", "tests/data/", "_generated", "_build")
#: functions may speak of the wave in emicorr's reference, and a simulation has an effect `one_over_f`
ALLOWED = {"waves?": "gpucoron/steps/emicorr", "one_over_f": "simulat"}


def read_table():
    """Read the table: a list of {column: list of cells in backticks}."""
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Names")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header, _, *rows = rows
    return [
        {name: re.findall(r"`([^`]+)`", cell) or [cell] for name, cell in zip(header, row, strict=True)} for row in rows
    ]


TABLE = read_table()


def find_retired(name, *, but=()):
    """List the retired names among the words of a name."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    return [old for old in RETIRED if old not in but and re.search(rf"(^|[^a-z0-9])({old})([^a-z0-9]|$)", words)]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["subject"][0])
def test_every_path_of_the_table_exists(row):
    for column, folder in FOLDERS.items():
        for path in row[column]:
            found = (ROOT / folder / path).exists() or (column == "test" and [*(ROOT / "tests").rglob(path)])
            assert found, f"{column}: there is no {folder}/{path}"
    assert set(row["parameters of"]) <= STEPS.keys()


def test_the_table_has_every_operation_and_kernel_file():
    folders = {path.parent.name for path in (ROOT / "gpucoron/backends/operations").glob("*/__init__.py")}
    assert {path.strip("/").rpartition("/")[2] for row in TABLE for path in row["operations"]} == folders
    # raw_counts.cu belongs to reading the file, not to a step
    assert {path for row in TABLE for path in row["kernel files"]} == {*SOURCES} - {"raw_counts.cu"}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_one_name_for_module_and_page(name):
    assert (ROOT / "gpucoron/steps" / f"{name}.py").exists()
    assert (ROOT / "docs/steps" / f"{name}.md").exists()


def test_settings_are_called_after_the_step():
    for operation in OPERATIONS:
        if operation.settings is not None:
            assert is_dataclass(operation.settings)
            assert operation.settings.__name__.endswith("Settings")
            assert not find_retired(operation.settings.__name__)


def named_files():
    """List the sources and pages, as paths from the root."""
    for folder in ("benchmarks", "docs", "gpucoron", "kernels", "tests"):
        for path in sorted((ROOT / folder).rglob("*.*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in (".py", ".md", ".cu", ".cuh", ".hpp", ".json", ".png") and not any(
                kept in name for kept in KEPT
            ):
                yield name


def test_no_file_has_a_retired_name():
    found = {name: find_retired(name) for name in named_files()}
    assert len(found) > 300
    assert not {name: RETIRED[old[0]] for name, old in found.items() if old}


def test_no_kernel_or_operation_has_a_retired_name():
    names = [*KERNELS, *(operation.name for operation in OPERATIONS)]
    assert not {name: RETIRED[old[0]] for name in names if (old := find_retired(name))}


def test_no_function_or_class_has_a_retired_name():
    found = {}
    for path in named_files():
        if not path.endswith(".py"):
            continue
        but = [old for old, where in ALLOWED.items() if where in path]
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and "clean_flicker_noise" not in node.name:
                old = find_retired(node.name, but=but)
                if old:
                    found[f"{path}:{node.lineno} {node.name}"] = RETIRED[old[0]]
    assert not found


def test_a_retired_name_would_be_found():
    assert find_retired("kernels/include/pedestal.cuh") == ["pedestals?"]
    assert find_retired("FlickerSettings") == ["flicker"]
    assert find_retired("fit_one_over_f") == ["one_over_f"]
    assert find_retired("wavelength") == find_retired("fit_ktc") == []
