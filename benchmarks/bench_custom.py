"""Time the custom steps on one thread, for the sizes for which spaceKLIP's times are known.

python benchmarks/bench_custom.py [--threads 1] [--repeat 3] [--save]
"""

import argparse
import logging
import statistics
import time

import common
import numpy as np

#: column 'peer': seconds of spaceKLIP 2.2 on jwst 1.18 on one x86-64 core of another machine, for orientation only
PEER = {"1/f on 200 frames": 54.0, "1/f on 20 rateints": 5.1, "ktc": 0.8}
#: ramps per second of spaceKLIP's likelihood fit with jump rejection
PEER_RAMPS = 8.6e4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    figures = {"threads": options.threads, "repeat": options.repeat, "seconds": {}}
    print(f"{'step':<28} {'seconds':>9} {'peer':>7}   {options.threads} threads, medians of {options.repeat}")
    for name, function in jobs(options.threads):
        function()
        seconds = []
        for _ in range(options.repeat):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
        figures["seconds"][name] = statistics.median(seconds)
        print(f"{name:<28} {figures['seconds'][name]:9.3f} {PEER.get(name, float('nan')):7.1f}")
    ramps = 20 * 320 * 320 / figures["seconds"]["likelihood fit and jumps"]
    figures["likelihood_ramps_per_second"] = ramps
    print(f"likelihood: {ramps:.3g} ramps/s ({10 * ramps:.3g} reads/s); spaceKLIP: {PEER_RAMPS:.2g} ramps/s")
    if options.save:
        print("wrote", common.save("custom", figures))


def jobs(n_threads):
    """Make the inputs, and return (name, function) for each measurement."""
    from gpucoron.backends import get_backend
    from gpucoron.steps import ramp_fit, subtract_1overf, subtract_ktc

    backend = get_backend("cpu", n_threads=n_threads)
    rng = np.random.default_rng(3)
    nints, ngroups, ny, nx = 20, 10, 320, 320
    y, x = np.indices((ny, nx)) - 160.0
    star = (2e3 / (1 + (x**2 + y**2) / 60)).astype(np.float32)
    data = np.empty((nints, ngroups, ny, nx), np.float32)
    for integration in range(nints):
        rows = np.cumsum(rng.normal(0, 1, (ngroups, ny, 1)), axis=1) * 0.3
        noise = rng.normal(0, 5, (ngroups, ny, nx))
        data[integration] = rows + noise + np.arange(1, ngroups + 1)[:, None, None] * star + rng.normal(0, 20, (ny, nx))
    groupdq = np.zeros(data.shape, np.uint8)
    saturation = np.full((ny, nx), 40000, np.float32)
    rateints = (data[:, -1] - data[:, 0]) / 9
    dq = np.zeros(rateints.shape, np.uint32)
    diffs = np.ascontiguousarray(np.diff(data, axis=1, prepend=0).transpose(1, 0, 2, 3).reshape(ngroups, -1, nx))
    diffs, read_times = diffs[1:] / 1.07, np.arange(1, ngroups + 1) * 1.07
    sig = np.full(diffs.shape[1:], 15.0, np.float32)

    yield (
        "1/f on 200 frames",
        lambda: subtract_1overf.noise_of_ramp(data, groupdq, saturation, 1.07, backend=backend),
    )
    yield "1/f on 20 rateints", lambda: subtract_1overf.noise_of_rateints(rateints, dq, backend=backend)
    yield "ktc", lambda: subtract_ktc.fit_ktc(data, groupdq, saturation, 1.07, backend=backend)
    yield (
        "likelihood fit and jumps",
        lambda: ramp_fit.fit_likelihood(diffs, read_times, sig, backend=backend),
    )


if __name__ == "__main__":
    main()
