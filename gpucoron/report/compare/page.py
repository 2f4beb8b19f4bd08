"""Write a comparison as one HTML page that needs no other file."""

import base64
import html
from io import BytesIO

from gpucoron import __version__
from gpucoron.report.compare import text
from gpucoron.report.compare.picture import draw_pair
from gpucoron.report.sheet import sheet, sheet_table

#: pixels per inch of a drawing
_RESOLUTION = 110
#: drawings of more products would make the page too large
MOST_DRAWN = 40


def comparison_page(comparison):
    """Return the page of a comparison.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    str
        A complete HTML document without scripts, and without addresses of other files.
    """
    rows = [(pair.name, text.verdict(pair), "" if pair.differs else "quiet") for pair in comparison.pairs]
    parts = [
        f"<h1>{html.escape(text.headline(comparison))}</h1>",
        *(f"<p>{html.escape(line)}</p>" for line in text.missing_lines(comparison)),
        sheet_table("Products", ("product", "outcome"), rows),
    ]
    drawn = 0
    for pair in comparison.pairs:
        tables = [*_tables(pair)]
        if not tables:
            continue
        parts.append(
            f"<h1 style='margin-top:32px'>{html.escape(pair.name)}</h1><p>{html.escape(text.verdict(pair))}</p>"
        )
        parts.append(f'<p class="quiet">{html.escape(pair.first)}<br>{html.escape(pair.second)}</p>')
        if pair.maps is not None and drawn < MOST_DRAWN:
            drawn += 1
            parts.append(f'<figure><img alt="Maps of the changes" src="{_drawing(pair)}"></figure>')
        parts += tables
    parts.append(f'<p class="quiet">gpucoron {__version__}</p>')
    return sheet(f"{comparison.first} and {comparison.second}", parts)


def _tables(pair):
    for title, head, rows in text.sections(pair):
        if head is None:
            lines = "".join(f"<p>{html.escape(row[0])}</p>" for row in rows)
            yield (f"<h2>{html.escape(title[0].upper() + title[1:])}</h2>" if title else "") + lines
        else:
            yield sheet_table(title[0].upper() + title[1:], head, rows)


def _drawing(pair):
    file = BytesIO()
    draw_pair(pair).savefig(file, format="png", dpi=_RESOLUTION)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
