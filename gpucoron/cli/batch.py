"""``gpucoron batch``: reduce many files."""

import argparse
import contextlib
import signal
import time
from pathlib import Path

from gpucoron.cli.options import add_common, memory_size, parse_settings, run_parameters_of
from gpucoron.cli.output import complain, say

_EPILOG = """\
examples:
  gpucoron batch raw -o stage1                        all coronagraphic exposures in raw/
  gpucoron batch raw -o stage1 --dry-run              show the plan, with time and memory
  gpucoron batch 'raw/*nrcalong*' @more.txt -o stage1
  gpucoron batch raw -o stage1 --resume --overwrite   also replace products that no batch in stage1 has made
  gpucoron batch raw -o stage1 --shard 3/20           the third of twenty jobs of a job array
  gpucoron batch raw -o stage1 --engine dask --scheduler tcp://10.0.0.1:8786
"""


def add_parser(commands):
    """Add the command to the command line."""
    batch = commands.add_parser(
        "batch",
        help="reduce many files in parallel; continue an interrupted batch",
        description="Reduce many uncal files in parallel. Products, logs and the manifest are written to one folder.\n"
        "To continue an interrupted batch, run the same command again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    batch.add_argument(
        "paths",
        nargs="+",
        metavar="PATTERN|FOLDER|@LIST",
        help="files, patterns, folders (searched recursively), or text files that list these",
    )
    add_common(batch)
    batch.add_argument(
        "--all", action="store_true", dest="include_all", help="also reduce exposures that are not coronagraphy"
    )
    batch.add_argument("--dry-run", action="store_true", help="download references, show the plan, reduce nothing")
    which = batch.add_mutually_exclusive_group()
    which.add_argument(
        "--resume",
        dest="redo",
        action="store_const",
        const="needed",
        help="reduce exposures that are new, failed, or made from another input, context or version (default)",
    )
    which.add_argument(
        "--retry-failed", dest="redo", action="store_const", const="failed", help="reduce only failed exposures"
    )
    batch.add_argument(
        "--overwrite",
        action="store_true",
        help="also replace products that no manifest in the folder lists, or made with other parameters; without it, "
        "such exposures are refused. Alone, --overwrite reduces all exposures again; with --resume, only those that "
        "need it",
    )
    batch.add_argument(
        "--workers", type=int, metavar="N", help="number of worker processes (default: by cores, memory and GPUs)"
    )
    batch.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="memory limit of each worker, for example 2G, see 'gpucoron run' (default: a share of the free memory)",
    )
    batch.add_argument("--devices", metavar="0,1,...", help="numbers of the GPUs to use (default: all)")
    batch.add_argument(
        "--shard", default="1/1", metavar="I/N", help="reduce every N-th exposure, starting with the I-th"
    )
    batch.add_argument(
        "--engine",
        default="local",
        choices=("local", "dask"),
        help="run in processes on this machine (local, default) or on a Dask cluster",
    )
    batch.add_argument("--scheduler", metavar="ADDRESS", help="address of the Dask scheduler, for --engine dask")
    batch.set_defaults(function=run_batch)


