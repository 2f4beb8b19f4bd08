"""The part of the validation page about ramps of few groups."""

from validation_text import number, say, table

#: longest ramps, and searches, in the table by read pattern
MOST_GROUPS = 7
SEARCHES = ("jump, OLS_C", "jumpramp, 0", "jumpramp, 4", "LIKELY, 0", "LIKELY, 4")


def write_few_groups(figures):
    """Write the part of the section on jumps about ramps of few groups."""
    some = figures["cases"]
    searches, groups = list(some[-1]["searches"]), sorted({case["case"][2] for case in some})
    patterns, backgrounds = list(dict.fromkeys(case["case"][1] for case in some)), sorted({c["case"][3] for c in some})
    take = _Selector(figures)
    yield "### Few groups\n"
    yield say(
        f"Ramps of {groups[0]} to {groups[-1]} groups, {figures['nints']} integrations, in every read pattern",
        f"({', '.join(patterns)}) with {' and '.join(f'{value:g}' for value in backgrounds)} e⁻/s. Cosmic rays hit",
        f"about {100 * figures['share_hit']:.0f} % of the ramps; the rates are those of ramps with a hit of at least",
        f"{figures['energy']} e⁻. *jumpramp* is experimental_jumpramp. The number after a search is its",
        "`max_diffs_one_sided`: in ramps with at most this number of differences, only upward jumps are rejected (0:",
        "both directions, as in spaceKLIP and jwst). `jump` runs without `flag_4_neighbors`.",
    )
    header = ("search", *(f"{ngroups} groups" for ngroups in groups))
    for name, text in (
        ("far", "are wrong by more than 10 sigma"),
        ("off", "are wrong by more than 5 sigma"),
        ("lost", "are NaN"),
    ):
        yield f"**Percentage of the rates of hit ramps that {text}**, for the worst pattern and background.\n"
        rows = [[search, *(_write(max, take(search, name, n)) for n in groups)] for search in searches]
        yield from table(header, rows)
    yield say(
        f"**By pattern**, percentage wrong by more than 10 sigma at {backgrounds[0]:g} e⁻/s: {'; '.join(SEARCHES)}.",
    )
    few = [ngroups for ngroups in groups if ngroups <= MOST_GROUPS]
    rows = [
        [pattern, *(" / ".join(_write(max, take(s, "far", n, pattern, backgrounds[0])) for s in SEARCHES) for n in few)]
        for pattern in patterns
    ]
    yield from table(("pattern", *(f"{ngroups} groups" for ngroups in few)), rows)
    yield say(
        "**False alarms** per million ramps without a hit, averaged over patterns and backgrounds. The last columns",
        "are the median and the mean of (rate - truth) / ERR of these ramps, for the case in which they are furthest",
        "from 0.",
    )
    rows = []
    for search in searches:
        alarms = [f"{_mean(values):.0f}" if (values := take(search, "alarms", n)) else "-" for n in groups]
        rows.append([search, *alarms, *(_write(_furthest, take(search, name)) for name in ("median", "mean"))])
    yield from table((*header, "median", "mean"), rows)
    yield from _judge(take, groups)


class _Selector:
    """Select the figures of a search from the cases: all, or by number of groups, read pattern and so on."""

    def __init__(self, figures):
        self.cases, self.names = figures["cases"], figures["figures"]

    def __call__(self, search, name, ngroups=None, pattern=None, background=None):
        return [value for value, _case in self.with_cases(search, name, ngroups, pattern, background)]

    def with_cases(self, search, name, ngroups=None, pattern=None, background=None):
        wanted = {1: pattern, 2: ngroups, 3: background}
        found = []
        for case in self.cases:
            fits = all(value is None or case["case"][k] == value for k, value in wanted.items())
            if fits and search in case["searches"]:
                value = case["searches"][search][self.names.index(name)]
                if value is not None:
                    found.append((value, case["case"]))
        return found


def _write(choose, values):
    return number(choose(values), 2) if values else "-"


def _mean(values):
    return sum(values) / len(values)


def _furthest(values):
    return max(values, key=abs)


def _judge(take, groups):
    """Explain the limit of four, its cost, and the hits that cannot be found."""
    moved = max(
        abs(ours - theirs)
        for name in ("median", "mean")
        for ours, theirs in zip(take("jumpramp, 4", name), take("jumpramp, 0", name), strict=True)
    )
    yield say(f"With the limit at 4, no median or mean of ramps without a hit changes by more than {number(moved, 1)}.")
    if 5 in groups:
        three, four = (max(take.with_cases(search, "far", 5)) for search in ("jumpramp, 3", "jumpramp, 4"))
        yield say(
            "Why 4 and not 3? With five groups, a hit within a group affects two of four differences, and they agree",
            f"as well as the two good ones. With the limit at 3, {number(three[0], 2)} % of the rates are wrong by",
            f"more than 10 sigma ({three[1][1]}). With the limit at 4, at most {number(four[0], 2)} % are wrong; these",
            "ramps have more than one hit.",
        )
    if 7 in groups:
        spared = max(take.with_cases("LIKELY, 4", "far", 7))
        yield say(
            "LIKELY has another problem with seven groups of single reads:",
            f"{number(spared[0], 2)} % are wrong in {spared[1][1]}. If the median difference is not positive, its",
            "formula for one of the pairs has no solution. If rounding makes the result NaN, nothing is rejected, as",
            "in jwst. In ramps to which `max_diffs_one_sided` applies, LIKELY uses the formulas of",
            "experimental_jumpramp, so a value of 6 solves this problem too.",
        )
    two = max(take.with_cases("jumpramp, 4", "far", 3))
    yield say(
        "Three groups have two differences, and the smaller one is kept. A hit within the second group affects both,",
        f"and the integration alone does not show it: {number(two[0], 2)} % are wrong in {two[1][1]}. `jump` compares",
        "the integrations; it flags such ramps, and they have no rate.",
    )
