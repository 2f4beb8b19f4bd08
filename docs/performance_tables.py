"""Write the results of the latest benchmarks in ``benchmarks/results`` for the page on performance."""

import json
import statistics

from validation_text import table, write_page

_SIDES = {"jwst": "jwst", "ours": "gpucoron", "1 thread": "gpucoron, 1 thread", "numpy": "gpucoron, NumPy only"}


def write_measured(results, folder):
    """Write a file ``performance_<kind>.md`` for each kind of benchmark; do not rewrite unchanged ones."""
    for kind, section in _SECTIONS.items():
        write_page(section(latest(results, kind)), folder / f"performance_{kind}.md")


def latest(results, kind):
    """Read the newest results of a kind, by the date in the file; their file name is added to them."""
    kept = [json.loads(path.read_text()) | {"file": path.name} for path in results.glob(f"*-{kind}-*.json")]
    if not kept:
        msg = f"{results}: no results of benchmarks/bench_{kind.replace('-', '_')}.py; run it with --save"
        raise FileNotFoundError(msg)
    return max(kept, key=lambda one: one["machine"]["date"])


def _where(figures):
    machine = figures["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"*{machine['date'][:10]}, {machine['cores']} cores of {machine['processor']}, Python {machine['python']}, "
        f"{versions}, commit {machine['commit']}: `benchmarks/results/{figures['file']}`.*"
    )


def _engine(figures):
    for name, case in figures["cases"].items():
        sides = [side for side in _SIDES if side in case["totals"]]
        instrument, subarray, pattern, ngroups, nints = case["arguments"]
        steps = ", with emicorr" if case["steps"] else ""
        yield f"### {instrument} {subarray} {pattern}, {ngroups} groups x {nints} integrations{steps} ({name})\n"
        yield "| step, seconds | " + " | ".join(_SIDES[side] for side in sides) + " |"
        yield "|---" * (len(sides) + 1) + "|"
        for step, seconds in case["seconds"].items():
            if max(seconds[side] for side in sides) > 5e-3 and seconds["ours"] > 1e-3:
                yield f"| {step} | " + " | ".join(f"{seconds[side]:.3f}" for side in sides) + " |"
        totals = {side: statistics.median(case["totals"][side]) for side in sides}
        yield "| all steps | " + " | ".join(f"{totals[side]:.2f}" for side in sides) + " |"
        ratios = [f"{case['ratios'][side]:.1f} times" if side in case["ratios"] else "" for side in sides]
        yield "| jwst relative to gpucoron | " + " | ".join(ratios) + " |"
        yield ""
        yield f"Medians of {figures['repeat']} runs in one process. Steps below 1 ms are not listed, but are part of"
        yield f"the sum. One thread takes {case['scaling']:.2f} times as long as two."
        if "memory" in case:
            ours, theirs = case["memory"]["ours"], case["memory"]["jwst"]
            yield (
                f"Peak memory beyond that of the imports: {ours['peak_mb']:.0f} MB, jwst {theirs['peak_mb']:.0f} MB, "
                f"for a float32 ramp of {ours['ramp_mb']:.0f} MB."
            )
        yield ""
    if "likely" in figures:
        yield from _likely(figures["likely"])
    if "scaling of arithmetic" in figures:
        times = figures["scaling of arithmetic"]
        yield f"Square roots of arrays in the cache are {times:.2f} times as fast on all threads as on one.\n"
    yield _where(figures) + "\n"


def _likely(figures):
    medians = {side: statistics.median(of) for side, of in figures["seconds"].items()}
    yield f"### Likelihood fit, {figures['case']}\n"
    yield f"ramp_fit with LIKELY takes {medians['stcal']:.2f} s with stcal, {medians['ours']:.3f} s with gpucoron and"
    yield f"{medians['1 thread']:.3f} s with gpucoron on one thread: {figures['ratios']['ours']:.0f} and"
    yield f"{figures['ratios']['1 thread']:.0f} times less, medians of the ratios in each round.\n"


def _end_to_end(figures):
    yield "### Including all I/O\n"
    yield "Seconds in one warm process, and in a separate (cold) process including start-up. The floor is the time to"
    yield "open the file with jwst's reader and to save rate and rateints.\n"
    yield "| exposure | read | plan | steps | write | gpucoron | floor | jwst | cold: gpucoron | floor | jwst |"
    yield "|---" * 11 + "|"
    for name, case in figures["cases"].items():
        warm = [*case["ours"].values(), case["floor"], case["jwst"]]
        cold = [case["cold"][side] for side in ("ours", "floor", "jwst")]
        cells = [f"{seconds:.3f}" for seconds in warm] + [f"{seconds:.1f}" for seconds in cold]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield f"Medians of {figures['repeat']} runs (cold: of 3). In the warm process, gpucoron takes "
    yield ", ".join(f"{case['over_floor']:.1f}" for case in figures["cases"].values()) + " times the floor, jwst"
    yield ", ".join(f"{case['jwst_over_floor']:.1f}" for case in figures["cases"].values()) + ".\n"
    yield _where(figures) + "\n"


