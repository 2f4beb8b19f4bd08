"""Draw the pictures of the validation page from the figures in benchmarks/validation/results."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from validation_page import find_results, read_results

#: convert missing figures from None to NaN
_COLORS = (
    "black", "tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray",
    "tab:olive", "tab:cyan",
)  # fmt: skip


def draw_validation(results, folder):
    """Draw ``validation_<name>.png`` for each script's results, unless it exists and is newer."""
    folder.mkdir(exist_ok=True)
    found, paths = read_results(results), find_results(results)
    for name, draw, source in (
        ("rates", _draw_rates, "rates"),
        ("pulls", _draw_pulls, "rates"),
        ("jumps", _draw_jumps, "jumps"),
        ("subtract_1overf", _draw_1overf, "subtract_1overf"),
        ("companion_noise", _draw_companion_noise, "companion_noise"),
        ("contrast", _draw_contrast, "contrast"),
    ):
        path = folder / f"validation_{name}.png"
        if source in found and not (path.exists() and path.stat().st_mtime > paths[source].stat().st_mtime):
            figure = draw(found[source])
            figure.savefig(path, dpi=65)
            plt.close(figure)


def _values(figure):
    return np.array(figure["mean"], float), np.array(figure["error"], float)


def _shown(cases):
    """Choose four cases that differ most: the shortest, the longest, and two between."""
    return [cases[k] for k in np.unique(np.linspace(0, len(cases) - 1, min(4, len(cases))).astype(int))]


def _title(case):
    return f"{case['case'][1]}, {case['case'][2]} groups"


def _draw_rates(figures):
    longest = sorted(figures["cases"], key=lambda case: case["case"][2])
    cases = _shown(longest)
    figure, axes = plt.subplots(
        2, len(cases), figsize=(3 * len(cases), 5.2), sharex=True, sharey="row", layout="constrained", squeeze=False
    )
    fluxes = np.array(figures["fluxes"])
    for column, case in zip(axes.T, cases, strict=True):
        ideal = np.array(case["ideal"])
        for color, (way, part) in zip(_COLORS, case["ways"].items(), strict=False):
            for axis, name, scale in ((column[0], "pull_width", 1), (column[1], "scatter", ideal)):
                mean, error = _values(part["clean"][name])
                axis.errorbar(fluxes, mean / scale, error / scale, color=color, label=way, marker=".", lw=1)
        column[0].set_title(_title(case), fontsize=10)
        column[1].set(xscale="log", xlabel="e⁻/s")
        for axis in column:
            axis.axhline(1, color="gray", lw=0.5)
    axes[0, 0].set_ylabel("width of (rate - truth) / ERR")
    axes[1, 0].set_ylabel("scatter / ideal")
    axes[0, 0].legend(fontsize=8)
    return figure


def _draw_pulls(figures):
    cases = _shown(sorted(figures["cases"], key=lambda case: case["case"][2]))
    edges = np.array(figures["edges"])
    middle = (edges[:-1] + edges[1:]) / 2
    figure, axes = plt.subplots(
        1, len(cases), figsize=(3 * len(cases), 2.8), sharey=True, layout="constrained", squeeze=False
    )
    for axis, case in zip(axes[0], cases, strict=True):
        for color, (way, part) in zip(_COLORS, case["ways"].items(), strict=False):
            counts = np.array(part["histogram"], float)
            axis.step(middle, counts / counts.sum() / np.diff(edges), where="mid", color=color, label=way, lw=1)
        axis.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color="gray", lw=0.8)
        axis.set(yscale="log", ylim=(1e-4, 1), title=_title(case), xlabel="(rate - truth) / ERR")
    axes[0, 0].legend(fontsize=8)
    return figure


