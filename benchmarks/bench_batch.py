"""Time ``gpucoron batch`` on a whole programme, and jwst in one warm process and in one process per file.

python benchmarks/bench_batch.py [--workers 2] [--copies 4] [--cold 2] [--folder DIR] [--save]

The files are the NIRCam exposures of ERS 1386: nine references of 4 groups x 2 integrations (MEDIUM8), two science
exposures of 15 x 2 (DEEP8), SUB320A335R. A batch of one set is dominated by the start of its processes; ``--copies``
of the set show the speed of a long batch. The floor is the time to open a RampModel and to save rate and rateints.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from gpucoron.records.manifest import read_manifests

SET = [("MEDIUM8", 4)] * 9 + [("DEEP8", 15)] * 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--copies", type=int, default=4, help="copies of the set in the long batch (default: 4)")
    parser.add_argument("--cold", type=int, default=2, help="files that jwst reduces in new processes (default: 2)")
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    parser.add_argument("--jwst", nargs="+", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.jwst:
        print(json.dumps(loop_over(options.jwst)))
        return
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    files, cache = make_set(folder, options.copies)
    environment = {**os.environ, **cache.environment}
    figures = {"workers": options.workers, "exposures": len(files) // options.copies, "copies": options.copies}
    one_set = files[: figures["exposures"]]

    figures["batch"] = run_batch(one_set, folder / "one", options.workers, environment)
    figures["long batch"] = run_batch(files, folder / "long", options.workers, environment)
    figures["jwst warm"] = run_jwst(one_set, environment)
    cold = [run_jwst([path], environment)["process"] for path in (one_set[0], one_set[-1])[: options.cold]]
    if cold:
        # one reference and one science exposure represent all of their kind
        figures["jwst cold"] = [cold[0] if readpatt == "MEDIUM8" else cold[-1] for readpatt, _ngroups in SET]
    report(figures)
    if options.save:
        print("wrote", common.save("batch", figures))


def make_set(folder, copies):
    """Simulate the set and copy it; return (files, cache)."""
    exposures = [(("NIRCAM", "SUB320A335R", readpatt, ngroups, 2), {}) for readpatt, ngroups in SET]
    made, cache = common.make_set(exposures, folder)
    raw = folder / "raw"
    files = [path for path in made if "_00001_" in path.name]
    for copy in range(2, copies + 1):
        for path in files[: len(SET)]:
            other = raw / re.sub(r"_00001_", f"_{copy:05d}_", path.name)
            if not other.exists():
                shutil.copy(path, other)
            files.append(other)
    return files, cache


def run_batch(files, output, workers, environment):
    """Run a batch; return its total seconds, and the seconds of each exposure in a warm worker."""
    shutil.rmtree(output, ignore_errors=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", "gpucoron", "batch", *map(str, files), "-o", str(output), "-q"]
    subprocess.run([*command, "--backend", "cpu", "--workers", str(workers)], env=environment, check=True)
    seconds = time.perf_counter() - start
    met, warm = set(), []
    for record in sorted(read_manifests(output)[0].values(), key=lambda record: record["finished"]):
        if record["pid"] in met:
            warm.append(record["seconds"])
        met.add(record["pid"])
    return {"seconds": seconds, "warm": warm}


def run_jwst(files, environment):
    """Run jwst in a new process; add the seconds of the whole process."""
    start = time.perf_counter()
    command = [sys.executable, __file__, "--jwst", *map(str, files)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


def loop_over(files):
    """Reduce files with jwst in this process; return seconds: first run, each warm run, and each floor."""
    import logging

    from jwst.pipeline import Detector1Pipeline

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:

        def reduce(path):
            start = time.perf_counter()
            Detector1Pipeline.call(str(path), save_results=True, output_dir=folder, configure_log=False)
            return time.perf_counter() - start

        first = reduce(files[0])
        if len(files) == 1:
            return {"first": first}
        seconds, floors = [], []
        for path in files:
            seconds.append(reduce(path))
            stem = Path(path).name.removesuffix("_uncal.fits")
            floors.append(common.io_floor(path, [f"{folder}/{stem}_{kind}.fits" for kind in ("rate", "rateints")]))
    return {"first": first, "seconds": seconds, "floors": floors}


def report(figures):
    """Print the results, and add the ratios."""
    count, copies, workers = figures["exposures"], figures["copies"], figures["workers"]
    warm_jwst = sum(figures["jwst warm"]["seconds"])
    one, long = figures["batch"]["seconds"], figures["long batch"]["seconds"]
    per_set = (long - one) / (copies - 1) if copies > 1 else one
    print(f"{count} exposures, {workers} workers")
    print(f"gpucoron batch: {one:.1f} s from start to end; {per_set:.2f} s for each further set")
    print(f"jwst, warm process: {warm_jwst:.1f} s")
    ratios = {"jwst warm": warm_jwst / per_set, "jwst warm, with our start": warm_jwst / one}
    if "jwst cold" in figures:
        cold = sum(figures["jwst cold"])
        print(f"jwst, a process per file: {cold:.1f} s")
        ratios |= {"jwst cold": cold / per_set, "jwst cold, with our start": cold / one}
    figures["ratios"] = ratios
    for name, ratio in ratios.items():
        print(f"  {ratio:.1f}x {name}")
    floor = statistics.median(figures["jwst warm"]["floors"])
    parts = {
        part: statistics.median(seconds[part] for seconds in figures["long batch"]["warm"])
        for part in ("read", "plan", "steps", "write", "total")
    }
    figures |= {"floor": floor, "parts": parts}
    message = ", ".join(f"{part} {seconds:.3f}" for part, seconds in parts.items())
    print(f"a warm exposure (median): {message} s; {parts['total'] / floor:.2f}x the floor of {floor:.3f} s")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
