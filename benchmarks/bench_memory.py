"""Measure how closely `--max-memory` is kept: the peak anonymous memory of a process that reduces an exposure.

python benchmarks/bench_memory.py [--cases miri-60x16 ...] [--folder DIR] [--save]

Each reduction runs in a new process, which is sampled from outside every millisecond, because Linux keeps no
high-water mark of anonymous memory. The products are compared byte for byte with those of a run without a limit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

from gpucoron.backends.process_memory import anonymous_memory

#: name -> arguments of ``gpucoron.simulate.simulate``, and limits in MB
CASES = {
    "miri-60x16": (("MIRI", "MASK1550", "FASTR1", 60, 16), (450, 400, 350, 300, 250)),
    "miri-500x2": (("MIRI", "MASK1550", "FASTR1", 500, 2), (580,)),
    "nircam-8x76": (("NIRCAM", "SUB320A335R", "RAPID", 8, 76), (560, 450)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    options = parser.parse_args()
    folder, figures = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-")), {}
    print(f"{'case':<12} {'ramp':>6} {'limit':>6} {'peak':>6} {'seconds':>8}  MB of anonymous memory; same products")
    for name in options.cases:
        arguments, limits = CASES[name]
        common.CASES[name], common.STEPS[name] = arguments, {}
        path, cache = common.make_case(name, folder)
        rows, whole = [], None
        for limit in (None, *limits):
            output = folder / f"{name}-{limit}"
            seconds, peak = reduce(path, cache, output, limit)
            products = read_products(output)
            whole = products if whole is None else whole
            same = all(np.array_equal(products[key], whole[key]) for key in whole)
            rows.append({"limit_mb": limit, "peak_mb": peak / 1e6, "seconds": seconds, "same_products": same})
            shape = np.prod(arguments[3:]) * (224 * 288 if arguments[0] == "MIRI" else 320 * 320)
            print(
                f"{name:<12} {4e-6 * shape:>6.0f} {limit or '-':>6} {peak / 1e6:>6.0f} {seconds:>8.1f}  "
                f"{'same' if same else 'DIFFERENT'}", flush=True,
            )  # fmt: skip
        figures[name] = rows
    if options.save:
        print("wrote", common.save("memory", figures))


def reduce(path, cache, output, limit):
    """Reduce a file in a new process; return seconds and the peak anonymous memory, bytes."""
    command = [sys.executable, "-m", "gpucoron", "run", path, "-o", output, "--backend", "cpu", "--overwrite", "-q"]
    command += ["--set", "emicorr.skip=false"] if path.name.endswith("mirimage_uncal.fits") else []
    command += [] if limit is None else ["--max-memory", f"{limit}M"]
    start, peak = time.perf_counter(), 0
    with cache.activate(), subprocess.Popen([*map(str, command)], env=dict(os.environ)) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.001)
    if process.returncode != 0:
        sys.exit(f"{path} was not reduced")
    return time.perf_counter() - start, peak


def read_products(folder):
    """Read all arrays of the products as bytes."""
    from astropy.io import fits

    arrays = {}
    for path in sorted(folder.glob("*.fits")):
        with fits.open(path) as hdus:
            for hdu in hdus[1:]:
                if hdu.is_image and hdu.data is not None:
                    arrays[path.name, hdu.name] = np.frombuffer(np.ascontiguousarray(hdu.data).tobytes(), np.uint8)
    return arrays


if __name__ == "__main__":
    main()
