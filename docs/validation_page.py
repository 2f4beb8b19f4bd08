"""Write the validation page from the figures in benchmarks/validation/results; it contains no number typed by hand."""

import json

from validation_companion_noise import summarize_companion_noise, write_companion_noise
from validation_contrast import summarize_contrast, write_contrast
from validation_few_groups import write_few_groups
from validation_text import exact, mean_of, number, pick, point, say, table, with_error, write_page

_HEAD = """# Validation

% Written by docs/validation_page.py from benchmarks/validation/results/*.json; `make validation` updates both.

This page compares gpucoron {gpucoron} with jwst {jwst} (stcal {stcal}) on the same simulated exposures, whose true
rates are known. Every number is a mean over independent exposures ({seeds}), followed by the error of the mean (±).
Widths are robust: half the distance between the quantiles at ±1 sigma. The simulations (`gpucoron.simulate`)
contain photon, read, kTC and 1/f noise, cosmic rays and saturation. Bias, linearity and other corrections are
perfect except in the first section.

`make validation` repeats all measurements and writes this page. Each script in `benchmarks/validation/` can also
be run separately; `--seeds 1` uses a single exposure. {commits}
"""


def write_validation_page(results, path):
    """Write the Markdown page; do not rewrite an unchanged one.

    Parameters
    ----------
    results : Path
        Folder of the JSON files; parts without a file are omitted.
    path : Path
        Path of the page.
    """
    found = read_results(results)
    lines = [_head(found), *write_summary(found)]
    for name, section in _SECTIONS.items():
        if name in found:
            lines += section(found[name])
    write_page(lines, path)


def find_results(folder):
    """Find the files of figures: name of the script -> path."""
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def read_results(folder):
    """Read the figures: name of the script -> figures."""
    return {name: json.loads(path.read_text()) for name, path in find_results(folder).items()}


def _head(found):
    some = max(found.values(), key=lambda figures: "commit" in figures)["versions"]
    numbers = {len(figures["seeds"]) for name, figures in found.items() if name in {*_SECTIONS} - {"pipeline"}}
    seeds = f"{min(numbers)} to {max(numbers)} seeds" if len(numbers) > 1 else f"{min(numbers, default=0)} seeds"
    return _HEAD.format(
        gpucoron=some["gpucoron"], jwst=some["jwst"], stcal=some["stcal"], seeds=seeds,
        commits=_commits(found),
    )  # fmt: skip


def _commits(found):
    """Say at which commit each part was measured; older results do not tell."""
    names = {}
    for name, figures in found.items():
        names.setdefault(figures.get("commit", "an earlier one"), []).append(name)
    latest, *others = sorted(names, key=lambda commit: -len(names[commit]))
    parts = [f"commit {latest}", *(f"{', '.join(names[commit])} at {commit}" for commit in others)]
    return f"Measured at {'; '.join(parts)}."


def write_summary(found):
    """Summarize the strengths and weaknesses, and the cases in which jwst or another choice is better."""
    yield "## In short\n"
    if "pipeline" in found:
        cases = found["pipeline"]["cases"].values()
        apart, pixels = (sum(case[key] for case in cases) for key in ("apart", "pixels"))
        yield point(f"From file to rate, {apart} of {pixels} rates differ from those of jwst.")
    if "rates" in found:
        off, case, flux = _worst(found["rates"], "OLS_C", "pull_width")
        right = abs(_worst(found["rates"], "LIKELY", "pull_width")[0] - 1)
        yield point(
            "ERR of OLS_C, as in jwst, is wrong for faint pixels with many groups:",
            f"the scatter is {number(off)} times ERR at {flux:g} e⁻/s in {case}.",
            f"ERR of LIKELY is correct to {number(100 * right, 2)} %.",
        )
    if "jumps" in found:
        few = found["jumps"]["cases"][0]
        left = few["searches"]["LIKELY alone"]["bias_in_sigma"]
        yield point(
            f"LIKELY without `jump` misses some strong hits in ramps of {few['case'][1]} groups:",
            f"the mean bias is {with_error(left, -1)} ERR for hits of 3000 e⁻.",
            "LIKELY after `jump`, and experimental_jumpramp, do not miss them.",
        )
    if "subtract_1overf" in found:
        yield from _summarise_1overf(found["subtract_1overf"])
    if "companion_noise" in found:
        yield from summarize_companion_noise(found["companion_noise"])
    if "contrast" in found:
        for case, choices in found["contrast"]["cases"].items():
            yield summarize_contrast(case, choices, found["contrast"]["rings"])
    yield ""


