"""NIRCam: each candidate for the recommended settings alone, against jwst's defaults, in the difference of two rolls.

`contrast` compares combinations of steps with 1/f correction; here each candidate changes one thing.

python benchmarks/validation/contrast_nircam.py [--seeds 20] [--quick]
"""

from functools import partial

import contrast
import scenes
from common import PIXEL_SCALE, fit_jumpramp, fit_likely, parse, save
from two_rolls import View, compare, measure

from gpucoron.steps import STEPS

VIEW = View(scenes.SHAPE, PIXEL_SCALE["NIRCAM"], scenes.FWHM, contrast.RINGS)
BASE, ROWS = "jwst defaults", "rows, keep_light"
LIT = {"rows": True, "light": True}
SOUND = partial(fit_likely, rules="sound")
ONE_SIDED = partial(SOUND, max_diffs_one_sided=6)
#: name -> (the choice with which it is compared, options of `contrast.reduce`)
CHOICES = {
    BASE: (BASE, {}),
    "rows": (BASE, {"rows": True}),
    ROWS: (BASE, LIT),
    "LIKELY": (BASE, {"fit": fit_likely}),
    "LIKELY, sound rules": (BASE, {"fit": SOUND}),
    "experimental_jumpramp": (BASE, {"jump": False, "fit": fit_jumpramp}),
    "saturation without corners": (BASE, {"corners": False}),
    "outliers with refit": (BASE, {"outliers": True}),
    "1/f median at ints, no columns": (BASE, {"ints": "median", "columns": False}),
    "rows, LIKELY": (ROWS, LIT | {"fit": fit_likely}),
    "rows, LIKELY, sound rules": (ROWS, LIT | {"fit": SOUND}),
    "rows, LIKELY, sound rules, one-sided": ("rows, LIKELY, sound rules", LIT | {"fit": ONE_SIDED}),
    "rows, experimental_jumpramp": (ROWS, LIT | {"jump": False, "fit": fit_jumpramp}),
    "rows, outliers with refit": (ROWS, LIT | {"outliers": True}),
    "rows, 1/f median at ints, no columns": (ROWS, LIT | {"ints": "median", "columns": False}),
    "rows, 1/f median at groups": (ROWS, LIT | {"groups": "median"}),
}


def recommended():
    """Return the options of `contrast.reduce` that make the profile `recommended` of a NIRCam subarray."""
    values = {name: STEPS[name].defaults("recommended", "NIRCAM", "SUB320A335R") for name in STEPS}
    fit, noise = values["ramp_fit"], values["subtract_1overf"]
    likely = partial(fit_likely, rules=fit["jump_rules"], max_diffs_one_sided=fit["max_diffs_one_sided"])
    options = {"fit": likely} if fit["algorithm"] == "LIKELY" else {}
    if not noise["skip"]:
        options |= {"ints": noise["model_type"], "columns": noise["vertical_corr"]}
    return options | {
        "rows": values["refpix"]["nlower"] is not None,
        "light": values["refpix"]["keep_light"],
        "corners": values["saturation"]["grow_diagonal"],
        "outliers": not values["apply_rateints_outliers"]["skip"],
    }


def run_case(case, star, options, choices):
    samples = {name: [] for name in choices}
    for seed in range(1, options.seeds + 1):
        rolls = [contrast.observe_roll(case, seed, roll) for roll in (0, 1)]
        signal = rolls[0][1] - rolls[1][1]
        gain = rolls[0][0].gain
        for name, (_base, settings) in choices.items():
            slopes = [contrast.reduce(ramps, **({"corners": True} | settings)) for ramps, _ in rolls]
            rates, errors = ([getattr(slope, part) * gain for slope in slopes] for part in ("rate", "err"))
            samples[name].append(measure(rates, errors, signal, star, VIEW))
        print(case, seed, flush=True)
    return compare(samples, {name: base for name, (base, _options) in choices.items()}, VIEW)


def main(argv=None):
    options = parse(__doc__, argv, seeds=20)
    choices = CHOICES | {"recommended": (BASE, recommended())}
    cases, stars = contrast.CASES | contrast.MORE_CASES, contrast.STARS | contrast.MORE_STARS
    if options.quick:
        choices, cases = (
            {name: choices[name] for name in ("jwst defaults", "recommended")},
            dict(list(cases.items())[:1]),
        )
    names = ("readpatt", "ngroups", "nints", "one_over_f", "drift")
    settings = {case: dict(zip(names, values, strict=True)) | {"star": stars[case]} for case, values in cases.items()}
    figures = {case: run_case(case, stars[case], options, choices) for case in cases}
    return save("contrast_nircam", options, {"rings": VIEW.rings, "settings": settings, "cases": figures}, digits=4)


if __name__ == "__main__":
    main()
