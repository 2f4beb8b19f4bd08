"""Places in the source that use CuPy, and which of them ran, in all test processes."""

import ast
import json
import os
from pathlib import Path
from uuid import uuid4

import gpucoron
from tests.cases.waiting import wait_for

PACKAGE = Path(gpucoron.__file__).parent
#: modules that receive device arrays
SOURCES = (
    *sorted(PACKAGE.glob("steps/*.py")),
    *sorted(PACKAGE.glob("backends/*.py")),
    *(PACKAGE / "backends" / "devices" / f"{name}_device.py" for name in ("cuda", "kernel")),
    *sorted(PACKAGE.glob("backends/operations/*/kernels.py")),
    PACKAGE / "backends" / "operations" / "ipc" / "definition.py",
    *(PACKAGE / "backends" / "operations" / "showers" / f"{name}.py" for name in ("definition", "ring")),
    *(
        PACKAGE / "backends" / "operations" / "subtract_1overf" / f"{name}.py"
        for name in (
            "readout",
            "spectrum",
            "kriging",
            "contrasts",
            "differences",
            "scene",
            "slopes",
            "iterations",
            "cosines",
        )
    ),
    PACKAGE / "engine.py",
    *(PACKAGE / "io" / f"{name}.py" for name in ("exposure", "products")),
    PACKAGE / "batch" / "job.py",
    PACKAGE / "records" / "previews.py",
)


def names_in_source(paths=SOURCES):
    """List uses of ``xp``, ``ndimage`` and ``fft``: (file, line, name)."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = getattr(node.value, "attr", getattr(node.value, "id", "")).lstrip("_")
                if owner in ("xp", "ndimage", "fft") and not _is_of_host(node.value):
                    found.add((str(path), node.lineno, node.attr if owner == "xp" else f"{owner}.{node.attr}"))
    return found


def _is_of_host(module):
    """Return whether a module is ``np.fft`` or the like, which is never CuPy's."""
    return getattr(getattr(module, "value", None), "id", None) in ("np", "numpy", "scipy")


def _folder(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "asked-of-cupy"
    folder.mkdir(exist_ok=True)
    return folder


def note_asked(tmp_path_factory, node, asked):
    """Record the names that a test has used."""
    path = _folder(tmp_path_factory) / f"{uuid4().hex}.json"
    scratch = path.with_suffix(".part")
    ours = sorted(place for place in asked if place[0].startswith(str(PACKAGE)))
    scratch.write_text(json.dumps([node.nodeid, ours]))
    scratch.rename(path)


def collect_asked(tmp_path_factory, nodes):
    """Wait until tests are done; return the names that they have used."""
    expected = {node.nodeid for node in nodes}
    folder = _folder(tmp_path_factory)
    wait_for(lambda: len(list(folder.glob("*.json"))) >= len(expected))
    noted = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    assert expected <= {nodeid for nodeid, _ in noted}
    return {tuple(place) for _, places in noted for place in places}
