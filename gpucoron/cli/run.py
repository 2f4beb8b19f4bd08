"""``gpucoron run``: files, one after the other."""

import logging
import sys
import time

from gpucoron.cli.options import add_common, memory_size, of_run_parameters, parse_settings
from gpucoron.errors import GpucoronError
from gpucoron.files import on_one_line

log = logging.getLogger(__name__)


def add_parser(commands):
    """Add the command to the command line."""
    run = commands.add_parser("run", help="reduce files", description="Reduce uncal (or ramp) files.")
    run.add_argument("files", nargs="+", metavar="FILE", help="*_uncal.fits or *_ramp.fits")
    add_common(run)
    run.add_argument("--overwrite", action="store_true", help="replace products that exist")
    run.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="memory that the process may take, or the exposure on the GPU, for example 4G (default: what "
        "is free); an exposure that needs more goes by chunks of rows, on the CPU from a scratch file in the output "
        "folder",
    )
    run.set_defaults(function=_run)


def _run(options):
    from gpucoron.cli import summary
    from gpucoron.engine import check_request, reduce_file
    from gpucoron.io.crds_lookup import crds_context
    from gpucoron.io.warm_up import warm_up

    steps, of_run = parse_settings(options.settings, options.skip), of_run_parameters(options)
    # neither a misspelt parameter nor a wrong context is a matter of the file
    steps, settled = check_request(profile=options.profile, steps=steps, pipeline=of_run, pars=options.pars)
    crds_context()
    warm_up()
    failed = 0
    for path in _in_turn(options.files, settled):
        start = time.perf_counter()
        try:
            run, _models, paths = reduce_file(
                path,
                options.output_dir,
                profile=options.profile,
                steps=steps,
                backend=options.backend,
                overwrite=options.overwrite,
                max_memory=options.max_memory,
                use_pars=options.use_pars,
                pars=options.pars,
                **of_run,
            )
        except GpucoronError as error:
            print(f"gpucoron: {on_one_line(error)}", file=sys.stderr)
            failed += 1
            continue
        if not paths:
            told = f"{path}: no product: there was no ramp that could be fitted"
            print(f"gpucoron: {on_one_line(told)}", file=sys.stderr)
        if not options.quiet:
            print(summary.headline(run))
            print(summary.step_table(run))
            for written in paths.values():
                print(f"wrote {written}")
            print(f"{time.perf_counter() - start:.1f} s from file to file\n")
    if failed and len(options.files) > 1:
        print(f"gpucoron: {failed} of {len(options.files)} files failed", file=sys.stderr)
    return 2 if failed else 0


def _in_turn(files, parameters):
    """Sort files by when they began, if each one's persistence step reads what the one before has written."""
    from pathlib import Path

    from gpucoron.batch.inputs import read_input
    from gpucoron.batch.persistence import carried, is_chained, tell_places

    if len(files) < 2 or not is_chained(parameters):
        return files
    found = {path: read_input(Path(path)) for path in files}
    # what cannot be read comes last, and is reported then
    in_turn = sorted(files, key=lambda path: found[path].begun or (float("inf"), 0))
    places = {}
    for path in in_turn:
        if found[path].error is None:
            places.setdefault(found[path].about["detector"], []).append((found[path].name, found[path].place))
    for one in places.values():
        wrong = tell_places(carried(parameters), one)
        if wrong:
            log.warning("%s", wrong)
    if in_turn != files:
        log.warning("persistence: the files are taken in the order of time: %s", ", ".join(in_turn))
    return in_turn
