"""Time the steps of jwst and gpucoron without reading and writing, in turn in one warm process, and their peak memory.

python benchmarks/bench_engine.py [--cases nircam-10x20 miri-100x19] [--repeat 5] [--threads N] [--save]

Also: the likelihood fit (LIKELY) beside stcal's, 1/f noise at groups, and how much faster a loop of pure arithmetic is
on several threads, to compare the scaling of the steps with.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["nircam-10x20", "miri-100x19"], choices=sorted(common.CASES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="threads of the CPU backend (default: all cores)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument(
        "--no-1overf",
        "--no-flicker",
        dest="with_1overf",
        action="store_false",
        help="do not measure the run with subtract_1overf at groups (--no-flicker is the old name)",
    )
    parser.add_argument("--no-likely", action="store_true", help="do not measure the likelihood fit")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    parser.add_argument("--folder", default=None, help="folder for the simulated exposures")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-")
    if options.peak:
        print(json.dumps(peak_of(*options.peak, folder, options.threads)))
        return
    figures = {"threads": options.threads, "repeat": options.repeat, "cases": {}}
    figures["scaling of arithmetic"] = scaling_of_arithmetic(options.threads)
    print(f"a loop of pure arithmetic is {figures['scaling of arithmetic']:.2f} times as fast on all threads")
    for name in options.cases:
        figures["cases"][name] = measure(name, folder, options)
    if not options.no_likely:
        figures["likely"] = measure_likely(folder, options)
    if options.with_1overf:
        figures["1/f at groups"] = measure_1overf_at_groups(folder, options)
    if options.save:
        print("wrote", common.save("engine", figures))


def measure(name, folder, options):
    """Measure one case: medians of each step, of jwst and of each configuration of gpucoron in turn."""
    from gpucoron.backends import get_backend

    path, cache = common.make_case(name, folder)
    steps = common.STEPS.get(name)
    ours = get_backend("cpu", n_threads=options.threads)
    ways = {"ours": ours, "1 thread": get_backend("cpu", n_threads=1)}
    if ours.name != "numpy":
        ways["numpy"] = get_backend("numpy", n_threads=options.threads)
    rounds = {side: [] for side in ("jwst", *ways)}
    with cache.activate():
        for backend in ways.values():
            common.our_steps(path, backend, steps)  # warm up: imports, references, threads, compiled kernels
        for number in range(options.repeat):
            # Each round starts with another side, so that none is always the first or the last.
            first = number % len(rounds)
            for side in [*rounds][first:] + [*rounds][:first]:
                one = common.jwst_steps(path, steps) if side == "jwst" else common.our_steps(path, ways[side], steps)
                rounds[side].append(one)
    figures = {"arguments": common.CASES[name], "steps": steps, "backend": ours.name, "seconds": {}}
    print(f"\n{name}: {common.CASES[name]}, {ours.name}, {ours.device.n_threads} threads, medians of {options.repeat}")
    print(f"{'step':<20}" + "".join(f"{side:>10}" for side in rounds) + f"{'ratio':>8}")
    for step in dict.fromkeys([*rounds["jwst"][0], *rounds["ours"][0]]):
        medians = {side: statistics.median(one.get(step, 0.0) for one in rounds[side]) for side in rounds}
        figures["seconds"][step] = medians
        if max(medians.values()) > 1e-3:
            print(_row(step, medians, medians["jwst"] / medians["ours"] if medians["ours"] > 1e-3 else None))
    totals = {side: [sum(one.values()) for one in rounds[side]] for side in rounds}
    figures["totals"] = totals
    figures["ratios"] = {
        side: statistics.median(a / b for a, b in zip(totals["jwst"], totals[side], strict=True)) for side in ways
    }
    figures["scaling"] = statistics.median(a / b for a, b in zip(totals["1 thread"], totals["ours"], strict=True))
    print(_row("all steps", {side: statistics.median(of) for side, of in totals.items()}, figures["ratios"]["ours"]))
    message = ", ".join(f"{side} {ratio:.1f}x" for side, ratio in figures["ratios"].items())
    print(f"speed relative to jwst: {message}; 1 thread over {ours.device.n_threads}: {figures['scaling']:.2f}x")
    _compare_with_last(name, figures["ratios"])
    if not options.no_memory:
        sides = ("jwst", "ours", "emicorr") if name.startswith("miri") else ("jwst", "ours")
        figures["memory"] = {side: _peak(side, name, folder, options) for side in sides}
        for side, peak in figures["memory"].items():
            print(
                f"peak memory, {side}: {peak['peak_mb']:.0f} MB over the imports' {peak['before_mb']:.0f}; "
                f"the float32 ramp has {peak['ramp_mb']:.0f} MB ({peak['peak_mb'] / peak['ramp_mb']:.1f}x)"
            )
    return figures


def scaling_of_arithmetic(n_threads=None, repeat=5):
    """Return how many times faster square roots of arrays in the cache are on threads: the median of several rounds."""
    import numpy as np

    from gpucoron.backends.tiles import available_cores

    n_threads, per_round = n_threads or available_cores(), 240
    arrays = [np.linspace(1, 2, 2**16) for _ in range(n_threads)]

    def work(array, count):
        for _ in range(count):
            np.sqrt(array, out=array)

    def seconds(n):
        start = time.perf_counter()
        with ThreadPoolExecutor(n) as pool:
            list(pool.map(work, arrays[:n], [per_round * n_threads // n] * n))
        return time.perf_counter() - start

    seconds(n_threads)
    return statistics.median(seconds(1) / seconds(n_threads) for _ in range(repeat))


def measure_likely(folder, options, case="nircam-10x20"):
    """Measure ramp_fit with the algorithm LIKELY: stcal's, ours on one thread and on all, in turn."""
    from gpucoron.backends import get_backend

    path, cache = common.make_case(case, folder)
    steps = {"ramp_fit": {"algorithm": "LIKELY"}}
    ways = {"ours": get_backend("cpu", n_threads=options.threads), "1 thread": get_backend("cpu", n_threads=1)}
    seconds = {side: [] for side in ("stcal", *ways)}
    with cache.activate():
        for backend in ways.values():
            common.our_steps(path, backend, steps)
        for _ in range(options.repeat):
            seconds["stcal"].append(common.jwst_steps(path, steps)["ramp_fit"])
            for side, backend in ways.items():
                seconds[side].append(common.our_steps(path, backend, steps)["ramp_fit"])
    ratios = {
        side: statistics.median(a / b for a, b in zip(seconds["stcal"], seconds[side], strict=True)) for side in ways
    }
    medians = {side: statistics.median(of) for side, of in seconds.items()}
    print(f"\n{case}, ramp_fit with LIKELY: " + ", ".join(f"{side} {of:.3f} s" for side, of in medians.items()))
    print("stcal relative to " + ", ".join(f"{side}: {ratio:.1f}x" for side, ratio in ratios.items()))
    return {"case": case, "seconds": seconds, "ratios": ratios}


