"""The frame of the page: a template with the style and the script, which the security policy allows by their hashes."""

import base64
import hashlib
import html
from datetime import UTC, datetime
from importlib.resources import files
from string import Template

from gpucoron import __version__

#: parts of the script, joined in this order
SCRIPTS = (
    "base", "decode", "colours", "viewer", "controls", "charts", "images", "integrations", "pixel", "record", "views",
    "details", "observations", "trends", "table", "start",
)  # fmt: skip


def page_frame(title, serve=""):
    """Return the page around its JSON blocks.

    Parameters
    ----------
    title : str
    serve : str, optional
        Address below which the page is served; see `gpucoron.report.serve`.

    Returns
    -------
    before, after : str
        HTML before and after the blocks.
    """
    assets = files("gpucoron") / "report" / "assets"
    style = (assets / "style.css").read_text("utf-8")
    parts = [(assets / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    script = "\n".join(['"use strict";', "(() => {", *parts, "})();", ""])
    values = {
        "title": html.escape(title),
        "serve": f' data-serve="{html.escape(serve)}"' if serve else "",
        # from a file, 'self' does not include the scripts beside the page
        "tiles": "'self'" if serve else "'self' file:",
        "served_policy": "; frame-src 'self'" if serve else "",
        "footer": html.escape(f"Written by gpucoron {__version__} at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    before, after = (assets / "page.html").read_text("utf-8").split("$data")
    return Template(before).substitute(values), Template(after).substitute(values)


def _hash(text):
    """Return the hash by which the content security policy of the page allows a script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()
