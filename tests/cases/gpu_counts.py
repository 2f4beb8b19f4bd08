"""Count what the steps ask of a GPU, over the stand-in for CuPy: launches, waits, and bytes.

``python -m tests.cases.gpu_counts docs/gpu.md`` writes the tables of the page, with the times that the counts predict.
"""

import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpucoron.backends import get_backend
from gpucoron.backends.devices.cuda_device import CudaDevice
from gpucoron.backends.devices.host_device import HostDevice
from gpucoron.engine import order_of, plan, run_steps
from gpucoron.io.exposure import Exposure
from gpucoron.io.references import STORE
from gpucoron.parameters import resolve
from gpucoron.steps import STEPS, run_step
from tests.cases.paths import BENCHMARKS
from tests.stand_ins.fake_cupy import make_fake_cupy
from tests.stand_ins.real_cupy import find_judge

sys.path.append(str(BENCHMARKS))

import array_exposures as arrays
import bench_gpu

#: bytes per second of an H100, and seconds of the CPU for a launch, for an operation of CuPy, and for a wait
BANDWIDTH = 3.35e12
LAUNCH, OPERATION, WAIT = 5e-6, 8e-6, 15e-6


@dataclass(frozen=True)
class Counted:
    """One exposure: its size, and the image that stands for it here, with as many groups and integrations.

    ``again``: step -> how often its kernels read a sample and its flags again, at most, as test_jump_search.py and
    test_ramp_kernels.py count and hold.
    """

    size: arrays.Case
    again: dict
    ny: int = 16
    nx: int = 32

    @property
    def case(self):
        return arrays.Case(self.size.instrument, self.size.nints, self.size.ngroups, self.ny, self.nx)


MIRI, NIRCAM = arrays.CASES["miri-250x60"], arrays.CASES["nircam-10x20"]
CASES = {
    "miri-250x60": Counted(MIRI, {"jump": 1.2, "ramp_fit": 1.2}),
    "miri-20x250": Counted(arrays.Case("MIRI", 250, 20, MIRI.ny, MIRI.nx), {"jump": 2.2, "ramp_fit": 0.2}),
    "nircam-10x20": Counted(NIRCAM, {"jump": 0.1, "ramp_fit": 0.2}, NIRCAM.ny, NIRCAM.nx),
}
#: bytes of a sample and its flags
SAMPLE = 5


@dataclass(frozen=True)
class Costs:
    """What a step asks of the device.

    Attributes
    ----------
    kernels, operations : int
        Launches of kernels, and operations of CuPy, which are launches too.
    waits : int
        How often the CPU waits for the device.
    moved : int
        Bytes that launches and operations read and write: each value once, those of arrays that a kernel changes
        twice, and what `Counted` adds.
    peak : int
        Most bytes of the arrays on the device.
    """

    kernels: int = 0
    operations: int = 0
    waits: int = 0
    moved: int = 0
    peak: int = 0

    @classmethod
    def of(cls, cupy):
        """Return the costs since the last `reset`."""
        counts = cupy.counts
        return cls(counts["launches"], counts["operations"], counts["syncs"], counts["bytes"], cupy.peak)

    @property
    def launches(self):
        return self.kernels + self.operations

    def __add__(self, other):
        sums = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Costs(**sums | {"peak": max(self.peak, other.peak)})

    def predicted(self, scale):
        """Predict the seconds on an H100, of an image that is ``scale`` times as large."""
        asking = LAUNCH * self.kernels + OPERATION * self.operations
        return max(scale * self.moved / BANDWIDTH, asking) + WAIT * self.waits


def reset(cupy):
    """Start to count from zero."""
    cupy.counts.clear()
    cupy.peak = cupy.live


def make_counter(patch, folder):
    """Make a stand-in for CuPy whose launches run on the host."""
    # On the host, threads that wait for each other are real threads: use few.
    patch.setattr(CudaDevice, "choose_lanes", lambda self, *work: 1)
    patch.setattr(CudaDevice, "block_threads", HostDevice.block_threads)
    patch.setattr(CudaDevice, "frame_threads", HostDevice.frame_threads)
    cupy = make_fake_cupy(patch, folder, runner=HostDevice(), judge=find_judge()[0])
    # a list of launches would keep their arrays in memory
    cupy.launches = deque(maxlen=0)
    return cupy


