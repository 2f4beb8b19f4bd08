"""Write the page of the recommended settings: each with the measurement behind it, from benchmarks/validation/results.

The settings come from the declarations of the steps. A setting without a reason here is an error.
"""

from validation_page import read_results
from validation_text import exact, number, pick, point, say, table, with_error, write_page

from gpucoron.parameters import PIPELINE, RUN_PRESETS, differs, resolve
from gpucoron.steps import STEPS

_HEAD = """# The recommended settings

% Written by docs/recommended_page.py from benchmarks/validation/results/*.json; `make validation` updates both.

```
gpucoron batch raw -o stage1 --profile recommended
```

or, in Python, `profile="recommended"` in `run_single_file`, `reduce_file`, `gpucoron.batch.reduce` and wherever a
profile is taken. The profile has the parameters of the `jwst` profile, with the parameter files of CRDS, and changes
those below. Your own settings (`--set`, `steps`, `--pars`) override it. It differs between NIRCam and MIRI. Of NIRCam,
only subarrays were measured; in full frames, `grow_diagonal` alone is changed. The profiles `jwst` and `spaceklip` do
not change.

A setting is in the profile if it shows a gain in simulations with a known truth. "What was not chosen" lists the
others, with their figures.
"""

_INSTRUMENTS = {"nircam": ("NIRCAM", "SUB320A335R", "NIRCam subarrays"), "miri": ("MIRI", "MASK1550", "MIRI")}
#: base of most choices, and that of choices with pseudo-reference rows
_BASE, _ROWS = "jwst defaults", "rows, keep_light"


def write_recommended_page(results, path):
    """Write the Markdown page; do not rewrite an unchanged one.

    Parameters
    ----------
    results : Path
        Folder of the JSON files; parts without a file are omitted.
    path : Path
        Path of the page.
    """
    found = read_results(results)
    lines = [_HEAD]
    for name in _INSTRUMENTS:
        lines += _write_instrument(name, found)
    lines += _write_method(found)
    write_page(lines, path)


def list_settings(instrument, subarray):
    """List the settings of the profile that differ from jwst's defaults: (step.parameter, value, default)."""
    of_run = {parameter.name: parameter.default for parameter in PIPELINE}
    settings = [
        (f"{name}.{key}", value, STEPS[name].known[key].default)
        for name, values in resolve(STEPS, "recommended", instrument=instrument, subarray=subarray).items()
        for key, value in vars(values).items()
        if differs(value, STEPS[name].known[key].default)
    ]
    if any(name.startswith("subtract_1overf.") for name, *_ in settings):
        settings += [(name, value, of_run[name]) for name, value in RUN_PRESETS["recommended"].items()]
    return settings


def _write_instrument(name, found):
    instrument, subarray, title = _INSTRUMENTS[name]
    yield f"## {title}\n"
    settings = list_settings(instrument, subarray)
    figures = found.get(f"contrast_{name}")
    reasons = _REASONS[name]
    rows = [
        (f"`{setting}`", f"`{value}`", f"`{default}`", reasons[setting](figures["cases"], found) if figures else "-")
        for setting, value, default in settings
    ]
    yield from table(("setting", "value", "jwst", "why"), rows)
    if figures is None:
        return
    yield from _OPENING[name](figures, found)
    yield from _write_choices(figures)
    yield "### What was not chosen\n"
    for choice, write in _NOT_CHOSEN[name].items():
        yield point(f"**{choice}**: {write(figures['cases'], found)}")
    yield ""


def _write_choices(figures):
    """Write the tables of noise and of ERR, by case."""
    cases = figures["cases"]
    choices = list(dict.fromkeys(choice for case in cases.values() for choice in case))
    yield '**Noise** of the difference relative to the base, within 1.5" / beyond; below 1 is better.\n'
    rows = []
    for choice in choices:
        base = next(case[choice]["base"] for case in cases.values() if choice in case)
        rows.append((choice, base if choice != base else "-", *(_noise(case.get(choice)) for case in cases.values())))
    yield from table(("choice", "base", *cases), rows)
    yield "**ERR**: the width of difference / ERR, which should be 1, and the flux kept of the companion.\n"
    rows = [(choice, *(_pulls(case.get(choice)) for case in cases.values())) for choice in choices]
    yield from table(("choice", *cases), rows)


