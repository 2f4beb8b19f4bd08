"""Format numbers, paragraphs and tables of the validation page."""

import textwrap


def write_page(lines, path):
    """Write a Markdown page; do not rewrite an unchanged one."""
    text = "\n".join(lines).rstrip() + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def say(*parts):
    """Fill a paragraph to the line width of the page's source; line breaks in the text are ignored."""
    return textwrap.fill(" ".join(" ".join(parts).split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def point(*parts):
    """Fill one list item."""
    return textwrap.fill("- " + " ".join(parts), 120, subsequent_indent="  ", break_on_hyphens=False)


def table(header, rows):
    """Format a Markdown table."""
    yield "| " + " | ".join(map(str, header)) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""


def number(value, digits=3):
    """Format a number with ``digits`` significant digits; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def exact(value):
    """Format a round number without the padding of Python's exponents."""
    mantissa, _, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def with_error(figure, *index, digits=2, scale=1.0):
    """Format a mean and its error, element ``index`` of ``figure``."""
    mean, error = figure["mean"], figure["error"]
    for i in index:
        mean, error = mean[i], error[i]
    if mean is None:
        return "-"
    return f"{scale * mean:.{digits}f}" + (f" ± {scale * error:.{digits}f}" if error is not None else "")


def pick(figure, *index):
    """Return one mean."""
    mean = figure["mean"]
    for i in index:
        mean = mean[i]
    return mean


def mean_of(values, scale=1.0):
    """Return the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return scale * sum(known) / len(known) if known else None


def times_usual(strength):
    """Describe the strength of 1/f noise."""
    return "the usual" if strength == 1 else f"{strength:g} times the usual"