def _summarise_1overf(figures):
    for case in figures["cases"]:
        rows = {name: part["rows_rms"] for name, part in case["noise"].items()}
        best, *_, worst = sorted(case["kept"], key=lambda name: pick(rows[name]))
        yield point(
            f"1/f noise with {case['nints']} integration{'s' * (case['nints'] > 1)}: of",
            f"{with_error(rows['none'])} DN/s in the row means, *{best}* leaves least ({with_error(rows[best])}) and",
            f"*{worst}* leaves most ({with_error(rows[worst])}).",
        )


def write_pipeline(figures):
    yield "## From file to rate\n"
    yield say(
        "Exposures with all detector effects except 1/f noise are reduced by both pipelines with their defaults. The "
        "table gives the median and width of (rate - truth) / ERR in good pixels, and the number of pixels whose "
        "rates differ by more than 1e-5 of the rate or ERR."
    )
    rows = []
    for name, case in figures["cases"].items():
        ours, theirs = (
            f"{with_error(case[side], 0, digits=3)}, {with_error(case[side], 1, digits=3)}"
            for side in ("gpucoron", "jwst")
        )
        rows.append((name, ours, theirs, f"{case['apart']} of {case['pixels']}", case["flags"]))
    yield from table(("exposure", "gpucoron", "jwst", "rates that differ", "flags that differ"), rows)


def _case(case):
    return f"{'MIRI ' if case[0] == 'MIRI' else ''}{case[1]} {case[2]}"


def _by_flux(figures, wanted, cell):
    fluxes = figures["fluxes"]
    columns = [fluxes.index(flux) for flux in wanted if flux in fluxes]
    rows = [[_case(case["case"]), *(cell(case, k) for k in columns)] for case in figures["cases"]]
    return table(["groups", *(f"{fluxes[k]:g} e⁻/s" for k in columns)], rows)


def write_rates(figures):
    ways = list(figures["cases"][0]["ways"])
    wanted = (0.1, 1.0, 10.0, 100.0, 1000.0)

    def of_ways(cell, digits):
        def join(case, k):
            return " / ".join(number(cell(case, way, k), digits) for way in ways)

        return join

    def pull_width(case, way, k):
        return pick(case["ways"][way]["clean"]["pull_width"], k)

    def over_ideal(case, way, k):
        scatter = pick(case["ways"][way]["clean"]["scatter"], k)
        return None if scatter is None else scatter / case["ideal"][k]

    yield "## Rates and their errors\n"
    yield say(
        f"Flat strips of known flux, {figures['nints']} integrations, NIRCam SUB320A335R and MIRI MASK1550. Each cell "
        f"gives {' / '.join(ways)}; the first two follow `jump`. A dash means saturated."
    )
    yield say(
        "**Is ERR correct?** Width of (rate - truth) / ERR in pixels without hits and saturation. It should be 1; if "
        "it is larger, ERR is too small."
    )
    yield from _by_flux(figures, wanted, of_ways(pull_width, 3))
    worst = _worst(figures, ways[0], "pull_width")
    likely = _worst(figures, ways[1], "pull_width")
    yield say(
        f"ERR of OLS_C, bit-identical to jwst, is worst at {worst[1]} with {worst[2]:g} e⁻/s, where the scatter is "
        f"{number(worst[0])} times ERR: the weights depend on the signal-to-noise ratio, but the variances do not "
        f"include the weights. ERR of LIKELY is worst at {likely[1]} with {likely[2]:g} e⁻/s: {number(likely[0])}."
    )
    yield say(
        "**Is the rate as good as possible?** Scatter divided by that of generalised least squares with the true "
        "covariance; 1 is the optimum."
    )
    yield from _by_flux(figures, wanted, of_ways(over_ideal, 3))
    yield "**Is it biased?** Mean of (rate - truth) / ERR, in the same pixels.\n"
    yield from _by_flux(
        figures, wanted, of_ways(lambda case, way, k: pick(case["ways"][way]["clean"]["pull_mean"], k), 2)
    )
    error = max(
        e for case in figures["cases"] for way in ways for e in case["ways"][way]["clean"]["pull_mean"]["error"] if e
    )
    yield f"The errors of these means are {number(error, 2)} or less.\n"
    yield say(
        "**Pixels hit by cosmic rays, and partially saturated pixels.** Percentage of hit pixels whose rates are wrong "
        "by more than 5 ERR, for all fluxes, and the width of (rate - truth) / ERR of saturated pixels."
    )
    rows = []
    for case in figures["cases"]:
        parts = [case["ways"][way] for way in ways]
        off = " / ".join(number(mean_of(part["hit"]["beyond_5_sigma"]["mean"], 100), 2) for part in parts)
        widths = " / ".join(number(mean_of(part["saturated"]["pull_width"]["mean"]), 3) for part in parts)
        rows.append((_case(case["case"]), off, widths))
    yield from table(("groups", "hit: wrong by more than 5 ERR, %", "saturated: width"), rows)
    yield from _peer_of_rates(figures)
    yield "![Width of (rate - truth) / ERR and scatter over the ideal, by flux](_generated/validation_rates.png)\n"
    yield "*Width of (rate - truth) / ERR by flux (above), and scatter over the ideal (below).*\n"
    yield "![Distribution of (rate - truth) / ERR](_generated/validation_pulls.png)\n"
    yield "*Distribution of (rate - truth) / ERR at 10 e⁻/s; the line is the normal distribution.*\n"


