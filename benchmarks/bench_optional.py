"""Time steps and products that are off by default, of jwst and gpucoron, in turn in one warm process.

python benchmarks/bench_optional.py [--only snowballs refpix] [--repeat 3] [--threads N] [--save]

Each row is the time of one step of a pipeline in which the steps that it does not need are skipped. The exposures for
the searches for events have snowballs or showers of several sizes.
"""

import argparse
import logging
import statistics
import tempfile
import warnings
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np

NIRCAM = ("NIRCAM", "SUB320A335R", "RAPID", 10, 20)
NIRCAM_FULL = ("NIRCAM", "FULL", "RAPID", 10, 2)
MIRI = ("MIRI", "MASK1550", "FASTR1", 50, 6)
#: steps that none of the rows needs
_NOT_NEEDED = ("ipc", "charge_migration", "gain_scale", "clean_flicker_noise")


class Row(NamedTuple):
    """What is measured: a step, its parameters, the exposure, and the kind of events in it."""

    step: str
    exposure: tuple
    parameters: dict
    events: str = ""


ROWS = {
    "snowballs": Row("jump", NIRCAM_FULL, {"expand_large_events": True}, "snowballs"),
    "showers": Row("jump", MIRI, {"find_showers": True}, "showers"),
    "refpix": Row("refpix", NIRCAM_FULL, {}),
    "refpix sirs": Row("refpix", NIRCAM_FULL, {"refpix_algorithm": "sirs"}),
    "persistence": Row("persistence", NIRCAM, {"persistence_time": 20, "dn_threshold": 2e4}),
    "emicorr sequential": Row("emicorr", MIRI, {"algorithm": "sequential"}),
    "emicorr onthefly": Row("emicorr", MIRI, {"algorithm": "sequential", "onthefly_corr_freq": [390.625]}),
    "fitopt": Row("ramp_fit", NIRCAM, {"save_opt": True}),
    "fitopt miri": Row("ramp_fit", MIRI, {"save_opt": True}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="threads of the CPU backend (default: all cores)")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    figures = {"threads": options.threads, "repeat": options.repeat, "rows": {}}
    print(f"{'':<20} {'jwst':>9} {'ours':>9} {'ratio':>7}   seconds of the step, medians of {options.repeat}")
    for name in options.only:
        figures["rows"][name] = row = measure(ROWS[name], folder, options)
        print(f"{name:<20} {row['jwst']:9.3f} {row['ours']:9.3f} {row['ratio']:7.1f}", flush=True)
    if options.save:
        print("wrote", common.save("optional", figures))


def measure(row, folder, options):
    """Measure one row: medians of both sides, and of the ratios of runs in turn."""
    from gpucoron.backends import get_backend

    path, cache = make_exposure(row.exposure, row.events, folder.resolve())
    steps = {name: {"skip": True} for name in _NOT_NEEDED}
    steps[row.step] = {"skip": False, **row.parameters}
    if row.step != "ramp_fit":
        steps["ramp_fit"] = {"skip": True}
    backend = get_backend("cpu", n_threads=options.threads)
    seconds = {"jwst": [], "ours": []}
    # jwst writes its optional product into the current folder
    with cache.activate(), tempfile.TemporaryDirectory() as elsewhere, chdir(elsewhere):
        common.our_steps(path, backend, steps)  # warm up: imports, references, compiled kernels
        for number in range(options.repeat):
            for side in ("jwst", "ours") if number % 2 else ("ours", "jwst"):
                taken = common.jwst_steps(path, steps) if side == "jwst" else common.our_steps(path, backend, steps)
                seconds[side].append(taken[row.step])
    medians = {side: statistics.median(of) for side, of in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["jwst"], seconds["ours"], strict=True)]
    return {"arguments": row.exposure, "steps": steps, **medians, "ratio": statistics.median(ratios)}


def make_exposure(arguments, events, folder):
    """Simulate an exposure with its references and, if asked, events; or use the existing one."""
    from gpucoron.simulate import Effects, simulate
    from gpucoron.simulate.crds import open_cache
    from gpucoron.simulate.references import write_references

    folder = folder / "-".join([*map(str, arguments), *([events] if events else [])]).lower()
    made = sorted(folder.glob("*_uncal.fits"))
    if made:
        return made[0], open_cache(folder / "crds")
    folder.mkdir(parents=True, exist_ok=True)
    simulation = simulate(*arguments, seed=1, effects=Effects(emi=True))
    cache = write_references(simulation, folder / "crds")
    path = simulation.write(folder)
    if events:
        add_events(path, events)
    return path, cache


def add_events(path, kind, seed=1, number=12):
    """Add snowballs, saturated discs with a halo, or showers, faint wide discs, to the counts of a file."""
    from astropy.io import fits

    rng = np.random.default_rng(seed)
    with fits.open(path, mode="update", memmap=False) as hdus:
        counts = hdus["SCI"].data
        nints, ngroups, ny, nx = counts.shape
        y, x = np.ogrid[:ny, :nx]
        for _ in range(number):
            integration, group = rng.integers(nints), rng.integers(2, ngroups)
            distance = np.hypot(y - rng.uniform(0, ny), x - rng.uniform(0, nx))
            radius = rng.uniform(3, 12)
            if kind == "snowballs":
                added = np.where(distance < radius / 2, 65000, np.where(distance < radius, 3000, 0))
            else:
                added = np.where(distance < 2 * radius, 60, 0)
            later = counts[integration, group:]
            later[...] = np.minimum(later.astype(np.int64) + added, 65535)


if __name__ == "__main__":
    main()
