"""Time ``gpucoron ramp``: the command in a new process, and a second pixel in a process that has traced one.

python benchmarks/bench_ramp.py [--cases nircam-10x20 miri-100x19] [--repeat 3] [--folder DIR] [--save]

Most of a new process's time is spent on imports and on jwst's readers; the time of a second pixel is what a click in
``gpucoron report --serve`` costs. Every figure is a median.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

PIXEL = ("100", "120")
#: name -> options of the command
REQUESTS = {"jwst": (), "spaceklip": ("--profile", "spaceklip")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["nircam-10x20", "miri-100x19"], choices=common.CASES)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    figures = {}
    print(f"{'':26s} {'command, s':>11s} {'next pixel, s':>14s}")
    for case in options.cases:
        path, cache = common.make_case(case, folder)
        for name, settings in REQUESTS.items():
            command = time_command(path, settings, cache, options.repeat)
            warm = time_warm(path, name, cache, options.repeat)
            figures[f"{case}, {name}"] = {"command": command, "next pixel": warm}
            print(f"{case + ', ' + name:26s} {command:11.2f} {warm:14.2f}", flush=True)
    if options.save:
        print("wrote", common.save("ramp", {"repeat": options.repeat, "seconds": figures}))


def time_command(path, settings, cache, repeat):
    """Run the command in new processes; return the median of seconds. The first run fills the page cache."""
    code = "import sys; from gpucoron.cli import main; sys.exit(main(sys.argv[1:]))"
    seconds = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code, "ramp", str(path), *PIXEL, *settings, "-q"],
            env={**os.environ, **cache.environment}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def time_warm(path, profile, cache, repeat):
    """Trace pixels one after another in this process; return the median of seconds without the first."""
    from gpucoron.report.ramp import trace_ramp

    seconds = []
    with cache.activate():
        for number in range(repeat + 1):
            start = time.perf_counter()
            trace_ramp(path, int(PIXEL[0]) + number, PIXEL[1], profile=profile)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