def _draw_jumps(figures):
    # the faintest background of each number of groups
    cases = {}
    for case in figures["cases"]:
        cases.setdefault(tuple(case["case"][:2]), case)
    figure, axes = plt.subplots(
        1, len(cases), figsize=(2.6 * len(cases), 3), sharey=True, layout="constrained", squeeze=False
    )
    places = figures["places"]
    for axis, case in zip(axes[0], cases.values(), strict=True):
        searches = {name: part for name, part in case["searches"].items() if name != "none"}
        for color, (name, part) in zip(_COLORS, searches.items(), strict=False):
            found = np.array(part["found"]["mean"], float)
            axis.plot(figures["energies"], found[places.index("middle")], color=color, label=name, marker=".")
            axis.plot(figures["energies"], found[places.index("first")], ":", color=color)
        axis.set(xscale="log", xlabel="electrons")
        axis.set_title("{} {}, {:g} e⁻/s".format(*case["case"]), fontsize=10)
    axes[0, 0].set_ylabel("fraction found")
    axes[0, -1].legend(fontsize=7)
    return figure


def _draw_1overf(figures):
    case = figures["cases"][0]
    edges = np.array(figures["edges"])
    middle = np.sqrt(edges[:-1] * edges[1:])
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
    shown = [name for name in case["noise"] if name in ("none", "no 1/f noise", "jwst median") or "ints" in name]
    for color, name in zip(_COLORS, shown, strict=False):
        for axis, direction in zip(axes, ("along", "across"), strict=True):
            mean, error = _values(case["noise"][name][direction])
            axis.errorbar(middle, mean, error, color=color, label=name, lw=1)
    axes[0].set(xscale="log", yscale="log", xlabel="cycles per pixel along rows", ylabel="power, (DN/s)²")
    axes[1].set(xscale="log", xlabel="cycles per pixel across rows")
    axes[1].legend(fontsize=8)
    return figure


def _draw_companion_noise(figures):
    """Draw one exposure: the strengths of the 1/f noise below each other, the scenes side by side."""
    exposures = list(dict.fromkeys((case["nints"], case["ngroups"]) for case in figures["cases"]))
    chosen = (1, 10) if (1, 10) in exposures else exposures[0]
    cases = [case for case in figures["cases"] if (case["nints"], case["ngroups"]) == chosen]
    scenes, strengths = (list(dict.fromkeys(case[key] for case in cases)) for key in ("scene", "strength"))
    rings = np.array(figures["rings"])
    middle = (rings[:-1] + rings[1:]) / 2
    figure, axes = plt.subplots(
        len(strengths), len(scenes), figsize=(2.6 * len(scenes) + 1, 2.8 * len(strengths)), sharex=True, sharey="row",
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for case in cases:
        axis = axes[strengths.index(case["strength"]), scenes.index(case["scene"])]
        for color, (name, method) in zip(_COLORS, case["methods"].items(), strict=False):
            axis.errorbar(middle, *_values(method["ratio"]), color=color, label=name, marker=".", lw=1)
        axis.axhline(1, color="gray", lw=0.5)
        axis.set_title(f"{case['scene']}, {chosen[0]}x{chosen[1]}", fontsize=10)
    for axis, strength in zip(axes[:, 0], strengths, strict=True):
        axis.set_ylabel(f"noise, 1/f times {strength:g}")
    for axis in axes[-1]:
        axis.set_xlabel("arcsec")
    axes[0, -1].legend(fontsize=7)
    return figure


def _draw_contrast(figures):
    rings = np.array(figures["rings"])
    middle = (rings[:-1] + rings[1:]) / 2
    figure, axes = plt.subplots(
        2, len(figures["cases"]), figsize=(5.4 * len(figures["cases"]), 6), sharex=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    marks = (
        "jwst defaults",
        "refpix rows",
        "clean_flicker",
        "median at ints",
        "savgol at ints",
        "at groups",
        "jumpramp",
    )
    for (above, below), (case, choices) in zip(axes.T, figures["cases"].items(), strict=True):
        shown = [name for name in choices if any(name.endswith(mark) or mark in name for mark in marks)]
        shown = [name for name in shown if "outliers" not in name and "columns" not in name and "sides" not in name]
        for color, name in zip(_COLORS, shown, strict=False):
            for axis, kind in ((above, "contrast"), (below, "ratio")):
                mean, error = _values(choices[name][kind])
                axis.errorbar(middle, mean, error, color=color, label=name, lw=1)
        above.set(yscale="log", title=f"a {case}")
        below.set(xlabel="arcsec")
    axes[0, 0].set_ylabel("5 sigma over the star's flux")
    axes[1, 0].set_ylabel("ratio to jwst's defaults")
    axes[0, -1].legend(fontsize=7)
    return figure
