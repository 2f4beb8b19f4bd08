"""Variants of the jump search, the step that reads the ramp most often, each with its predicted speed.

A variant is measured on the search alone, on counts that are linear enough. Its flags must be the same as those of the
default. The default is marked.
"""

import statistics
from dataclasses import dataclass, replace

import array_exposures as arrays

from gpucoron.backends.backend import Backend
from gpucoron.backends.kernel_files import KERNELS
from gpucoron.backends.operations.jump.definition import ITERATIVE, ONE_PASS


@dataclass(frozen=True)
class Variant:
    """A variant of the search, and its predicted speed on an H200 relative to the default."""

    name: str
    prediction: str
    lanes: int | None = None
    pivots: int | None = None
    block_threads: int | None = None


VARIANTS = (
    Variant("default", "reference: 4 lanes up to half of the device's threads, 15 pivots, blocks of 128"),
    Variant(
        "lanes-1",
        "MIRI 2 to 3 times slower (64512 pixels fill a quarter of 270336 threads), SUB640 the same or faster",
        lanes=1,
    ),
    Variant("lanes-4", "as the default on MIRI and 320 x 320; SUB640 up to 1.3 times slower", lanes=4),
    Variant(
        "lanes-8",
        "within 10 % of 4 lanes on MIRI: all threads resident, but a warp's 4 pixels use half of a 32-byte sector",
        lanes=8,
    ),
    Variant("pivots-7", "within 15 %: a third more passes, half the comparisons, fewer registers", pivots=7),
    Variant(
        "pivots-7-lanes-8", "best of all where registers limit the threads on MIRI: 10 % faster", lanes=8, pivots=7
    ),
    Variant("blocks-64", "the same within 3 %", block_threads=64),
    Variant("blocks-256", "the same within 3 %", block_threads=256),
)


def allow_variants():
    """Add the variants to the table of kernels; only in a process that measures, before any compilation."""
    kernel = KERNELS["search_jumps"]
    lanes = {variant.lanes for variant in VARIANTS if variant.lanes}
    more = [(mode, n) for mode in (ONE_PASS, ITERATIVE) for n in sorted(lanes) if (mode, n) not in kernel.variants]
    KERNELS["search_jumps"] = replace(
        kernel, variants=(*kernel.variants, *more), waits=(*kernel.waits, *(n > 1 for _, n in more))
    )


def make_backend(like, variant):
    """Make a backend of the same class that runs a variant."""
    defines = () if variant.pivots is None else (f"GPUCORON_FLOAT_PIVOTS={variant.pivots}",)
    device = type(like.device)(defines=defines)
    if variant.block_threads is not None and device.name == "cuda":
        device.block_threads = variant.block_threads
    if variant.lanes is not None:
        device.choose_lanes = lambda *work: variant.lanes
    return Backend(device)


def measure_variants(cases, like, folder, clock_of, repeat):
    """Measure every variant on every case: case -> variant -> results."""
    found = {}
    for name, case in cases.items():
        path = folder / f"{name}.counts"
        arrays.write_counts(case, path)
        found[name], reference = {}, None
        print(f"\nvariants of the jump search, {name}")
        for variant in VARIANTS:
            backend = make_backend(like, variant)
            seconds, flags, count = time_search(case, path, backend, clock_of(backend), repeat)
            if reference is None:
                reference = flags, count, seconds
            same = count == reference[1] and bool((flags == reference[0]).all())
            ratio = seconds / reference[2]
            found[name][variant.name] = {
                "seconds": seconds, "over_default": ratio, "same_flags": same, "prediction": variant.prediction,
            }  # fmt: skip
            print(f"{variant.name:<18} {seconds:10.5f} s {ratio:6.2f}  {variant.prediction}", flush=True)
            if not same:
                raise SystemExit(f"variant {variant.name} on {name} sets other flags")
            del backend, flags
        path.unlink()
    return found


def time_search(case, path, backend, clock, repeat):
    """Time the search: return median seconds, the flags on the host, and the count."""
    references = arrays.make_references(case, backend)
    data = arrays.read_counts(case, path, backend)
    data -= data.dtype.type(9000)
    seconds = []
    for _ in range(repeat + 1):
        groupdq = backend.zeros(case.shape, "uint8")
        backend.synchronize()
        start = clock.mark()
        count = backend.detect_jumps(data, groupdq, references["gain"].data, references["readnoise"].data)
        seconds.append(clock.seconds(start, clock.mark()))
    return statistics.median(seconds[1:]), backend.to_host(groupdq), count
