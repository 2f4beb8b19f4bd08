"""Reduce many exposures in parallel, with a manifest record for each; finished exposures are not reduced again.

>>> for result in gpucoron.batch.reduce("raw", "stage1"):
...     print(result.exposure, result.status)
"""

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gpucoron.backends import check_backend
from gpucoron.backends.sizes import memory_size
from gpucoron.batch.decision import DONE, HOW_TO_OVERWRITE, find_conflict, product_name
from gpucoron.batch.inputs import find_files
from gpucoron.batch.job import is_caused_by_full_disk
from gpucoron.batch.outputs import describe_outputs
from gpucoron.batch.persistence import PersistenceChains, restore_files
from gpucoron.batch.plan import REDO, make_plan, parse_shard, settle
from gpucoron.batch.record import date_of, describe_error, process_info, utc_now
from gpucoron.errors import GpucoronError, OutputError, ParameterError
from gpucoron.files import AnyPath, Paths, check_folder
from gpucoron.interactive import Shown, public
from gpucoron.io.parameter_files import as_paths, takes_crds_pars
from gpucoron.parameters import Profile, StepSettings
from gpucoron.records.manifest import Manifest, read_past

ENGINES = ("local", "dask")
#: status of an exposure that is not reduced because its products must not be replaced
REFUSED = "refused"


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """The result of one exposure.

    Attributes
    ----------
    exposure : str
        The file's name without ``_uncal.fits``.
    input : Path
    status : {'done', 'failed', 'no rate', 'refused'}
        'refused' if it would have replaced products of another origin, or made with other parameters.
    outputs : dict
        'rate', 'rateints', ... -> Path.
    message : str
        Why it failed, or was refused.
    record : dict
        Its record in the manifest; a refused exposure has no record there.
    """

    exposure: str
    input: Path
    status: str
    outputs: dict[str, Path]
    message: str
    record: dict[str, Any]

    def _summary(self):
        names = f": {', '.join(self.outputs)}" if self.outputs else ""
        return f"{self.exposure}: {self.status}{names}{f': {self.message}' if self.message else ''}"

    def _fields(self):
        seconds = (self.record.get("seconds") or {}).get("total")
        rows = [("input", str(self.input)), *((name, str(path)) for name, path in self.outputs.items())]
        return [*rows, *([("message", self.message)] if self.message else []), ("seconds", seconds)]


@public
def reduce(
    paths: Paths,
    output_dir: AnyPath,
    *,
    profile: Profile = "jwst",
    steps: StepSettings | None = None,
    backend: str | None = "auto",
    workers: int | None = None,
    devices: Sequence[int] | None = None,
    max_memory: int | str | None = None,
    use_pars: bool | None = None,
    pars: Paths | None = None,
    include_all: bool = False,
    redo: Literal["needed", "failed", "all"] = "needed",
    overwrite: bool = False,
    shard: str = "1/1",
    engine: Literal["local", "dask"] = "local",
    scheduler: str | None = None,
    progress: Any = None,
    **run_parameters: Any,
) -> Iterator[Result]:
    """Reduce many exposures; the products, a log and a line of the manifest for each appear in one folder.

    Parameters
    ----------
    paths : str, Path, or a sequence of them
        Files, folders, patterns, ``@list``; see `gpucoron.batch.inputs.find_files`.
    output_dir : str or Path
        Made if it does not exist.
    profile, steps, **run_parameters
        As for `gpucoron.engine.reduce_file`, but arrays must be in files.
    backend : {'auto', 'cpu', 'numpy', 'native', 'cuda', 'host'}, optional
        The name of a backend; each worker process creates its own. None is 'auto'.
    workers : int, optional
        Number of worker processes. By default one per core as far as memory allows, or two per GPU. They share the
        cores; the results do not depend on the number.
    devices : sequence of int, optional
        Numbers of the GPUs; by default all. The workers are distributed over them.
    max_memory : int or str, optional
        Bytes for each worker, or text such as '4G': see `gpucoron.engine.reduce_file`. By default the workers share
        the free memory.
    use_pars, pars
        Parameter files of CRDS and of the user: see `gpucoron.engine.plan`. The environment variable
        STPIPE_DISABLE_CRDS_STEPPARS of the calling process applies to all workers.
    include_all : bool
        Also reduce exposures that are not coronagraphy.
    redo : {'needed', 'failed', 'all'}
        'needed' reduces exposures that are new, failed or unfinished, that lack a product, or whose products were made
        from another input, in another context, with another version, or, if ``overwrite`` allows it, with other
        parameters; 'failed' reduces only failed ones; 'all' reduces all.
    overwrite : bool
        Replace products that no manifest in the folder lists, and products made with other parameters. Otherwise such
        exposures are refused, each with the reason, and the others are reduced.
    shard : str
        ``i/n`` selects every n-th exposure, starting with the i-th. Shards may share a folder; all need the same paths.
    engine : {'local', 'dask'}
        Worker processes on this machine, or on a Dask cluster.
    scheduler : str
        Address of the Dask scheduler.
    progress : object, optional
        Called on each event; see `gpucoron.batch.progress.Silent`.

    Yields
    ------
    Result
        Refused exposures first, then each exposure when it finishes. A failed or refused exposure does not end the
        batch.

    Raises
    ------
    ParameterError, InputError
        Raised at once if an argument is invalid.
    OutputError
        Another batch uses the folder, or the disk is full. Finished products are kept, and the next call continues.
    ReferenceFileError, BackendUnavailableError
    """
    if redo not in REDO or engine not in ENGINES:
        msg = f"redo must be one of {', '.join(REDO)}, engine one of {', '.join(ENGINES)}, not {redo!r} and {engine!r}"
        raise ParameterError(msg)
    if (engine == "dask") != bool(scheduler):
        msg = (
            "engine 'dask' needs scheduler='tcp://...', the address of the Dask scheduler; engine 'local' accepts none"
        )
        raise ParameterError(msg)
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        msg = f"workers must be a whole number, 1 or more, not {workers!r}"
        raise ParameterError(msg)
    backend, max_memory = check_backend(backend, by_name=True), memory_size(max_memory)
    plan_options = {
        "profile": profile,
        "steps": settle(profile, steps, run_parameters, pars),
        "use_pars": takes_crds_pars(profile, use_pars),
        "pars": as_paths(pars),
        "run_parameters": run_parameters,
        "include_all": include_all,
        "redo": redo,
        "overwrite": bool(overwrite),
        "shard": parse_shard(shard),
        "progress": progress,
    }
    output_dir = Path(os.path.abspath(_check_output_dir(output_dir)))
    pool = {"backend": backend, "workers": workers, "devices": devices, "engine": engine, "scheduler": scheduler}
    pool |= {"max_memory": max_memory, "scratch_dir": str(output_dir)}
    check_folder(output_dir)
    return _run(find_files(paths), output_dir, plan_options, pool, progress)


