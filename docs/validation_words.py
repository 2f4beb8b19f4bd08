"""How the page of validation writes numbers, paragraphs and tables."""

import textwrap


def say(*parts):
    """Fill a paragraph to the width of a page of source; line breaks within it do not matter."""
    return textwrap.fill(" ".join(" ".join(parts).split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def point(*parts):
    """Fill one point of a list."""
    return textwrap.fill("- " + " ".join(parts), 120, subsequent_indent="  ", break_on_hyphens=False)


def table(header, rows):
    """Lay out a Markdown table."""
    yield "| " + " | ".join(map(str, header)) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""


def number(value, digits=3):
    """Write a number with so many digits; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def exact(value):
    """Write a round number without the padding of Python's exponents."""
    mantissa, _, exponent = f"{value:g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def with_error(figure, *index, digits=2, scale=1.0):
    """Write a mean and its error: ``figure`` has both, ``index`` says which."""
    mean, error = figure["mean"], figure["error"]
    for i in index:
        mean, error = mean[i], error[i]
    if mean is None:
        return "-"
    return f"{scale * mean:.{digits}f}" + (f" ± {scale * error:.{digits}f}" if error is not None else "")


def pick(figure, *index):
    """Take one mean."""
    mean = figure["mean"]
    for i in index:
        mean = mean[i]
    return mean


def compare(ours, theirs, less="less", more="more", share=0.02):
    """Say in a word how two figures compare."""
    if abs(ours - theirs) <= share * abs(theirs):
        return "as much"
    return less if ours < theirs else more
