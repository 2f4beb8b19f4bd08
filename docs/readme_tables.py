"""Write the figures of the README from the latest results in ``benchmarks/results``.

python docs/readme_tables.py
"""

import statistics
from pathlib import Path

from performance_tables import latest
from validation_text import say, table

from gpucoron.steps.describe import INSTRUMENTS

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured: begin (python docs/readme_tables.py) -->\n\n", "<!-- measured: end -->\n"

#: the programmes of benchmarks/bench_programme.py, in words
_PROGRAMMES = {
    "NIRCAM": "NIRCam: two rolls of 15 groups x 10 integrations, a reference star in nine dithers of 4 x 2",
    "MIRI": "MIRI: two rolls and two backgrounds of 100 x 19, a reference star in nine dithers of 100 x 4",
}


def write_readme(results, readme):
    """Replace what is between the markers.

    Parameters
    ----------
    results : Path
        Folder of the results.
    readme : Path
        ``README.md``, which is changed.
    """
    readme.write_text(with_figures(readme.read_text(), results))


def with_figures(text, results):
    """Return the text of the README with the figures of the results."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        msg = f"README.md: the lines {BEGIN.strip()} and {END.strip()} are missing"
        raise ValueError(msg)
    figures = "\n".join([*_exposures(results), *_programmes(results)])
    return before + BEGIN + figures + "\n" + END + after


def _exposures(results):
    engine, end_to_end, batch = (latest(results, kind) for kind in ("engine", "end-to-end", "batch"))
    yield say(
        "All default steps without reading and writing, in one process on",
        f"{_machine(engine)}, beside jwst {engine['machine']['versions']['jwst']}:",
    )
    header = ("exposure", "jwst", "gpucoron", "ratio", "float32 ramp", "peak memory, jwst", "peak memory, gpucoron")
    yield from table(header, (_exposure(case) for case in engine["cases"].values()))
    over, faster = ([case[key] for case in end_to_end["cases"].values()] for key in ("over_floor", "ratio"))
    ratios = batch["ratios"]
    yield say(
        f"Including all I/O, one exposure takes {min(over):.1f} to {max(over):.1f} times as long as its I/O by jwst's",
        f"models alone, and jwst {min(faster):.0f} to {max(faster):.0f} times as long as gpucoron.",
        f"For {batch['exposures']} small NIRCam exposures, {batch['workers']} workers are",
        f"{ratios['jwst warm, with our start']:.1f} times faster than an",
        f"already imported jwst including start-up, and {ratios['jwst warm']:.0f} times excluding it.",
        "`docs/performance.md` has all measurements, with their dates and commits.",
    )


def _exposure(case):
    instrument, subarray, _pattern, ngroups, nints = case["arguments"]
    seconds = {side: statistics.median(of) for side, of in case["totals"].items()}
    ours, theirs = case["memory"]["ours"], case["memory"]["jwst"]
    with_emicorr = ", with emicorr" if case["steps"] else ""
    return (
        f"{INSTRUMENTS[instrument]} {subarray}, {ngroups} groups x {nints} integrations{with_emicorr}",
        f"{seconds['jwst']:.1f} s", f"{seconds['ours']:.2g} s", f"{case['ratios']['ours']:.1f}",
        f"{ours['ramp_mb']:.0f} MB", f"{theirs['peak_mb']:.0f} MB", f"{ours['peak_mb']:.0f} MB",
    )  # fmt: skip


def _programmes(results):
    figures = latest(results, "programme")
    yield "### How long a programme takes\n"
    yield say(
        f"Wall times of `gpucoron batch` with {figures['workers']} workers, including start-up, reading and writing,",
        f"and of one jwst process that reduces the same simulated files, on {_machine(figures)}:",
    )
    rows = (
        (
            words, figures[name]["exposures"], _size(figures[name]["bytes"]),
            f"{statistics.median(figures[name]['batch']):.0f} s", f"{figures[name]['jwst']:.0f} s",
        )
        for name, words in _PROGRAMMES.items()
    )  # fmt: skip
    yield from table(("programme", "exposures", "raw data", "gpucoron", "jwst"), rows)


def _machine(figures):
    return f"{figures['machine']['cores']} cores of an {figures['machine']['processor']}"


def _size(count):
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


if __name__ == "__main__":
    write_readme(ROOT / "benchmarks" / "results", ROOT / "README.md")
