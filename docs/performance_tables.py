"""Write the results of the latest benchmarks in ``benchmarks/results`` for the page on performance."""

import json
import statistics

_SIDES = {"jwst": "jwst", "ours": "gpucoron", "1 thread": "gpucoron, 1 thread", "numpy": "gpucoron, NumPy only"}


def write_measured(results, path):
    """Write the tables; do not rewrite an unchanged file."""
    sections = {"engine": _engine, "end-to-end": _end_to_end, "large": _large, "batch": _batch}
    lines = [line for name, section in sections.items() for line in section(_latest(results, name))]
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _latest(results, name):
    """Read the newest results of a name, by the date in the file name and in the file."""
    kept = [json.loads(path.read_text()) | {"file": path.name} for path in results.glob(f"*-{name}-*.json")]
    if not kept:
        msg = f"{results}: no results of benchmarks/bench_{name.replace('-', '_')}.py; run it with --save"
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
