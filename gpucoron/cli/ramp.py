"""``gpucoron ramp``: show why a pixel was flagged."""

from gpucoron.cli.options import add_settings, parse_settings, run_parameters_of


def add_parser(commands):
    """Add the command to the command line."""
    ramp = commands.add_parser(
        "ramp",
        help="show the ramp of a pixel, and why it was flagged",
        description="Show the ramp of one pixel: what each step did to it, the cause of every flag, and both fits. "
        "Give the options of the reduction that you ask about.",
    )
    ramp.add_argument("file", metavar="FILE", help="*_uncal.fits or *_ramp.fits")
    ramp.add_argument("x", metavar="X", help="column in the array, counted from 0")
    ramp.add_argument("y", metavar="Y", help="row in the array, counted from 0")
    ramp.add_argument(
        "--int",
        dest="integration",
        metavar="N",
        help="integration, counted from 0 (default: the first one with a jump, else the first one)",
    )
    ramp.add_argument("-o", "--output", metavar="FILE", help="write a picture (.png) or a page (.html) instead of text")
    add_settings(ramp)
    ramp.set_defaults(function=_run)


def _run(options):
    from gpucoron.io.input_paths import check_inputs

    check_inputs([options.file], advice_for_folder="give one of its files, *_uncal.fits or *_ramp.fits")

    from gpucoron.io.warm_up import warm_up
    from gpucoron.report.ramp import trace_ramp, write_ramp
    from gpucoron.report.ramp.describe import as_text
    from gpucoron.report.ramp.plot import check_output

    if options.output:
        check_output(options.output)
    warm_up()
    trace = trace_ramp(
        options.file,
        options.x,
        options.y,
        integration=options.integration,
        profile=options.profile,
        steps=parse_settings(options.settings, options.skip),
        backend=options.backend,
        use_pars=options.use_pars,
        pars=options.pars,
        **run_parameters_of(options),
    )
    if options.output is None:
        print(as_text(trace, trace.choose_integration(options.integration)))
        return 0
    path = write_ramp(trace, options.output, options.integration)
    if not options.quiet:
        print(f"wrote {path}")
    return 0
