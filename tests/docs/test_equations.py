"""The documentation is complete without a network: pages load nothing from other hosts."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.cases.paths import ROOT

BUILT = ROOT / "docs" / "_build" / "html"


def _settings():
    """Return the values of the simple assignments in docs/conf.py."""
    tree = ast.parse((ROOT / "docs" / "conf.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)]
    return {node.targets[0].id: node.value.value for node in assigned}


def test_mathjax_is_a_local_file():
    pytest.importorskip("sphinx-mathjax-offline", reason="needs the extra docs")
    name = _settings()["mathjax_path"]
    assert "/" not in name
    script = Path(import_module("sphinx-mathjax-offline").__file__).parent / "static" / "mathjax" / name
    # the SVG output draws the glyphs itself; the other output loads fonts
    assert "svg" in name and script.stat().st_size > 1_000_000


@pytest.mark.skipif(not BUILT.is_dir(), reason="the documentation is not built")
def test_built_pages_load_nothing_from_other_hosts():
    loads = re.compile(
        r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="(?:https?:)?//[^"]*"|url\(["\']?https?:[^)]*\)'
    )
    pages = [*BUILT.rglob("*.html"), *(BUILT / "_static").rglob("*.css")]
    found = [(page.name, match[0]) for page in pages for match in loads.finditer(page.read_text(errors="replace"))]
    assert found == []


@pytest.mark.skipif(not (BUILT / "steps" / "jump.html").is_file(), reason="the documentation is not built")
def test_pages_with_equations_load_mathjax():
    pages = [page for page in (BUILT / "steps").glob("*.html") if 'class="math' in page.read_text()]
    assert len(pages) > 10
    assert [page.name for page in pages if _settings()["mathjax_path"] not in page.read_text()] == []