def _check_output_dir(output_dir):
    """Raise ParameterError if a value is not the name of a folder."""
    if not isinstance(output_dir, (str, Path)) or not str(output_dir) or "\0" in str(output_dir):
        msg = f"output_dir: expected a folder, as str or Path, got {output_dir!r}"
        raise ParameterError(msg)
    return output_dir


@public
def _run(files, output_dir, plan_options, pool, progress):
    from gpucoron.batch.progress import Silent
    from gpucoron.io.products import prepare_output

    progress = progress or Silent()
    shard, early = plan_options["shard"], []
    prepare_output(output_dir, [], overwrite=True)
    with Manifest(output_dir, shard) as manifest:
        stage = output_dir / f".gpucoron-stage-{shard[0]}-of-{shard[1]}"
        shutil.rmtree(stage, ignore_errors=True)  # files of a killed batch

        def start_early(files):
            early.extend(_start_early(files, pool, manifest.descriptors))

        try:
            plan = make_plan(files, output_dir, **plan_options, on_found=start_early)
            progress.planned(plan)
            if not (plan.todo or plan.refused):
                restore_files(plan)
                return
            stage.mkdir(exist_ok=True)
            (output_dir / "logs").mkdir(exist_ok=True)
            yield from _reduce_planned(plan, stage, manifest, plan_options, pool, progress, early)
        except OSError as error:
            msg = f"{output_dir}: cannot be written to ({error}); products are kept; run the batch again to continue"
            raise OutputError(msg) from error
        finally:
            for worker in early:  # workers that no engine has taken over
                worker.kill()
            shutil.rmtree(stage, ignore_errors=True)
            progress.close()


def _start_early(files, pool, descriptors):
    """Start the workers that the plan will probably need, so that they load their libraries during planning."""
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
                is_full = is_caused_by_full_disk(error)
        shutil.rmtree(folder, ignore_errors=True)
        is_kept = planned.error is not None and planned.reason == DONE
        if record["status"] != REFUSED and not is_kept:  # otherwise it keeps its products and its record
            manifest.append(record)
        result = _result(record, plan.output_dir)
        progress.result(result)
        if is_full:
            left = len(plan.todo) - done
            msg = (
                f"{plan.output_dir}: the disk is full; no product is incomplete. {left} exposures were not reduced: "
                "free disk space and run the batch again"
            )
            raise OutputError(msg)
        return result

    done = 0
    jobs, reported, running = deque(), deque(), {}
    chains = PersistenceChains(plan)

    def release(planned):
        """Queue an exposure, or the first one after it in its chain that must be reduced; report those with errors."""
        nonlocal done
        while planned is not None:
            chains.start(planned)
            if chains.is_up_to_date(planned):
                chains.finish(planned)
            elif planned.todo and planned.error is None:
                job = _job(planned, plan, stage, plan_options, pool, chains)
                _record_external_products(job, planned, plan, manifest)
                running[job["record_fields"]["exposure"]] = planned
                jobs.append(job)
                return
            elif planned.todo:
                reported.append(
                    finish(_record_of_error(planned, plan, plan_options), stage / planned.input.name, planned)
                )
                done += 1
            planned = chains.next_after(planned)

    try:
        for planned in plan.refused:
            record = _refused_record(_record_fields(planned, plan, plan_options), planned.reason)
            result = _result(record, plan.output_dir)
            progress.refused(result)
            yield result
        for planned in chains.firsts:
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
            for kind, job, value in events:
                if kind in ("begin", "step"):
                    tell = progress.begin_step if kind == "begin" else progress.step
                    tell(job["record_fields"]["exposure"], *value)
                    continue
                planned = running.pop(job["record_fields"]["exposure"])
                result = finish(value, Path(job["stage"]), planned)
                done += 1
                if result.status not in ("failed", REFUSED):
                    chains.finish(planned)
                release(chains.next_after(planned))
                yield result
                while reported:
                    yield reported.popleft()
    except BaseException:
        with contextlib.suppress(GpucoronError):  # the first error is raised
            chains.close()
        raise
    chains.close()


