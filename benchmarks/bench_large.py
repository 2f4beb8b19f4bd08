"""Reduce a MIRI exposure of 250 groups x 60 integrations, a file of 1.9 GB, in 4 GB of memory.

python benchmarks/bench_large.py [--max-memory 4] [--folder DIR] [--save]

Three simulated integrations are repeated; emicorr is on, as in operations. jwst is not run: it needs 24 GB or more.
The limit applies to anonymous memory, which is sampled from outside every ten milliseconds: ramps in a scratch file do
not count, because the system can reclaim their pages. The floor is the time to read the file once.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import common

from gpucoron.backends.process_memory import anonymous_memory

CASE = "miri-250x60"
COPIES = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-memory", type=float, default=4.0, help="memory limit of the process in GB (default: 4)")
    parser.add_argument("--threads", type=int, default=None, help="threads of the CPU backend (default: all cores)")
    parser.add_argument("--folder", default=None, help="folder for the simulated exposure")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    small, cache = common.make_case("miri-250x3", folder)
    path = folder / CASE / small.name
    if options.here:
        with cache.activate():
            print(json.dumps(reduce(path, options)))
        return
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        repeat(small, path)
    command = [sys.executable, *sys.argv, "--here", "--folder", str(folder)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.01)
        if process.returncode != 0:
            sys.exit(f"{path} was not reduced")
        figures = {**json.loads(process.stdout.read().splitlines()[-1]), "anonymous_mb": peak / 1e6}
    print(f"{figures['file_gb']:.2f} GB, {figures['reads']} reads, {figures['backend']}, {figures['threads']} threads")
    print(
        f"{figures['seconds']:.1f} s, {figures['reads_per_second']:.0f} reads/s; reading the file alone "
        f"{figures['floor']:.1f} s; peak of anonymous memory {figures['anonymous_mb']:.0f} MB"
    )
    print(", ".join(f"{part} {seconds:.1f}" for part, seconds in figures["parts"].items() if seconds > 0.05))
    if options.save:
        print("wrote", common.save("large", figures))


def repeat(small, path):
    """Write a file that repeats the integrations of a small one; their bytes are copied unchanged."""
    from astropy.io import fits

    with fits.open(small) as hdus, small.open("rb") as raw, path.open("wb") as out:
        for hdu in hdus:
            header, place = hdu.header.copy(), hdu.fileinfo()
            n_bytes, copies = hdu.size, 1
            if "NINTS" in header:
                header["NINTS"] *= COPIES
            for name, axis in (("SCI", "NAXIS4"), ("INT_TIMES", "NAXIS2")):
                if hdu.name == name:
                    header[axis] *= COPIES
                    copies = COPIES
            out.write(header.tostring().encode("ascii"))
            raw.seek(place["datLoc"])
            data = raw.read(n_bytes)
            for _ in range(copies):
                out.write(data)
            out.write(b"\0" * (-n_bytes * copies % 2880))


def read_once(path):
    """Read all bytes of a file; return seconds."""
    start, buffer = time.perf_counter(), bytearray(2**24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def reduce(path, options):
    """Reduce the file in this process; return its times and memory."""
    import gpucoron
    from gpucoron.backends import get_backend
    from gpucoron.backends.process_memory import peak_memory

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    limit = int(options.max_memory * 1e9)
    floor = read_once(path)
    with tempfile.TemporaryDirectory(dir=path.parent) as products:
        backend = get_backend("cpu", n_threads=options.threads, max_memory=limit, scratch_dir=products)
        start = time.perf_counter()
        run, _models, _paths = gpucoron.reduce_file(path, products, backend=backend, steps=common.STEPS["miri-100x19"])
        seconds = time.perf_counter() - start
    facts = run.exposure.facts
    reads = facts.nints * facts.ngroups
    return {
        "file_gb": path.stat().st_size / 1e9,
        "max_memory_gb": options.max_memory,
        "reads": reads,
        "seconds": seconds,
        "floor": floor,
        "reads_per_second": reads / seconds,
        "peak_mb": peak_memory() / 1e6,
        "backend": run.backend.name,
        "threads": run.backend.device.n_threads,
        "parts": {**run.phases, **{record.name: record.seconds for record in run.records}},
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
