"""Rates with afterglow before and after apply_rateints_outliers: the picture and the numbers of its page.

python docs/pictures/apply_rateints_outliers.py [folder]
"""

import numpy as np
from _shared import QUIET, draw_images, main

from gpucoron.backends import get_backend
from gpucoron.facts import Facts
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import Reference
from gpucoron.simulate import Effects, simulate
from gpucoron.steps import apply_rateints_outliers, ramp_fit
from gpucoron.steps.jump import flag_jumps

BACKEND = get_backend("cpu")
SHAPE = (96, 96)
NGROUPS, NINTS = 10, 20
N_EVENTS = 15
#: Afterglow of a large event: electrons in its first group, and its decay time in groups.
BRIGHTEST, DECAY = 50.0, 10.0


def observe(seed=1):
    """Simulate linear ramps with the afterglow of large events in the previous integration.

    Returns the exposure, its references, the true rate with dark current and a mask of the ramps with afterglow.
    """
    effects = Effects(**QUIET, one_over_f=0)
    scene = np.full(SHAPE, 2.0, np.float32)
    simulation = simulate(
        "NIRCAM", "SUB320A335R", "RAPID", NGROUPS, NINTS, seed=seed, scene=scene, effects=effects, shape=SHAPE
    )
    pixels, data = simulation.pixels, simulation.data.astype(np.float32)
    glow = draw_glow(np.random.default_rng(seed))
    data += glow / pixels.gain
    exposure = Exposure(
        data=data,
        groupdq=np.zeros(data.shape, np.uint8),
        pixeldq=np.zeros(SHAPE, np.uint32),
        facts=Facts("NIRCAM"),
    )
    references = {
        "gain": Reference(data=pixels.gain.astype(np.float32)),
        "readnoise": Reference(data=(np.sqrt(2) * pixels.read_noise / pixels.gain).astype(np.float32)),
    }

    def fit(exposure, references):
        arrays = (exposure.data, exposure.groupdq, exposure.pixeldq)
        noise = references["gain"].data, references["readnoise"].data
        exposure.rate, exposure.rateints = ramp_fit.fit(*arrays, *noise, simulation.group_time, backend=BACKEND)

    truth = simulation.truth.rate + simulation.truth.dark_rate
    return exposure, references, fit, truth, glow[:, -1] > 0


def draw_glow(rng):
    """Draw round patches of decaying charge, each in one integration: (nints, ngroups, ny, nx) float32, e-."""
    y, x = np.indices(SHAPE)
    released = DECAY * (1 - np.exp(-np.arange(1, NGROUPS + 1) / DECAY))
    glow = np.zeros((NINTS, NGROUPS, *SHAPE), np.float32)
    for _ in range(N_EVENTS):
        y0, x0 = rng.uniform(8, 88, 2)
        patch = np.hypot(y - y0, x - x0) < rng.uniform(3, 7)
        strength = rng.uniform(0.5, 1) * BRIGHTEST
        glow[rng.integers(NINTS)] += strength * released[:, None, None] * patch
    return glow


def reduce(observed):
    """Run jump, ramp_fit and the step: (rate before, rate after, outliers)."""
    exposure, references, fit, *_ = observed
    gain, readnoise = (references[name].data for name in ("gain", "readnoise"))
    flag_jumps(exposure.data, exposure.groupdq, gain, readnoise, backend=BACKEND)
    fit(exposure, references)
    before = exposure.rate.rate.copy()
    outliers = apply_rateints_outliers.find_outliers(exposure.rateints.rate)
    parameters = apply_rateints_outliers.STEP.settings()
    apply_rateints_outliers.run(exposure, references, parameters, BACKEND, fit=fit)
    return before, exposure.rate.rate, outliers


def draw(path):
    observed = observe()
    before, after, _ = reduce(observed)
    truth = observed[3]
    panels = {"before, minus the truth": before - truth, "after, minus the truth": after - truth}
    draw_images(path, panels, "DN/s", vmin=-1.5, vmax=1.5, cmap="RdBu")


def measure_all():
    """Print the numbers of the page."""
    observed = observe()
    before, after, outliers = reduce(observed)
    truth, glowing = observed[3:]
    touched = glowing.any(axis=0)
    for name, where in (("under a glow", touched), ("elsewhere", ~touched)):
        scatter = [np.sqrt(np.mean((rate - truth)[where] ** 2)) for rate in (before, after)]
        print(f"{name}: {where.sum()} pixels, rms error {scatter[0]:.3f} to {scatter[1]:.3f} DN/s")
    print(
        f"outliers among {glowing.sum()} glowing ramps: {np.count_nonzero(outliers & glowing)}, "
        f"among {np.count_nonzero(~glowing)} others: {np.count_nonzero(outliers & ~glowing)}"
    )


if __name__ == "__main__":
    main(__file__, draw, measure_all)
