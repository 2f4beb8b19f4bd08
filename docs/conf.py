"""Sphinx configuration. Tables are written from the declarations of steps at every build, pictures drawn."""

import sys
from pathlib import Path

import gpucoron

sys.path.insert(0, str(Path(__file__).parent))
from parameter_tables import write_parameter_pages
from picture_pages import draw_pictures
from validation_page import write_validation_page
from validation_plots import draw_validation

project = "gpucoron"
author = "The gpucoron developers"
release = version = gpucoron.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "changes"]
html_theme = "furo"
html_title = f"gpucoron {version}"
myst_enable_extensions = ["colon_fence", "dollarmath"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False

write_parameter_pages(Path(__file__).parent / "parameters.md")
draw_pictures(Path(__file__).parent / "pictures", Path(__file__).parent / "_generated")

_RESULTS = Path(__file__).parents[1] / "benchmarks" / "validation" / "results"
write_validation_page(_RESULTS, Path(__file__).parent / "validation.md")
draw_validation(_RESULTS, Path(__file__).parent / "_generated")