def _worst(figures, way, name):
    """Find where a figure of clean pixels differs most from 1: (value, case, flux)."""
    found = [
        (value, _case(case["case"]), figures["fluxes"][k])
        for case in figures["cases"]
        for k, value in enumerate(case["ways"][way]["clean"][name]["mean"])
        if value is not None
    ]
    return max(found, key=lambda item: abs(item[0] - 1))


def _peer_of_rates(figures):
    for way in ("OLS_C", "LIKELY"):
        parts = [case["jwst"][way] for case in figures["cases"] if way in case["jwst"]]
        if parts:
            total = {key: sum(part[key] for part in parts) for key in parts[0]}
            yield say(
                f"jwst's own `jump` and {way} on {total['seeds']} of these exposures: "
                f"{total['groups_flagged_otherwise']} groups and {total['flags']} pixels have other flags, and "
                f"{total['apart']} of {total['pixels']} rates differ by more than 1e-4 of the rate or ERR."
            )
    yield say(
        "(Where the rates of LIKELY differ, the rate of one integration is zero within rounding. In both packages, the "
        "weight of its photon noise in the average depends on the sign of this rate.)"
    )


def write_jumps(figures):
    energies, places = figures["energies"], figures["places"]
    searches = [name for name in figures["cases"][0]["searches"] if name != "none"]

    def label(case):
        return f"{case['case'][0]} {case['case'][1]}, {case['case'][2]:g} e⁻/s"

    def rows(cell):
        return [[label(case), *(cell(case["searches"][name]) for name in searches)] for case in figures["cases"]]

    yield "## Jumps\n"
    yield say(
        f"Hits of known charge are added to one pixel in nine, {figures['nints']} integrations. The bias is the "
        "difference of two fits, with and without the hits, to the same noise. `jump` has the defaults of jwst: "
        f"{sum(case['jwst']['unequal_groups'] for case in figures['cases'])} of "
        f"{sum(case['jwst']['groups'] for case in figures['cases']):.3g} groups have other flags in stcal."
    )
    yield say(
        "**Completeness.** Charge at which half of the hits are found, e⁻: in the first / a middle / the last "
        "difference."
    )

    def halves(search):
        found = search["found"]["mean"]
        return " / ".join(number(_half(energies, found[places.index(p)]), 2) for p in ("first", "middle", "last"))

    yield from table(("groups, background", *searches), rows(halves))
    yield "**False alarms** per million differences without a hit.\n"
    yield from table(("groups, background", *searches), rows(lambda search: with_error(search["alarms"], digits=0)))
    yield say(
        "**Remaining bias** of hits in all differences, in ERR of one integration: the largest bias and the charge at "
        "which it occurs, then the bias for 3000 e⁻."
    )

    def largest(search):
        bias = search["bias_in_sigma"]["mean"]
        k = max(range(len(energies)), key=lambda index: abs(bias[index]))
        return f"{number(bias[k], 2)} at {energies[k]}; {with_error(search['bias_in_sigma'], -1)}"

    yield from table(("groups, background", *searches), rows(largest))
    few = figures["cases"][0]
    alone, both = (few["searches"][name]["bias_in_sigma"] for name in ("LIKELY alone", "jump, OLS_C"))
    many = max(
        (case for case in figures["cases"]), key=lambda case: pick(case["searches"]["experimental_jumpramp"]["alarms"])
    )
    yield say(
        "With few groups LIKELY needs `jump` before it. Alone it misses some strong hits in faint pixels: with "
        f"{few['case'][1]} groups the mean bias is {with_error(alone, -1)} ERR for hits of 3000 e⁻ (`jump` and OLS_C: "
        f"{with_error(both, -1)}). experimental_jumpramp does not miss them. The searches of both use the median "
        "difference as the rate, which is often negative in faint pixels. Then photon noise counts as zero, and its "
        f"sum over many groups is mistaken for jumps. The worst case is {label(many)}: "
        f"{with_error(many['searches']['experimental_jumpramp']['alarms'], digits=0)} false alarms per million for "
        f"experimental_jumpramp, {with_error(many['searches']['jump, OLS_C']['alarms'], digits=0)} for `jump`."
    )
    yield "![Completeness by charge](_generated/validation_jumps.png)\n"
    yield say(
        "*Fraction of hits found, by charge, in the middle of the ramp (solid) and in the first difference (dotted).*"
    )


