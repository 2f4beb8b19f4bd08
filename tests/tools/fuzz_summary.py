"""Count the results of the two fuzzers: ``python -m tests.tools.fuzz_summary OUTCOMES [--save]``.

OUTCOMES is the file of pytest's ``--outcomes``, also of an interrupted run. ``--save`` saves the counts in
tests/data/fuzz.json, and writes them into docs/parity.md.
"""

import argparse
import json
import re
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from gpucoron import __version__
from tests.cases.paths import ROOT

KEPT = ROOT / "tests" / "data" / "fuzz.json"
PAGE = ROOT / "docs" / "parity.md"
HEADING = "## Drawn cases"

#: results of a case of the differential fuzzer -> description
KINDS = {
    "equal": "bit-identical (LIKELY: equal to jwst within the tolerance)",
    "refused by both": "refused by jwst and by gpucoron",
    "refused here": "refused by gpucoron alone",
    "jwst fails": "jwst fails, gpucoron gives a result",
    "refused by all ways": "settings that jwst does not have, refused by gpucoron in every way to run it",
    "different": "different",
}
#: kinds of which the page lists the reasons -> title of the list
REASONS = {"refused here": "Why only gpucoron refuses", "jwst fails": "Why only jwst fails"}


def count(lines):
    """Count the outcomes of both fuzzers: name -> kind -> number; and the reasons, kind -> reason -> number."""
    cases, files = {}, Counter()
    for line in map(json.loads, lines):
        if "test_fuzz_files" in line["test"]:
            files[line["outcome"]] += 1
        for _fuzzer, number, kind, why in line["fuzz"]:
            cases[number] = kind, why
    found = {"differential": dict(Counter(kind for kind, _why in cases.values()))}
    reasons = {kind: dict(Counter(why for each, why in cases.values() if each == kind)) for kind in REASONS}
    if files:
        found["files, tests of ten cases"] = dict(files)
    return found, reasons, {number: why for number, (kind, why) in cases.items() if kind == "different"}


def section():
    """Return the page's section on the last saved long run; nothing if there was none."""
    if not KEPT.exists():
        return []
    kept = json.loads(KEPT.read_text())
    counts, packages = kept["counts"]["differential"], ", ".join(f"{name} {v}" for name, v in kept["versions"].items())
    lines = [
        HEADING, "",
        "`make fuzz N=2000` draws exposures, flags, references, parameter files and all declared parameters at random. "
        "It compares gpucoron with jwst, and gpucoron's backends, memory limits, numbers of threads and ways to start "
        f"with each other. Every test run includes 60 cases. The last long run ({kept['date']}; {packages}) had "
        f"{sum(counts.values())} cases.", "",
        "| result | cases |", "|---|---|",
    ]  # fmt: skip
    lines += [f"| {words} | {counts.get(kind, 0)} |" for kind, words in KINDS.items()]
    for kind, reasons in kept["reasons"].items():
        lines += ["", f"{REASONS[kind]}:", ""]
        lines += [f"- {why}: {n}" for why, n in sorted(reasons.items(), key=lambda each: -each[1])] or ["- nothing"]
    files = kept["counts"].get("files, tests of ten cases")
    if files:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in files.items())
        lines += ["", f"A second fuzzer damages files. Its tests of ten files each: {counts}."]
    return [*lines, ""]


def put_into(page):
    """Replace the section of a page."""
    text = re.sub(rf"{HEADING}\n.*?(?=^## )", "", page, flags=re.S | re.M)
    before, heading, after = text.partition("## Not compared")
    return before + "\n".join(section()) + "\n" + heading + after


def main():
    """Print the counts, and save them with --save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--save", action="store_true")
    asked = parser.parse_args()
    found, reasons, different = count(asked.outcomes.read_text().splitlines())
    for fuzzer, counts in found.items():
        print(f"{fuzzer}: {sum(counts.values())}", *(f"  {kind}: {n}" for kind, n in counts.items()), sep="\n")
    for kind, whys in reasons.items():
        print(*(f"{kind}: {why}: {n}" for why, n in whys.items()), sep="\n")
    for number, why in different.items():
        print(f"case {number} differs: {why}")
    if asked.save:
        versions = {"gpucoron": __version__, **{name: version(name) for name in ("jwst", "stcal", "numpy")}}
        kept = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "versions": versions, "counts": found, "reasons": reasons}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        PAGE.write_text(put_into(PAGE.read_text()))
    return bool(different) or bool(found.get("files, tests of ten cases", {}).get("failed"))


if __name__ == "__main__":
    raise SystemExit(main())
