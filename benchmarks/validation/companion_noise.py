"""Noise for companions after each correction of 1/f noise, relative to exposures without it, in rings around the star.

The noise is that of the matched filter of a companion on the rate minus the true rate, divided by the fraction of the
flux of companions that the correction keeps. The reference is the same exposure without 1/f noise and correction. A
second part measures kriging with a wrong spectrum of the noise (`wrong_spectrum`).

python benchmarks/validation/companion_noise.py [--seeds 20] [--quick] [--jobs 2] [--methods none,jwst]
    [--cases 1x10,6x6] [--strengths 1,3] [--only-scenes halo,spikes] [--scenes FILE.npz] [--kept-seeds 5]
    [--parts methods,spectrum]
"""

import logging
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import coronagraph_scenes
import numpy as np
import scenes
from common import find_jumps, fit_ols, observe, over_seeds, parse, save, width, with_worst
from corrections import METHODS, with_light
from wrong_spectrum import CASE, SCENE, WRONG

#: edges of the rings, arcsec
RINGS = (0.3, 1.0, 1.75, 2.5, 4.0)
#: integrations and groups, RAPID
CASES = ((1, 6), (1, 10), (1, 15), (6, 6))
#: 1/f noise relative to the usual one
STRENGTHS = (1.0, 3.0)
#: strength of an exposure without 1/f noise: it is drawn but negligible, so that all other noise is the same
NEGLIGIBLE = 1e-6
#: of companions, relative to the bright star; the first decides on the noise per flux
CONTRASTS = (1e-6, 1e-5)
#: peaks of the discs, e-/s
DISCS = (1.0, 10.0)
#: methods to which each method is compared on the same seeds
PEERS = ("none", "jwst")
#: the method to which the goals of the page apply: the seeds that show it worst are saved
OWN = "kriging"
PARTS = ("methods", "spectrum")


def simulate(case, strength, image, seed):
    """Simulate one exposure of a scene, with its jumps flagged."""
    nints, ngroups = case
    effects = {"one_over_f": strength, "cosmic_rays": 1.0}
    ramps = observe("NIRCAM", "RAPID", ngroups, nints, image, image.shape, seed=seed, effects=effects)
    find_jumps(ramps)
    return ramps


def list_lights(center, shape=scenes.SHAPE):
    """List the lights of which the kept fraction is measured: name -> (light, its parts), e-/s."""
    lights = {}
    for contrast in CONTRASTS:
        parts = coronagraph_scenes.companions(contrast, center, shape)
        lights[f"companions {contrast:g}"] = parts.sum(axis=0), parts
    for peak in DISCS:
        for name, draw in (("ring", scenes.disc), ("disc", coronagraph_scenes.extended_disc)):
            light = draw(peak, center, shape)
            lights[f"{name} {peak:g}"] = light, light[None]
    return lights


def list_rings(center, shape=scenes.SHAPE):
    """Return the pixels of each ring inside the image, (n, ny, nx) bool."""
    r = scenes.radius(center, shape)
    return np.array([(r >= low) & (r < high) for low, high in zip(RINGS[:-1], RINGS[1:], strict=True)])


