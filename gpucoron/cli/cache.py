"""``gpucoron cache``: references of CRDS and compiled kernels: list, check, download and remove them."""

import argparse

from gpucoron.cli.options import add_settings, add_verbosity, parse_settings, run_parameters_of
from gpucoron.cli.output import complain

_EPILOG = """\
examples:
  gpucoron cache list                                   what the cache holds, by instrument and type
  gpucoron cache verify                                 find damaged files; exit code 1 if there are any
  gpucoron cache prefetch raw --kernels                 download what the exposures in raw need; compile the kernels
  gpucoron cache clear --kernels                        remove compiled kernels
  gpucoron cache clear --references nircam/dark         show which references this would remove
  gpucoron cache clear --references nircam/dark --yes   remove them

The folders are those of CRDS (CRDS_PATH) and of compiled kernels (GPUCORON_CACHE, or gpucoron in XDG_CACHE_HOME).
"""


def add_parser(commands):
    """Add the command to the command line."""
    cache = commands.add_parser(
        "cache",
        help="list, check, download or remove references and compiled kernels",
        description="List, check, download or remove references of CRDS and compiled kernels. References are shared\n"
        "with jwst and other tools; rules and settings of CRDS are never removed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser(
        "list", help="show files by instrument and type", description="Show what the cache holds."
    )
    listing.add_argument("--files", action="store_true", help="also show the name of each file")
    listing.add_argument("--json", action="store_true", help="print JSON with every file, for programs")
    size = actions.add_parser("size", help="show the total sizes", description="Show the total sizes.")
    verify = actions.add_parser(
        "verify",
        help="find damaged files",
        description="Find damaged references, rules and kernels. With a connection, size and SHA-1 of references are "
        "compared with those of the CRDS server, otherwise with what the files themselves hold. The exit code is 1 if "
        "a file is damaged.",
    )
    prefetch = actions.add_parser(
        "prefetch",
        help="download what exposures need",
        description="Download all references and parameter files that exposures need, without reducing them. Give the "
        "options of the reduction. Offline, what is missing is listed.",
    )
    prefetch.add_argument(
        "paths",
        nargs="*",
        metavar="PATTERN|FOLDER|@LIST",
        help="files, patterns, folders or lists, as for gpucoron batch",
    )
    prefetch.add_argument("--kernels", action="store_true", help="also compile the kernels for this machine")
    prefetch.add_argument(
        "--all", action="store_true", dest="include_all", help="also for exposures that are not coronagraphy"
    )
    add_settings(prefetch, backend=False)
    clear = actions.add_parser(
        "clear",
        help="remove compiled kernels, or references that you name",
        description="Remove compiled kernels, or references that you name. Running reductions are not disturbed.",
    )
    clear.add_argument("--kernels", action="store_true", help="remove all compiled kernels; they are compiled again")
    clear.add_argument(
        "--unused",
        action="store_true",
        help="with --kernels: only those that this version, compiler and machine do not use",
    )
    clear.add_argument(
        "--references",
        nargs="+",
        default=[],
        metavar="WHICH",
        help="references to remove: names, patterns, INSTRUMENT or INSTRUMENT/TYPE; without --yes they are only shown",
    )
    clear.add_argument("--yes", action="store_true", help="remove the references")
    for parser in (listing, size, verify, clear):
        add_verbosity(parser)
    for parser, function in (
        (listing, _list),
        (size, _show_size),
        (verify, _verify),
        (prefetch, _prefetch),
        (clear, _clear),
    ):
        parser.set_defaults(function=function)


