"""Wall times of ``gpucoron batch`` for two typical programmes, from the start of the command to its end.

python benchmarks/bench_programme.py [--workers 2] [--repeat 3] [--no-jwst] [--folder DIR] [--save]

NIRCam: two rolls of 15 groups x 10 integrations (DEEP8) and a reference star in nine dithers of 4 x 2 (MEDIUM8),
SUB320A335R. MIRI: two rolls and two backgrounds of 100 x 19, a reference star in nine dithers of 100 x 4 (FASTR1),
MASK1550, with emicorr. jwst reduces the same files in one process, which imports it once.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

#: instrument -> arguments of `simulate`, and its keyword arguments, for each kind of exposure and how many there are
PROGRAMMES = {
    "NIRCAM": [
        (("SUB320A335R", "DEEP8", 15, 10), {"role": "SCI"}, 2),
        (("SUB320A335R", "MEDIUM8", 4, 2), {"role": "REF"}, 9),
    ],
    "MIRI": [
        (("MASK1550", "FASTR1", 100, 19), {"role": "SCI"}, 2),
        (("MASK1550", "FASTR1", 100, 4), {"role": "REF"}, 9),
        (("MASK1550", "FASTR1", 100, 19), {"role": "BG"}, 2),
    ],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3, help="runs of gpucoron batch; the median counts (default: 3)")
    parser.add_argument("--no-jwst", action="store_true", help="leave jwst out")
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    figures = {"workers": options.workers}
    for instrument in PROGRAMMES:
        exposures = [
            ((instrument, *arguments), settings)
            for arguments, settings, count in PROGRAMMES[instrument]
            for _ in range(count)
        ]
        files, cache = common.make_set(exposures, folder / instrument)
        environment = {**os.environ, **cache.environment}
        setting = ["--set", "emicorr.skip=False"] if instrument == "MIRI" else []
        seconds = [
            run_batch([*files, *setting], folder / "out", options.workers, environment) for _ in range(options.repeat)
        ]
        entry = {
            "exposures": len(files),
            "bytes": sum(path.stat().st_size for path in files),
            "batch": seconds,
            "jwst": None if options.no_jwst else run_jwst(files, instrument, environment),
        }
        figures[instrument] = entry
        print(
            f"{instrument}: {len(files)} exposures, {entry['bytes'] / 1e6:.0f} MB, "
            f"gpucoron batch {statistics.median(seconds):.1f} s, jwst {entry['jwst'] or float('nan'):.1f} s"
        )
    if options.save:
        print("wrote", common.save("programme", figures))


def run_batch(arguments, output, workers, environment):
    """Reduce a programme with ``gpucoron batch``; return the seconds of the whole command."""
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "gpucoron", "batch", *map(str, arguments), "-o", str(output), "-q"]
    start = time.perf_counter()
    subprocess.run([*command, "--all", "--backend", "cpu", "--workers", str(workers)], env=environment, check=True)
    return time.perf_counter() - start


def run_jwst(files, instrument, environment):
    """Reduce a programme with jwst in one process; return the seconds of the whole process."""
    steps = {"emicorr": {"skip": False}} if instrument == "MIRI" else {}
    code = (
        "import logging, sys; from jwst.pipeline import Detector1Pipeline; logging.disable(logging.WARNING)\n"
        f"settings = {{'steps': {steps}, 'save_results': True, 'output_dir': sys.argv[1], 'configure_log': False}}\n"
        "for path in sys.argv[2:]:\n"
        "    Detector1Pipeline.call(path, **settings)"
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as output:
        subprocess.run([sys.executable, "-c", code, output, *map(str, files)], env=environment, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
