"""``gpucoron run``: reduce files one after another."""

import logging
import os
import time

from gpucoron.backends import BACKENDS, get_backend
from gpucoron.cli.options import add_common, memory_size, parse_settings, run_parameters_of
from gpucoron.cli.output import complain, report_error, say
from gpucoron.errors import GpucoronError, InputError, ParameterError, UserFileError
from gpucoron.files import check_folder

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
        help="memory limit of the process, or of the exposure on the GPU, for example 4G (default: the free memory); a "
        "larger exposure is processed in blocks of rows, on the CPU from a scratch file in the output folder",
    )
    run.set_defaults(function=_run)


def _run(options):
    from gpucoron.io.input_paths import check_inputs
    from gpucoron.records.manifest import refuse_in_use

    # what is wrong with the whole request is reported once, before libraries are loaded and folders created
    refuse_in_use(options.output_dir)
    check_inputs(options.files, advice_for_folder=f"use gpucoron batch {{}} -o {options.output_dir}")
    check_folder(options.output_dir)
    steps, run_parameters = parse_settings(options.settings, options.skip), run_parameters_of(options)

    from gpucoron.engine import check_request
    from gpucoron.io.crds_lookup import crds_context
    from gpucoron.io.warm_up import warm_up

    files = {}  # a file that is given twice is reduced once
    for path in options.files:
        files.setdefault(os.path.realpath(path), path)
    options.files = list(files.values())
    try:
        steps, parameters = check_request(
            profile=options.profile, steps=steps, pipeline=run_parameters, pars=options.pars
        )
    except UserFileError as error:
        more = f" and {len(options.files) - 3} more" if len(options.files) > 3 else ""
        msg = f"{', '.join(options.files[:3])}{more}: {error}"
        raise UserFileError(msg) from None
    _refuse_common_names(options.files, parameters)
    if options.backend in BACKENDS:  # the others choose one that can run
        get_backend(options.backend)
    crds_context()
    warm_up()
    request = {"profile": options.profile, "steps": steps, "use_pars": options.use_pars, "pars": options.pars}
    failed = 0
    for number, path in enumerate(_sort_by_start(options.files, parameters)):
        if number:
            refuse_in_use(options.output_dir)  # a batch may have started meanwhile
        failed += not _reduce(path, options, {**request, **run_parameters})
    if failed and len(options.files) > 1:
        complain(f"{failed} of {len(options.files)} files failed")
    return 2 if failed else 0


def _refuse_common_names(files, parameters):
    """Refuse files whose products would have the same names."""
    from gpucoron.batch.inputs import describe_same_names

    if len(files) < 2:
        return
    same = describe_same_names(files)
    if same:
        raise InputError("; ".join(same.values()))
    active = {step: one for step, one in parameters.items() if not one.skip}
    names = [f"{step}.output_file" for step, one in active.items() if one.output_file is not None]
    names += [f"{step}.opt_name" for step, one in active.items() if getattr(one, "opt_name", "") and one.save_opt]
    if names:
        msg = f"{', '.join(names)}: the product of each file would replace that of the file before; reduce one file"
        raise ParameterError(msg)


def _reduce(path, options, request):
    """Reduce one file and print its summary; return whether it was reduced."""
    from gpucoron.batch.inputs import exposure_name
    from gpucoron.batch.progress import showing_steps
    from gpucoron.batch.single import log_path, reduce_and_record
    from gpucoron.cli import summary

    start = time.perf_counter()
    try:
        # with -v, the log has the steps
        with showing_steps(exposure_name(path), options.quiet or options.verbose) as hooks:
            run, _models, paths = reduce_and_record(
                path,
                options.output_dir,
                backend=options.backend,
                overwrite=options.overwrite,
                max_memory=options.max_memory,
                **hooks,
                **request,
            )
    except GpucoronError as error:
        report_error(error, verbose=options.verbose, log=log_path(options.output_dir, path))
        return False
    if not paths:
        complain(f"{path}: no product: no ramp could be fitted")
    if not options.quiet:
        say(summary.headline(run))
        say(summary.step_table(run, with_all=options.verbose))
        for written in paths.values():
            say(f"wrote {written}")
        say(f"{time.perf_counter() - start:.1f} s in total, including reading and writing\n")
    return True


def _sort_by_start(files, parameters):
    """Sort files by start time if the persistence step of each file reads what the previous file has written."""
    from pathlib import Path

    from gpucoron.batch.inputs import read_input
    from gpucoron.batch.persistence import describe_subarray_conflict, is_chained, written_file

    if len(files) < 2 or not is_chained(parameters):
        return files
    found = {path: read_input(Path(path)) for path in files}
    # unreadable files are last; reducing them reports the error
    in_order = sorted(files, key=lambda path: found[path].start or (float("inf"), 0))
    regions = {}
    for path in in_order:
        if found[path].error is None:
            detector = found[path].record_fields["detector"]
            regions.setdefault(detector, []).append((found[path].name, found[path].region))
    for of_detector in regions.values():
        conflict = describe_subarray_conflict(written_file(parameters), of_detector)
        if conflict:
            log.warning("%s", conflict)
    if in_order != files:
        log.warning("persistence: the files are reduced in order of time: %s", ", ".join(in_order))
    return in_order
