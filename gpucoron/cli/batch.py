"""``gpucoron batch``: many files, from the command line."""

import argparse
import contextlib
import signal
import sys
import time

from gpucoron.cli.options import add_common, memory_size, of_run_parameters, parse_settings

_EPILOG = """\
examples:
  gpucoron batch raw -o stage1                        all coronagraphs below raw/
  gpucoron batch raw -o stage1 --dry-run              what would be done, and what it takes
  gpucoron batch 'raw/*nrcalong*' @more.txt -o stage1
  gpucoron batch raw -o stage1 --resume --overwrite   also replace products that no batch of stage1 has made
  gpucoron batch raw -o stage1 --shard 3/20           the third of twenty jobs of an array
  gpucoron batch raw -o stage1 --engine dask --scheduler tcp://10.0.0.1:8786
"""


def add_parser(commands):
    """Add the command to the command line."""
    batch = commands.add_parser(
        "batch",
        help="reduce a folder of files, resumably",
        description="Reduce many uncal files side by side. Products, logs and the manifest go to one folder; a batch "
        "that was interrupted goes on where it stopped when it is started again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    batch.add_argument(
        "paths", nargs="+", metavar="PATTERN|FOLDER|@LIST", help="files, patterns, folders with all below, or a list"
    )
    add_common(batch)
    batch.add_argument("--all", action="store_true", dest="include_all", help="reduce what is no coronagraphy, too")
    batch.add_argument("--dry-run", action="store_true", help="fetch references, show the plan, reduce nothing")
    which = batch.add_mutually_exclusive_group()
    which.add_argument(
        "--resume",
        dest="redo",
        action="store_const",
        const="needed",
        help="reduce what is missing, failed, or was made from another input, in another context or version (default)",
    )
    which.add_argument(
        "--retry-failed", dest="redo", action="store_const", const="failed", help="reduce only what has failed"
    )
    batch.add_argument(
        "--overwrite",
        action="store_true",
        help="replace products that no manifest in the folder knows, and those of other parameters, too: otherwise "
        "such exposures are refused; alone it reduces everything again, with --resume only what it must",
    )
    batch.add_argument("--workers", type=int, metavar="N", help="processes; default: as cores, memory and GPUs allow")
    batch.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="memory that each worker may take, for example 2G, as for 'gpucoron run' (default: its share of what is "
        "free)",
    )
    batch.add_argument("--devices", metavar="0,1,...", help="GPUs by number; default: all")
    batch.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th exposure from the I-th on")
    batch.add_argument("--engine", default="local", choices=("local", "dask"), help="default: local processes")
    batch.add_argument("--scheduler", metavar="ADDRESS", help="of Dask, for --engine dask")
    batch.set_defaults(function=run_batch)


def run_batch(options):
    """Run ``gpucoron batch``; return the exit code: 0, or 2 where an exposure failed or was refused."""
    from gpucoron import batch
    from gpucoron.batch.plan import make_plan, parse_shard, settle
    from gpucoron.batch.progress import choose, describe
    from gpucoron.errors import ParameterError

    steps = parse_settings(options.settings, options.skip)
    of_run = of_run_parameters(options)
    redo = options.redo or ("all" if options.overwrite else "needed")
    shared = {"profile": options.profile, "include_all": options.include_all, "redo": redo}
    shared |= {"overwrite": options.overwrite, "use_pars": options.use_pars, "pars": options.pars}
    if options.dry_run:
        steps = settle(options.profile, steps, of_run, options.pars)
        shard = parse_shard(options.shard)
        plan = make_plan(options.paths, options.output_dir, steps=steps, of_run=of_run, shard=shard, **shared)
        print(describe_plan(plan, options))
        return 2 if plan.refused or any(planned.error for planned in plan.todo) else 0
    try:
        devices = None if options.devices is None else [int(number) for number in options.devices.split(",")]
    except ValueError:
        msg = f"--devices {options.devices}: expected numbers, for example 0,1"
        raise ParameterError(msg) from None

    def stop(signum, frame):
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)  # as a scheduler ends its jobs: the workers end with us
    start, wrong, counts = time.monotonic(), [], {}
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
        progress=choose(options.quiet),
        **shared,
        **of_run,
    )
    try:
        with contextlib.closing(results):
            for result in results:
                counts[result.status] = counts.get(result.status, 0) + 1
                if result.status in ("failed", "refused"):
                    wrong.append(result)
    finally:
        signal.signal(signal.SIGTERM, before)
    for result in wrong:
        print(f"gpucoron: {describe(result)}", file=sys.stderr)
    if not options.quiet:
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "nothing to do"
        print(f"{told}; {time.monotonic() - start:.1f} s; {options.output_dir}/manifest*.jsonl")
    if counts.get("refused"):
        print(f"gpucoron: {_tell_refused(counts['refused'])}", file=sys.stderr)
    return 2 if wrong else 0


def _tell_refused(count):
    """Say in one line what to do about exposures that were refused."""
    were = "exposures were" if count > 1 else "exposure was"
    return (
        f"{count} {were} refused, so that no product is lost: --resume --overwrite replaces what is there, "
        "--overwrite alone reduces everything again, another folder keeps both"
    )


def describe_plan(plan, options):
    """Write a plan as text: files, references, and what they take."""
    from gpucoron.backends.tiles import available_cores

    lines, group = [f"context {plan.context}", ""], None
    for planned in plan.exposures:
        found = planned.input
        if found.group != group and found.group != found.name:
            lines.append(found.group)
        group = found.group
        size = f"{found.n_bytes / 1e6:.1f} MB"
        shape = " x ".join(map(str, found.shape))
        verdict = (
            "refuse" if planned.refused else "leave" if not planned.todo else "fail" if planned.error else "reduce"
        )
        reason = str(planned.error) if planned.error else planned.reason
        target = f"{found.about['target'] or ''} {found.about['filter'] or ''} {found.about['subarray'] or ''}".strip()
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
        *([_tell_refused(len(plan.refused))] if plan.refused else []),
        f"input {sum(planned.input.n_bytes for planned in todo) / 1e6:.0f} MB, "
        f"products about {sum(planned.product_bytes for planned in todo) / 1e6:.0f} MB",
        f"memory up to {memory / 1e9:.2f} GB per worker (CPU)",
        f"expected time about {seconds / cores:.0f} s on {cores} cores (CPU)",
    ]
    return "\n".join(lines)


def _total(paths):
    import os

    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
