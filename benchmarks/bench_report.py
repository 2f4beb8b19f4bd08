"""Measure the report of a large batch: size of the page, time and memory to write and to open it, and its tiles.

python benchmarks/bench_report.py [--count 500] [--folder DIR] [--save]

A few exposures of NIRCam and MIRI are simulated and reduced: two rolls and a reference. The batch consists of copies of
them under other names, in programs of eleven exposures.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from report_in_browser import measure_in_browser, print_figures

#: name -> arguments of ``gpucoron.simulate.simulate``
KINDS = {
    "roll 1": {"roll": 0.0},
    "roll 2": {"roll": 10.0},
    "reference": {"role": "REF", "roll": 0.0},
}
SETTINGS = (("NIRCAM", "SUB320A335R", "RAPID", 10), ("MIRI", "MASK1550", "FASTR1", 20))
#: the kinds of the exposures of a program, as in a visit with a nine-point dither of the reference
PROGRAM = ("roll 1", "roll 2", *["reference"] * 9)
#: writes the page in a new process, and prints seconds and peak memory
WRITE = """
import json, sys, time
from gpucoron.report import write_report
from gpucoron.backends.process_memory import peak_memory, reset_peak_memory
reset_peak_memory()
start = time.perf_counter()
page = write_report(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak_memory": peak_memory(), "bytes": page.stat().st_size}))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="exposures in the batch")
    parser.add_argument("--nints", type=int, default=2, help="integrations of each exposure")
    parser.add_argument("--folder", default=None, help="folder for the batch")
    parser.add_argument("--save", action="store_true", help="write the results to results/")
    options = parser.parse_args()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="gpucoron-bench-"))
    batch = make_batch(folder, options.count, options.nints)
    figures = {"with tiles": measure(batch), "again, without tiles": measure(batch)}
    tiles = [path.stat().st_size for path in (batch / "report_tiles").iterdir()]
    figures["with tiles"]["tiles"] = sum(tiles)
    print(f"{options.count} exposures of {options.nints} integrations; {sum(tiles) / 1e6:.0f} MB of tiles")
    for name, figure in figures.items():
        print(
            f"{name:22s} {figure['seconds']:7.1f} s, {figure['peak_memory'] / 1e6:5.0f} MB of memory, "
            f"page of {figure['bytes'] / 1e6:.1f} MB"
        )
    browser = measure_in_browser(batch / "report.html")
    if browser:
        print_figures(browser)
    else:
        print("Chromium and chromedriver are not installed: the page is not measured in a browser")
    if options.save:
        figures = {"count": options.count, "nints": options.nints, "pages": figures, "browser": browser}
        print("wrote", common.save("report", figures))


def make_batch(folder, count, nints=2):
    """Make a batch of many exposures, or use the existing one; return its folder.

    Products and previews of the same kind are one file with many names.
    """
    from gpucoron.batch import reduce
    from gpucoron.records.manifest import read_manifests

    batch = Path(folder) / f"batch-{count}-{nints}"
    if (batch / "manifest.jsonl").exists():
        return batch
    reduced = Path(folder) / f"reduced-{nints}"
    kinds = {}
    for setting in SETTINGS:
        paths, cache = simulate_kinds(Path(folder) / f"raw-{nints}", setting, nints)
        with cache.activate():
            results = list(reduce(paths.values(), reduced, profile="spaceklip", backend="cpu"))
        records = read_manifests(reduced)[0]
        assert all(record["status"] == "done" for record in records.values()), results
        kinds |= {(setting, kind): records[path.name.removesuffix("_uncal.fits")] for kind, path in paths.items()}
    (batch / "previews").mkdir(parents=True)
    lines = []
    for number in range(count):
        program, position = divmod(number, len(PROGRAM))
        record = kinds[SETTINGS[program % len(SETTINGS)], PROGRAM[position]]
        lines.append(json.dumps(_copy(record, reduced, batch, program, position)) + "\n")
    (batch / "manifest.jsonl").write_text("".join(lines))
    return batch


def simulate_kinds(folder, setting, nints):
    """Simulate the exposures of one setting: (kind -> path, CrdsCache)."""
    from gpucoron.simulate import simulate
    from gpucoron.simulate.references import write_references

    instrument, subarray, readpatt, ngroups = setting
    made = {
        kind: simulate(instrument, subarray, readpatt, ngroups, nints, seed=number, observation=number + 1, **keywords)
        for number, (kind, keywords) in enumerate(KINDS.items())
    }
    cache = write_references(list(made.values()), folder / f"crds-{instrument}")
    return {kind: simulation.write(folder) for kind, simulation in made.items()}, cache


def _copy(record, source, target, program, position):
    """Link the files of an exposure under another name, and return its record."""
    name = f"jw{program + 1000:05d}{position + 1:03d}001_02101_00001_{record['detector'].lower()}"
    old = record["exposure"]
    outputs = {kind: product.replace(old, name) for kind, product in record["outputs"].items()}
    links = {source / record["outputs"][kind]: target / product for kind, product in outputs.items()}
    links[source / "previews" / f"{old}.npz"] = target / "previews" / f"{name}.npz"
    for existing, link in links.items():
        os.link(existing, link)
    start = f"2022-{program % 12 + 1:02d}-{program // 12 + 1:02d}T{position:02d}:00:00.000"
    observed = record["observed"] | {
        "program": f"{program + 1000:05d}", "observation": f"{position + 1:03d}", "start": start,
    }  # fmt: skip
    return record | {"exposure": name, "outputs": outputs, "observed": observed}


def measure(folder):
    """Write the report of a folder in a new process; return seconds, bytes of the page and peak memory."""
    done = subprocess.run([sys.executable, "-c", WRITE, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
