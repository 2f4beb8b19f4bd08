"""Who may import what: the rooms of the house, read from the code itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gpucoron

PACKAGE = Path(gpucoron.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

JWST = {"jwst", "stcal", "stdatamodels", "stpipe", "crds", "asdf", "gwcs"}
#: the only modules that know jwst and its data models
MAY_KNOW_JWST = {"references.py", "products.py", "pipeline.py", "borrowed.py", "exposure.py", "cli.py"}
MAY_KNOW_JWST |= {"crds_cache.py", "warm_up.py"}
MAY_KNOW_JWST |= {"simulate.py", "simulated_references.py", "simulated_crds.py"}
MAY_KNOW_CUPY = {"backends/cuda_backend.py", "backends/cuda_loader.py"}


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
    if room not in MAY_KNOW_JWST:
        assert not names & JWST
    if room not in MAY_KNOW_CUPY:
        assert not names & {"cupy", "cupyx", "cupy_backends"}
    if room.startswith(("steps/", "backends/")):
        assert "astropy.io" not in path.read_text(encoding="utf-8")


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