def _half(energies, shares):
    """Interpolate the energy at which half of the hits are found; None if there is none."""
    for k in range(1, len(energies)):
        low, high = shares[k - 1], shares[k]
        if low is not None and high is not None and low < 0.5 <= high:
            return energies[k - 1] + (0.5 - low) / (high - low) * (energies[k] - energies[k - 1])
    return energies[0] if shares[0] is not None and shares[0] >= 0.5 else None


def write_1overf(figures):
    separations = figures["separations"]
    yield "## 1/f noise\n"
    yield say(
        f"A star of {exact(figures['star'])} e⁻/s behind its mask, 160 x 160 pixels of SUB320A335R, RAPID with "
        f"{figures['ngroups']} groups, {figures['strength']:g} times the usual 1/f noise. Corrections are named by the "
        "`model_type` and the stage of `subtract_1overf`; `groups` includes `subtract_ktc`. *jwst median* is "
        "`clean_flicker_noise` with its defaults, on the rateints."
    )
    for case in figures["cases"]:
        few = case["nints"] == 1
        noise, kept = case["noise"], case["kept"]
        yield f"### {case['nints']} integration{'' if few else 's'}\n"
        yield say(
            'The rms of the row means of one integration beyond 1", and the robust scatter of the final rate at each '
            "separation, in DN/s."
        )
        header = ("correction", "rows", *(f'{s:g}"' for s in separations))
        rows = [
            (name, with_error(part["rows_rms"]), *(with_error(part["scatter"], k) for k in range(len(separations))))
            for name, part in noise.items()
        ]
        yield from table(header, rows)
        best = min((name for name in noise if name in kept), key=lambda name: pick(noise[name]["rows_rms"]))
        yield say(
            f"*{best}* leaves least noise in the rows: {with_error(noise[best]['rows_rms'])} of "
            f"{with_error(noise['none']['rows_rms'])} DN/s."
        )
        if "jwst median" in noise:
            yield _against_jwst(case)
        names = list(next(iter(kept.values())))
        yield say(
            "Flux kept, in %, of companions (by contrast; mean of the four separations) and of a disc (by its peak in "
            "e⁻/s)."
        )
        rows = [(name, *(with_error_of_mean(part[source], 100) for source in names)) for name, part in kept.items()]
        titles = [f"{kind} {exact(float(size))}" for kind, size in map(str.split, names)]
        yield from table(("correction", *titles), rows)
    yield "![Power spectra](_generated/validation_subtract_1overf.png)\n"
    yield say("*Power of one integration minus the truth, along rows (left) and across them (right), by frequency.*")


def _against_jwst(case):
    """Compare the two row medians, which use different masks and scene models."""
    names = ("median, ints", "jwst median")
    ours, theirs = (case["noise"][name]["rows_rms"] for name in names)
    of_first = [number(case["rows_rms_of_seed_1"][name]) for name in names]
    return say(
        f"Row medians of rateints leave {with_error(ours, digits=3)} DN/s with gpucoron and "
        f"{with_error(theirs, digits=3)} DN/s with jwst (with seed 1 alone {of_first[0]} and {of_first[1]})."
    )


