"""A ramp's first group before and after subtract_ktc, and the pedestal's error: picture and numbers of its page.

python docs/pictures/subtract_ktc.py [folder]
"""

import numpy as np
from _shared import QUIET, draw_images, main

from gpucoron.simulate import Effects, simulate
from gpucoron.steps.subtract_ktc import fit_ktc


def observe(ngroups, **options):
    """Simulate linear ramps; return (simulation, arguments of fit_ktc)."""
    effects = Effects(**QUIET, cosmic_rays=0, one_over_f=0)
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", ngroups, 2, seed=1, effects=effects, **options)
    data = simulation.data.astype(np.float32) - simulation.pixels.kind.bias
    saturation = np.full(data.shape[2:], 4e4, np.float32)
    return simulation, (data, np.zeros(data.shape, np.uint8), saturation, simulation.group_time)


def draw(path):
    simulation, ramp = observe(10)
    pedestal, _ = fit_ktc(*ramp)
    first = ramp[0][0, 0]
    panels = {"first group": first, "first group minus pedestal": first - pedestal[0]}
    draw_images(path, panels, "DN", vmin=-80, vmax=400, cmap="viridis")


def measure_all():
    """Print the numbers of the page."""
    for n in (2, 3, 5, 10, 20):
        simulation, ramp = observe(n, scene=np.float32(0))
        error = fit_ktc(*ramp)[0] - simulation.truth.ktc
        noise = (simulation.pixels.read_noise / simulation.pixels.gain).mean()
        expected = noise * np.sqrt((4 * n + 2) / (n * (n - 1)))
        kind = f"error {error.std():.2f} DN, expected {expected:.2f}"
        print(f"{n} groups: kTC {simulation.truth.ktc.std():.1f} DN, {kind}")


if __name__ == "__main__":
    main(__file__, draw, measure_all)
