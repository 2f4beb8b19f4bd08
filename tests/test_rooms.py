"""Who may import what: the rooms of the house, read from the code itself."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import gpucoron
from gpucoron import OLD_PATHS

PACKAGE = Path(gpucoron.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

JWST = {"jwst", "stcal", "stdatamodels", "stpipe", "crds", "asdf", "gwcs"}
#: the only rooms that know jwst and its data models
MAY_KNOW_JWST = ("io/", "simulate/", "pipeline.py", "borrowed.py")
MAY_KNOW_CUPY = "backends/devices/cuda_"


def imported(path):
    """List the top-level packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms(path):
    room = path.relative_to(PACKAGE).as_posix()
    names = imported(path)
    if not room.startswith(MAY_KNOW_JWST):
        assert not names & JWST
    if not room.startswith(MAY_KNOW_CUPY):
        assert not names & {"cupy", "cupyx", "cupy_backends"}
    if room.startswith(("steps/", "backends/")):
        assert "astropy.io" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("old", [name for name in OLD_PATHS if not name.endswith("__main__")])
def test_old_paths_still_work_and_tell_the_new_one(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {OLD_PATHS[old]}"):
        module = import_module(old)
    assert module is import_module(OLD_PATHS[old])


def test_the_old_way_to_run_the_command_line():
    command = [sys.executable, "-W", "default", "-m", "gpucoron.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"gpucoron {gpucoron.__version__}\n"
    assert "gpucoron.cli is now gpucoron" in done.stderr


def _modules_after(code):
    script = f"{code}\nimport sys\nprint(' '.join(sorted(name.split('.')[0] for name in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_gpucoron_imports_nothing_heavy():
    assert not _modules_after("import gpucoron") & (JWST | {"cupy", "numpy", "astropy", "scipy", "matplotlib"})


def test_help_imports_nothing_heavy():
    loaded = _modules_after("from gpucoron.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass")
    assert not loaded & (JWST | {"cupy", "numpy", "astropy", "scipy", "matplotlib"})


def test_dq_values_are_jwsts():
    from stdatamodels.jwst.datamodels import dqflags

    from gpucoron import dq

    ours = {name: value for name, value in vars(dq).items() if name.isupper()}
    assert ours == dqflags.pixel
