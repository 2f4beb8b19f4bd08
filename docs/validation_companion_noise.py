"""The part of the validation page about the noise for companions after corrections of 1/f noise."""

from validation_goals import PEERS, write_noise_goals
from validation_text import exact, mean_of, number, pick, point, say, table, times_usual, with_error

#: how methods are called in the tables
_TITLES = {
    "savgol groups": "savgol, groups",
    "savgol": "savgol, ints",
    "median": "median, ints",
    "jwst": "jwst median",
}
#: what the scenes show
_SCENES = {
    "halo": "the speckled halo of the star",
    "faint": "the halo of a star a tenth as bright",
    "stars": "the halo with 15 stars and 8 galaxies",
    "spikes": "bright speckles, streaks and diffraction spikes",
    "bar": "the halo behind a bar, with bright lobes",
}
_KINDS = ("ratio", "rms_ratio")


def write_companion_noise(figures):
    """Write the section on the noise for companions."""
    yield "## Noise for companions\n"
    yield from _introduce(figures)
    cases, names = figures["cases"], _list_methods(figures)
    for strength in _list_strengths(figures):
        chosen = [case for case in cases if case["strength"] == strength]
        yield f"**Noise** with {times_usual(strength)} 1/f noise. {_worst_error(chosen)}\n"
        rows = [(_case(case), case["scene"], *(_noise(case, name) for name in names)) for case in chosen]
        yield from table(("exposure", "scene", *map(_title, names)), rows)
    yield "![Noise for companions by separation](_generated/validation_companion_noise.png)\n"
    yield "*Noise for companions by separation, relative to an exposure without 1/f noise.*\n"
    yield from _compare(figures, names)
    yield from _write_kept(figures, [name for name in names if name != "none"])
    yield from _write_pulls(figures, names)
    yield from _write_wrong_spectrum(figures)
    yield from write_noise_goals(figures)
    gave_up = [
        f"{_title(name)} in {case['methods'][name]['gave_up']} ({_describe(case)})"
        for case in cases
        for name in names
        if case["methods"][name].get("gave_up")
    ]
    if gave_up:
        yield say(f"Seeds for which a correction did not complete: {'; '.join(gave_up)}.")


def summarize_companion_noise(figures):
    """Name the method with the least noise for each strength of the 1/f noise, for the list at the top of the page."""
    for strength in _list_strengths(figures):
        means = {name: _mean_ratio(figures, name, strength) for name in _list_methods(figures)}
        means = {name: value for name, value in means.items() if value is not None}
        if "none" not in means:
            continue
        best = min(means, key=means.get)
        yield point(
            f"Noise for companions with {times_usual(strength)} 1/f noise, relative to an exposure without it (mean of",
            f"all exposures, scenes and rings): {means['none']:.2f} without a correction; lowest with *{_title(best)}*",
            f"({means[best]:.2f}).",
        )


def _introduce(figures):
    scenes = list(dict.fromkeys(case["scene"] for case in figures["cases"]))
    edges = figures["rings"]
    rings = ", ".join(f'{low:g}-{high:g}"' for low, high in zip(edges[:-1], edges[1:], strict=True))
    shown = [f"*{name}*: {_SCENES[name]}" for name in scenes if name in _SCENES]
    for name in scenes:
        if name not in _SCENES:
            ny, nx = figures["shapes"][name]
            shown.append(f"*{name}*: an observed image, {ny} x {nx} pixels")
    yield say(
        f"A star of {exact(figures['star'])} e⁻/s behind its mask, RAPID, 160 x 160 pixels of SUB320A335R (observed",
        "images: the whole subarray, with the star at its place). The rate minus the truth is filtered with the shape",
        "of a companion, and its width is measured in the parts of rings inside the image around the",
        f"star, {rings}. It is divided by the fraction of the flux that the correction keeps of companions of",
        f"{exact(figures['contrasts'][0])} in this ring, and by the width for the same exposure without 1/f noise and",
        "without a correction. That exposure has the same photon and read noise, so 1 means that no 1/f noise is left.",
        f"Each cell gives the {len(edges) - 1} rings. Exposures are integrations x groups. Columns are the",
        "`model_type` and the stage of `subtract_1overf`; *jwst median* is `clean_flicker_noise` with its defaults, on",
        "the rateints.",
    )
    yield say(f"Scenes: {'; '.join(shown)}.")


def _title(name):
    return _TITLES.get(name, name)


def _list_methods(figures):
    return list(figures["cases"][0]["methods"])


def _list_strengths(figures):
    return list(dict.fromkeys(case["strength"] for case in figures["cases"]))


def _case(case):
    return f"{case['nints']}x{case['ngroups']}"


def _describe(case):
    return f"{_case(case)}, {case['scene']}, {times_usual(case['strength'])} 1/f noise"


def _noise(case, name):
    return " / ".join("-" if ratio is None else f"{ratio:.2f}" for ratio in _ratios(case, name))


def _worst_error(cases):
    errors = [
        error
        for case in cases
        for method in case["methods"].values()
        for error in method["ratio"]["error"]
        if error is not None
    ]
    return f"The errors are {number(max(errors), 2)} or less." if errors else ""


