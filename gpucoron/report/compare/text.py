"""Write a comparison as text: rows for tables of terminals and pages, and sentences."""

import json

#: groups of keywords -> heading
GROUPS = {
    "versions": "versions (not counted as a difference)",
    "context": "CRDS context",
    "references": "references",
    "steps": "steps",
    "parameters": "parameters",
    "other": "other keywords",
}
ARRAY_HEAD = ("array", "different", "share", "NaN gained", "NaN lost", "largest", "in ERR", "at", "median", "scatter")
FLAG_HEAD = ("flag", "gained", "lost")
PIXEL_HEAD = ("pixel", "first", "second", "in ERR", "flags gained", "flags lost")
#: integrations that are listed by number
_MOST_LISTED = 12


def as_text(comparison):
    """Return a comparison as text for a terminal."""
    lines = [headline(comparison), ""]
    for pair in comparison.pairs:
        lines.append(f"{pair.name}: {verdict(pair)}")
        for title, head, rows in sections(pair):
            if head is None:
                lines += (
                    [f"  {title}: {', '.join(row[0] for row in rows)}"] if title else [f"  {row[0]}" for row in rows]
                )
            else:
                lines += [f"  {title}" if title else "", *(f"    {line}" for line in _columns([head, *rows]))]
        lines.append("")
    lines += missing_lines(comparison)
    return "\n".join(lines).rstrip()


def headline(comparison):
    """Describe in one line what was compared, and how many products differ."""
    n_pairs, n_differ = len(comparison.pairs), sum(pair.differs for pair in comparison.pairs)
    products = "1 product" if n_pairs == 1 else f"{n_pairs} products"
    if not n_pairs:
        outcome = "no product is in both"
    elif not comparison.differs:
        outcome = f"{products}, nothing differs"
    else:
        outcome = f"{n_differ} of {products} {'differs' if n_differ == 1 else 'differ'}"
    n_single = len(comparison.only_first) + len(comparison.only_second)
    if n_single and n_pairs:
        outcome += f", {n_single} only in one of them"
    return f"{comparison.first} and {comparison.second}: {outcome}{_describe_tolerance(comparison)}"


def _describe_tolerance(comparison):
    allowed = [f"{comparison.tolerance:g}"] if comparison.tolerance else []
    allowed += [f"{comparison.rtol:g} of the larger value"] if comparison.rtol else []
    return f"; differences up to {' + '.join(allowed)} are not counted" if allowed else ""


def missing_lines(comparison):
    """Return a line for each folder with products that the other one lacks."""
    lines = []
    for names, folder in (
        (comparison.only_first, comparison.first),
        (comparison.only_second, comparison.second),
    ):
        if names:
            lines.append(f"only in {folder}: {', '.join(names)}")
    return lines


def verdict(pair):
    """Describe in a few words what differs between two products."""
    parts = ["extensions"] if pair.structure else []
    parts += [array.name for array in pair.arrays if array.n_different]
    parts += ["flags"] if pair.flags is not None and pair.flags.n_different else []
    parts += ["headers"] if pair.headers_differ else []
    if not parts:
        return "the same"
    return f"{', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]} differ"


def sections(pair):
    """Yield the tables of a pair that differs: title, head and rows; a head of None marks a plain list.

    Parameters
    ----------
    pair : PairComparison
    """
    if not pair.differs:
        return
    if pair.structure:
        yield "", None, [(sentence,) for sentence in pair.structure]
    if any(array.n_different for array in pair.arrays):
        yield "values, second - first", ARRAY_HEAD, [array_row(array) for array in pair.arrays]
    if pair.flags is not None and pair.flags.n_different:
        share = _share(pair.flags.n_different, pair.flags.n_values)
        yield f"flags of {pair.flags.n_different:,} pixels ({share})", FLAG_HEAD, flag_rows(pair.flags)
    if pair.integrations:
        n_planes = pair.shape[0]
        listed = ", ".join(map(str, pair.integrations[:_MOST_LISTED]))
        more = ", ..." if len(pair.integrations) > _MOST_LISTED else ""
        text = f"{len(pair.integrations)} of {n_planes} ({listed}{more}), counted from 0"
        yield "integrations with differences", None, [(text,)]
    if pair.pixels:
        yield "largest changes of SCI, x y (integration), counted from 0", PIXEL_HEAD, pixel_rows(pair)
    for group, title in GROUPS.items():
        rows = [keyword_row(one) for one in pair.keywords if one.group == group]
        if rows:
            yield title, ("name", "first", "second"), rows


def array_row(array):
    """Return the cells of an array, in the order of `ARRAY_HEAD`."""
    if not array.n_different:
        return (array.name, "0", "", "", "", "", "", "", "", "")
    in_err = "" if array.largest_in_err is None else f"{array.largest_in_err:.3g}"
    return (
        array.name,
        f"{array.n_different:,} of {array.n_values:,}",
        _share(array.n_different, array.n_values),
        f"{array.n_nan_gained:,}",
        f"{array.n_nan_lost:,}",
        f"{array.largest:.3g} {array.unit}".strip(),
        in_err,
        _place(*array.where) if array.where else "",
        f"{array.median:.3g}",
        f"{array.scatter:.3g}",
    )


def flag_rows(flags):
    """Return the cells of the flags that pixels gained or lost, in the order of `FLAG_HEAD`."""
    names = list(dict.fromkeys([*flags.gained, *flags.lost]))
    return [(name, f"{flags.gained.get(name, 0):,}", f"{flags.lost.get(name, 0):,}") for name in names]


def pixel_rows(pair):
    """Return the cells of the largest changes, in the order of `PIXEL_HEAD`."""
    return [
        (
            _place(one.x, one.y, one.integration),
            f"{one.first:.6g}",
            f"{one.second:.6g}",
            "" if one.in_err != one.in_err else f"{one.in_err:+.3g}",
            ", ".join(one.gained),
            ", ".join(one.lost),
        )
        for one in pair.pixels
    ]


def keyword_row(one):
    """Return the cells of a keyword or parameter; products only list parameters that differ from jwst's defaults."""
    missing = "default" if one.group == "parameters" else "-"
    return one.name, *(missing if value is None else _value(value) for value in (one.first, one.second))


def _value(value):
    return value if isinstance(value, str) and value else json.dumps(value)


def _place(x, y, integration=None):
    return f"{x} {y}" if integration is None else f"{x} {y} ({integration})"


def _share(count, whole):
    share = 100 * count / whole if whole else 0.0
    return f"{share:.3g} %"


def _columns(rows):
    """Align the cells of rows; columns that are empty in all rows are left out."""
    kept = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    rows = [[row[column] for column in kept] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(kept))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
