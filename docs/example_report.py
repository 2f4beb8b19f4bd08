"""Write the example report of the documentation: simulated exposures, reduced by ``gpucoron run``, one cut short."""

import json
import re
import shutil
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from gpucoron import records, report
from gpucoron.cli import main
from gpucoron.records.manifest import RUNS
from gpucoron.simulate import SCENES, simulate
from gpucoron.simulate.references import write_references

#: observation -> role, target, roll in degrees
OBSERVED = {1: ("SCI", "HD-1", 100.0), 2: ("SCI", "HD-1", 110.0), 3: ("REF", "HD-2", 105.0)}
NAME = "An example"


def write_example(path):
    """Write the example, unless it exists and is newer than the code of the report and its records."""
    folders = [Path(package.__file__).parent for package in (report, records)]
    sources = [Path(__file__), *(file for folder in folders for file in folder.rglob("*") if file.is_file())]
    if path.exists() and path.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / NAME
        _reduce_examples(Path(scratch), folder)
        shutil.rmtree(folder / "logs")  # the documentation has neither logs nor products
        report.write_report(folder, path)


def _reduce_examples(scratch, folder):
    """Reduce two rolls, a reference star and a MIRI exposure with 1/f removal; and a file that is cut short."""
    scene = replace(SCENES["NIRCAM"], star=1e6, background=0.1, companion_contrast=2e-5)
    simulations = [
        simulate(
            "NIRCAM", "SUB320A335R", "RAPID", 8, 6, scene=scene, seed=observation, observation=observation,
            role=role, target=target, roll=roll, shape=(128, 320),
        )
        for observation, (role, target, roll) in OBSERVED.items()
    ]  # fmt: skip
    simulations.append(simulate("MIRI", "MASK1550", "FASTR1", 20, 4, seed=2, observation=4, target="HD-1"))
    paths = [simulation.write(scratch) for simulation in simulations]
    short = scratch / paths[0].name.replace("_00001_", "_00002_")
    short.write_bytes(paths[0].read_bytes()[:300_000])
    arguments = ["-o", str(folder), "-q", "--backend", "cpu", "--set", "subtract_1overf.skip=false"]
    cache = write_references(simulations, scratch / "crds")
    # the file that is cut short is an error
    with cache.activate(), redirect_stderr(StringIO()):
        main(["run", *map(str, paths), str(short), *arguments])
    _hide_machine(folder / RUNS, scratch)


def _hide_machine(path, scratch):
    """Replace the folders and the name of the machine on which the documentation is built."""
    text = path.read_text("utf-8").replace(str(scratch), "/data")
    records_of_runs = [json.loads(line) for line in text.splitlines()]
    for record in records_of_runs:
        record |= {"host": "node1", "pid": 1}
        if record["error"]:
            record["error"]["traceback"] = re.sub(r'File ".*/(?=[^/]+/)', 'File "', record["error"]["traceback"])
    path.write_text("".join(json.dumps(record) + "\n" for record in records_of_runs), "utf-8")
