"""Time stage 1 on a GPU: upload, every default step, download; kernels; memory; variants. Writes JSON to results/.

It needs CuPy and NumPy but no jwst: exposures and references are arrays (`array_exposures`). If stcal is installed,
its jump detection and ramp fit are timed, too.

python benchmarks/bench_gpu.py [--cases miri-250x60 ...] [--repeat 5]
python benchmarks/bench_gpu.py --rehearse    small cases on the host build of the kernels; writes to --output only
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import array_exposures as arrays
import numpy as np
from compare_arrays import compare, summarize
from gpu_variants import allow_variants, measure_variants
from provenance import commit, versions

from gpucoron import dq
from gpucoron.backends import get_backend
from gpucoron.backends.budget import exposure_memory
from gpucoron.engine import order_of
from gpucoron.steps import STEPS, run_step

RESULTS = Path(__file__).parent / "results"

#: targets for an H200: fraction of the copy bandwidth, seconds of all default steps, memory relative to the ramp
AIMS = {
    "linearity, jump, ramp_fit on miri-250x60": "0.5 of the copy bandwidth or more",
    "all steps of miri-250x60": "0.04 s",
    "all steps of miri-20x250": "0.04 s",
    "all steps of nircam-10x20": "0.003 s",
    "peak device memory": "1.3 float32 ramps and 150 MB",
}

#: relative difference from the products of the CPU backend: light steps use CuPy functions, which may sum in another
#: order. Rates below 0.1 DN/s are differences of larger numbers, and compared as if they were 0.1.
RATE_TOLERANCE = 2e-6
RATE_FLOORS = {"rate rate": 0.1, "rateints rate": 0.1}

#: how often the jump search reads a long ramp: once to count differences in bins, once to gather the middle ones and to
#: mark jumps, and some samples; a short ramp is read once
JUMP_PASSES = 2.1


def traffic(case):
    """Count the bytes that each step must read and write at least once; steps that are not listed move little."""
    samples, pixels = case.n_samples, case.ny * case.nx
    words = 4 * case.nints * -(-case.ngroups // 32) * pixels
    group_images = 4 * case.ngroups * pixels
    return {
        "saturation": 4 * samples + 2 * samples + 2 * words + samples,  # the last term: counting the flags
        "ipc": 8 * samples,
        "superbias": 8 * samples,
        "refpix": 8 * samples,
        "reset": 8 * samples + 2 * group_images,
        "linearity": 9 * samples + 20 * pixels,
        "dark_current": 8 * samples + 2 * group_images,
        "jump": 5 * samples * JUMP_PASSES + samples,
        # flags: counted; samples: a second time for the median of a long ramp; sums and products of the integrations
        "ramp_fit": samples + 5 * samples + (4 * samples if case.ngroups > 25 else 0) + 80 * case.nints * pixels,
    }


class Clock:
    """Measure durations: by events in the stream of a device, by wall time on the host."""

    def __init__(self, backend):
        self.cuda = backend.xp.cuda if backend.name == "cuda" else None

    def mark(self):
        if self.cuda is None:
            return time.perf_counter()
        event = self.cuda.Event()
        event.record()
        return event

    def seconds(self, start, stop):
        if self.cuda is None:
            return stop - start
        stop.synchronize()
        return self.cuda.get_elapsed_time(start, stop) / 1e3


def copy_bandwidth(backend, n_bytes, repeat=10):
    """Measure the bandwidth of a copy on the device, bytes read and written per second; the best of several."""
    source = backend.zeros((n_bytes // 4,), np.float32)
    target = backend.zeros((n_bytes // 4,), np.float32)
    clock, best = Clock(backend), np.inf
    for _ in range(repeat + 2):
        start = clock.mark()
        target[...] = source
        best = min(best, clock.seconds(start, clock.mark()))
    return 2 * source.nbytes / best


def run_steps(case, exposure, references, backend):
    """Run the default steps; return step -> (device seconds, wall seconds) of the steps that were not skipped."""
    clock, settings, seconds = Clock(backend), arrays.settings_of(case), {}
    for name in order_of(exposure.facts):
        if settings[name].skip:
            continue
        usable = {reftype: references.get(reftype) for reftype in STEPS[name].references}
        start, wall = clock.mark(), time.perf_counter()
        outcome = run_step(name, exposure, usable, settings[name], backend)
        stop = clock.mark()
        if outcome.status == "COMPLETE":
            seconds[name] = clock.seconds(start, stop), time.perf_counter() - wall
    return seconds


class KernelTimes:
    """Context manager that times every launch of a backend: kernel -> seconds, launches."""

    def __init__(self, backend):
        self.backend, self.clock, self.marks = backend, Clock(backend), []

    def __enter__(self):
        launch = self.backend.device.launch

        def timed(name, *arguments):
            start = self.clock.mark()
            launch(name, *arguments)
            self.marks.append((name, start, self.clock.mark()))

        self.backend.device.launch = timed
        return self

    def __exit__(self, *error):
        del self.backend.device.launch
        self.backend.synchronize()

    def totals(self):
        totals = {}
        for name, start, stop in self.marks:
            seconds, launches = totals.get(name, (0.0, 0))
            totals[name] = seconds + self.clock.seconds(start, stop), launches + 1
        return totals


def device_bytes(backend):
    """Return the bytes allocated on the device, including those that the memory pool keeps; None on the host."""
    return backend.xp.get_default_memory_pool().total_bytes() if backend.name == "cuda" else None


def measure(case, path, backend, bandwidth, repeat):
    """Measure one case: read its counts from ``path``, run every default step, copy the products to the host.

    Parameters
    ----------
    case : array_exposures.Case
    path : Path
        Of the counts, as `array_exposures.write_counts` writes them.
    backend : Backend
    bandwidth : float
        Of a copy on the device, bytes per second.
    repeat : int
        Rounds of which the medians are given; one more is run before, to warm up.

    Returns
    -------
    figures, products : dict
    """
    references = arrays.make_references(case, backend)
    backend.release_memory()
    before = device_bytes(backend)
    rounds, uploads, downloads, products = [], [], [], None
    for _ in range(repeat + 1):  # the first round warms up
        products = None
        start = time.perf_counter()
        data = arrays.read_counts(case, path, backend)
        backend.synchronize()
        uploads.append(time.perf_counter() - start)
        exposure = arrays.make_exposure(case, data, backend)
        backend.synchronize()
        rounds.append(run_steps(case, exposure, references, backend))
        start = time.perf_counter()
        products = to_host(backend, exposure)
        downloads.append(time.perf_counter() - start)
        del exposure, data
    after = device_bytes(backend)
    with KernelTimes(backend) as kernels:
        exposure = arrays.make_exposure(case, arrays.read_counts(case, path, backend), backend)
        run_steps(case, exposure, references, backend)
        del exposure
    steps = figures_of_steps(case, rounds[1:], bandwidth)
    ramp = 4 * case.n_samples
    figures = {
        "shape": case.shape,
        "steps": steps,
        "device_seconds": sum(step["seconds"] for step in steps.values()),
        "wall_seconds": sum(step["wall_seconds"] for step in steps.values()),
        "warm_up_seconds": sum(wall for _, wall in rounds[0].values()),
        "kernels": {kernel: {"seconds": s, "launches": n} for kernel, (s, n) in kernels.totals().items()},
        "read_alone": transfer(2 * case.n_samples, [time_reading(path) for _ in range(repeat)]),
        "upload": transfer(2 * case.n_samples, uploads[1:]),
        "download": transfer(sum(array.nbytes for array in products.values()), downloads[1:]),
        "memory_estimate_over_ramp": exposure_memory(case.shape) / ramp,
        "peak_memory_over_ramp": None if after is None else (after - before) / ramp,
    }
    return figures, products


def measure_beside(case, backend, folder, options, bandwidth):
    """Measure one case with the CPU backend and stcal for comparison."""
    path = folder / "case.counts"
    arrays.write_counts(case, path)
    figures, products = measure(case, path, backend, bandwidth, options.repeat)
    if not options.no_cpu:
        figures["cpu"] = beside_cpu(case, path, products)
    peer = beside_stcal(case, path) if case.n_samples <= options.peer_samples else None
    if peer is not None:
        figures["stcal"] = peer
    path.unlink()
    return figures


def time_reading(path):
    """Time only the reading of a file in pieces; an upload cannot be faster."""
    words = np.empty(2**24, np.uint16)
    start = time.perf_counter()
    with path.open("rb") as file:
        while file.readinto(words.view(np.uint8)):
            pass
    return time.perf_counter() - start


def to_host(backend, exposure):
    """Copy the products to the host: name -> array."""
    products = {
        f"{product} {key}": array
        for product in ("rate", "rateints")
        for key, array in vars(getattr(exposure, product)).items()
    }
    # together, as in a reduction
    arrays = backend.to_host(tuple(products.values()))
    return {name: np.array(array) for name, array in zip(products, arrays, strict=True)}


def figures_of_steps(case, rounds, bandwidth):
    needed, figures = traffic(case), {}
    for name in rounds[0]:
        seconds = statistics.median(one[name][0] for one in rounds)
        figures[name] = {"seconds": seconds, "wall_seconds": statistics.median(one[name][1] for one in rounds)}
        if name in needed:
            floor = needed[name] / bandwidth
            figures[name] |= {"bytes": needed[name], "floor_seconds": floor, "of_copy_bandwidth": floor / seconds}
    return figures


def transfer(n_bytes, seconds):
    middle = statistics.median(seconds)
    return {"bytes": n_bytes, "seconds": middle, "bytes_per_second": n_bytes / middle}


def beside_cpu(case, path, products):
    """Run the CPU backend on the same counts once, warm; return its times and the differences of the products."""
    backend = get_backend("cpu")

    def run(size):
        # A smaller image uses the first counts of the file.
        exposure = arrays.make_exposure(size, arrays.read_counts(size, path, backend), backend)
        return run_steps(size, exposure, arrays.make_references(size, backend), backend), exposure

    run(replace(case, ny=min(case.ny, 10), nx=min(case.nx, 12)))  # warm up: compiles the kernels
    seconds, exposure = run(case)
    differences = compare(products, to_host(backend, exposure), RATE_TOLERANCE, RATE_FLOORS)
    return {
        "kind": backend.name,
        "threads": backend.device.n_threads,
        "steps": {name: wall for name, (_, wall) in seconds.items()},
        "seconds": sum(wall for _, wall in seconds.values()),
        "differences": differences,
    }


def beside_stcal(case, path):
    """Time stcal's code for jump and ramp_fit on the same counts; return None if stcal is not installed."""
    try:
        from stcal.jump.jump import detect_jumps_data
        from stcal.jump.jump_class import JumpData
        from stcal.ramp_fitting.ramp_fit import ramp_fit_data
        from stcal.ramp_fitting.ramp_fit_class import RampData
    except ImportError:
        return None
    from types import SimpleNamespace

    backend = get_backend("cpu")
    exposure = arrays.make_exposure(case, arrays.read_counts(case, path, backend), backend)
    references, facts = arrays.make_references(case, backend), exposure.facts
    gain, readnoise = (references[reftype].data.copy() for reftype in ("gain", "readnoise"))
    bits = {name: value for name, value in vars(dq).items() if name.isupper()}
    exposure.meta = SimpleNamespace(exposure=SimpleNamespace(nframes=1))
    jump_data = JumpData(exposure, gain, readnoise, bits)
    jump_data.set_detection_settings(4.0, 6.0, 5.0, 1000.0, 10.0, True)
    jump_data.set_after_jump(0.0, 0, 0.0, 0)
    jump_data.min_diffs_single_pass = 10
    jump_data.set_sigma_clipping_info(3, 100, True)
    jump_data.max_cores = "1"
    ramp_data = RampData()
    ramp_data.algorithm = "OLS_C"
    dark = np.zeros(case.shape[2:], np.float32)
    seconds = {}
    with np.errstate(all="ignore"):
        start = time.perf_counter()
        flags = detect_jumps_data(jump_data)[0]
        seconds["jump"] = time.perf_counter() - start
        ramp_data.set_arrays(exposure.data, flags, exposure.pixeldq, dark)
        ramp_data.set_meta(facts.instrument, facts.frame_time, facts.group_time, 0, 1, 0)
        ramp_data.set_dqflags(bits)
        ramp_data.suppress_one_group_ramps = True
        start = time.perf_counter()
        ramp_fit_data(ramp_data, False, readnoise, gain, "OLS_C", "optimal", "none")
        seconds["ramp_fit"] = time.perf_counter() - start
    return seconds