def _noise(part):
    if part is None:
        return ""
    return f"{with_error(part['inner'], digits=3)} / {with_error(part['outer'], digits=3)}"


def _pulls(part):
    if part is None:
        return ""
    return f"{with_error(part['pull_width'], digits=3)}; {with_error(part['kept'], digits=3)}"


def _of(cases, choice, case, *, what="noise"):
    """Describe one figure in a sentence: '0.978 ± 0.006 times the noise beyond 1.5" (faint star)'."""
    part = cases.get(case, {}).get(choice)
    if part is None:
        return "not measured"
    if what == "noise":
        return (
            f'{with_error(part["inner"], digits=3)} times the noise within 1.5" and '
            f"{with_error(part['outer'], digits=3)} beyond ({case})"
        )
    if what == "pixels":
        return (
            f'{with_error(part["pixels_inner"], digits=3)} times the noise of single pixels within 1.5" and '
            f"{with_error(part['pixels_outer'], digits=3)} beyond ({case})"
        )
    return f"{with_error(part['pull_width'], digits=3)} ({case})"


def _rows_reason(cases, found):
    return f"pseudo-reference rows: {_of(cases, _ROWS, 'faint star')}, {_of(cases, _ROWS, 'bright star')}"


def _light_reason(cases, found):
    without, with_light = (_of(cases, choice, "faint star", what="pull") for choice in ("rows", _ROWS))
    return f"width of difference / ERR: {without} without it, {with_light} with it; the noise is the same"


def _reason_of_1overf(cases, found):
    chosen = _choice_of_1overf()
    return f"added to the rows: {_of(cases, chosen, 'bright star')}, {_of(cases, chosen, 'faint star')}; see below"


def _choice_of_1overf():
    """Return the choice that adds the 1/f correction of the profile to the rows."""
    model = STEPS["subtract_1overf"].defaults("recommended", "NIRCAM", "SUB320A335R")["model_type"]
    return f"rows, 1/f {model} at {RUN_PRESETS['recommended']['stage_1overf']}"


def _corners_reason(cases, found):
    figure = _of(cases, "saturation without corners", "saturated star", what="pixels")
    return f"good pixels around a saturated core: {figure}"


def _stage_reason(cases, found):
    return "`kriging` measures the spectrum of the noise in the groups, without the scene"


#: model of 1/f noise -> its choice in the results of `contrast`
_MODELS = {
    "`kriging`": "rows, kriging at groups",
    "`median`": "rows, 1/f median at ints, no columns",
    "`savgol`": "rows, 1/f savgol at ints, no columns",
    "`fft`": "rows, 1/f fft at ints",
    "jwst's `clean_flicker_noise` on the rateints": "rows, jwst's clean_flicker_noise at ints",
}


def _model_reason(cases, found):
    measured = found.get("contrast", {}).get("cases", {})
    parts = [
        f"{name} "
        + " / ".join(f"{_mean_ratio(case[choice]['ratio']):.3f}" for case in measured.values() if choice in case)
        for name, choice in _MODELS.items()
        if any(choice in case for case in measured.values())
    ]
    if not parts:
        return "see below"
    return f"mean ratio of all rings, {', '.join(measured)}: {', '.join(parts)}; lower is better ([](validation.md))"


def _mean_ratio(ratio):
    return sum(ratio["mean"]) / len(ratio["mean"])


