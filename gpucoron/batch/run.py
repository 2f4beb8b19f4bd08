"""Many exposures: planned once, reduced side by side, each one recorded; what was done is not done again.

>>> for result in gpucoron.batch.reduce("raw", "stage1"):
...     print(result.exposure, result.status)
"""

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpucoron.backends import check_backend
from gpucoron.backends.sizes import memory_size
from gpucoron.batch.decision import WAY_OUT, find_obstacle, product_name
from gpucoron.batch.job import came_of_full_disk, describe_error, now, who
from gpucoron.batch.persistence import Memory
from gpucoron.batch.plan import REDO, make_plan, parse_shard, settle
from gpucoron.errors import GpucoronError, OutputError, ParameterError
from gpucoron.io.parameter_files import as_paths, takes_crds_pars
from gpucoron.records.manifest import Manifest, read_past

ENGINES = ("local", "dask")
#: the status of an exposure that would have replaced what it must not
REFUSED = "refused"


@dataclass(frozen=True)
class Result:
    """What came of one exposure.

    Attributes
    ----------
    exposure : str
        The file's name without ``_uncal.fits``.
    input : Path
    status : {'done', 'failed', 'no rate', 'refused'}
        'refused' where it would have replaced products that are not this folder's, or of other parameters.
    outputs : dict
        'rate', 'rateints', ... -> Path.
    message : str
        Why it failed, or was refused.
    record : dict
        As it stands in the manifest, which has none for what was refused.
    """

    exposure: str
    input: Path
    status: str
    outputs: dict
    message: str
    record: dict


def reduce(
    paths,
    output_dir,
    *,
    profile="jwst",
    steps=None,
    backend="auto",
    workers=None,
    devices=None,
    max_memory=None,
    use_pars=None,
    pars=None,
    include_all=False,
    redo="needed",
    overwrite=False,
    shard="1/1",
    engine="local",
    scheduler=None,
    progress=None,
    **of_run,
) -> Iterator[Result]:
    """Reduce many exposures; the products, a log and a line of the manifest for each appear in one folder.

    Parameters
    ----------
    paths : str, Path, or a sequence of them
        Files, folders, patterns, ``@list``; see `gpucoron.batch.inputs.find_files`.
    output_dir : str or Path
        Made if it does not exist.
    profile, steps, **of_run
        As for `gpucoron.engine.reduce_file`; arrays as files.
    backend : {'auto', 'cpu', 'numpy', 'native', 'cuda', 'host'}, optional
        By name: each process makes its own. None is 'auto'.
    workers : int, optional
        Processes, exactly so many. By default one per core as far as memory goes, or two per GPU. The cores are shared
        among them; the results do not depend on it.
    devices : sequence of int, optional
        GPUs by number; by default all. Workers are spread over them.
    max_memory : int or str, optional
        Bytes for each worker, or text such as '4G': see `gpucoron.engine.reduce_file`. By default the workers share
        what is there.
    use_pars, pars
        CRDS's parameter files and one's own: see `gpucoron.engine.plan`. The variable STPIPE_DISABLE_CRDS_STEPPARS
        counts where the batch is started, for all its processes.
    include_all : bool
        Reduce what is no coronagraphy, too.
    redo : {'needed', 'failed', 'all'}
        'needed' does what is new, failed or not finished, what lacks a product, and what was made from another input,
        in another context, with another version, or, if ``overwrite`` allows that, with other parameters; 'failed'
        only what failed; 'all' everything.
    overwrite : bool
        Replace products that no manifest in the folder knows, and those of other parameters. Otherwise exposures that
        would are refused, each with the reason, and the others are reduced.
    shard : str
        ``i/n`` takes every n-th exposure from the i-th on. Shards may share a folder; all must be given the same paths.
    engine : {'local', 'dask'}
        Processes on this machine, or those of a Dask cluster.
    scheduler : str
        Address of Dask's scheduler.
    progress : object, optional
        Told what happens; see `gpucoron.batch.progress.Silent`.

    Yields
    ------
    Result
        As exposures finish, those that are refused first. An exposure that fails or is refused ends nothing.

    Raises
    ------
    ParameterError, InputError
        At once: a parameter, or what was asked for, cannot be.
    OutputError
        Another batch works in the folder, or the disk is full. What was done is kept, and the next call goes on.
    ReferenceFileError, BackendUnavailableError
    """
    if redo not in REDO or engine not in ENGINES:
        msg = f"redo is one of {', '.join(REDO)}, engine one of {', '.join(ENGINES)}, not {redo!r} and {engine!r}"
        raise ParameterError(msg)
    if (engine == "dask") != bool(scheduler):
        msg = "engine 'dask' and scheduler='tcp://...', the address of Dask's scheduler, belong together"
        raise ParameterError(msg)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        msg = f"workers must be a whole number, 1 or more, not {workers!r}"
        raise ParameterError(msg)
    backend, max_memory = check_backend(backend, by_name=True), memory_size(max_memory)
    plan_options = {
        "profile": profile,
        "steps": settle(profile, steps, of_run, pars),
        "use_pars": takes_crds_pars(profile, use_pars),
        "pars": as_paths(pars),
        "of_run": of_run,
        "include_all": include_all,
        "redo": redo,
        "overwrite": bool(overwrite),
        "shard": parse_shard(shard),
        "progress": progress,
    }
    output_dir = Path(os.path.abspath(_check_folder(output_dir)))
    pool = {"backend": backend, "workers": workers, "devices": devices, "engine": engine, "scheduler": scheduler}
    pool |= {"max_memory": max_memory, "scratch_dir": str(output_dir)}
    return _run(paths, output_dir, plan_options, pool, progress)


