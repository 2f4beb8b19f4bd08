"""Write a traced pixel as one HTML page that needs no other file."""

import html
from io import StringIO

from gpucoron import __version__
from gpucoron.interactive import public
from gpucoron.report.ramp import describe
from gpucoron.report.ramp.picture import draw
from gpucoron.report.ramp.trace import RampTrace
from gpucoron.report.sheet import sheet, sheet_list, sheet_table

_INTEGRATIONS = ("integration", "rate in rateints", "chi-square OLS_C", "LIKELY", "groups with flags")


@public
def ramp_page(trace: RampTrace, integration: int | None = None) -> str:
    """Return the page of a traced pixel.

    Parameters
    ----------
    trace : gpucoron.report.ramp.trace.RampTrace
    integration : int, optional
        Counted from 0; by default the first one with a jump, else the first one.

    Returns
    -------
    str
        A complete HTML document without scripts, and without addresses of other files.

    Raises
    ------
    ParameterError
        There is no such integration.
    """
    chosen = trace.choose_integration(integration)
    steps = [
        (row.name, row.status.lower(), row.text, "quiet" if row.is_idle else "")
        for row in describe.step_rows(trace, chosen)
    ]
    groups = describe.merge_groups(describe.group_rows(trace, chosen))
    parts = [
        f"<h1>{html.escape(describe.headline(trace, chosen))}</h1>",
        f"<p>{html.escape(describe.product_line(trace, chosen))}</p>",
        f"<figure>{_svg(trace, chosen)}</figure>",
        sheet_table(
            "Fits",
            ("fit", "rate", "chi-square / degrees of freedom", "segments (DN/s)"),
            describe.fit_rows(trace, chosen),
        ),
        sheet_table("Flags and their causes", ("groups", "flag", "step", "cause"), groups)
        or "<h2>Flags and their causes</h2><p>No group is flagged.</p>",
        sheet_table("Steps", ("step", "status", "at this pixel, in this integration"), steps),
        sheet_table("All integrations", _INTEGRATIONS, describe.integration_rows(trace)),
        "<h2>Exposure</h2>" + sheet_list(describe.facts_of(trace)),
        f'<p class="quiet">gpucoron {__version__}</p>',
    ]
    return sheet(f"{trace.x}, {trace.y} · {trace.path.name}", parts)


def _svg(trace, integration):
    """Return the drawing as inline SVG, with text as text."""
    from matplotlib import rc_context

    file = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpucoron"}):
        draw(trace, integration).savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
