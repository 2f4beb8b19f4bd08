"""5-sigma noise of a two-roll difference as a function of separation, for each choice of stage-1 options.

Two exposures of one star, with different companion positions and noise, are reduced in the same way and subtracted, as
for a perfectly stable telescope. Speckles cancel, so that only the effects of stage 1 remain.

python benchmarks/validation/contrast.py [--seeds 20] [--quick]
"""

from dataclasses import replace

import coronagraph_scenes
import numpy as np
import scenes
from common import (
    BACKEND,
    PIXEL_SCALE,
    find_jumps,
    fit_jumpramp,
    fit_likely,
    fit_ols,
    grow,
    observe,
    over_seeds,
    parse,
    save,
    spill,
    width,
    with_worst,
)
from corrections import correct_by_jwst, correct_ints, correct_linear, with_light
from two_rolls import View, filter_difference, is_clean

from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.simulate import Scene
from gpucoron.steps import apply_rateints_outliers, refpix
from gpucoron.steps.subtract_1overf import LINEAR_MODELS, noise_of_ramp
from gpucoron.steps.subtract_ktc import fit_ktc

#: edges of the rings, arcsec
RINGS = (0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
#: read pattern, groups, integrations, 1/f noise relative to the usual one, rms in DN of a pedestal that drifts between
#: groups
CASES = {"bright star": ("RAPID", 6, 10, 1.0, 3.0), "faint star": ("SHALLOW4", 6, 10, 1.0, 3.0)}
STARS = {"bright star": 1e7, "faint star": 1e6}
#: the same with stronger 1/f noise
STRONG_CASES = {"bright star, 3x": ("RAPID", 6, 10, 3.0, 3.0)}
STRONG_STARS = {"bright star, 3x": 1e7}
#: cases of `contrast_nircam` alone: a star that saturates pixels within 0.7", and long ramps
MORE_CASES = {"saturated star": ("SHALLOW4", 10, 10, 1.0, 3.0), "long ramps": ("RAPID", 50, 4, 1.0, 3.0)}
MORE_STARS = {"saturated star": 1.5e8, "long ramps": 1e6}
#: fraction of the charge above the full well that spills into each neighbour
SPILL = 0.01
VIEW = View(scenes.SHAPE, PIXEL_SCALE["NIRCAM"], scenes.FWHM, RINGS)
CONTRAST = 1e-4
#: faint companions of which the kept fraction is measured, relative to a star of 1e7 e-/s: one in each ring, away from
#: the bright one; (separation in arcsec, angle in degrees)
FAINT = 1e-6
FAINT_COMPANIONS = tuple(
    ((low + high) / 2, (90 + 137.5 * k) % 360) for k, (low, high) in enumerate(zip(RINGS[:-1], RINGS[1:], strict=True))
)
#: the first seeds, on which it is measured
KEPT_SEEDS = 10
#: position angle of the companion in each roll, degrees
ANGLES = (40.0, 50.0)
REFPIX = {"nlower": 4, "nupper": 4, "nrow_off": 0, "ncol_off": 0}


def observe_roll(case, seed, roll):
    """Simulate one roll: ramps with a drifting pedestal and the light of the companion."""
    readpatt, ngroups, nints, one_over_f, drift = (CASES | STRONG_CASES | MORE_CASES)[case]
    flux = (STARS | STRONG_STARS | MORE_STARS)[case]
    star = Scene(star=flux, halo=1e-5, companion_contrast=0.0).render(scenes.SHAPE, scenes.FWHM)
    # one companion, at 1": contrast relative to a star that does not saturate
    companion = scenes.companions(CONTRAST * min(flux / scenes.STAR, 1), ANGLES[roll])[1]
    ramps = observe(
        "NIRCAM", readpatt, ngroups, nints, star + companion, scenes.SHAPE,
        seed=1000 * (roll + 1) + seed, effects={"one_over_f": one_over_f},
    )  # fmt: skip
    spill(ramps, SPILL)
    rng = np.random.default_rng([seed, roll])
    ramps.data += drift * rng.standard_normal((nints, ngroups, 1, 1)).astype(np.float32)
    return ramps, companion


def subtract_rows(ramps, sides=0, keep_light=False):
    """Run refpix with four pseudo-reference rows at each end, and with columns."""
    parameters = refpix.STEP.settings(
        **REFPIX, nleft=sides, nright=sides, use_side_ref_pixels=sides > 0, keep_light=keep_light
    )
    exposure = Exposure(data=ramps.data, pixeldq=ramps.pixeldq, facts=ramps.facts)
    refpix.run(exposure, {}, parameters, BACKEND)


def subtract_ktc(ramps):
    args = (ramps.data, ramps.groupdq, ramps.saturation, ramps.facts.group_time)
    ramps.data -= fit_ktc(*args, backend=BACKEND)[0][:, None].astype(np.float32)


def subtract_1overf(ramps, model_type):
    args = (ramps.data, ramps.groupdq, ramps.saturation, ramps.facts.group_time)
    ramps.data -= noise_of_ramp(*args, model_type=model_type, slowaxis=ramps.facts.slowaxis, backend=BACKEND)


def refit_outliers(ramps, products, fit):
    """Run apply_rateints_outliers on a fit."""
    references = {"gain": ramps.gain, "readnoise": ramps.readnoise}
    exposure = Exposure(
        data=ramps.data, groupdq=ramps.groupdq, pixeldq=ramps.pixeldq, facts=ramps.facts,
        rate=products[0], rateints=products[1],
    )  # fmt: skip

    def again(exposure, references):
        small = replace(
            ramps, data=exposure.data, groupdq=exposure.groupdq, pixeldq=exposure.pixeldq,
            gain=references["gain"].data, readnoise=references["readnoise"].data,
        )  # fmt: skip
        exposure.rate, exposure.rateints = fit(small)

    named = {key: Reference(data=array) for key, array in references.items()}
    parameters = apply_rateints_outliers.STEP.settings()
    apply_rateints_outliers.run(exposure, named, parameters, BACKEND, fit=again)
    return exposure.rate, exposure.rateints


def reduce(
    ramps, *, corners=None, rows=False, sides=0, light=False, jump=True, groups=None, ints=None, fit=fit_ols,
    outliers=False, columns=True,
):  # fmt: skip
    """Reduce a copy of the ramps with the chosen steps; return the rate.

    Saturation grows with or without ``corners``; None is for stars that saturate no pixel.
    """
    ramps = ramps.copy()
    if corners is not None:
        grow(ramps, corners)
    if rows:
        subtract_rows(ramps, sides, light)
    if jump:
        find_jumps(ramps)
    if groups in LINEAR_MODELS:
        products = correct_linear(ramps, scenes.center(), groups, fit)
    else:
        if groups:
            subtract_ktc(ramps)
            subtract_1overf(ramps, groups)
        products = fit(ramps)
    if outliers:
        products = refit_outliers(ramps, products, fit)
    if ints == "jwst":
        products = correct_by_jwst(products, "median", ramps.facts.slowaxis)
    elif ints:
        products = correct_ints(products, ints, ramps.facts.slowaxis, vertical_corr=columns)
    return products[0]


#: name -> options of `reduce`
CHOICES = {
    "jwst defaults": {},
    "refpix rows": {"rows": True},
    "rows, jwst's clean_flicker_noise at ints": {"rows": True, "ints": "jwst"},
    "rows, 1/f median at ints": {"rows": True, "ints": "median"},
    "rows, 1/f median at ints, no columns": {"rows": True, "ints": "median", "columns": False},
    "rows, 1/f savgol at ints": {"rows": True, "ints": "savgol"},
    "rows, 1/f savgol at ints, no columns": {"rows": True, "ints": "savgol", "columns": False},
    "rows, 1/f fft at ints": {"rows": True, "ints": "fft"},
    "rows, 1/f savgol at groups": {"rows": True, "groups": "savgol"},
    "rows, kriging at groups": {"rows": True, "groups": "kriging"},
    "rows, LIKELY, kriging at groups": {"rows": True, "fit": fit_likely, "groups": "kriging"},
    "rows and sides, 1/f savgol at ints": {"rows": True, "sides": 4, "ints": "savgol"},
    "rows, 1/f savgol at ints, outliers": {"rows": True, "ints": "savgol", "outliers": True},
    "rows, LIKELY, 1/f savgol at ints": {"rows": True, "fit": fit_likely, "ints": "savgol"},
    "rows, jumpramp, 1/f savgol at ints": {"rows": True, "jump": False, "fit": fit_jumpramp, "ints": "savgol"},
}
QUICK = ("jwst defaults", "rows, kriging at groups", "rows, 1/f savgol at ints, outliers")
#: choices to which the goals apply; they are compared with all others
OWN = ("rows, kriging at groups", "rows, LIKELY, kriging at groups")


def measure(rates, lights, gain, star):
    """Measure 5-sigma noise relative to the star in rings, and the companion's flux in the difference over truth."""
    difference = ((rates[0].rate - rates[1].rate) * gain).astype(float)
    signal = lights[0] - lights[1]
    filtered, clean = filter_difference(difference, VIEW), is_clean(signal, VIEW)
    rings = [ring & clean for ring in VIEW.annuli()]
    noise = [5 * width(filtered[ring]) / star for ring in rings]
    per_pixel = [width(difference[ring]) for ring in rings]
    return noise, per_pixel, scenes.share_kept(difference, signal)


def measure_faint(ramps, before, roll, **options):
    """Measure the fraction that a choice keeps of each faint companion, from one roll with and without them."""
    # a quarter turn apart: what is kept depends on the noise at the place
    places = [(separation, angle + 90 * roll) for separation, angle in FAINT_COMPANIONS]
    parts = coronagraph_scenes.companions(FAINT, scenes.center(), places=places)
    change = (reduce(with_light(ramps, parts.sum(axis=0)), **options).rate - before.rate) * ramps.gain
    return [scenes.share_kept(change, part) for part in parts]


def run_case(case, options, choices):
    samples, faint = ({name: [] for name in choices} for _ in range(2))
    stars = STARS | STRONG_STARS
    for seed in range(1, options.seeds + 1):
        rolls = [observe_roll(case, seed, roll) for roll in (0, 1)]
        lights = [light for _, light in rolls]
        gain = rolls[0][0].gain
        for name in choices:
            rates = [reduce(ramps, **CHOICES[name]) for ramps, _ in rolls]
            samples[name].append(measure(rates, lights, gain, stars[case]))
            if seed <= KEPT_SEEDS:
                kept = [measure_faint(rolls[roll][0], rates[roll], roll, **CHOICES[name]) for roll in (0, 1)]
                faint[name].append(np.mean(kept, axis=0))
        print(case, seed, flush=True)
    result, per_flux = {}, {}
    for name, of_seeds in samples.items():
        parts = [over_seeds(part) for part in zip(*of_seeds, strict=True)]
        result[name] = dict(zip(("contrast", "scatter", "companion_kept"), parts, strict=True))
        # relative to the first choice on the same seeds, so that the scatter of the scenes cancels
        first = np.array([noise for noise, _, _ in samples[choices[0]]])
        ratios = np.array([noise for noise, _, _ in of_seeds]) / first
        result[name] |= {
            "ratio": over_seeds(ratios),
            "ratio_of_seed_1": ratios[0],
            "faint_kept": over_seeds(faint[name]),
        }
        # the mean of the seeds, as in companion_noise
        kept = [result[part]["faint_kept"]["mean"] for part in (name, choices[0])]
        per_flux[name] = ratios / kept[0] * kept[1]
        result[name]["per_flux"] = with_worst(per_flux[name], per_flux[name])
    for name in per_flux.keys() & {*OWN}:
        above = {other: per_flux[name] - per_flux[other] for other in choices if other not in OWN}
        result[name]["above"] = {other: with_worst(excess, excess) for other, excess in above.items()}
    return result


def show(case, choices):
    """Print the noise per kept flux relative to the first choice, and the fractions kept of faint companions."""
    print(f"\n{case}: noise per flux relative to the first choice; fraction kept of faint companions, %")
    for name, part in choices.items():
        pairs = zip(part["per_flux"]["mean"], part["per_flux"]["error"], strict=True)
        noise = "".join(f"{mean:7.3f}±{error:.3f}" for mean, error in pairs)
        print(f"{name:42}{noise}  {' '.join(f'{100 * share:.1f}' for share in part['faint_kept']['mean'])}", flush=True)


def main(argv=None):
    options = parse(__doc__, argv, seeds=20)
    known, stars = CASES | STRONG_CASES, STARS | STRONG_STARS
    cases = ("bright star",) if options.quick else tuple(known)
    choices = QUICK if options.quick else tuple(CHOICES)
    figures = {}
    for case in cases:
        figures[case] = run_case(case, options, choices)
        show(case, figures[case])
    names = ("readpatt", "ngroups", "nints", "one_over_f", "drift")
    settings = {case: dict(zip(names, known[case], strict=True)) | {"star": stars[case]} for case in cases}
    facts = {"rings": RINGS, "companion": CONTRAST, "faint_flux": FAINT * scenes.STAR, "settings": settings}
    return save("contrast", options, facts | {"cases": figures})


if __name__ == "__main__":
    main()
