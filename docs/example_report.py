"""Write the example report of the documentation: two simulated exposures, reduced, and a truncated one."""

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from gpucoron import __version__, report
from gpucoron.engine import reduce_file
from gpucoron.errors import InputError
from gpucoron.parameters import changed
from gpucoron.records.previews import preview_path, save_preview
from gpucoron.simulate import simulate
from gpucoron.simulate.references import write_references
from gpucoron.steps import STEPS


def write_example(path):
    """Write the example, unless it exists and is newer than the report's code."""
    sources = [Path(__file__), *(file for file in Path(report.__file__).parent.rglob("*") if file.is_file())]
    if path.exists() and path.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "An example"
        folder.mkdir()
        _reduce_examples(Path(scratch), folder)
        report.write_report(folder, path)


def _reduce_examples(scratch, folder):
    simulations = [
        simulate("NIRCAM", "SUB320A335R", "RAPID", ngroups=10, nints=4, seed=2),
        simulate("MIRI", "MASK1550", "FASTR1", ngroups=20, nints=2, seed=2),
    ]
    paths = [simulation.write(scratch) for simulation in simulations]
    short = scratch / paths[0].name.replace("_00001_", "_00002_")
    short.write_bytes(paths[0].read_bytes()[:300_000])
    cache = write_references(simulations, scratch / "crds")
    with cache.activate(), (folder / "manifest.jsonl").open("w") as manifest:
        for path in (*paths, short):
            manifest.write(json.dumps(_reduce(path, folder), default=str) + "\n")


def _reduce(path, folder):
    """Reduce one file and return its record, as in the manifest of a batch."""
    start = time.perf_counter()
    exposure = path.name.removesuffix("_uncal.fits")
    record = {"exposure": exposure, "input": path.name, "input_bytes": path.stat().st_size, "profile": "spaceklip"}
    record |= {"versions": {"gpucoron": __version__}, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    try:
        run, _, written = reduce_file(path, folder, profile="spaceklip", backend="cpu")
    except InputError as error:
        message = str(error).replace(f"{path.parent}/", "")
        return record | {"status": "failed", "error": {"type": type(error).__name__, "message": message}}
    save_preview(run, preview_path(folder, exposure))
    facts, meta = run.exposure.facts, run.exposure.meta.meta
    return record | {
        "status": "done",
        "outputs": {name.rsplit("_", 1)[1]: product.name for name, product in written.items()},
        "context": run.context[0],
        "backend": run.backend.name,
        "parameters": changed(STEPS, run.parameters),
        "steps": [vars(step) for step in run.records],
        "seconds": {"total": time.perf_counter() - start},
        "instrument": facts.instrument,
        "detector": facts.detector,
        "subarray": facts.subarray,
        "exp_type": facts.exp_type,
        "filter": meta.instrument.filter,
        "coronmsk": meta.instrument.coronagraph,
        "target": meta.target.proposer_name,
        "shape": list(run.exposure.data.shape),
    }
