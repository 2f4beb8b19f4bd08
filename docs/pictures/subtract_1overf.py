"""Count rates before and after subtract_1overf, its residual noise and its losses: picture and numbers of its page.

python docs/pictures/subtract_1overf.py [folder]
"""

import numpy as np
from _shared import QUIET, draw_images, main

from gpucoron.simulate import Effects, Scene, simulate
from gpucoron.steps.subtract_1overf import MODEL_TYPES, noise_of_ramp, noise_of_rateints, protect_sources
from gpucoron.steps.subtract_ktc import fit_ktc

SHAPE = (320, 320)
COMPANION = (195, 135)


def observe(nints, *, seed=1, one_over_f=3.0):
    """Simulate linear ramps of a coronagraph; return (simulation, arguments of fit_ktc)."""
    effects = Effects(**QUIET, cosmic_rays=0, one_over_f=one_over_f)
    scene = Scene(halo=1e-5, companion_contrast=0.0)
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", 5, nints, seed=seed, scene=scene, effects=effects)
    data = simulation.data.astype(np.float32) - simulation.pixels.kind.bias
    saturation = np.full(SHAPE, 4e4, np.float32)
    return simulation, (data, np.zeros(data.shape, np.uint8), saturation, simulation.group_time)


def fit_rates(*ramp):
    return fit_ktc(*ramp)[1].astype(np.float32)


def rms_of_rows(images):
    rows = images.mean(axis=-1)
    return np.sqrt(np.mean((rows - rows.mean(axis=-1, keepdims=True)) ** 2))


def measure_noise_left(nints):
    """Measure the 1/f noise left in rows of the rates, as a fraction: model -> (at 'groups', at 'ints')."""
    simulation, ramp = observe(nints)
    rates, truth = fit_rates(*ramp), fit_rates(simulation.truth.one_over_f, *ramp[1:])
    dq = np.zeros(rates.shape, np.uint32)
    left = {}
    for model_type in MODEL_TYPES:
        noise = noise_of_ramp(*ramp, model_type=model_type)
        at_groups = truth - fit_rates(noise, *ramp[1:])
        at_ints = truth - noise_of_rateints(rates, dq, model_type=model_type)
        left[model_type] = rms_of_rows(at_groups) / rms_of_rows(truth), rms_of_rows(at_ints) / rms_of_rows(truth)
    return left


def make_sources():
    """Make a companion and a disc at an angle, in units of their peak."""
    yy, xx = np.indices(SHAPE)
    companion = np.exp(-((xx - COMPANION[0]) ** 2 + (yy - COMPANION[1]) ** 2) / 2)
    r = np.hypot(xx - 160, (yy - 160) / 0.6)
    return companion.astype(np.float32), np.exp(-(((r - 30) / 6) ** 2)).astype(np.float32)


def measure_loss(nints, light, protected=None, n_draws=8):
    """Measure the fraction of a source's flux that the correction removes, and its error, over noise draws."""
    losses = []
    for seed in range(1, n_draws + 1):
        rates = fit_rates(*observe(nints, seed=seed)[1])
        dq = np.zeros(rates.shape, np.uint32)
        taken = noise_of_rateints(rates + light, dq, protected=protected)
        taken -= noise_of_rateints(rates, dq, protected=protected)
        losses.append((taken.mean(axis=0) * light).sum() / (light * light).sum())
    return np.mean(losses), np.std(losses) / np.sqrt(n_draws)


def draw(path):
    simulation, ramp = observe(6)
    rates = fit_rates(*ramp)
    noise = noise_of_rateints(rates, np.zeros(rates.shape, np.uint32))
    before = rates[0] - simulation.truth.rate - simulation.truth.dark_rate
    panels = {"before, minus the truth": before, "fitted noise": noise[0], "after, minus the truth": before - noise[0]}
    draw_images(path, panels, "DN/s", figsize=(10, 3.6), vmin=-4, vmax=4, cmap="RdBu")


def measure_all():
    """Print the numbers of the page."""
    for nints in (1, 2, 6):
        for model_type, (at_groups, at_ints) in measure_noise_left(nints).items():
            print(f"{nints} integrations, {model_type:6}: left at groups {at_groups:.2f}, at ints {at_ints:.2f}")
    companion, disc = make_sources()
    masks = {"": (None, None), " protected": (protect_sources(SHAPE, COMPANION), disc > 0.01)}
    for nints in (1, 2, 6):
        for word, protected in masks.items():
            for peak, name, light, mask in (
                (60, "companion", companion, protected[0]),
                (2, "disc", disc, protected[1]),
                (10, "disc", disc, protected[1]),
            ):
                loss, error = measure_loss(nints, light * np.float32(peak), mask)
                print(
                    f"{nints} integrations, {name} of {peak} DN/s{word}: lost {100 * loss:.2f} +- {100 * error:.2f} %"
                )


if __name__ == "__main__":
    main(__file__, draw, measure_all)
