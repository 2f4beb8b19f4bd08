"""A plain HTML page: headings, tables and figures, without scripts and without addresses of other files."""

import html

_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --line: #d6dbe2; --text: #171c24; --muted: #545d6b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f1217; --line: #2f3742; --text: #e8ebf0; --muted: #a4adba; }
}
body { margin: 0; padding: 20px 24px 32px; background: var(--page); color: var(--text);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { margin: 0 0 4px; font-size: 18px; overflow-wrap: anywhere; }
h2 { margin: 22px 0 6px; font-size: 14px; }
p { margin: 2px 0; }
.quiet, .quiet td { color: var(--muted); }
figure { margin: 14px 0 0; }
figure svg, figure img { display: block; max-width: 900px; width: 100%; height: auto; border: 1px solid var(--line);
  border-radius: 6px; background: #fff; }
figure img { max-width: 1320px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 16px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 10px 0 0; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def sheet(title, parts):
    """Return a complete HTML document.

    Parameters
    ----------
    title : str
        Plain text.
    parts : sequence of str
        The HTML of the body.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def sheet_table(title, head, rows):
    """Return a table of plain texts under a heading; a last cell beyond the header is the class of the row."""
    if not rows:
        return ""
    lines = []
    for row in rows:
        cells, name = row[: len(head)], row[len(head)] if len(row) > len(head) else ""
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        lines.append(f'<tr class="{name}">{cells}</tr>' if name else f"<tr>{cells}</tr>")
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(lines)
    return (
        f'<h2>{html.escape(title)}</h2><div class="scroll"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def sheet_list(pairs):
    """Return a list of labels and plain texts."""
    items = "".join(f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>" for label, text in pairs)
    return f"<dl>{items}</dl>"