def _check_folder(output_dir):
    """Refuse what can be no name of a folder."""
    if not isinstance(output_dir, (str, Path)) or not str(output_dir) or "\0" in str(output_dir):
        msg = f"output_dir: expected a folder, as str or Path, got {output_dir!r}"
        raise ParameterError(msg)
    return output_dir


def _run(paths, output_dir, plan_options, pool, progress):
    from gpucoron.batch.progress import Silent
    from gpucoron.io.products import prepare_output

    progress = progress or Silent()
    shard, early = plan_options["shard"], []
    prepare_output(output_dir, [], overwrite=True)
    with Manifest(output_dir, shard) as manifest:
        stage = output_dir / f".gpucoron-stage-{shard[0]}-of-{shard[1]}"
        shutil.rmtree(stage, ignore_errors=True)  # what a killed batch has left

        def start_early(files):
            early.extend(_start_early(files, pool, manifest.descriptors))

        try:
            plan = make_plan(paths, output_dir, **plan_options, on_found=start_early)
            progress.planned(plan)
            stage.mkdir(exist_ok=True)
            (output_dir / "logs").mkdir(exist_ok=True)
            yield from _reduce_planned(plan, stage, manifest, plan_options, pool, progress, early)
        except OSError as error:
            msg = f"{output_dir}: cannot be written to ({error}); what was done is kept, run it again to go on"
            raise OutputError(msg) from error
        finally:
            for worker in early:  # whatever has become of the plan
                worker.kill()
            shutil.rmtree(stage, ignore_errors=True)
            progress.close()


def _start_early(files, pool, descriptors):
    """Start the workers that the plan will probably ask for: their imports take as long as the plan."""
    if pool["engine"] != "local" or not files:
        return []
    from gpucoron.batch.pool import guess_memory, worker_options
    from gpucoron.batch.processes import start_workers

    return start_workers(worker_options(pool, guess_memory(files))[: len(files)], descriptors)


def _reduce_planned(plan, stage, manifest, plan_options, pool, progress, early):
    from gpucoron.batch.dask import run_on_dask
    from gpucoron.batch.processes import run_locally

    def finish(record, folder, planned):
        is_full = record.pop("disk_full", False)
        if record["status"] != "failed":
            try:
                record = _put_in_place(record, folder, planned, plan, manifest)
            except (OSError, OutputError) as error:
                record |= {"status": "failed", "outputs": {}, "error": describe_error(error)}
                is_full = came_of_full_disk(error)
        shutil.rmtree(folder, ignore_errors=True)
        if record["status"] != REFUSED:  # what there is stays as it is, and so does its record
            manifest.append(record)
        result = _result(record, plan.output_dir)
        progress.result(result)
        if is_full:
            left = len(plan.todo) - done
            msg = (
                f"{plan.output_dir}: the disk is full; nothing was left half-written. {left} exposures are left: make "
                "room and run it again"
            )
            raise OutputError(msg)
        return result

    done = 0
    jobs, reported, begun = deque(), deque(), {}
    memory = Memory(plan)

    def release(planned):
        """Let an exposure begin, or the first after it that has to; those that cannot be reduced are reported."""
        nonlocal done
        while planned is not None:
            memory.take_turn(planned)
            if memory.is_done(planned):
                memory.finish(planned)
            elif planned.todo and planned.error is None:
                job = _job(planned, plan, stage, plan_options, pool, memory)
                _tell_what_goes_elsewhere(job, planned, plan, manifest)
                begun[job["about"]["exposure"]] = planned
                jobs.append(job)
                return
            elif planned.todo:
                reported.append(
                    finish(_record_of_error(planned, plan, plan_options), stage / planned.input.name, planned)
                )
                done += 1
            planned = memory.after(planned)

    try:
        for planned in plan.refused:
            result = _result(_refuse(_about(planned, plan, plan_options), planned.reason), plan.output_dir)
            progress.refused(result)
            yield result
        for planned in memory.firsts:
            release(planned)
            while reported:
                yield reported.popleft()
        if pool["engine"] == "dask":
            events = run_on_dask(jobs, pool["scheduler"])
        else:
            from gpucoron.batch.pool import worker_options

            options = worker_options(pool, max((planned.memory for planned in plan.todo), default=0))
            progress.started(len(options))
            events = run_locally(jobs, options, manifest.descriptors, early)
        with contextlib.closing(events):
            for kind, job, told in events:
                if kind == "step":
                    progress.step(job["about"]["exposure"], told)
                    continue
                planned = begun.pop(job["about"]["exposure"])
                result = finish(told, Path(job["stage"]), planned)
                done += 1
                if result.status not in ("failed", REFUSED):
                    memory.finish(planned)
                release(memory.after(planned))
                yield result
                while reported:
                    yield reported.popleft()
    except BaseException:
        with contextlib.suppress(GpucoronError):  # that is not the first trouble
            memory.close()
        raise
    memory.close()


