"""Time the start of a process: to the command line's help, and to the first byte of a ramp.

python benchmarks/bench_start.py [--case nircam-small] [--repeat 5] [--folder DIR] [--save]

Every figure is the median of new processes, started one after another with all files in the page cache. The imports
of jwst.pipeline and of the packages that both need are measured for comparison.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

#: what is measured -> Python code
IMPORTS = {
    "python": "",
    "import gpucoron": "import gpucoron",
    "gpucoron --help": "from gpucoron.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
    "import what gpucoron run needs": ("import gpucoron.engine\nfrom gpucoron.io.warm_up import warm_up\nwarm_up()"),
    "import stdatamodels.jwst.datamodels": "import stdatamodels.jwst.datamodels",
    "import jwst.pipeline": "import jwst.pipeline",
}
FIRST_BYTE = "gpucoron run, to the first byte of SCI"
#: ``gpucoron run`` that exits before it reads the first science samples
RUN = """
import sys
from gpucoron import cli
from gpucoron.io import exposure

def stop(*arguments):
    raise SystemExit("first byte")

exposure._File.read_samples = stop
cli.main(sys.argv[1:])
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="nircam-small", choices=common.CASES)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--folder", default=None, help="folder for the simulated exposure")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    path, cache = common.make_case(options.case, folder)
    environment = {**os.environ, **cache.environment}
    run = [RUN, "run", str(path), "-o", str(folder / "out"), "--backend", "cpu"]

    figures = {name: measure([code], environment, options.repeat) for name, code in IMPORTS.items()}
    figures[FIRST_BYTE] = measure(run, environment, options.repeat, expect="first byte")
    print(f"{'':38s} {'seconds':>8s} {'CPU':>8s}")
    for name, figure in figures.items():
        print(f"{name:38s} {figure['seconds']:8.3f} {figure['cpu']:8.3f}")
    if options.save:
        print("wrote", common.save("start", {"case": options.case, "repeat": options.repeat, "processes": figures}))


def measure(arguments, environment, repeat, expect=""):
    """Run Python code with arguments; return the medians of seconds and of CPU seconds.

    The first run, which loads the files into the page cache, does not count.
    """
    seconds, cpu = [], []
    for _ in range(repeat + 1):
        before, start = _cpu_of_children(), time.perf_counter()
        done = subprocess.run([sys.executable, "-c", *arguments], env=environment, capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        cpu.append(_cpu_of_children() - before)
        if done.stderr.strip() != expect:
            raise RuntimeError(done.stderr)
    return {"seconds": statistics.median(seconds[1:]), "cpu": statistics.median(cpu[1:])}


def _cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
