"""First contact: times of each step and kernel, upload and download, memory; then the CPU of the same machine."""

import array_exposures as arrays
import bench_gpu
import numpy as np
from compare_arrays import summarize
from contact_part import NotDone, Wrong

#: the second case has the largest ramp, the third more integrations than the sigma clipping of jumps needs
CASES = {
    "nircam-10x20": arrays.CASES["nircam-10x20"],
    "miri-250x60": arrays.CASES["miri-250x60"],
    "miri-20x250": arrays.Case("MIRI", 250, 20, 224, 288),
}

#: how many kernels are printed
N_KERNELS = 8


def cases_of(part):
    return arrays.REHEARSAL if part.rehearse else CASES


def measure_device(part):
    """Measure each case on the device, relative to the bandwidth of a copy; save the products for the CPU part."""

    def measure_copy():
        n_bytes = 2**22 if part.rehearse else 2**31
        part.keep(copy_bytes_per_second=bench_gpu.copy_bandwidth(part.backend, n_bytes), cases={})
        return f"{part.figures['copy_bytes_per_second'] / 1e12:.3f} TB/s read and written"

    part.check("the rate of a copy", measure_copy)
    for name, case in cases_of(part).items():

        def measure(name=name, case=case):
            if "copy_bytes_per_second" not in part.figures:
                raise NotDone("the bandwidth of a copy is unknown")
            path = counts_of(part, name, case)
            rate = part.figures["copy_bytes_per_second"]
            figures, products = bench_gpu.measure(case, path, part.backend, rate, 1 if part.rehearse else 3)
            part.keep(cases=part.figures["cases"] | {name: figures})
            # Written under a temporary name first, so that an existing file is complete.
            half = part.scratch / f"{name}.half.npz"
            np.savez(half, **products)
            half.replace(part.scratch / f"{name}.npz")
            bench_gpu.show(name, figures, N_KERNELS)
            ms = {key: figures[f"{key}_seconds"] * 1e3 for key in ("device", "wall", "warm_up")}
            return (
                f"{ms['device']:.1f} ms on the device, {ms['wall']:.1f} ms of wall time, {ms['warm_up']:.0f} at first"
            )

        part.check(name, measure)


def measure_cpu(part):
    """Run the CPU backend on the cases, the largest if time allows; compare its products with those of the device."""
    cases = cases_of(part)
    speed = None
    for name in sorted(cases, key=lambda name: cases[name].n_samples):

        def run(name=name, case=cases[name]):
            nonlocal speed
            products = part.scratch / f"{name}.npz"
            if not products.exists():
                raise NotDone("the products of the device are missing")
            expected = np.inf if speed is None else case.n_samples / speed
            if case is max(cases.values(), key=lambda one: one.n_samples) and 1.5 * expected > part.seconds_left():
                raise NotDone(f"about {expected:.0f} s, and {part.seconds_left():.0f} s are left")
            try:
                with np.load(products) as found:
                    cpu = bench_gpu.beside_cpu(case, counts_of(part, name, case), dict(found))
            except ModuleNotFoundError as error:
                raise NotDone(f"without a compiler the CPU backend needs {error.name} for this") from error
            speed = case.n_samples / cpu["seconds"]
            part.keep(cases=part.figures.get("cases", {}) | {name: cpu})
            steps = ", ".join(f"{step} {seconds * 1e3:.0f}" for step, seconds in cpu["steps"].items())
            part.say(f"     {name}, {cpu['kind']}, {cpu['threads']} threads, ms: {steps}")
            problems = list(bench_gpu.find_differences(cpu["differences"]))
            if problems:
                raise Wrong("; ".join(problems))
            return f"{cpu['seconds']:.3f} s in the steps; {summarize(cpu['differences'])}"

        part.check(name, run)


def counts_of(part, name, case):
    """Return the file of a case's counts; write it if it does not exist."""
    path = part.scratch / f"{name}.counts"
    if not path.exists():
        half = path.with_suffix(".half")
        arrays.write_counts(case, half)
        half.replace(path)
    return path