def measure_long_life(case, backend, folder, n_exposures):
    """Reduce exposures one after another: device memory must not grow after the first few."""
    path = folder / "again.counts"
    arrays.write_counts(case, path)
    references = arrays.make_references(case, backend)
    taken = []
    start = time.perf_counter()
    for _ in range(n_exposures):
        exposure = arrays.make_exposure(case, arrays.read_counts(case, path, backend), backend)
        run_steps(case, exposure, references, backend)
        to_host(backend, exposure)
        del exposure
        taken.append(device_bytes(backend))
    seconds = time.perf_counter() - start
    path.unlink()
    settled = taken[min(3, n_exposures - 1) :]
    flat = None if taken[0] is None else max(settled) == min(settled)
    return {"exposures": n_exposures, "seconds_each": seconds / n_exposures, "device_bytes": taken[-1], "flat": flat}


def describe(backend):
    """Describe the device, the machine, the versions and the commit."""
    message = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": backend.name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit(),
        "versions": versions("cupy-cuda13x", "cupy-cuda12x", "numpy", "scipy", "jwst", "stcal"),
    }
    if backend.name == "cuda":
        runtime = backend.xp.cuda.runtime
        properties = runtime.getDeviceProperties(backend.device)
        message |= {
            "device": properties["name"].decode(),
            "cupy": backend.xp.__version__,
            "nvrtc": list(backend.xp.cuda.nvrtc.getVersion()),
            "multiprocessors": properties["multiProcessorCount"],
            "memory_bytes": properties["totalGlobalMem"],
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
        }
    return message


