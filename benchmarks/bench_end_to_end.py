"""Time jwst, gpucoron and the I/O floor on whole files, in turn in one warm process, and each in a new process.

python benchmarks/bench_end_to_end.py [--cases nircam-10x20 miri-100x19 ...] [--repeat 5] [--no-cold] [--save]

The floor is the time that jwst's datamodels need at least: open the file as a RampModel, save rate and rateints.
"""

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import common

PHASES = ("read", "plan", "steps", "write")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = ["nircam-small", "nircam-10x20", "miri-small", "miri-100x19"]
    parser.add_argument("--cases", nargs="+", default=cases, choices=sorted(common.CASES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-cold", action="store_true", help="do not measure new processes")
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    parser.add_argument("--cold", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-")
    if options.cold:
        once(*options.cold, folder)
        return
    figures = {"repeat": options.repeat, "cases": {}}
    for name in options.cases:
        figures["cases"][name] = measure(name, folder, options)
    if options.save:
        print("wrote", common.save("end-to-end", figures))


def measure(name, folder, options):
    """Measure one case: medians of the seconds of each side, and of the ratios within a round."""
    path, cache = common.make_case(name, folder)
    rounds = []
    with cache.activate(), tempfile.TemporaryDirectory(dir=folder) as products:
        by_jwst(path, name, products)
        by_us(path, name, products)  # both are warm from here on
        for _ in range(options.repeat):
            rounds.append({side: act(path, name, products) for side, act in SIDES.items()})

    def median(of):
        return statistics.median(of(one) for one in rounds)

    figures = {
        "arguments": common.CASES[name],
        "floor": median(lambda one: one["floor"]),
        "jwst": median(lambda one: one["jwst"]),
        "ours": {part: median(lambda one, part=part: one["ours"][part]) for part in (*PHASES, "total")},
        "over_floor": median(lambda one: one["ours"]["total"] / one["floor"]),
        "jwst_over_floor": median(lambda one: one["jwst"] / one["floor"]),
        "ratio": median(lambda one: one["jwst"] / one["ours"]["total"]),
    }
    parts = ", ".join(f"{part} {figures['ours'][part]:.3f}" for part in PHASES)
    print(f"\n{name}: {common.CASES[name]}, warm, medians of {options.repeat}")
    print(f"floor {figures['floor']:.3f} s; jwst {figures['jwst']:.2f} s, {figures['jwst_over_floor']:.1f}x the floor")
    print(f"gpucoron {figures['ours']['total']:.3f} s ({parts}), {figures['over_floor']:.2f}x the floor")
    print(f"{figures['ratio']:.1f}x faster than jwst")
    if not options.no_cold:
        # Run gpucoron first: the floor saves the products that gpucoron wrote.
        figures["cold"] = {side: statistics.median(cold(side, name, folder) for _ in range(3)) for side in SIDES}
        message = ", ".join(f"{side} {seconds:.1f} s" for side, seconds in figures["cold"].items())
        print(f"in a new process, from start to end, medians of 3: {message}")
    return figures


def by_us(path, name, products):
    """Reduce a file with gpucoron; return phase -> seconds, and their total."""
    import gpucoron

    start = time.perf_counter()
    run, _models, _paths = gpucoron.reduce_file(
        path, products, backend="cpu", steps=common.STEPS.get(name), overwrite=True
    )
    return {**run.phases, "steps": run.seconds, "total": time.perf_counter() - start}


def by_jwst(path, name, products):
    """Reduce a file with jwst; return seconds."""
    from jwst.pipeline import Detector1Pipeline

    start = time.perf_counter()
    Detector1Pipeline.call(
        str(path), steps=common.STEPS.get(name) or {}, save_results=True, output_dir=products, configure_log=False
    )
    return time.perf_counter() - start


def floor(path, _name, products):
    """Open a file and save the products next to it; return seconds."""
    stem = Path(path).name.removesuffix("_uncal.fits")
    return common.io_floor(path, [f"{products}/{stem}_{kind}.fits" for kind in ("rate", "rateints")])


SIDES = {"ours": by_us, "floor": floor, "jwst": by_jwst}


def once(side, name, folder):
    """Run one side in this new process."""
    path, cache = common.make_case(name, folder)
    with cache.activate():
        SIDES[side](path, name, str(Path(folder) / "cold"))


def cold(side, name, folder):
    """Start a process for one side; return its total seconds."""
    (Path(folder) / "cold").mkdir(exist_ok=True)
    start = time.perf_counter()
    command = [sys.executable, __file__, "--cold", side, name, "--folder", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
