"""Shared by the benchmarks: cases, jwst's step times, the description of the machine, saved results."""

import json
import os
import platform
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from provenance import commit, versions

RESULTS = Path(__file__).parent / "results"

# kernels are compiled before they are first needed, so that no measurement is of NumPy in their place
os.environ.setdefault("GPUCORON_NATIVE", "wait")

#: seconds of spaceKLIP 2.2 on jwst 1.18 for NIRCam, 10 groups x 20 integrations, with 1/f noise subtracted from every
#: group, on one x86-64 core of another machine, for orientation only
PEER_WITH_1OVERF_AT_GROUPS = 77.0

#: name -> arguments of ``gpucoron.simulate.simulate``
CASES = {
    "nircam-small": ("NIRCAM", "SUB320A335R", "RAPID", 10, 2),
    "nircam-10x20": ("NIRCAM", "SUB320A335R", "RAPID", 10, 20),
    "miri-small": ("MIRI", "MASK1550", "FASTR1", 20, 3),
    "miri-100x19": ("MIRI", "MASK1550", "FASTR1", 100, 19),
    "miri-250x3": ("MIRI", "MASK1550", "FASTR1", 250, 3),
}

#: step parameters of a case, for jwst and gpucoron: operations run emicorr for MIRI coronagraphy
STEPS = {name: {"emicorr": {"skip": False}} for name in CASES if name.startswith("miri")}


def make_case(name, folder):
    """Simulate a case with its references, or use the existing one; return (path, cache)."""
    from gpucoron.simulate import Effects, simulate
    from gpucoron.simulate.crds import open_cache
    from gpucoron.simulate.references import write_references

    folder = Path(folder) / name
    made = sorted(folder.glob("*_uncal.fits"))
    if made:
        return made[0], open_cache(folder / "crds")
    folder.mkdir(parents=True, exist_ok=True)
    # without interference there is no emicorr reference
    simulation = simulate(*CASES[name], seed=1, effects=Effects(emi=True))
    cache = write_references(simulation, folder / "crds")
    return simulation.write(folder), cache


def make_set(exposures, folder):
    """Simulate several exposures with their references, or use the existing ones; return (files, cache).

    ``exposures`` holds the arguments and the keyword arguments of `gpucoron.simulate.simulate` for each.
    """
    from gpucoron.simulate import Effects, simulate
    from gpucoron.simulate.crds import open_cache
    from gpucoron.simulate.references import write_references

    raw = folder / "raw"
    if not raw.exists():
        raw.mkdir(parents=True)
        one_of_each = {}  # exposures of one kind share their references
        for number, (arguments, keywords) in enumerate(exposures, 1):
            simulation = simulate(*arguments, seed=number, observation=number, effects=Effects(emi=True), **keywords)
            simulation.write(raw)
            one_of_each.setdefault((arguments, *keywords.items()), simulation)
        write_references(list(one_of_each.values()), folder / "crds")
    return sorted(raw.glob("*_uncal.fits")), open_cache(folder / "crds")


@contextmanager
def timed_jwst_steps():
    """Time every step of jwst's pipeline: yield a dict step -> seconds, which is filled while jwst runs."""
    from jwst.pipeline import Detector1Pipeline

    seconds = {}

    def timed(name, step_class):
        original = step_class.run

        def run(self, *args):
            start = time.perf_counter()
            result = original(self, *args)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            return result

        return patch.object(step_class, "run", run)

    with ExitStack() as stack:
        for name, step_class in Detector1Pipeline.step_defs.items():
            stack.enter_context(timed(name, step_class))
        yield seconds


def jwst_steps(path, steps=None):
    """Run jwst's Detector1Pipeline on a file; return step -> seconds."""
    from jwst.pipeline import Detector1Pipeline

    with timed_jwst_steps() as seconds:
        Detector1Pipeline.call(str(path), steps=steps or {}, save_results=False, configure_log=False)
    return seconds


def our_steps(path, backend, steps=None, *, pipeline=None, until=None):
    """Run gpucoron's engine on a file, or its steps before ``until``; return step -> seconds."""
    from gpucoron.engine import plan, run_steps
    from gpucoron.io.exposure import Exposure

    run = run_steps(plan(Exposure.read(path), steps=steps, pipeline=pipeline, backend=backend), until=until)
    return {record.name: record.seconds for record in run.records}


def io_floor(path, products):
    """Time the I/O alone: open a RampModel, save products; return seconds."""
    from stdatamodels.jwst import datamodels

    models = [datamodels.open(product) for product in products]
    for model in models:  # load lazy modules before the clock starts
        _ = model.data, model.err, model.dq, model.var_poisson, model.var_rnoise
    with tempfile.TemporaryDirectory(dir=Path(products[0]).parent) as folder:
        start = time.perf_counter()
        with datamodels.RampModel(str(path)) as ramp:
            _ = ramp.data, ramp.groupdq, ramp.pixeldq
            for number, model in enumerate(models):
                model.save(f"{folder}/{number}.fits")
        seconds = time.perf_counter() - start
    for model in models:
        model.close()
    return seconds


def machine():
    """Describe the machine and the versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": model,
        "cores": cores,
        "python": platform.python_version(),
        "commit": commit(),
        "versions": versions("jwst", "stcal", "numpy", "scipy"),
    }


def latest(kind):
    """Read the newest results of a benchmark, by the date in the file; None if there are none."""
    kept = [json.loads(path.read_text()) for path in RESULTS.glob(f"*-{kind}-*.json")]
    return max(kept, key=lambda one: one["machine"]["date"], default=None)


def latest_rows(kind):
    """Read the newest result of each row of a benchmark that may be run in parts; None if there are none."""
    kept = [json.loads(path.read_text()) for path in RESULTS.glob(f"*-{kind}-*.json")]
    rows = {}
    for one in sorted(kept, key=lambda one: one["machine"]["date"]):
        rows |= one["rows"]
    return {"rows": rows} if rows else None


def save(name, figures):
    """Write results with the description of the machine to ``results/``; return the path."""
    RESULTS.mkdir(exist_ok=True)
    described = machine()
    path = RESULTS / f"{described['date'][:10]}-{name}-{described['commit']}.json"
    path.write_text(json.dumps({"machine": described, **figures}, indent=1) + "\n")
    return path