def show(name, figures, n_kernels=None):
    """Print the table of a case, with all kernels or only the slowest."""
    print(f"\n{name} {tuple(figures['shape'])}: {figures['device_seconds']:.4f} s in the steps")
    cpu = figures.get("cpu", {}).get("steps", {})
    print(f"{'step':<16} {'device ms':>10} {'wall ms':>10} {'floor ms':>9} {'of copy':>8} {'CPU ms' if cpu else '':>9}")
    for step, found in figures["steps"].items():
        times = f"{found['seconds'] * 1e3:10.3f} {found['wall_seconds'] * 1e3:10.3f}"
        floor = f"{found['floor_seconds'] * 1e3:9.3f} {found['of_copy_bandwidth']:8.2f}" if "bytes" in found else ""
        beside = f" {cpu[step] * 1e3:9.1f}" if step in cpu else ""
        print(f"{step:<16} {times} {floor:<18}{beside}".rstrip())
    for way in ("read_alone", "upload", "download"):
        print(f"{way:<16} {figures[way]['seconds']:10.5f} s, {figures[way]['bytes_per_second'] / 1e9:.2f} GB/s")
    slowest = sorted(figures["kernels"].items(), key=lambda item: -item[1]["seconds"])
    for kernel, found in slowest[:n_kernels]:
        print(f"  {kernel:<24} {found['seconds'] * 1e3:10.4f} ms in {found['launches']} launches")
    for key in ("peak_memory_over_ramp", "memory_estimate_over_ramp", "stcal"):
        if figures.get(key) is not None:
            print(f"{key}: {figures[key]}")
    if "cpu" in figures:
        cpu = figures["cpu"]
        print(f"CPU ({cpu['kind']}, {cpu['threads']} threads): {cpu['seconds']:.3f} s; {summarize(cpu['differences'])}")
    sys.stdout.flush()


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=None, help=f"cases, of {', '.join(arrays.CASES)} (default: all)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--exposures", type=int, default=200, help="exposures in a row, to see if memory grows")
    parser.add_argument("--no-cpu", action="store_true", help="do not run the CPU backend")
    parser.add_argument("--no-variants", action="store_true")
    parser.add_argument("--peer-samples", type=int, default=5 * 10**7, help="largest exposure on which stcal runs")
    parser.add_argument("--backend", default=None, choices=["cuda", "host"])
    parser.add_argument("--rehearse", action="store_true", help="small cases, by default on the host build")
    parser.add_argument("--output", type=Path, default=None, help="JSON file (default: a new one in results/)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    logging.disable(logging.WARNING)
    if not options.no_variants:
        allow_variants()
    cases = arrays.REHEARSAL if options.rehearse else arrays.CASES
    backend = get_backend(options.backend or ("host" if options.rehearse else "cuda"))
    if options.rehearse:
        options.repeat, options.exposures = 1, 4
    bandwidth = copy_bandwidth(backend, 2**22 if options.rehearse else 2**31)
    figures = {"machine": describe(backend), "aims": AIMS, "copy_bytes_per_second": bandwidth, "cases": {}}
    print(figures["machine"], f"\ncopy: {bandwidth / 1e12:.3f} TB/s read and written", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpucoron-bench-") as folder:
        for name in options.cases or cases:
            figures["cases"][name] = found = measure_beside(cases[name], backend, Path(folder), options, bandwidth)
            show(name, found)
        smallest = min(cases.values(), key=lambda case: case.n_samples)
        figures["long_life"] = measure_long_life(smallest, backend, Path(folder), options.exposures)
        print("\nexposures in a row:", figures["long_life"])
        if not options.no_variants:
            # Several threads per pixel are slow on the host.
            tried = dict(list(cases.items())[:1]) if options.rehearse else cases
            figures["variants"] = measure_variants(tried, backend, Path(folder), Clock, options.repeat)
    write(figures, options)
    problems = list(find_problems(figures))
    print(*problems, sep="\n")
    return 1 if problems else 0


def find_problems(figures):
    """Return descriptions of all errors, regardless of speed."""
    for name, case in figures["cases"].items():
        if "cpu" in case:
            yield from (f"{name}: {problem}" for problem in find_differences(case["cpu"]["differences"]))
    if figures["long_life"]["flat"] is False:
        yield f"device memory grows from exposure to exposure: {figures['long_life']}"


def find_differences(differences):
    """Return descriptions of products that differ too much from those of the CPU backend."""
    # A value within rounding of a threshold may be flagged by one backend only, and its ramp is then fitted
    # differently. This is allowed for one in a million of the products' values.
    ties = 1e-6 * differences["values"]
    counts = [differences[key] for key in ("different_flags", "different_nan", "beyond")]
    if differences["unlike"] or max(counts) > ties:
        yield f"the products differ from those of the CPU backend: {summarize(differences)}"


def result_path(folder, machine, kind):
    """Return the path of a results file, named after the date, the device and the commit."""
    device = machine.get("device", machine["backend"]).lower().replace(" ", "-")
    return folder / f"{machine['date'][:10]}-{kind}-{device}-{machine['commit']}.json"


def write(figures, options):
    """Write the results; a rehearsal writes none."""
    path = options.output
    if path is None and not options.rehearse:
        RESULTS.mkdir(exist_ok=True)
        path = result_path(RESULTS, figures["machine"], "gpu")
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n")
        print("wrote", path)


if __name__ == "__main__":
    sys.exit(main())
