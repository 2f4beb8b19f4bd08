"""1/f noise after each model, along and across rows and in the rate, and the flux that it removes from a source.

python benchmarks/validation/subtract_1overf.py [--seeds 20] [--quick]
"""

from types import SimpleNamespace

import numpy as np
import scenes
from common import find_jumps, fit_ols, observe, over_seeds, parse, save
from corrections import correct_by_jwst, correct_groups, correct_ints, with_light

from gpucoron.simulate import Scene
from gpucoron.steps.subtract_1overf import MODEL_TYPES

NGROUPS = 6
#: integrations of the two observations
NINTS = (6, 1)
STRENGTH = 3.0
CONTRASTS = (1e-6, 1e-5, 1e-4)
#: peak of the sources, e-/s
DISCS = (1.0, 10.0)
#: bins of the power spectra, cycles per pixel
EDGES = np.geomspace(1 / 160, 0.5, 11)
#: methods of jwst; its 'fft' is for NIRSpec only
PEERS = ("median",)


def simulate(seed, nints, one_over_f=STRENGTH):
    scene = Scene(star=scenes.STAR, halo=1e-5, companion_contrast=0.0)
    effects = {"one_over_f": one_over_f, "cosmic_rays": 1.0}
    ramps = observe("NIRCAM", "RAPID", NGROUPS, nints, scene, scenes.SHAPE, seed=seed, effects=effects)
    find_jumps(ramps)
    return ramps


def list_ways(peers):
    """List all corrections: name -> function of the ramps."""
    ways = {"none": fit_ols}
    for model_type in MODEL_TYPES:
        ways[f"{model_type}, groups"] = lambda ramps, m=model_type: correct_groups(ramps, m)
        ways[f"{model_type}, ints"] = lambda ramps, m=model_type: correct_ints(fit_ols(ramps), m, ramps.facts.slowaxis)
    for method in peers:
        ways[f"jwst {method}"] = lambda ramps, m=method: correct_by_jwst(fit_ols(ramps), m, ramps.facts.slowaxis)
    return ways


def spectrum(image, axis):
    """Average the power along an axis over the other: ``(bins,)`` (DN/s)^2 per cycle; NaN is replaced by the median."""
    image = np.where(np.isfinite(image), image, np.nanmedian(image)).astype(float)
    image = np.moveaxis(image, axis, -1)
    power = abs(np.fft.rfft(image - image.mean(), axis=-1)) ** 2 / image.shape[-1]
    frequency = np.fft.rfftfreq(image.shape[-1])
    mean = power.mean(axis=0)
    bins = np.digitize(frequency, EDGES)
    return [mean[bins == k].mean() if (bins == k).any() else np.nan for k in range(1, EDGES.size)]


def measure_noise(ramps, products):
    rate, rateints = products
    # where the star's photon noise is low, so that residual 1/f noise is visible
    quiet = np.where(scenes.radius() > 1.0, 1.0, np.nan)
    off = (rateints.rate[0] - ramps.truth) * quiet
    rows = np.nanmean(off, axis=1)
    final = rate.rate - ramps.truth
    return {
        "rows_rms": float(np.std(rows)),
        "along": spectrum(off, 1),
        "across": spectrum(off, 0),
        "scatter": scenes.scatter_at(final - np.nanmedian(final[scenes.radius() > 3])),
    }


def measure_sources(correct, ramps, before, lights):
    """Measure the fraction of each light that is preserved."""
    kept = {}
    for name, (light, parts) in lights.items():
        products = correct(with_light(ramps, light))
        change = (products[0].rate - before[0].rate) * ramps.gain
        kept[name] = [scenes.share_kept(change, part) for part in parts]
    return kept


def run_case(nints, options, contrasts, discs):
    lights = {}
    for contrast in contrasts:
        found = scenes.companions(contrast)
        lights[f"companion {contrast:g}"] = found.sum(axis=0), found
    for peak in discs:
        lights[f"disc {peak:g}"] = scenes.disc(peak), [scenes.disc(peak)]
    ways = list_ways(PEERS)
    noise, kept, gave_up = {}, {}, dict.fromkeys(ways, 0)
    for seed in range(1, options.seeds + 1):
        ramps = simulate(seed, nints)
        floor = simulate(seed, nints, one_over_f=0.0)
        noise.setdefault("no 1/f noise", []).append(measure_noise(floor, fit_ols(floor)))
        for name, correct in ways.items():
            products = correct(ramps)
            if products is None:
                gave_up[name] += 1
                continue
            noise.setdefault(name, []).append(measure_noise(ramps, products))
            if name != "none":
                kept.setdefault(name, []).append(measure_sources(correct, ramps, products, lights))
        print(nints, seed, flush=True)

    def average(samples):
        return {key: over_seeds([sample[key] for sample in samples]) for key in samples[0]}

    return {
        "nints": nints,
        "noise": {name: average(samples) for name, samples in noise.items()},
        "rows_rms_of_seed_1": {name: samples[0]["rows_rms"] for name, samples in noise.items()},
        "kept": {name: average(samples) for name, samples in kept.items()},
        "gave_up": {name: n for name, n in gave_up.items() if n},
    }


def main(argv=None):
    options = parse(__doc__, argv, seeds=20)
    few = options.quick
    cases = [
        run_case(nints, options, CONTRASTS[-1:] if few else CONTRASTS, DISCS[-1:] if few else DISCS)
        for nints in (NINTS[:1] if few else NINTS)
    ]
    setting = SimpleNamespace(ngroups=NGROUPS, strength=STRENGTH, separations=scenes.SEPARATIONS, edges=EDGES)
    return save("subtract_1overf", options, {**vars(setting), "star": scenes.STAR, "cases": cases})


if __name__ == "__main__":
    main()