def _large(figures):
    yield "### A large exposure\n"
    yield f"MIRI, 250 groups x 60 integrations with emicorr, a file of {figures['file_gb']:.2f} GB, including all I/O:"
    yield f"{figures['seconds']:.0f} s, {figures['reads_per_second']:.0f} reads/s. Reading the file alone takes"
    yield f"{figures['floor']:.1f} s. The peak of anonymous memory is {figures['anonymous_mb']:.0f} MB"
    yield f"({figures['max_memory_gb']:g} GB allowed)."
    parts = sorted(figures["parts"].items(), key=lambda part: -part[1])
    longest = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts[:6])
    yield f"The longest parts: {longest}.\n"
    yield _where(figures) + "\n"


def _batch(figures):
    yield "### A batch\n"
    yield f"{figures['exposures']} NIRCam exposures (9 references, 2 science), {figures['workers']} workers. The ratio"
    yield "is the time of jwst, in one warm process or in one process per exposure, divided by that of gpucoron:\n"
    yield "| compared with | ratio |"
    yield "|---|---|"
    for name, ratio in figures["ratios"].items():
        yield f"| {name.replace('with our start', 'including the start of gpucoron')} | {ratio:.1f} |"
    parts, floor = dict(figures["parts"]), figures["floor"]
    total = parts.pop("total")
    yield ""
    spent = ", ".join(f"{name} {part:.2f}" for name, part in parts.items())
    yield f"A warm exposure takes {total:.2f} s ({spent}), {total / floor:.1f} times the floor of {floor:.2f} s:"
    yield "opening the ramp with jwst's reader, and saving rate and rateints.\n"
    yield _where(figures) + "\n"


def _optional(figures):
    header = ("step", "parameters", "exposure", "jwst, s", "gpucoron, s", "ratio")
    yield from table(header, (_optional_row(row) for row in figures["rows"].values()))
    yield f"Medians of {figures['repeat']} runs of both in turn, on {_threads(figures)}.\n"
    yield _where(figures) + "\n"


def _optional_row(row):
    (step, parameters), *_ = ((name, of) for name, of in row["steps"].items() if not of["skip"])
    chosen = ", ".join(f"`{name}={value!r}`" for name, value in parameters.items() if name != "skip")
    instrument, subarray, _pattern, ngroups, nints = row["arguments"]
    exposure = f"{instrument} {subarray}, {ngroups} x {nints}"
    return f"`{step}`", chosen or "-", exposure, f"{row['jwst']:.3g}", f"{row['ours']:.3g}", f"{row['ratio']:.1f}"


def _threads(figures):
    return f"{figures['threads'] or figures['machine']['cores']} threads"


def _start(figures):
    rows = ((name, f"{one['seconds']:.3f}", f"{one['cpu']:.3f}") for name, one in figures["processes"].items())
    yield from table(("process", "seconds", "CPU seconds"), rows)
    yield f"Medians of {figures['repeat']} processes each, with all files in the system's cache.\n"
    yield _where(figures) + "\n"


def _memory(figures):
    header = ("exposure", "limit, MB", "peak, MB", "seconds", "same products")
    rows = (
        (name, run["limit_mb"] or "none", f"{run['peak_mb']:.0f}", f"{run['seconds']:.1f}", _yes(run["same_products"]))
        for name, runs in figures.items()
        if isinstance(runs, list)
        for run in runs
    )
    yield from table(header, rows)
    yield _where(figures) + "\n"


def _yes(is_true):
    return "yes" if is_true else "no"


def _programme(figures):
    header = ("programme", "exposures", "raw data, GB", "gpucoron, s", "jwst, s", "ratio")
    rows = (
        (
            name, one["exposures"], f"{one['bytes'] / 1e9:.2f}", ", ".join(f"{run:.1f}" for run in one["batch"]),
            f"{one['jwst']:.0f}", f"{one['jwst'] / statistics.median(one['batch']):.1f}",
        )
        for name, one in figures.items()
        if isinstance(one, dict) and "exposures" in one
    )  # fmt: skip
    yield from table(header, rows)
    yield f"`gpucoron batch` with {figures['workers']} workers, all its runs; jwst in one process, once.\n"
    yield _where(figures) + "\n"


_SECTIONS = {
    "engine": _engine, "end-to-end": _end_to_end, "large": _large, "batch": _batch, "programme": _programme,
    "optional": _optional, "start": _start, "memory": _memory,
}  # fmt: skip
