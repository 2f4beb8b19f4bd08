"""Effects of spaceKLIP's other steps on the rate: kTC, pseudo-reference pixels, growth, refits, group masks.

python benchmarks/validation/custom.py [--seeds 20] [--quick]
"""

import sys
from pathlib import Path

import numpy as np
import scenes
from common import find_jumps, fit_ols, grow, observe, over_seeds, parse, save, spill, width
from contrast import refit_outliers, subtract_ktc, subtract_rows
from scipy.ndimage import binary_dilation
from subtract_1overf import correct_ints

from gpucoron.dq import SATURATED
from gpucoron.simulate import Scene
from gpucoron.steps.mask_groups import Ramp, prepare_masks

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "pictures"))
import mask_groups as bright_fatter

#: rms of the pedestal from group to group, DN
DRIFTS = (0.0, 2.0, 5.0)
#: fractions of the charge above the full well that spill into each neighbour
SPILLS = (0.0, 0.01)
#: brightness of the reference relative to the science target
BRIGHTNESSES = (1.0, 1.5, 2.0)
SMALL = (72, 72)


def rms(values):
    return float(np.sqrt(np.nanmean(np.square(values))))


def measure_ktc(seed):
    """Measure the scatter over integrations of the first group and of the rate, with pedestals and without."""
    scene = Scene(star=scenes.STAR, halo=1e-5, companion_contrast=0.0)
    ramps = observe("NIRCAM", "RAPID", 10, 4, scene, SMALL, seed=seed, effects={"one_over_f": 0.0})
    find_jumps(ramps)
    before, rate = ramps.data[:, 0].std(axis=0, ddof=1), fit_ols(ramps)[0]
    subtract_ktc(ramps)
    after, same = ramps.data[:, 0].std(axis=0, ddof=1), fit_ols(ramps)[0]
    change = abs(same.rate - rate.rate) / rate.err
    return {
        "first_group": [rms(before), rms(after)],
        "scatter": [width(r.rate - ramps.truth) for r in (rate, same)],
        "largest_change_in_sigma": float(np.nanmax(change)),
    }


def measure_refpix(seed):
    """Measure offset and scatter of the rate beyond 1 arcsec: drift x (none, rows, sides; each without, with 1/f)."""
    scene = Scene(star=scenes.STAR, halo=1e-5, companion_contrast=0.0)
    ramps = observe("NIRCAM", "RAPID", 6, 4, scene, scenes.SHAPE, seed=seed)
    outside = scenes.radius() > 1.0
    rng = np.random.default_rng(seed)
    unit = rng.standard_normal((*ramps.data.shape[:2], 1, 1)).astype(np.float32)
    errors = []
    for drift in DRIFTS:
        row = []
        for sides in (None, 0, 4):
            changed = ramps.copy()
            changed.data += np.float32(drift) * unit
            if sides is not None:
                subtract_rows(changed, sides)
            find_jumps(changed)
            products = fit_ols(changed)
            for rate in (products[0], correct_ints(products, "savgol", changed.facts.slowaxis)[0]):
                off = (rate.rate - changed.truth)[outside]
                row.append([np.nanmedian(off), width(off)])
        errors.append(row)
    return {"offset_and_scatter": errors}


def measure_growth(seed):
    """Measure the pulls of pixels beside saturated ones: spill x growth x (bias, width, groups lost)."""
    figures = []
    for share in SPILLS:
        row = []
        for growth in ("none", "sides", "corners"):
            scene = Scene(star=4e8, companion_contrast=0.0)
            ramps = observe("NIRCAM", "RAPID", 10, 2, scene, SMALL, seed=seed, effects={"one_over_f": 0.0})
            spill(ramps, share)
            own = ((ramps.groupdq & SATURATED) != 0).any(axis=(0, 1))
            beside = binary_dilation(own) & ~own
            if growth != "none":
                grow(ramps, growth == "corners")
            find_jumps(ramps)
            rate, _ = fit_ols(ramps)
            off = (rate.rate - ramps.truth)[beside]
            lost = (ramps.groupdq[:, :, beside] & SATURATED) != 0
            row.append([np.nanmedian(off / ramps.truth[beside]), width(off / rate.err[beside]), lost.mean()])
        figures.append(row)
    return {"beside": figures}


def measure_outliers(seed):
    """Measure the errors of normal pixels, pixels with cosmic rays, and telegraph pixels, before and after a refit."""
    scene = np.full(SMALL, 3.0, np.float32)
    effects = {"one_over_f": 0.0, "cosmic_rays": 20.0}
    ramps = observe("NIRCAM", "RAPID", 6, 12, scene, SMALL, seed=seed, effects=effects)
    rng = np.random.default_rng(seed)
    hit, telegraph = np.zeros(SMALL, bool), rng.random(SMALL) < 0.03
    hits = ramps.simulation.truth.cosmic_rays
    hit[hits["y"], hits["x"]] = True
    # in one of ten integrations, a telegraph pixel switches between two levels 200 electrons apart, early to late
    active = telegraph & (rng.random((12, *SMALL)) < 0.1)
    level = np.sort(rng.random((12, 6, *SMALL)), axis=1) * active[:, None]
    ramps.data += (200 * level / ramps.gain).astype(np.float32)
    find_jumps(ramps)
    products = fit_ols(ramps)
    before = products[0].rate.copy()
    after = refit_outliers(ramps, products, fit_ols)[0].rate
    classes = {"plain": ~hit & ~telegraph, "hit": hit & ~telegraph, "telegraph": telegraph}
    return {
        name: [rms(((rate - ramps.truth) * ramps.gain)[where]) for rate in (before, after)]
        for name, where in classes.items()
    }


def measure_masks(seed):
    """Measure the residual of a scaled reference as the pixels of its star fill: brightness x (all, basic)."""
    star = bright_fatter.observe(bright_fatter.PEAK, 2 * seed)
    target = bright_fatter.make_rate(*star)
    core = (slice(26, 46),) * 2
    peak = target.rate[core].max()
    left = []
    for brightness in BRIGHTNESSES:
        reference = bright_fatter.observe(brightness * bright_fatter.PEAK, 2 * seed + 1)
        science = [Ramp("star", "SCI", bright_fatter.CENTER, star[1])]
        others = [Ramp("reference", "REF", bright_fatter.CENTER, reference[1])]
        mask = prepare_masks("1", science, others, mask_method="basic")["reference"]
        row = []
        for chosen in (None, mask):
            rate = bright_fatter.make_rate(*reference, chosen)
            weight, background = np.polyfit(rate.rate[core].ravel(), target.rate[core].ravel(), 1)
            image = target.rate - weight * rate.rate - background
            noise = rms(np.sqrt(target.err**2 + (weight * rate.err) ** 2)[core])
            row.append([image[core].std() / peak, noise / peak])
        left.append(row)
    return {"left_and_noise": left}


STUDIES = {
    "ktc": measure_ktc,
    "refpix": measure_refpix,
    "growth": measure_growth,
    "outliers": measure_outliers,
    "masks": measure_masks,
}


def main(argv=None):
    options = parse(__doc__, argv, seeds=20)
    figures = {}
    for name, measure in STUDIES.items():
        samples = [measure(seed) for seed in range(1, options.seeds + 1)]
        figures[name] = {key: over_seeds([sample[key] for sample in samples]) for key in samples[0]}
        print(name, flush=True)
    settings = {"drifts": DRIFTS, "spills": SPILLS, "brightnesses": BRIGHTNESSES}
    return save("custom", options, settings | figures)


if __name__ == "__main__":
    main()