def _likely_reason(cases, found):
    sound = "LIKELY, sound rules"
    widths = (_of(cases, choice, "faint star", what="pull") for choice in (_BASE, sound))
    text = f"width of difference / ERR: {' with OLS_C, '.join(widths)} with LIKELY; "
    text += ", ".join(_of(cases, sound, case, what="pixels") for case in ("faint star", "few groups"))
    rates = found.get("rates", {}).get("cases", ())
    for case in (case for case in rates if case["case"] == ["MIRI", "FASTR1", 250]):
        worst = {
            way: max((pick(case["ways"][way]["clean"]["pull_width"], k) or 1) for k in range(10))
            for way in ("OLS_C", "LIKELY")
        }
        text += (
            f"; with 250 groups the scatter of flat scenes is up to {worst['OLS_C']:.2f} times ERR with OLS_C and "
            f"{worst['LIKELY']:.2f} times with LIKELY ([](validation.md))"
        )
    return text


def _sound_reason(cases, found):
    stcal, sound = (_of(cases, choice, "saturated star", what="pixels") for choice in ("LIKELY", "LIKELY, sound rules"))
    return f"without it, LIKELY rejects good groups of ramps that saturate: {stcal}; with it, {sound}"


#: setting -> function of the cases and of all results that says why it is in the profile
_REASONS = {
    "nircam": {
        "saturation.grow_diagonal": _corners_reason,
        "refpix.nlower": _rows_reason,
        "refpix.nupper": lambda cases, found: "as `nlower`",
        "refpix.keep_light": _light_reason,
        "subtract_1overf.skip": _reason_of_1overf,
        "subtract_1overf.model_type": _model_reason,
        "stage_1overf": _stage_reason,
    },
    "miri": {"ramp_fit.algorithm": _likely_reason, "ramp_fit.jump_rules": _sound_reason},
}


def _open_nircam(figures, found):
    cases = figures["cases"]
    chosen = _choice_of_1overf()
    yield "### The model of 1/f noise\n"
    yield say(
        "**A star that is so bright that photon noise is all**:",
        f"{_of(cases, chosen, 'saturated star')} for `kriging`, because it knows the photon noise of each pixel;",
        f"{_of(cases, 'rows, 1/f median at ints, no columns', 'saturated star')} for the medians of rows.",
    )
    yield from _write_companion_noise(found)
    yield "### All figures\n"
    yield say("**The whole profile**:", f"{_whole(cases)}.")


def _whole(cases):
    return ", ".join(_of(cases, "recommended", case) for case in cases)


def _write_companion_noise(found):
    """Write the comparison of models of 1/f noise, if it was measured."""
    parts = found.get("companion_noise", {}).get("cases")
    if not parts:
        return
    yield say(
        "**Which model?** `benchmarks/validation/companion_noise.py` measures the noise of the matched filter per flux",
        "kept, relative to the same exposures without 1/f noise (1 is perfect); averaged over the rings:",
    )
    methods = list(dict.fromkeys(name for part in parts for name in part["methods"]))
    rows = [
        (
            f"{part['nints']} x {part['ngroups']}, {part['scene']}, {part['strength']:g}",
            *(_mean_of_method(part["methods"], name) for name in methods),
        )
        for part in parts
    ]
    yield from table(("integrations x groups, scene, 1/f noise", *methods), rows)


def _mean_of_method(methods, name):
    if name not in methods or None in methods[name]["ratio"]["mean"]:
        return ""
    return f"{_mean_ratio(methods[name]['ratio']):.3f}"


def _open_miri(figures, found):
    yield "### All figures\n"
    yield say("**The whole profile**:", f"{_whole(figures['cases'])}.")
    yield say(
        "The matched filter has few independent places in a ring of MIRI's resolution, so that its noise is uncertain.",
        "Without 1/f noise, pixels are independent: the noise of single pixels is more precise.",
    )