def with_error_of_mean(figure, scale=1.0):
    """Average over the positions of a figure; return the mean, and its error for independent positions."""
    mean, error = figure["mean"], figure["error"]
    n = len(mean)
    if any(e is None for e in error):
        return f"{scale * sum(mean) / n:.1f}"
    return f"{scale * sum(mean) / n:.1f} ± {scale * sum(e * e for e in error) ** 0.5 / n:.1f}"


def write_custom(figures):
    yield "## The other custom steps\n"
    ktc = figures["ktc"]
    yield say(
        "**subtract_ktc.** Over the integrations, the first group of a pixel scatters by "
        f"{with_error(ktc['first_group'], 0)} DN before and {with_error(ktc['first_group'], 1)} DN after the step. The "
        f"rate scatters by {with_error(ktc['scatter'], 0, digits=4)} and {with_error(ktc['scatter'], 1, digits=4)} "
        f"DN/s (largest change {number(pick(ktc['largest_change_in_sigma']), 2)} ERR): the step alone does not improve "
        "the rate."
    )
    refpix, n = figures["refpix"]["offset_and_scatter"], len(figures["seeds"])
    yield say(
        '**Pseudo-reference pixels.** RAPID, 6 groups, 4 integrations, the usual 1/f noise, beyond 1" of a star. The '
        "first number is the scatter over the seeds of the common offset of the rate, the second the robust scatter of "
        "its pixels, DN/s. The second pair follows after 1/f `savgol` at `ints`."
    )
    rows = []
    for d, drift in enumerate(figures["drifts"]):
        cells = []
        for k in range(0, 6, 2):
            pairs = []
            for j in (k, k + 1):
                error = refpix["error"][d][j][0]
                offset = None if error is None else error * n**0.5
                pairs.append(f"{number(offset, 2)}, {number(refpix['mean'][d][j][1])}")
            cells.append("; ".join(pairs))
        rows.append((f"{drift:g} DN", *cells))
    yield from table(("drift", "none", "rows", "rows and columns"), rows)
    yield say(
        "The rows correct the common offset of a drifting pedestal, but also subtract the background in these rows."
    )
    yield from _growth(figures)
    out = figures["outliers"]
    yield say(
        "**apply_rateints_outliers.** 12 integrations of 6 groups with 20 times the usual cosmic rays. 3 % of the "
        "pixels are telegraph pixels, which change by 200 e⁻ in one integration in ten. The table gives the rms error "
        "of the rate, e⁻/s, before and after the step."
    )
    rows = [(name, with_error(part, 0), with_error(part, 1)) for name, part in out.items()]
    yield from table(("pixels", "before", "after"), rows)
    left = figures["masks"]["left_and_noise"]
    yield say(
        "**mask_groups.** A MIRI star minus a brighter reference, with the brighter-fatter effect "
        "(docs/pictures/mask_groups.py). The table gives the rms of the residual and of the noise, in % of the star's "
        "peak."
    )
    rows = []
    for b, brightness in enumerate(figures["brightnesses"]):
        cells = [
            f"{with_error(left, b, m, 0, digits=3, scale=100)}; {with_error(left, b, m, 1, digits=3, scale=100)}"
            for m in (0, 1)
        ]
        rows.append((f"{brightness:g} times", *cells))
    yield from table(("reference", "all groups", "`basic`"), rows)


def _growth(figures):
    beside = figures["growth"]["beside"]
    yield say(
        "**Growth around saturation.** Pixels next to saturated ones, without and with a fraction of the charge above "
        "the full well that spills into each neighbour. The table gives the median of (rate - truth) / truth in %, the "
        "width of (rate - truth) / ERR, and the percentage of groups that growth flags."
    )
    rows = []
    for s, share in enumerate(figures["spills"]):
        cells = [
            "; ".join(
                (
                    with_error(beside, s, g, 0, scale=100),
                    with_error(beside, s, g, 1),
                    f"{100 * pick(beside, s, g, 2):.0f} %",
                )
            )
            for g in range(3)
        ]
        rows.append((f"{100 * share:g} %", *cells))
    yield from table(("spilled", "no growth", "`grow_diagonal=False`", "diagonal growth"), rows)
    yield say(
        "Without spilled charge, growth only flags good groups. With it, growth without diagonals is enough, because "
        "charge spills across the sides of pixels."
    )


_SECTIONS = {
    "pipeline": write_pipeline,
    "rates": write_rates,
    "jumps": write_jumps,
    "few_groups": write_few_groups,
    "subtract_1overf": write_1overf,
    "companion_noise": write_companion_noise,
    "contrast": write_contrast,
    "custom": write_custom,
}
