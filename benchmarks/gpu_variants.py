"""Variants of the jump search, the step that reads the ramp most often, each with its predicted speed.

A variant is measured on the search alone, on counts that are linear enough. They are whole numbers, for whose median up
to four scans of a long ramp are needed instead of two. The flags must be those of the default.
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
    words: int | None = None
    block_threads: int | None = None


VARIANTS = (
    Variant("default", "reference: 4 lanes up to four waves of resident threads, 64 words for each of a block's 128"),
    Variant(
        "lanes-1",
        "MIRI half as fast: one more scan, and 64512 pixels do not fill 101376 resident threads; SUB640 the same",
        lanes=1,
    ),
    Variant("lanes-4", "the same on all cases: each is small, or too long for the slices of one thread", lanes=4),
    Variant(
        "lanes-8",
        "within 10 % of 4 lanes on MIRI: the same scans, but a warp's 4 pixels use half of a 32-byte sector",
        lanes=8,
    ),
    Variant("pivots-7", "within 5 % on MIRI: pivots only serve for the few values in the slices", pivots=7),
    Variant("words-4096", "MIRI up to half as fast: half of the bins, so that the slices often overflow", words=4096),
    Variant("words-12288", "within 10 %: more bins, but 4 instead of 6 resident blocks", words=12288),
    Variant("blocks-64", "the same within 5 %: 128 words each, 7 resident blocks", block_threads=64),
    Variant("blocks-256", "MIRI up to half as fast: 32 words for each thread", block_threads=256),
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
    macros = {"GPUCORON_FLOAT_PIVOTS": variant.pivots, "GPUCORON_SLICE_WORDS": variant.words}
    device = type(like.device)(defines=[f"{name}={value}" for name, value in macros.items() if value is not None])
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