def _range(cases, choice, what="noise"):
    """Describe the noise of a choice over all its cases: '0.996 to 1.012 times the noise of its base'."""
    names = ("inner", "outer") if what == "noise" else ("pixels_inner", "pixels_outer")
    values = [pick(case[choice][name]) for case in cases.values() if choice in case for name in names]
    noun = "the noise" if what == "noise" else "the noise of single pixels"
    if not values:
        return "not measured"
    return f"{min(values):.3f} to {max(values):.3f} times {noun} of its base"


def _not_chosen(choice, reason="no gain", what="noise"):
    return lambda cases, found: f"{_range(cases, choice, what)}: {reason}."


def _nircam_likely(cases, found):
    err = "; ".join(
        f"{case}: {with_error(cases[case][_ROWS]['pull_width'], digits=3)} with OLS_C, "
        f"{with_error(cases[case]['rows, LIKELY, sound rules']['pull_width'], digits=3)} with LIKELY"
        for case in cases
        if "rows, LIKELY, sound rules" in cases[case]
    )
    return (
        f"after the rows {_range(cases, 'rows, LIKELY, sound rules')}, without the rows "
        f"{_range(cases, 'LIKELY, sound rules')}: a drifting pedestal looks like jumps. Width of difference / ERR "
        f"after the rows: {err}.{_write_lost(found)} For long ramps it is worth setting, with "
        f'`jump_rules="sound"`: {_far(cases, _ROWS)} of a million differences are beyond 5 ERR with OLS_C, '
        f"{_far(cases, 'rows, LIKELY, sound rules')} with LIKELY."
    )


def _far(cases, choice):
    part = cases.get("long ramps", {}).get(choice)
    return "-" if part is None else with_error(part["far"], digits=0)


def _write_lost(found):
    """Say how many hit ramps of four groups LIKELY leaves without a rate."""
    if "hits" not in found:
        return ""
    lost = {name: _worst_hits(found["hits"], name, "lost", ngroups=4) for name in ("OLS_C", "LIKELY")}
    return (
        f" In ramps of four groups, LIKELY leaves up to {lost['LIKELY']:.0f} % of the ramps with a hit without a rate, "
        f"OLS_C {lost['OLS_C']:.1f} % (`benchmarks/validation/hits.py`)."
    )


def _worst_hits(hits, search, name, ngroups=None):
    """Return the largest value of a figure of `hits` over its cases."""
    column = hits["figures"].index(name)
    cases = [case for case in hits["cases"] if ngroups in (None, case["case"][2])]
    return max(case["searches"][search][column] or 0 for case in cases)


def _one_sided(cases, found):
    if "hits" not in found:
        return "no gain after the jump step."
    worst = [
        number(_worst_hits(found["hits"], f"LIKELY, sound rules{name}", "off"), 2)
        for name in ("", ", one-sided up to 6")
    ]
    return (
        f"after the jump step, at most {worst[0]} % of the rates of ramps with a hit are off by more than 5 ERR "
        f"without it, {worst[1]} % with it (the worst of {len(found['hits']['cases'])} cases in "
        "`benchmarks/validation/hits.py`): no gain."
    )


def _average_dark(cases, found):
    widths = [_of(cases, choice, "few groups", what="pull") for choice in (_BASE, "convert_average_dark")]
    return f"width of difference / ERR: {widths[0]} without it, {widths[1]} with it."