def measure_noise(ramps, rate, center):
    """Measure a rate: noise of the matched filter in each ring, robust and rms, in e-/s, and the width of the pulls."""
    off = ((rate.rate - ramps.truth) * ramps.gain).astype(float)
    filtered, known = scenes.match(off), np.isfinite(off)
    rings = list_rings(center, off.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        pulls = (rate.rate - ramps.truth) / rate.err
    return {
        "noise": [width(filtered[ring & known]) for ring in rings],
        "rms": [np.std(filtered[ring & known]) for ring in rings],
        "pull": width(pulls[scenes.radius(center, off.shape) >= RINGS[0]]),
    }


def measure_kept(correct, ramps, before, center, names):
    """Measure the fraction of the named lights that a method keeps: of companions by ring, of discs as a whole."""
    separations = np.array([separation for separation, _ in coronagraph_scenes.COMPANIONS])
    of_ring = np.digitize(separations, RINGS) - 1
    kept = {}
    lights = list_lights(center, ramps.data.shape[-2:])
    for name in names:
        light, parts = lights[name]
        products = correct(with_light(ramps, light), center)
        if products is None:
            shares = np.full(len(parts), np.nan)
        else:
            change = (products[0].rate - before.rate) * ramps.gain
            shares = np.array([scenes.share_kept(change, part) for part in parts])
        single = len(parts) == 1
        kept[name] = float(shares[0]) if single else [shares[of_ring == k].mean() for k in range(len(RINGS) - 1)]
    return kept


def measure_seed(task):
    """Measure all methods on one seed; return one dict per strength, and seconds of each reduction."""
    case, (image, center), seed, strengths, methods, lights = task
    quiet = simulate(case, NEGLIGIBLE, image, seed)
    floor = measure_noise(quiet, fit_ols(quiet)[0], center)
    found, seconds = [], {name: [] for name in methods}
    for strength in strengths:
        ramps = simulate(case, strength, image, seed)
        of_methods = {}
        for name in methods:
            correct = (METHODS | WRONG)[name]
            start = perf_counter()
            products = correct(ramps, center)
            seconds[name].append(perf_counter() - start)
            if products is None:
                continue
            of_methods[name] = measure_noise(ramps, products[0], center)
            if lights and name != "none":
                of_methods[name]["kept"] = measure_kept(correct, ramps, products[0], center, lights)
        found.append({"floor": floor, "methods": of_methods})
    return found, seconds


def summarize(samples, names):
    """Average the seeds of one case, strength and scene."""
    floors = {kind: np.array([sample["floor"][kind] for sample in samples]) for kind in ("noise", "rms")}
    missing = {"noise": np.full(len(RINGS) - 1, np.nan), "rms": np.full(len(RINGS) - 1, np.nan), "pull": np.nan}
    ratios, methods = {}, {}
    for name in names:
        of_seeds = [sample["methods"].get(name, missing) for sample in samples]
        kept = average_kept(of_seeds)
        # the mean of the seeds: the noise of a single one would be that of the companions
        share = kept[f"companions {CONTRASTS[0]:g}"]["mean"] if kept else 1.0
        ratios[name] = np.array([part["noise"] for part in of_seeds]) / share / floors["noise"]
        pulls = np.array([part["pull"] for part in of_seeds])
        rms = np.array([part["rms"] for part in of_seeds]) / share / floors["rms"]
        methods[name] = {
            "ratio": with_worst(ratios[name], ratios[name]),
            "rms_ratio": over_seeds(rms)["mean"],
            "pull": with_worst(pulls, abs(pulls - 1)),
        }
        if kept:
            methods[name]["kept"] = kept
        gave_up = sum(part is missing for part in of_seeds)
        if gave_up:
            methods[name]["gave_up"] = gave_up
    for name, peer in product(names, PEERS):
        if peer in ratios and name != peer:
            excess = ratios[name] - ratios[peer]
            methods[name][f"above_{peer}"] = with_worst(excess, excess)
    pull = over_seeds([sample["floor"]["pull"] for sample in samples])
    for name in methods.keys() - {OWN}:
        drop_worst(methods[name])
    return {"floor": over_seeds(floors["noise"])["mean"], "floor_pull": pull, "methods": methods}


def average_kept(of_seeds):
    """Average the fractions kept of each light over the seeds on which they were measured."""
    measured = [(seed, part["kept"]) for seed, part in enumerate(of_seeds, 1) if "kept" in part]
    seeds = [seed for seed, _ in measured]
    kept = {}
    for light in measured[0][1] if measured else ():
        shares = np.array([part[light] for _, part in measured])
        kept[light] = with_worst(shares, -shares, seeds)
    return kept


def drop_worst(figures):
    """Drop the worst seeds from the figures, in place."""
    figures.pop("worst_seed", None)
    for part in figures.values():
        if isinstance(part, dict):
            drop_worst(part)


def summarize_wrong(samples):
    """Average the noise with each wrong spectrum per flux kept, relative to that with the measured one."""
    noise, kept = {}, {}
    for name in WRONG:
        of_seeds = [sample["methods"][name] for sample in samples]
        kept[name] = average_kept(of_seeds).get(f"companions {CONTRASTS[0]:g}")
        share = kept[name]["mean"] if kept[name] else 1.0
        noise[name] = np.array([part["noise"] for part in of_seeds]) / share
    first, *others = WRONG
    found = {}
    for name in others:
        relative = noise[name] / noise[first]
        found[name] = {"relative": with_worst(relative, relative), "kept": kept[name]}
    return found


def show(part, names):
    """Print the table of one case, strength and scene: noise of the rings, its mean as rms, pulls, fractions kept."""
    lights = list_lights(scenes.center())
    print(f"\n{part['nints']}x{part['ngroups']}, 1/f {part['strength']:g}, {part['scene']}")
    rings = "".join(f"{f'{low:g}-{high:g}':>14}" for low, high in zip(RINGS[:-1], RINGS[1:], strict=True))
    print(f"{'method':14}{rings}{'rms':>8}{'pull':>8}  kept %: {', '.join(lights)}")
    for name in names:
        method = part["methods"][name]
        pairs = zip(method["ratio"]["mean"], method["ratio"]["error"], strict=True)
        noise = "".join(f"{mean:8.3f}±{error:.3f}" for mean, error in pairs)
        kept = [np.atleast_1d(100 * method["kept"][light]["mean"]) for light in lights] if "kept" in method else []
        shown = "; ".join(" ".join(f"{value:.1f}" for value in values) for values in kept)
        print(f"{name:14}{noise}{np.mean(method['rms_ratio']):8.3f}{method['pull']['mean']:8.3f}  {shown}")


def main(argv=None):
    def words(text):
        return text.split(",")

    options = parse(
        __doc__, argv, seeds=20,
        more=[
            ("--jobs", {"type": int, "default": 1, "help": "processes over seeds"}),
            ("--methods", {"type": words, "default": list(METHODS), "help": "names, separated by commas"}),
            ("--cases", {"type": words, "default": None, "help": "integrations x groups, like 1x10,6x6"}),
            ("--strengths", {"type": words, "default": STRENGTHS, "help": "1/f noise relative to the usual one"}),
            ("--only-scenes", {"type": words, "default": None, "help": "names, separated by commas"}),
            ("--scenes", {"type": Path, "help": "npz file of further scenes"}),
            ("--parts", {"type": words, "default": PARTS, "help": f"of {', '.join(PARTS)}, separated by commas"}),
            ("--kept-seeds", {"type": int, "default": None, "help": "measure the kept flux on the first seeds only"}),
        ],
    )  # fmt: skip
    cases = [tuple(map(int, case.split("x"))) for case in options.cases] if options.cases else list(CASES)
    strengths = [float(strength) for strength in options.strengths]
    images = coronagraph_scenes.make_scenes(options.scenes)
    chosen = options.only_scenes or list(images)
    if options.quick:
        cases, strengths, chosen = cases[:1], strengths[-1:], chosen[:1]
    for given, known in ((options.methods, METHODS), (chosen, images), (options.parts, PARTS)):
        for name in {*given} - {*known}:
            msg = f"{name}: expected some of {', '.join(known)}"
            raise ValueError(msg)
    n_kept = options.seeds if options.kept_seeds is None else options.kept_seeds
    wanted = list(product(cases, chosen)) if "methods" in options.parts else []
    lights = list(list_lights(scenes.center()))
    seeds = range(1, options.seeds + 1)
    tasks = [
        (case, images[scene], seed, strengths, options.methods, lights if seed <= n_kept else ())
        for case, scene in wanted
        for seed in seeds
    ]
    with_spectrum = "spectrum" in options.parts
    if with_spectrum:
        tasks += [
            (CASE, images[SCENE], seed, strengths, list(WRONG), lights[:1] if seed <= n_kept else ()) for seed in seeds
        ]
    if options.jobs > 1:
        with ProcessPoolExecutor(
            options.jobs, get_context("spawn"), initializer=logging.disable, initargs=(logging.WARNING,)
        ) as pool:
            figures = collect(pool.map(measure_seed, tasks), wanted, strengths, options, with_spectrum)
    else:
        figures = collect(map(measure_seed, tasks), wanted, strengths, options, with_spectrum)
    shapes = {scene: images[scene][0].shape for scene in chosen}
    setting = {"rings": RINGS, "contrasts": CONTRASTS, "discs": DISCS, "star": scenes.STAR, "shapes": shapes}
    return save("companion_noise", options, setting | figures, digits=4)


def collect(results, wanted, strengths, options, with_spectrum):
    """Summarize and show the results of the tasks, in their order, as soon as all seeds of a case are there."""
    parts, wrong = [], []
    for case, scene in wanted:
        of_seeds = [next(results) for _ in range(options.seeds)]
        for k, strength in enumerate(strengths):
            part = {"nints": case[0], "ngroups": case[1], "strength": strength, "scene": scene}
            part |= summarize([found[k] for found, _ in of_seeds], options.methods)
            show(part, options.methods)
            parts.append(part)
        medians = {name: np.median([seconds[name] for _, seconds in of_seeds]) for name in options.methods}
        print("s per reduction: " + ", ".join(f"{name} {value:.3f}" for name, value in medians.items()), flush=True)
    of_seeds = list(results) if with_spectrum else []
    for k, strength in enumerate(strengths if with_spectrum else ()):
        methods = summarize_wrong([found[k] for found, _ in of_seeds])
        wrong.append({"strength": strength, "methods": methods})
        print(f"\nspectrum pretended wrong, {CASE[0]}x{CASE[1]}, 1/f {strength:g}, {SCENE}: relative noise")
        for name, method in methods.items():
            pairs = zip(method["relative"]["mean"], method["relative"]["error"], strict=True)
            print(f"{name:14}" + "".join(f"{mean:8.3f}±{error:.3f}" for mean, error in pairs), flush=True)
    spectrum = {"nints": CASE[0], "ngroups": CASE[1], "scene": SCENE, "cases": wrong}
    return {"cases": parts} | ({"wrong_spectrum": spectrum} if with_spectrum else {})


if __name__ == "__main__":
    main()
