"""Rates with cosmic rays before and after experimental_jumpramp, and the jumps that it finds: picture and numbers.

python docs/pictures/experimental_jumpramp.py [folder]
"""

import numpy as np
from _shared import QUIET, draw_images, main

from gpucoron.backends import get_backend
from gpucoron.dq import JUMP_DET
from gpucoron.simulate import Effects, simulate
from gpucoron.steps.experimental_jumpramp import fit_without_jumps
from gpucoron.steps.jump import flag_jumps

BACKEND = get_backend("cpu")
SHAPE = (160, 160)
SIZES = ((30, 100), (100, 300), (300, 1000), (1000, np.inf))


def observe(readpatt, ngroups, nints, electrons, *, cosmic_rays, seed=1):
    """Simulate linear ramps of a flat scene: (simulation, arguments of the step's function)."""
    effects = Effects(**QUIET, cosmic_rays=cosmic_rays, one_over_f=0)
    scene = np.full(SHAPE, electrons, np.float32)
    simulation = simulate(
        "NIRCAM", "SUB320A335R", readpatt, ngroups, nints, seed=seed, scene=scene, effects=effects, shape=SHAPE
    )
    pixels = simulation.pixels
    data = simulation.data.astype(np.float32)
    arrays = {
        "data": data,
        "groupdq": np.zeros(data.shape, np.uint8),
        "pixeldq": np.zeros(data.shape[2:], np.uint32),
        "gain": pixels.gain.astype(np.float32),
        "readnoise": (pixels.read_noise / pixels.gain * np.sqrt(2)).astype(np.float32),
    }
    times = {name: getattr(simulation, name) for name in ("frame_time", "group_time", "nframes")}
    return simulation, arrays, times


def search_by_likelihood(arrays, times):
    fit_without_jumps(**arrays, **times, backend=BACKEND)


def search_by_differences(arrays, times):
    inputs = (arrays["data"], arrays["groupdq"], arrays["gain"], arrays["readnoise"])
    flag_jumps(*inputs, backend=BACKEND, nframes=times["nframes"], flag_4_neighbors=False)


def measure(search, readpatt, electrons):
    """Measure the fraction of jumps found, by size, and the false alarms per million differences."""
    ngroups = 10
    simulation, arrays, times = observe(readpatt, ngroups, 6, electrons, cosmic_rays=20.0)
    search(arrays, times)
    found = arrays["groupdq"] & JUMP_DET != 0
    # With several frames, a hit may be in its group, in the next, or in both.
    near = found.copy()
    near[:, :-1] |= found[:, 1:]
    hits = simulation.truth.cosmic_rays
    hits = hits[hits["group"] > 0]
    at = (hits["integration"], hits["group"], hits["y"], hits["x"])
    shares = []
    for low, high in SIZES:
        chosen = (hits["electrons"] >= low) & (hits["electrons"] < high)
        shares.append(near[tuple(index[chosen] for index in at)].mean())
    _, arrays, times = observe(readpatt, ngroups, 6, electrons, cosmic_rays=0.0, seed=2)
    search(arrays, times)
    return shares, 1e6 * np.count_nonzero(arrays["groupdq"] & JUMP_DET) / arrays["groupdq"][:, 1:].size


def draw(path):
    simulation, arrays, times = observe("DEEP8", 8, 1, 2.0, cosmic_rays=4.0)
    span = times["group_time"] * 7
    before = (arrays["data"][0, -1] - arrays["data"][0, 0]) / span
    rate, _ = fit_without_jumps(**arrays, **times, backend=BACKEND)
    panels = {"last minus first group": before, "experimental_jumpramp": rate.rate}
    draw_images(path, panels, "DN/s", vmin=0, vmax=2.5, cmap="viridis")


def measure_all():
    """Print the numbers of the page."""
    sizes = ", ".join(f"{low} to {high}" for low, high in SIZES)
    print(f"jumps found, by their electrons ({sizes}); false alarms in a million differences")
    for readpatt, brightnesses in (("RAPID", (1.0, 30.0, 1000.0)), ("DEEP8", (0.1, 3.0, 100.0))):
        for electrons in brightnesses:
            for name, search in (("jump", search_by_differences), ("likelihood", search_by_likelihood)):
                shares, alarms = measure(search, readpatt, electrons)
                print(
                    f"{readpatt} {electrons:6g} e-/s {name:10}", *(f"{share:.3f}" for share in shares), f"{alarms:.0f}"
                )


if __name__ == "__main__":
    main(__file__, draw, measure_all)