_NO_GAIN_WITH_RAYS = "no gain with the usual cosmic rays"
#: choice -> function of the cases and of all results that gives its figures
_NOT_CHOSEN = {
    "nircam": {
        "`ramp_fit.algorithm=LIKELY`": _nircam_likely,
        "`ramp_fit.max_diffs_one_sided`": _one_sided,
        "`experimental_jumpramp`": _not_chosen("rows, experimental_jumpramp"),
        "`rate_int_outliers`": _not_chosen("outliers with refit", _NO_GAIN_WITH_RAYS),
        "`subtract_1overf.model_type=median`, at `ints`": _not_chosen(
            "rows, 1/f median at ints, no columns", "worse for bright stars"
        ),
        "`subtract_1overf.model_type=median`, at `groups`": _not_chosen(
            "rows, 1/f median at groups", "worse for bright stars"
        ),
        "`subtract_1overf.model_type=rows`": _not_chosen(
            "rows, 1/f weighted rows at groups",
            "as good as `kriging` in this smooth halo, but with spikes and bars it adds noise ([](validation.md)); ERR "
            "does not change",
        ),
        "`clean_flicker_noise`": _not_chosen(
            "rows, jwst's clean_flicker_noise at ints", "`kriging` leaves less, above all with spikes and bars"
        ),
        "Not measured": lambda cases, found: (
            "`charge_migration`, which CRDS's parameter files switch on, because the simulator has no charge "
            "migration; full frames."
        ),
    },
    "miri": {
        "`experimental_jumpramp`": _not_chosen(
            "experimental_jumpramp", "as LIKELY with sound rules, which also compares integrations by `jump`", "pixels"
        ),
        "`ramp_fit.max_diffs_one_sided`": _one_sided,
        "`rate_int_outliers`": _not_chosen("outliers with refit", _NO_GAIN_WITH_RAYS, "pixels"),
        "`saturation.grow_diagonal`": lambda cases, found: "without effect: the step ignores it for MIRI.",
        "`ramp_fit.suppress_one_group`": _not_chosen("without suppress_one_group"),
        "The `spaceklip` profile": _not_chosen(
            "spaceklip profile", "no gain; it has no `emicorr` and no dark", "pixels"
        ),
        "No `emicorr`": _not_chosen(
            "without emicorr",
            "in ramps the wave averages out; CRDS's parameter files switch the step on, and the profile leaves it on",
            "pixels",
        ),
        "No `dark_current`": _not_chosen("without dark", "the dark cancels in the difference", "pixels"),
        "`ramp_fit.convert_average_dark`": _average_dark,
        "`dark_current.continue_by_line`": _not_chosen(
            "short dark, continue_by_line",
            "both rolls have the same dark, of half their length, whose error cancels in the difference. It does not "
            "cancel in single rates: [](steps/dark_current.md)",
            "pixels",
        ),
        "Not measured": lambda cases, found: (
            "`jump.find_showers` and `jump.apply_max_shower_amplitude`, because the simulator has no showers. "
            "`jump.apply_minimum_groups` and `dark_current.dark_by_integration` change nothing in whole exposures "
            "with the default parameters."
        ),
    },
}
_OPENING = {"nircam": _open_nircam, "miri": _open_miri}


def _write_method(found):
    """Describe the simulations."""
    yield "## How it was measured\n"
    yield say(
        "Two exposures of a star at different roll angles are reduced in the same way and subtracted, as in",
        '[](validation.md), "Two rolls". The difference is filtered with the shape of a companion. The noise is the',
        "robust width in rings, as the ratio to that of the base for the same seeds, averaged over the rings within",
        'and beyond 1.5". Every figure is a mean over independent pairs, with the error of the mean. Every choice',
        "changes one thing of its base.",
    )
    for name, text in (
        ("nircam", "NIRCam, from linear ramps, 160 x 160 pixels, with pedestals that drift by 3 DN rms"),
        ("miri", "MIRI, from raw counts, 96 x 96 pixels, with all effects of the simulator, interference included"),
    ):
        figures = found.get(f"contrast_{name}")
        if figures is None:
            continue
        yield f"{text} ({len(figures['seeds'])} pairs):\n"
        rows = [
            (case, *(exact(value) if isinstance(value, float) else value for value in setting.values()))
            for case, setting in figures["settings"].items()
        ]
        names = {"one_over_f": "1/f noise", "drift": "drift, DN rms"}
        names |= {key: f"{key}, e⁻/s" for key in ("star", "background")}
        header = [names.get(key, key) for key in next(iter(figures["settings"].values()))]
        yield from table(("case", *header), rows)
    yield "`python benchmarks/validation --only contrast_nircam,contrast_miri,hits` repeats the measurements.\n"
