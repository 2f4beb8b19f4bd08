"""MIRI: candidates for the recommended settings, each alone, from raw counts to the difference of two rolls.

Two exposures of a star behind a four-quadrant phase mask, with every effect that the simulator has, are written as raw
files with their references, and reduced as a user would. A parameter file switches emicorr on, as CRDS's does.

python benchmarks/validation/contrast_miri.py [--seeds 6] [--quick]
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
from common import PIXEL_SCALE, parse, save
from two_rolls import View, compare, measure

from gpucoron.dq import DO_NOT_USE
from gpucoron.engine import reduce_file
from gpucoron.simulate import Effects, ReferenceOptions, Scene, simulate, write_references
from gpucoron.simulate.detectors import DETECTORS

KIND = DETECTORS["MIRIMAGE"]
VIEW = View((96, 96), PIXEL_SCALE["MIRI"], KIND.fwhm, (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0))
SMALL = View((64, 64), PIXEL_SCALE["MIRI"], KIND.fwhm, (0.5, 1.0, 2.0, 3.0))
#: groups, integrations, star (e-/s without its mask), background (e-/s)
CASES = {
    "few groups": (8, 30, 3e7, 10.0),
    "saturated star": (60, 11, 3e8, 100.0),
    "faint star": (250, 4, 1e6, 10.0),
    "bright star": (60, 11, 3e7, 100.0),
}
HALO = 1e-4
#: of the companion: contrast (of a star that does not saturate), separation in arcsec, position angles in degrees
CONTRAST, SEPARATION, ANGLES = 1e-4, 2.0, (40.0, 50.0)
#: groups of the dark that is too short, relative to the exposure
SHORT = 0.5
EFFECTS = Effects(emi=True)
PARS = {"pars-emicorrstep": {"skip": False}}
ONE_SIDED = 6
SOUND = {"algorithm": "LIKELY", "jump_rules": "sound"}

BASE, SHORT_DARK = "jwst defaults", "short dark"
#: name -> (the choice with which it is compared, keywords of `reduce_file`, cases, all if empty)
CHOICES = {
    BASE: (BASE, {}, ()),
    "LIKELY": (BASE, {"steps": {"ramp_fit": {"algorithm": "LIKELY"}}}, ()),
    "LIKELY, sound rules": (BASE, {"steps": {"ramp_fit": SOUND}}, ()),
    "LIKELY, sound rules, one-sided": (
        "LIKELY, sound rules",
        {"steps": {"ramp_fit": SOUND | {"max_diffs_one_sided": ONE_SIDED}}},
        ("saturated star", "few groups"),
    ),
    "experimental_jumpramp": (BASE, {"steps": {"experimental_jumpramp": {"use": True}}}, ()),
    "recommended": (BASE, {"profile": "recommended"}, ()),
    "spaceklip profile": (BASE, {"profile": "spaceklip"}, ("few groups",)),
    "without emicorr": (BASE, {"steps": {"emicorr": {"skip": True}}}, ("faint star", "few groups")),
    "outliers with refit": (BASE, {"rate_int_outliers": True}, ("bright star", "few groups")),
    "saturation without corners": (BASE, {"steps": {"saturation": {"grow_diagonal": False}}}, ("saturated star",)),
    "without suppress_one_group": (BASE, {"steps": {"ramp_fit": {"suppress_one_group": False}}}, ("saturated star",)),
    "without dark": (BASE, {"steps": {"dark_current": {"skip": True}}}, ("few groups",)),
    "convert_average_dark": (BASE, {"steps": {"ramp_fit": {"convert_average_dark": True}}}, ("few groups",)),
    SHORT_DARK: (BASE, {}, ("few groups",)),
    "short dark, continue_by_line": (
        SHORT_DARK,
        {"steps": {"dark_current": {"continue_by_line": True}}},
        ("few groups",),
    ),
}
QUICK = (BASE, "recommended")


def observe_roll(case, seed, roll, view):
    """Simulate one roll; return the simulation and the light of its companion, e-/s."""
    ngroups, nints, star, background = CASES[case]
    scene = Scene(star=star, halo=HALO, background=background, companion_contrast=0.0)
    companion = view.companion(CONTRAST * min(star, 3e7), SEPARATION, ANGLES[roll])
    light = scene.render(view.shape, view.fwhm) + companion
    simulation = simulate(
        "MIRI", "MASK1550", "FASTR1", ngroups, nints, seed=1000 * (roll + 1) + seed, scene=light, shape=view.shape,
        effects=EFFECTS, exposure=roll + 1,
    )  # fmt: skip
    return simulation, companion


def image_of(path, gain, folder, settings):
    """Reduce a file; return rate and ERR in e-/s, NaN where they must not be used."""
    _, models, _ = reduce_file(path, folder, backend="cpu", save_results=False, **settings)
    rate = models["rate"]
    good = (rate.dq & DO_NOT_USE) == 0
    return [np.where(good, array, np.nan) * gain for array in (rate.data, rate.err)]


def write_caches(case, view, folder):
    """Write the references of a case, which do not depend on the seed, with a whole dark and with one that is short."""
    simulation, _ = observe_roll(case, 1, 0, view)
    groups = {"whole": None, "short": round(SHORT * CASES[case][0])}
    return {
        name: write_references(
            simulation, folder / name, pars=PARS,
            options=ReferenceOptions(average_dark_current="scalar", dark_groups=longest),
        )
        for name, longest in groups.items()
    }  # fmt: skip


def measure_seed(case, seed, choices, view, caches, folder):
    """Reduce the two rolls of a seed in all ways: choice -> what `measure` returns."""
    rolls = [observe_roll(case, seed, roll, view) for roll in (0, 1)]
    gain = rolls[0][0].pixels.gain
    paths = [simulation.write(folder) for simulation, _ in rolls]
    found = {}
    for name in choices:
        with caches["short" if name.startswith(SHORT_DARK) else "whole"].activate():
            images = [image_of(path, gain, folder, CHOICES[name][1]) for path in paths]
        rates, errors = zip(*images, strict=True)
        found[name] = measure(rates, errors, rolls[0][1] - rolls[1][1], CASES[case][2], view)
    return found


def run_case(case, options, choices, view):
    choices = [name for name in choices if case in (CHOICES[name][2] or CASES)]
    samples = {name: [] for name in choices}
    with tempfile.TemporaryDirectory() as folder:
        caches = write_caches(case, view, Path(folder))
        for seed in range(1, options.seeds + 1):
            with tempfile.TemporaryDirectory() as raw:
                for name, sample in measure_seed(case, seed, choices, view, caches, Path(raw)).items():
                    samples[name].append(sample)
            print(case, seed, flush=True)
    return compare(samples, {name: CHOICES[name][0] for name in choices}, view)


def main(argv=None):
    # from raw counts it takes longer than from ramps
    options = parse(__doc__, argv, seeds=6)
    logging.disable(logging.CRITICAL)
    cases, choices, view = (list(CASES)[:1], QUICK, SMALL) if options.quick else (list(CASES), list(CHOICES), VIEW)
    names = ("ngroups", "nints", "star", "background")
    settings = {case: dict(zip(names, CASES[case], strict=True)) for case in cases}
    figures = {}
    for case in cases:
        figures[case] = run_case(case, options, choices, view)
        # after every case, because all of them take long
        known = {name: settings[name] for name in figures}
        path = save("contrast_miri", options, {"rings": view.rings, "settings": known, "cases": figures}, digits=4)
    return path


if __name__ == "__main__":
    main()