def count(counted, patch, folder):
    """Run the default steps of a case over the stand-in; return step -> Costs, in order, with 'load' and 'products'.

    Parameters
    ----------
    counted : Counted
    patch : pytest.MonkeyPatch
    folder : Path
        Empty.
    """
    cupy = make_counter(patch, folder)
    backend, case = get_backend("cuda", cupy=cupy), counted.case
    references = arrays.make_references(case, backend)
    path = folder / "counts"
    arrays.write_counts(case, path)
    costs = {}

    reset(cupy)
    exposure = arrays.make_exposure(case, arrays.read_counts(case, path, backend), backend)
    costs["load"] = Costs.of(cupy)
    facts = exposure.facts
    settings = resolve(STEPS, "jwst", instrument=facts.instrument, subarray=facts.subarray)
    for step in order_of(facts):
        if settings[step].skip:
            continue
        usable = {reftype: references.get(reftype) for reftype in STEPS[step].references}
        reset(cupy)
        outcome = run_step(step, exposure, usable, settings[step], backend)
        if outcome.status == "COMPLETE":
            costs[step] = Costs.of(cupy)
    reset(cupy)
    bench_gpu.to_host(backend, exposure)
    costs["products"] = Costs.of(cupy)
    for step, times in counted.again.items():
        costs[step] += Costs(moved=round(times * SAMPLE * case.n_samples))
    return costs


def count_run(made, strict_case, patch, folder):
    """Run a case of `strict_cases` on a simulated exposure over the stand-in; return step -> Costs.

    Parameters
    ----------
    made : tests.cases.exposures.Case
    strict_case : tests.pipeline.strict_cases.StrictCase
    patch : pytest.MonkeyPatch
    folder : Path
        Empty.
    """
    cupy = make_counter(patch, folder)
    backend, costs = get_backend("cuda", cupy=cupy), {}
    options = {name: value for name, value in strict_case.run.items() if name != "profile"}
    profile = {"profile": strict_case.run["profile"]} if "profile" in strict_case.run else {}

    def before(run, name):
        reset(cupy)

    def after(run, record):
        if record.status == "COMPLETE":
            costs[record.name] = Costs.of(cupy)

    # References stay on the device between exposures, but this device is new.
    STORE.clear()
    with made.cache.activate():
        exposure = Exposure.read(made.path, backend)
        run = plan(exposure, steps=strict_case.steps, backend=backend, pipeline=options, **profile)
        run_steps(run, before_step=before, after_step=after)
    STORE.clear()
    return costs


#: what surrounds the tables on the page
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"


def table(name, costs):
    """Return the lines of a table in Markdown: launches, waits, bytes per sample, memory over the ramp, seconds."""
    counted = CASES[name]
    size, samples = counted.size, counted.case.n_samples
    scale = size.n_samples / samples
    heads = "step", "launches", "waits", "bytes per sample", "peak / ramp", "ms predicted"
    lines = [
        f"{size.instrument}, {size.ngroups} groups x {size.nints} integrations x {size.ny} x {size.nx}:",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
    ]
    total, seconds = Costs(), 0.0
    for step, found in costs.items():
        lines.append(_row(step, found, samples, found.predicted(scale)))
        if step not in ("load", "products"):
            total, seconds = total + found, seconds + found.predicted(scale)
    return [*lines, _row("all steps", total, samples, seconds)]


def _row(name, costs, samples, seconds):
    figures = costs.launches, costs.waits, f"{costs.moved / samples:.1f}", f"{costs.peak / 4 / samples:.2f}"
    return f"| {name} | {' | '.join(map(str, figures))} | {1e3 * seconds:.2f} |"


def counted_lines(page):
    """Return the lines of the tables on a page."""
    return page[page.index(BEGIN) + len(BEGIN) : page.index(END)].splitlines()


def main():
    """Print the tables, or replace them on the page that is named."""
    lines = []
    for name, counted in CASES.items():
        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            lines += ["", *table(name, count(counted, patch, Path(folder)))]
    if len(sys.argv) == 1:
        print(*lines, sep="\n")
        return
    path = Path(sys.argv[1])
    page = path.read_text(encoding="utf-8")
    counted = "\n".join(["", *lines, "", ""])
    path.write_text(page[: page.index(BEGIN) + len(BEGIN)] + counted + page[page.index(END) :], encoding="utf-8")


if __name__ == "__main__":
    main()
