"""A star minus its reference, with all groups of the reference and without the late ones: picture and numbers.

python docs/pictures/mask_groups.py [folder]
"""

import numpy as np
from _shared import draw_images, main

from gpucoron.backends import get_backend
from gpucoron.simulate import Effects, simulate
from gpucoron.steps.mask_groups import Ramp, apply_mask, prepare_masks
from gpucoron.steps.ramp_fit import fit

BACKEND = get_backend("cpu")
SHAPE = (72, 72)
CENTER = (36, 36)
NGROUPS = 24
#: Brightness of the star, e-/s: 85 ke- at the end of a ramp, 170 ke- in the reference.
PEAK = 15000.0
#: Charge that moves across a side of a pixel, per incoming electron and electron of difference.
REPULSION = 2e-6
#: Columns shown: the star without the reference columns.
CROP, EXTENT = slice(16, 56), (15.5, 55.5, 15.5, 55.5)
OFF = ("dark", "superbias", "nonlinearity", "bad_pixels", "reset", "rscd", "last_frame")


def observe(peak, seed, nints=4):
    """Simulate a MIRI star of `peak` e-/s with the brighter-fatter effect; return (simulation, ramps in DN)."""
    y, x = np.indices(SHAPE) - (SHAPE[0] - 1) / 2
    r = np.hypot(x, y)
    scene = peak * (np.exp(-((r / 3) ** 2)) + 0.04 / (1 + (r / 8) ** 3)) + 100
    effects = Effects(**dict.fromkeys(OFF, False), cosmic_rays=0)
    simulation = simulate(
        "MIRI", "MASK1140", "FASTR1", NGROUPS, nints, seed=seed, scene=scene, effects=effects, shape=SHAPE
    )
    data = simulation.data.astype(np.float32) - simulation.pixels.bias
    return simulation, repel(data * simulation.pixels.gain) / simulation.pixels.gain


def repel(charge):
    """Move a fraction of the incoming charge to emptier neighbours, proportional to the difference; in e-."""
    charge = charge.copy()
    steps = np.diff(charge, axis=1)
    for group, step in enumerate(steps.swapaxes(0, 1), 1):
        full = charge[:, group - 1] + step / 2
        moved = step.copy()
        for axis in (1, 2):
            n = step.shape[axis]
            low, high = (slice(None),) * axis + (slice(n - 1),), (slice(None),) * axis + (slice(1, n),)
            flow = REPULSION * (full[high] - full[low]) * (step[high] + step[low]) / 2
            moved[low] += flow
            moved[high] -= flow
        charge[:, group] = charge[:, group - 1] + moved
    return charge


def make_rate(simulation, ramps, mask=None):
    groupdq = np.zeros(ramps.shape, np.uint8)
    if mask is not None:
        apply_mask(groupdq, mask, backend=BACKEND)
    pixels = simulation.pixels
    readnoise = (np.sqrt(2) * pixels.read_noise / pixels.gain).astype(np.float32)
    ramps = np.ascontiguousarray(ramps, np.float32)
    times = simulation.group_time
    return fit(ramps, groupdq, np.zeros(SHAPE, np.uint32), pixels.gain.astype(np.float32), readnoise, times)[0]


def measure():
    """Subtract the scaled reference from the star by each method: name -> (image, groups kept, rms, noise)."""
    star = observe(PEAK, 1)
    reference = observe(2 * PEAK, 2)
    science = [Ramp("star", "SCI", CENTER, star[1])]
    others = [Ramp("reference", "REF", CENTER, reference[1])]
    target = make_rate(*star)
    core = (slice(26, 46),) * 2
    results = {}
    for method in (None, "basic", "advanced"):
        mask = prepare_masks("1", science, others, mask_method=method)["reference"] if method else None
        rate = make_rate(*reference, mask)
        weight, background = np.polyfit(rate.rate[core].ravel(), target.rate[core].ravel(), 1)
        image = target.rate - weight * rate.rate - background
        noise = np.sqrt(np.mean((target.err**2 + (weight * rate.err) ** 2)[core]))
        kept = NGROUPS if mask is None else int((~mask[0]).sum(axis=0).min())
        results[method or "all groups"] = image, kept, image[core].std(), noise
    return results, target.rate[core].max()


def draw(path):
    results, peak = measure()
    panels = {name: 100 * image[CROP, CROP] / peak for name, (image, *_) in results.items()}
    draw_images(path, panels, "% of the star's peak", figsize=(10, 3.6), vmin=-1, vmax=1, extent=EXTENT, cmap="RdBu")


def measure_all():
    """Print the numbers of the page."""
    results, peak = measure()
    for name, (_, kept, rms, noise) in results.items():
        print(
            f"reference twice as bright, {name}: at least {kept} of {NGROUPS} groups, rms left "
            f"{100 * rms / peak:.3f} % of the peak, of which noise {100 * noise / peak:.3f} %"
        )


if __name__ == "__main__":
    main(__file__, draw, measure_all)