def run_batch(options):
    """Run ``gpucoron batch``; return the exit code: 0, or 2 if an exposure failed or was refused."""
    from gpucoron import batch
    from gpucoron.batch.plan import make_plan, parse_shard, settle
    from gpucoron.batch.progress import choose_progress, describe_result
    from gpucoron.errors import ParameterError
    from gpucoron.io.warm_up import warm_up_crds
    from gpucoron.records.manifest import manifest_name

    steps = parse_settings(options.settings, options.skip)
    run_parameters = run_parameters_of(options)
    warm_up_crds()
    redo = options.redo or ("all" if options.overwrite else "needed")
    shared = {"profile": options.profile, "include_all": options.include_all, "redo": redo}
    shared |= {"overwrite": options.overwrite, "use_pars": options.use_pars, "pars": options.pars}
    if options.dry_run:
        steps = settle(options.profile, steps, run_parameters, options.pars)
        shard = parse_shard(options.shard)
        shared |= {"steps": steps, "run_parameters": run_parameters, "shard": shard}
        plan = make_plan(options.paths, options.output_dir, **shared)
        print(describe_plan(plan, options))
        return 2 if plan.refused or any(planned.error for planned in plan.todo) else 0
    try:
        devices = None if options.devices is None else [int(number) for number in options.devices.split(",")]
    except ValueError:
        msg = f"--devices {options.devices}: expected numbers, for example 0,1"
        raise ParameterError(msg) from None

    def stop(signum, frame):
        raise SystemExit(128 + signum)

    start, not_reduced, counts = time.monotonic(), [], {}
    previous = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, stop)  # a cluster's scheduler ends jobs by SIGTERM: stop the workers, too
        results = batch.reduce(
            options.paths,
            options.output_dir,
            steps=steps,
            backend=options.backend,
            workers=options.workers,
            devices=devices,
            max_memory=options.max_memory,
            shard=options.shard,
            engine=options.engine,
            scheduler=options.scheduler,
            progress=choose_progress(options.quiet),
            **shared,
            **run_parameters,
        )
        with contextlib.closing(results):
            for result in results:
                counts[result.status] = counts.get(result.status, 0) + 1
                if result.status in ("failed", "refused"):
                    not_reduced.append(result)
    finally:
        signal.signal(signal.SIGTERM, previous)
    for result in not_reduced:
        complain(f"{describe_result(result)}{_name_log(result, options.output_dir)}")
    if not options.quiet:
        summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to do"
        manifest = Path(options.output_dir) / manifest_name(parse_shard(options.shard))
        say(f"{summary}; {time.monotonic() - start:.1f} s; see {manifest}")
    if counts.get("refused"):
        complain(_describe_refused(counts["refused"]))
    return 2 if not_reduced else 0


def _name_log(result, output_dir):
    """Name the log file with the traceback of an internal error."""
    log = Path(output_dir) / "logs" / f"{result.exposure}.log"
    is_internal = result.status == "failed" and result.record["error"]["type"] == "InternalError"
    return f"; traceback: {log}" if is_internal and log.is_file() else ""


def _describe_refused(count):
    """Describe in one line how to reduce the exposures that were refused."""
    were = "exposures were" if count > 1 else "exposure was"
    return (
        f"{count} {were} refused, so that no product is lost: --resume --overwrite replaces these products, "
        "--overwrite alone reduces all exposures again, another output folder keeps both"
    )


def describe_plan(plan, options):
    """Return the text of a plan: exposures, references, memory and time."""
    from gpucoron.backends.tiles import available_cores

    lines, group = [f"context {plan.context}", ""], None
    for planned in plan.exposures:
        found = planned.input
        if found.group != group and found.group != found.name:
            lines.append(found.group)
        group = found.group
        size = f"{found.n_bytes / 1e6:.1f} MB"
        shape = " x ".join(map(str, found.shape))
        verdict = "refuse" if planned.refused else "keep" if not planned.todo else "fail" if planned.error else "reduce"
        reason = str(planned.error) if planned.error else planned.reason
        target = " ".join(found.record_fields[key] or "" for key in ("target", "filter", "subarray")).strip()
        lines.append(f"  {verdict:<6}  {found.name}  {size}  {shape}  {target}  ({reason})")
    for found, reason in plan.left_out:
        lines.append(f"  skip    {found.name}  ({reason})")
    todo = plan.todo
    lines += ["", f"{len(plan.references)} references, {_total(plan.references) / 1e6:.0f} MB:"]
    lines += [f"  {path}" for path in plan.references]
    memory = max((planned.memory for planned in todo), default=0)
    memory = min(memory, options.max_memory or memory)
    seconds = sum(planned.seconds for planned in todo)
    cores = min(options.workers or available_cores(), available_cores())
    lines += [
        "",
        f"{len(todo)} of {len(plan.exposures)} exposures to reduce, {len(plan.left_out)} skipped",
        *([_describe_refused(len(plan.refused))] if plan.refused else []),
        f"input {sum(planned.input.n_bytes for planned in todo) / 1e6:.0f} MB, "
        f"products about {sum(planned.product_bytes for planned in todo) / 1e6:.0f} MB",
        f"memory up to {memory / 1e9:.2f} GB per worker (CPU)",
        f"expected time about {seconds / cores:.0f} s on {cores} core{'s' * (cores > 1)} (CPU)",
    ]
    return "\n".join(lines)


def _total(paths):
    import os

    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
