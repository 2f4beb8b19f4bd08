"""Calls of the public functions as a user writes them, for a type checker; nothing here runs.

`make lint` checks this file. ``assert_type`` fails if a result has another type. A wrong call has ``type: ignore`` with
the expected error; mypy reports an ignore that is not needed, so that each of them must be refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import gpucoron
from gpucoron import Exposure, GpucoronError, get_backend, plot_ramp, reduce_file, run_obs, run_single_file
from gpucoron.backends.backend import Backend
from gpucoron.backends.results import SegmentFit, Slopes
from gpucoron.batch.plan import Plan, make_plan
from gpucoron.database import Database, create_database
from gpucoron.engine import Run, StepRecord, plan, run_steps
from gpucoron.records.previews import Preview, load_preview
from gpucoron.report.ramp import RampTrace, trace_ramp, write_ramp
from gpucoron.simulate import Effects, Scene, Simulation, Truth, simulate, write_references
from gpucoron.simulate.crds import CrdsCache
from gpucoron.steps import gain_scale, jump, ramp_fit, saturation


def reduce_one() -> None:
    run, models, paths = reduce_file("x_uncal.fits", Path("out"), steps={"jump": {"rejection_threshold": 5.0}})
    assert_type(run, Run)
    assert_type(models, dict[str, Any])
    assert_type(paths, dict[str, Path])
    assert_type(run.records, list[StepRecord])
    assert_type(run.records[0].flagged, dict[str, int])
    assert_type(run.seconds, float)
    assert_type(run.reference_path("jump", "gain"), str | None)
    assert_type(run.plot(), Figure)
    assert_type(run.plot("picture.png"), Figure)
    reduce_file(
        "x_uncal.fits", "out", profile="spaceklip", backend=get_backend("cpu"), max_memory="4G", pars=["a.asdf"]
    )
    reduce_file("x_uncal.fits", "out", save_intermediates=True, after_step=lambda run, record: print(record.name))

    reduce_file("x_uncal.fits")  # type: ignore[call-arg]
    reduce_file("x_uncal.fits", "out", profile="hst")  # type: ignore[arg-type]
    reduce_file("x_uncal.fits", "out", backend=3)  # type: ignore[arg-type]
    reduce_file("x_uncal.fits", "out", steps=["jump"])  # type: ignore[arg-type]
    reduce_file("x_uncal.fits", "out", True)  # type: ignore[call-arg, arg-type]
    reduce_file(["a_uncal.fits"], "out")  # type: ignore[arg-type]
    run.recrods  # type: ignore[attr-defined]  # noqa: B018
    run.plot(3)  # type: ignore[arg-type]


def plan_one() -> None:
    exposure = Exposure.read("x_uncal.fits")
    assert_type(exposure, Exposure)
    assert_type(exposure.facts.instrument, str)
    assert_type(exposure.summary, str)
    run = plan(exposure, backend="cpu", only="jump")
    assert_type(run_steps(run, until="ramp_fit"), Run)

    plan("x_uncal.fits")  # type: ignore[arg-type]
    run_steps(exposure)  # type: ignore[arg-type]


def as_spaceklip(database: Database) -> None:
    assert_type(run_single_file("x_uncal.fits", "out", return_rateints=True), Any)
    run_obs(database, steps={"jump": {"skip": True}}, subdir="stage1")
    assert_type(create_database("out", input_dir=["raw"]), Database)
    assert_type(Database.read("database.ecsv"), Database)
    database.update_obs("key", 0, Path("x_rateints.fits"), nints=3)

    run_obs(database, overwrite="yes")  # type: ignore[arg-type]
    create_database(["raw"])  # type: ignore[arg-type]
    database.update_obs("key", "0", "x_rateints.fits")  # type: ignore[arg-type]


def reduce_many() -> None:
    results = gpucoron.batch.reduce("raw", "stage1", workers=2, devices=[0], redo="failed")
    assert_type(results, Iterator[gpucoron.batch.Result])
    for result in results:
        assert_type(result.status, str)
        assert_type(result.outputs, dict[str, Path])
    assert_type(gpucoron.batch.inputs.find_files("raw"), list[Path])
    planned = make_plan(["raw", Path("more")], "stage1")
    assert_type(planned, Plan)

    gpucoron.batch.reduce("raw", "stage1", redo="some")  # type: ignore[arg-type]
    gpucoron.batch.reduce("raw", "stage1", backend=get_backend("cpu"))  # type: ignore[arg-type]
    gpucoron.batch.reduc("raw", "stage1")  # type: ignore[attr-defined]


def choose_backend() -> None:
    backend = get_backend("cpu", n_threads=2)
    assert_type(backend, Backend)
    assert_type(backend.name, str)
    assert_type(backend.memory_limit(), int | None)
    assert_type(gpucoron.backends.backend_status(), dict[str, tuple[bool, str]])

    get_backend(3)  # type: ignore[arg-type]


def look_at_ramps() -> None:
    assert_type(plot_ramp("x_uncal.fits", 10, 20, output="ramp.html"), Figure)
    assert_type(gpucoron.report.ramp.ramp_page(trace_ramp("x_uncal.fits", 10, 20)), str)
    trace = trace_ramp("x_uncal.fits", 10, 20, profile="recommended")
    assert_type(trace, RampTrace)
    assert_type(trace.nints, int)
    assert_type(write_ramp(trace, "ramp.png"), Path)
    assert_type(gpucoron.report.write_report("stage1"), Path)
    assert_type(load_preview("x.npz"), Preview)

    trace_ramp("x_uncal.fits", "10", 20)  # type: ignore[arg-type]
    write_ramp("x_uncal.fits", "ramp.png")  # type: ignore[arg-type]


def simulate_one() -> None:
    simulation = simulate("NIRCAM", "SUB320A335R", "RAPID", 4, 2, scene=Scene(star=1e6), effects=Effects(emi=True))
    assert_type(simulation, Simulation)
    assert_type(simulation.truth, Truth)
    assert_type(simulation.write("raw"), Path)
    assert_type(simulation.truth.mark_jumps(4), NDArray[np.bool_])
    simulate("MIRI", "MASK1550", "FASTR1", 10, 2, scene=np.ones((224, 288)), role="REF")
    cache = write_references([simulation], "crds")
    assert_type(cache, CrdsCache)
    with cache.activate():
        assert_type(cache.environment, dict[str, str])

    simulate("NIRCAM", "SUB320A335R", "RAPID", "4", 2)  # type: ignore[arg-type]
    simulate("NIRCAM", "SUB320A335R", "RAPID", 4, 2, role="PSF")  # type: ignore[arg-type]
    write_references("raw", "crds")  # type: ignore[arg-type]


def work_on_arrays(data: NDArray[np.float32], groupdq: NDArray[np.uint8], facts: gpucoron.facts.Facts) -> None:
    assert_type(jump.flag_jumps(data, groupdq, 2.0, 10.0, rejection_threshold=5.0, backend="cpu"), int)
    rate, rateints = ramp_fit.fit(data, groupdq, 0, 2.0, 10.0, group_time=4.0)
    assert_type(rate, Slopes | None)
    _, _, segments = ramp_fit.fit_segments(data, groupdq, 0, 2.0, 10.0, group_time=4.0)
    assert_type(segments, SegmentFit | None)
    groups, pixels = saturation.flag_saturated(data, groupdq, 0, threshold=60000, n_pix_grow_sat=1)
    assert_type(groups, NDArray[np.uint8])
    assert_type(pixels, NDArray[np.uint32])

    jump.flag_jumps(data, groupdq, 2.0)  # type: ignore[call-arg]
    jump.flag_jumps(data, [[0]], 2.0, 10.0)  # type: ignore[arg-type]
    ramp_fit.fit(data, groupdq, 0, 2.0, 10.0, group_time="4 s")  # type: ignore[arg-type]
    gain_scale.scale_slopes(data, 2.0)  # type: ignore[arg-type]


def use_names() -> Mapping[str, object]:
    """Every lazy name of the package is known."""
    gpucoron.reduce_fil  # type: ignore[attr-defined]  # noqa: B018
    if issubclass(gpucoron.errors.ParameterError, GpucoronError):
        assert_type(gpucoron.dq.JUMP_DET, int)
    assert_type(gpucoron.stpipe_steps(), list[tuple[str, str, bool]])
    return {
        "pipeline": gpucoron.Coron1Pipeline,
        "as in spaceKLIP": gpucoron.Coron1Pipeline_spaceKLIP,
        "version": gpucoron.__version__,
        "engine": gpucoron.engine.reduce_file,
        "io": gpucoron.io,
        "parameters": gpucoron.parameters.P,
        "records": gpucoron.records,
        "spaceKLIP": gpucoron.coron1pipeline.run_obs,
    }
