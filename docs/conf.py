"""Sphinx configuration. Every build writes tables from the declarations of the steps, and draws pictures."""

import sys
from importlib import import_module
from pathlib import Path

import gpucoron

sys.path.insert(0, str(Path(__file__).parent))
from example_report import write_example
from parameter_tables import (
    write_api_of_operations,
    write_api_of_steps,
    write_backends,
    write_functions_of_steps,
    write_parameter_pages,
)
from performance_tables import write_measured
from picture_pages import draw_pictures
from recommended_page import write_recommended_page
from room_pictures import draw_rooms
from step_pictures import draw_step_pictures
from unreleased import write_unreleased
from validation_page import write_validation_page
from validation_plots import draw_validation

project = "gpucoron"
author = "The gpucoron developers"
project_copyright = "2026, the gpucoron developers"
release = version = gpucoron.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
# included in pages, or written by the gallery for internal use
exclude_patterns = [
    "_build",
    "changes",
    "tutorials",
    "_generated/api_operations.md",
    "_generated/api_steps.md",
    "_generated/backends.md",
    "_generated/defaults_*",
    "_generated/functions_of_steps.md",
    "_generated/parameters_*",
    "_generated/performance_*",
    "_generated/unreleased.md",
    "_generated/tutorials/sg_*",
]
# MathJax from a package: Sphinx would load it from another host. This file of MathJax needs no others, not even fonts.
mathjax_path = "tex-svg.js"
_MATHJAX = Path(import_module("sphinx-mathjax-offline").__file__).parent / "static" / "mathjax" / mathjax_path

html_theme = "furo"
html_static_path = [str(_MATHJAX)]
html_extra_path = ["_generated/pages"]
html_title = f"gpucoron {version}"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 2
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "_generated/tutorials",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "show_memory": False,
    "write_computation_times": False,
}

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"
RESULTS = HERE.parent / "benchmarks" / "validation" / "results"
write_parameter_pages(HERE / "parameters.md", GENERATED)
write_api_of_operations(GENERATED / "api_operations.md")
write_backends(GENERATED / "backends.md")
write_api_of_steps(GENERATED / "api_steps.md")
write_functions_of_steps(GENERATED / "functions_of_steps.md")
write_unreleased(HERE.parent, GENERATED / "unreleased.md")
draw_pictures(HERE / "pictures", GENERATED)
draw_step_pictures(GENERATED)
draw_rooms(HERE.parent / "gpucoron", GENERATED)
write_example(GENERATED / "pages" / "report_example.html")
write_measured(HERE.parent / "benchmarks" / "results", GENERATED)
write_validation_page(RESULTS, HERE / "validation.md")
write_recommended_page(RESULTS, HERE / "recommended.md")
draw_validation(RESULTS, GENERATED)