def _mean_ratio(figures, name, strength):
    cases = [case for case in figures["cases"] if case["strength"] == strength]
    return mean_of(ratio for case in cases for ratio in _ratios(case, name))


def _ratios(case, name, kind="ratio"):
    """Return the noise of a method in the rings, as a width or as an rms."""
    return pick(case["methods"][name]["ratio"]) if kind == "ratio" else case["methods"][name]["rms_ratio"]


def _above(figures, name, peer):
    """List the rings in which a method is above another by more than twice the error, (case, ring), and count all."""
    found, n = [], 0
    for case in figures["cases"]:
        difference = case["methods"][name].get(f"above_{peer}")
        for k in range(len(figures["rings"]) - 1) if difference else ():
            mean, error = difference["mean"][k], difference["error"][k]
            if mean is None or error is None:
                continue
            n += 1
            if mean > 2 * error:
                found.append((case, k))
    return found, n


def _compare(figures, names):
    peers = [peer for peer in PEERS if peer in names]
    if not peers:
        return
    yield say(
        "In how many rings is the noise above that without a correction or that of jwst, by more than twice the error",
        "of the mean difference on the same seeds? By chance, methods of equal noise would be above in about 3 % of",
        "the rings. The last columns are the mean of all rings, and that of the classical rms instead of the width.",
    )
    rows = []
    for name in names:
        cells = []
        for peer in peers:
            found, n = _above(figures, name, peer)
            cells.append("" if name == peer else f"{len(found)} of {n}")
        means = (mean_of(item for case in figures["cases"] for item in _ratios(case, name, kind)) for kind in _KINDS)
        rows.append((_title(name), *cells, *(number(mean) for mean in means)))
    header = {"none": "above no correction", "jwst": "above jwst median"}
    yield from table(("method", *(header[peer] for peer in peers), "mean noise", "mean rms"), rows)


def _write_kept(figures, names):
    """Write the mean and the lowest kept fractions of all exposures and scenes."""
    with_kept = [name for name in names if all("kept" in case["methods"][name] for case in figures["cases"])]
    if not with_kept:
        return
    lights = list(figures["cases"][0]["methods"][with_kept[0]]["kept"])
    yield say(
        "**Flux kept**, in %, of companions (by contrast; two in each ring, at different position angles), of a narrow",
        '*ring* at 1.6" and of an extended *disc* (by their peaks in e⁻/s): the mean over all exposures, scenes and',
        "rings, and in brackets the lowest.",
    )
    rows = []
    for strength in _list_strengths(figures):
        chosen = [case for case in figures["cases"] if case["strength"] == strength]
        for name in with_kept:
            cells = []
            for light in lights:
                shares = [share for case in chosen for share in _list_kept(case["methods"][name]["kept"][light])]
                cells.append(f"{100 * sum(shares) / len(shares):.1f} ({100 * min(shares):.1f})" if shares else "-")
            rows.append((f"{strength:g}", _title(name), *cells))
    titles = [f"{kind} {exact(float(size))}" for kind, size in map(str.split, lights)]
    yield from table(("1/f", "method", *titles), rows)


def _list_kept(kept):
    """List the kept fractions, of one light or of one for each ring."""
    mean = kept["mean"]
    return [share for share in (mean if isinstance(mean, list) else [mean]) if share is not None]


def _write_wrong_spectrum(figures):
    """Write the noise with a spectrum that is not the measured one, if it was measured."""
    wrong = figures.get("wrong_spectrum")
    if not wrong:
        return
    yield say(
        f"**Spectrum pretended wrong.** Noise of *kriging* for {_case(wrong)}, {wrong['scene']}, with another",
        "`amplitude` or `exponent` than the measured one, divided by the noise with that one. With another exponent,",
        "the power at one cycle per row is kept.",
    )
    edges = figures["rings"]
    rings = [f'{low:g}-{high:g}"' for low, high in zip(edges[:-1], edges[1:], strict=True)]
    rows = [
        (f"{case['strength']:g}", name, *(with_error(method["relative"], k, digits=3) for k in range(len(rings))))
        for case in wrong["cases"]
        for name, method in case["methods"].items()
    ]
    yield from table(("1/f", "wrong", *rings), rows)


def _write_pulls(figures, names):
    yield say(
        f'**Is ERR correct?** Width of (rate - truth) / ERR beyond {figures["rings"][0]:g}", from the lowest to the',
        "highest of the scenes. ERR does not include 1/f noise.",
    )
    rows = []
    for strength in _list_strengths(figures):
        by_case = {}
        for case in figures["cases"]:
            if case["strength"] == strength:
                by_case.setdefault(_case(case), []).append(case)
        for case, chosen in by_case.items():
            floor = _range([pick(part["floor_pull"]) for part in chosen])
            cells = [_range([pick(part["methods"][name]["pull"]) for part in chosen]) for name in names]
            rows.append((f"{strength:g}", case, floor, *cells))
    yield from table(("1/f", "exposure", "no 1/f noise", *map(_title, names)), rows)


def _range(values):
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return low if low == high else f"{low}-{high}"