def _job(planned, plan, stage, plan_options, pool, memory):
    from gpucoron.batch.pool import shared_options
    from gpucoron.io.crds_cache import offline_environment

    name = planned.input.name
    # a name of its own: a task that outlives its batch on a cluster must not meet the next batch's
    stage = stage / f"{name}-{os.getpid()}"
    return {
        "path": str(planned.input.path),
        "stage": str(stage),
        "log": str(plan.output_dir / "logs" / f"{name}.log"),
        "attempt": 1,
        "about": {**_about(planned, plan, plan_options), "persistence": memory.told(planned)},
        "profile": plan_options["profile"],
        "steps": plan_options["steps"],
        "persistence": memory.files(planned, stage),
        "of_run": plan_options["of_run"],
        "use_pars": plan_options["use_pars"],
        "pars": plan_options["pars"],
        "backend": pool["backend"],
        "backend_options": shared_options(pool),
        "environment": offline_environment(plan.context),
    }


def _about(planned, plan, plan_options):
    """What the manifest says of an exposure before it is reduced."""
    return {
        **planned.input.about,
        "input_date": _date_of(planned.input.path),
        "context": plan.context,
        "profile": plan_options["profile"],
        "parameters": planned.parameters,
        "parameters_digest": planned.digest,
        "asked": planned.asked,
    }


def _date_of(path):
    """Give a file's date, ns; None where it cannot be told."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _record_of_error(planned, plan, plan_options):
    moments = {"started": now(), "finished": now(), "attempt": 1, "seconds": {}}
    told = {"status": "failed", "outputs": {}, "error": describe_error(planned.error)}
    return {**_about(planned, plan, plan_options), **who(), **moments, **told}


def _refuse(about, reason):
    """Make the record of an exposure that is refused; no manifest holds it."""
    told = {"type": OutputError.__name__, "message": f"{reason}; {WAY_OUT}", "traceback": ""}
    return {**about, **who(), "status": REFUSED, "outputs": {}, "error": told}


def _tell_what_goes_elsewhere(job, planned, plan, manifest):
    """Record products that go to other folders before they are written: they do not pass through the stage."""
    elsewhere = [name for name in planned.products if os.path.dirname(name)]
    if elsewhere:
        begun = {**job["about"], **who(), "started": now(), "attempt": 1}
        plan.past.add(manifest.start(begun, dict(zip(elsewhere, elsewhere, strict=True))))


def _put_in_place(record, folder, planned, plan, manifest):
    """Let all files of an exposure appear under their names; none, if one would replace what it must not.

    Returns
    -------
    dict
        The record, with all products named; that of a refusal where something is in the way since the plan.
    """
    # what lies deeper is the batch's own
    products = [path.name for path in _targets(folder, plan.output_dir, record["input"]) if path.parent == folder]
    if not plan.overwrite:
        asked = (products, planned)
        if find_obstacle(*asked, plan.past, plan.output_dir, plan.context):
            # another shard may have written it meanwhile
            obstacle = find_obstacle(*asked, read_past(plan.output_dir), plan.output_dir, plan.context)
            if obstacle:
                return _refuse(record, obstacle)
    outputs = {
        kind: product_name(name, plan.output_dir) if os.path.isabs(name) else name
        for kind, name in record["outputs"].items()
    }
    record = record | {"outputs": outputs | {name: name for name in products if name not in outputs.values()}}
    if products:
        plan.past.add(manifest.start(record, record["outputs"]))
    _move_products(folder, plan.output_dir, record["input"])
    return record


def _targets(folder, output_dir, input_path):
    """Say where each file of an exposure goes."""
    from gpucoron.io.products import spare_input

    sources = sorted(path for path in folder.rglob("*") if path.is_file())
    return {source: spare_input(output_dir / source.relative_to(folder), input_path) for source in sources}


def _move_products(folder, output_dir, input_path):
    """Let all files of an exposure appear under their names; none, if one would replace the exposure itself."""
    targets = _targets(folder, output_dir, input_path)
    for target in targets.values():
        if target.is_dir():
            msg = f"{target}: a folder is in the way of a product; move it, or choose another output folder"
            raise OutputError(msg)
    for source, target in targets.items():
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)


def _result(record, output_dir):
    return Result(
        exposure=record["exposure"],
        input=Path(record["input"]),
        status=record["status"],
        outputs={name: output_dir / file for name, file in record["outputs"].items()},
        message=(record.get("error") or {}).get("message", ""),
        record=record,
    )