def measure_1overf_at_groups(folder, options, case="nircam-10x20"):
    """Measure the default steps with 1/f noise subtracted from every group, next to spaceKLIP's time elsewhere."""
    from gpucoron.backends import get_backend

    path, cache = common.make_case(case, folder)
    steps, pipeline = {"subtract_1overf": {"skip": False}}, {"stage_1overf": "groups"}
    ways = {"ours": get_backend("cpu", n_threads=options.threads), "1 thread": get_backend("cpu", n_threads=1)}
    totals, of_step = {side: [] for side in ways}, {side: [] for side in ways}
    with cache.activate():
        for backend in ways.values():
            common.our_steps(path, backend, steps, pipeline=pipeline)
        for _ in range(options.repeat):
            for side, backend in ways.items():
                seconds = common.our_steps(path, backend, steps, pipeline=pipeline)
                totals[side].append(sum(seconds.values()))
                of_step[side].append(seconds["subtract_1overf"])
    medians = {side: statistics.median(of) for side, of in totals.items()}
    peer = common.PEER_WITH_1OVERF_AT_GROUPS
    print(f"\n{case} with 1/f noise at groups; spaceKLIP took {peer:.0f} s on another machine")
    for side, seconds in medians.items():
        step = statistics.median(of_step[side])
        print(f"{side:<10} {seconds:6.2f} s ({step:.2f} s of it subtract_1overf), {peer / seconds:.1f}x")
    return {"case": case, "totals": totals, "subtract_1overf": of_step, "peer": peer}


def _row(step, medians, ratio):
    return (
        f"{step:<20}"
        + "".join(f"{seconds:10.3f}" for seconds in medians.values())
        + (f"{ratio:7.1f}x" if ratio is not None else "")
    )


def _compare_with_last(name, ratios):
    """Print where the ratio to jwst is at least a fifth worse than in the last saved results."""
    last = common.latest("engine")
    if last is None:
        return
    for side, before in last["cases"].get(name, {}).get("ratios", {}).items():
        if side in ratios and ratios[side] < 0.8 * before:
            commit = last["machine"]["commit"]
            print(f"SLOWER than at {commit}: {side} {ratios[side]:.1f}x jwst, was {before:.1f}x")


def _peak(side, name, folder, options):
    command = [sys.executable, __file__, "--peak", side, name, "--folder", str(folder)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(side, name, folder, threads):
    """Measure in this process the peak resident memory above that of a run on a small exposure.

    ``side`` is 'jwst', 'ours', or 'emicorr' for our steps up to that one.
    """
    import numpy as np
    import psutil

    from gpucoron.backends import get_backend
    from gpucoron.backends.process_memory import peak_memory, reset_peak_memory
    from gpucoron.io.references import STORE

    backend = get_backend("cpu", n_threads=threads)

    def run(case):
        path, cache = common.make_case(case, folder)
        steps = common.STEPS.get(case)
        with cache.activate():
            if side == "jwst":
                common.jwst_steps(path, steps)
            else:
                common.our_steps(path, backend, steps, until="saturation" if side == "emicorr" else None)

    run("miri-small" if name.startswith("miri") else "nircam-small")
    STORE.clear()
    before = psutil.Process().memory_info().rss
    reset_peak_memory()
    run(name)
    peak = peak_memory()
    _, _, _, ngroups, nints = common.CASES[name]
    ny, nx = (224, 288) if name.startswith("miri") else (320, 320)
    ramp = np.dtype(np.float32).itemsize * ngroups * nints * ny * nx
    return {"before_mb": before / 1e6, "peak_mb": (peak - before) / 1e6, "ramp_mb": ramp / 1e6}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