def megabytes(n_bytes):
    """Return a size as text, in kB, MB or GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"


def _print_lines(lines):
    """Print lines, if there are any."""
    for line in lines:
        print(line)


def _summary(files):
    files = list(files)
    count = "1 file" if len(files) == 1 else f"{len(files):,} files"
    return f"{count}, {megabytes(sum(file.n_bytes for file in files))}"


def _list(options):
    from gpucoron.backends.kernel_cache import list_kernels
    from gpucoron.backends.kernel_files import cache_folder
    from gpucoron.io.crds_files import cache_folders, list_files

    files, folders, kernels = list_files(), cache_folders(), list_kernels()
    if options.json:
        return _print_json(files, folders, kernels, cache_folder())
    references = [file for file in files if file.kind == "reference"]
    print(f"references: {_summary(references)} in {folders['reference']}")
    for instrument, reftype in dict.fromkeys((file.instrument, file.reftype) for file in references):
        group = [file for file in references if (file.instrument, file.reftype) == (instrument, reftype)]
        print(f"  {instrument:<8}  {reftype:<24}  {_summary(group)}")
        if options.files:
            _print_lines(f"    {file.path.name}  {megabytes(file.n_bytes)}" for file in group)
    for kind in ("rules", "configuration"):
        print(f"{kind} of CRDS: {_summary(file for file in files if file.kind == kind)} in {folders[kind]}")
    print(f"compiled kernels: {_summary(kernels)} in {cache_folder()}")
    words = {True: "used", False: "of other versions, compilers or machines", None: "not known whether used (no GPU)"}
    for backend, is_used in dict.fromkeys((kernel.backend, kernel.is_used) for kernel in kernels):
        group = [kernel for kernel in kernels if (kernel.backend, kernel.is_used) == (backend, is_used)]
        print(f"  {backend:<8}  {words[is_used]}: {_summary(group)}")
        if options.files:
            _print_lines(f"    {kernel.path.name}  {megabytes(kernel.n_bytes)}" for kernel in group)
    return 0


def _print_json(files, folders, kernels, kernel_folder):
    import json
    from dataclasses import asdict

    content = {
        "folders": {**folders, "kernels": kernel_folder},
        "files": [asdict(file) for file in files],
        "kernels": [asdict(kernel) for kernel in kernels],
    }
    print(json.dumps(content, indent=1, default=str))
    return 0


def _show_size(options):
    from gpucoron.backends.kernel_cache import list_kernels
    from gpucoron.io.crds_files import list_files

    files = list_files()
    for kind in ("reference", "rules", "configuration"):
        name = "references" if kind == "reference" else kind
        print(f"{name:<16}  {_summary(file for file in files if file.kind == kind)}")
    print(f"{'compiled kernels':<16}  {_summary(list_kernels())}")
    return 0


def _verify(options):
    from gpucoron.backends.kernel_cache import find_damage, list_kernels
    from gpucoron.io.crds_cache import find_damaged
    from gpucoron.io.crds_files import find_damaged_rules, list_files

    files, checks = list_files(), {}
    references = [file for file in files if file.kind == "reference"]
    rules = [file for file in files if file.kind == "rules"]
    problems = find_damaged([file.path for file in references], thorough=True, checks=checks)
    by_check = {check: list(checks.values()).count(check) for check in sorted(set(checks.values()))}
    if not options.quiet:
        print(f"references: {_summary(references)}")
        _print_lines(f"  {count:,} checked by {check}" for check, count in by_check.items())
    problems |= find_damaged_rules(rules)
    kernels = list_kernels()
    for kernel in kernels:
        damage = find_damage(kernel)
        if damage:
            advice = "gpucoron cache clear --kernels removes all compiled kernels, which are then compiled again"
            problems[str(kernel.path)] = f"{kernel.path}: damaged: {damage}; {advice}"
    if not options.quiet:
        n_used = sum(kernel.is_used is True for kernel in kernels)
        print(f"rules of CRDS: {_summary(rules)}, checked by SHA-1")
        print(f"compiled kernels: {_summary(kernels)}, {n_used} of them used by this version on this machine")
    for message in problems.values():
        complain(message)
    if not options.quiet:
        n_damaged = (
            "no file is" if not problems else "1 file is" if len(problems) == 1 else f"{len(problems)} files are"
        )
        print(f"{n_damaged} damaged")
    return 1 if problems else 0


def _prefetch(options):
    from gpucoron.errors import ParameterError

    if not options.paths and not options.kernels:
        msg = "cache prefetch: give the exposures, or --kernels to compile the kernels"
        raise ParameterError(msg)
    code = _prefetch_references(options) if options.paths else 0
    if options.kernels:
        _compile_kernels(options)
    return code


def _prefetch_references(options):
    """Download references and parameter files; return the exit code."""
    from gpucoron.batch.plan import plan_references, settle
    from gpucoron.io.crds_files import list_files

    before = {file.path for file in list_files()}
    run_parameters = run_parameters_of(options)
    steps = parse_settings(options.settings, options.skip)
    steps = settle(options.profile, steps, run_parameters, options.pars)
    plan = plan_references(
        options.paths,
        profile=options.profile,
        steps=steps,
        run_parameters=run_parameters,
        use_pars=options.use_pars,
        pars=options.pars,
        include_all=options.include_all,
    )
    new = [file for file in list_files() if file.path not in before]
    failed = [planned for planned in plan.exposures if planned.error]
    for planned in failed:
        complain(planned.error)
    if not options.quiet:
        pars_files = sorted({name for planned in plan.exposures for name in planned.pars_files})
        n_exposures = len(plan.exposures)
        print(f"{n_exposures} exposure{'' if n_exposures == 1 else 's'}, context {plan.context}")
        _print_lines(f"left out: {found.name} ({reason})" for found, reason in plan.left_out)
        print(f"references: {len(plan.references)}, parameter files: {len(pars_files)}")
        if options.verbose:
            _print_lines(f"  {path}" for path in (*plan.references, *pars_files))
        print(f"downloaded: {_summary(file for file in new if file.kind == 'reference')}")
        if failed:
            print(f"{len(failed)} of {n_exposures} exposures cannot be reduced")
    return 2 if failed else 0


def _compile_kernels(options):
    """Compile the kernels for this machine."""
    from gpucoron.backends.kernel_cache import compile_all, list_kernels
    from gpucoron.errors import OutputError
    from gpucoron.files import first_line

    def tell(what):
        if not options.quiet:
            print(f"compiling {what}", flush=True)

    try:
        notes = compile_all(tell)
    except (RuntimeError, OSError) as error:
        msg = f"the kernels could not be compiled: {first_line(error)}"
        raise OutputError(msg) from error
    if not options.quiet:
        _print_lines(f"not compiled: {note}" for note in notes)
        print(f"compiled kernels: {_summary(kernel for kernel in list_kernels() if kernel.is_used)}")


def _clear(options):
    from gpucoron.errors import ParameterError

    if not options.kernels and not options.references:
        msg = "cache clear: say what to remove: --kernels, or --references with names, for example nircam/dark"
        raise ParameterError(msg)
    if options.unused and not options.kernels:
        msg = "cache clear --unused: only with --kernels"
        raise ParameterError(msg)
    if options.references:
        _clear_references(options)
    if options.kernels:
        _clear_kernels(options)
    return 0


def _clear_references(options):
    from gpucoron.io.crds_files import check_removable, choose_references, list_files, remove_references

    chosen = choose_references(list_files(), options.references)
    check_removable(chosen)
    if not options.quiet or not options.yes:
        _print_lines(f"  {file.path.name}  {megabytes(file.n_bytes)}" for file in chosen)
        print(f"{_summary(chosen)} of the CRDS cache, which jwst and other tools share", flush=True)
    if not options.yes:
        print("nothing was removed; add --yes to remove these references")
        return
    count, n_bytes = remove_references(chosen)
    if not options.quiet:
        print(f"removed {'1 reference' if count == 1 else f'{count} references'}, {megabytes(n_bytes)}")


def _clear_kernels(options):
    from gpucoron.backends.kernel_cache import list_kernels, remove_kernels
    from gpucoron.errors import OutputError

    kernels = [kernel for kernel in list_kernels() if not options.unused or kernel.is_used is False]
    try:
        removed = remove_kernels(kernels)
    except OSError as error:
        msg = f"{error.filename}: could not be removed ({error.strerror}); the other kernels were removed"
        raise OutputError(msg) from error
    if not options.quiet:
        print(f"removed compiled kernels: {_summary(removed)}")