def _job(planned, plan, stage, plan_options, pool, chains):
    from gpucoron.batch.pool import shared_options
    from gpucoron.io.crds_cache import offline_environment

    name = planned.input.name
    # a unique name: a Dask task that outlives its batch must not write into the folder of the next batch
    stage = stage / f"{name}-{os.getpid()}"
    return {
        "path": str(planned.input.path),
        "stage": str(stage),
        "output_dir": str(plan.output_dir),
        "log": str(plan.output_dir / "logs" / f"{name}.log"),
        "attempt": 1,
        "record_fields": {**_record_fields(planned, plan, plan_options), "persistence": chains.record(planned)},
        "profile": plan_options["profile"],
        "steps": plan_options["steps"],
        "persistence": chains.files(planned, stage),
        "run_parameters": plan_options["run_parameters"],
        "use_pars": plan_options["use_pars"],
        "pars": plan_options["pars"],
        "backend": pool["backend"],
        "backend_options": shared_options(pool),
        "environment": offline_environment(plan.context),
    }


def _record_fields(planned, plan, plan_options):
    """Return the fields of a manifest record that are known before the exposure is reduced."""
    return {
        **planned.input.record_fields,
        "input_date": date_of(planned.input.path),
        "context": plan.context,
        "profile": plan_options["profile"],
        "parameters": planned.parameters,
        "parameters_digest": planned.digest,
        "asked": planned.request,
    }


def _record_of_error(planned, plan, plan_options):
    moments = {"started": utc_now(), "finished": utc_now(), "attempt": 1, "seconds": {}}
    failure = {"status": "failed", "outputs": {}, "error": describe_error(planned.error)}
    return {**_record_fields(planned, plan, plan_options), **process_info(), **moments, **failure}


def _refused_record(fields, reason):
    """Return the record of a refused exposure; it is not written to a manifest."""
    error = {"type": OutputError.__name__, "message": f"{reason}; {HOW_TO_OVERWRITE}", "traceback": ""}
    return {**fields, **process_info(), "status": REFUSED, "outputs": {}, "error": error}


def _record_external_products(job, planned, plan, manifest):
    """Record products in other folders before they are written, because they bypass the staging folder."""
    external = [name for name in planned.products if os.path.dirname(name)]
    if external:
        record = {**job["record_fields"], **process_info(), "started": utc_now(), "attempt": 1}
        plan.past.add(manifest.start(record, dict(zip(external, external, strict=True))))


def _put_in_place(record, folder, planned, plan, manifest):
    """Move all products of an exposure to the output folder; none if an existing one must not be replaced.

    Returns
    -------
    dict
        The record with the names of all products, or that of a refusal if a conflict has arisen since planning.
    """
    # files in subfolders are written by the batch itself
    products = [path.name for path in _targets(folder, plan.output_dir, record["input"]) if path.parent == folder]
    if not plan.overwrite and find_conflict(products, planned, plan.past, plan.output_dir, plan.context):
        # another shard may have recorded these products in the meantime
        conflict = find_conflict(products, planned, read_past(plan.output_dir), plan.output_dir, plan.context)
        if conflict:
            return _refused_record(record, conflict)
    outputs = {
        kind: product_name(name, plan.output_dir) if os.path.isabs(name) else name
        for kind, name in record["outputs"].items()
    }
    record = record | {"outputs": outputs | {name: name for name in products if name not in outputs.values()}}
    if products:
        plan.past.add(manifest.start(record, record["outputs"]))
    _move_products(folder, plan.output_dir, record["input"])
    return record | {"output_files": describe_outputs(record["outputs"], plan.output_dir)}


def _targets(folder, output_dir, input_path):
    """Return the final path of each file of an exposure."""
    from gpucoron.io.products import spare_input

    sources = sorted(path for path in folder.rglob("*") if path.is_file())
    return {source: spare_input(output_dir / source.relative_to(folder), input_path) for source in sources}


def _move_products(folder, output_dir, input_path):
    """Move all files of an exposure to the output folder; none if one would replace the input file."""
    targets = _targets(folder, output_dir, input_path)
    for target in targets.values():
        if target.is_dir():
            msg = f"{target}: a folder has the name of a product; rename it, or choose another output folder"
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
