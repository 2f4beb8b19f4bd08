"""``gpucoron steps``: list the steps, or describe one with its parameters."""

import argparse
import textwrap

from gpucoron.cli.options import add_verbosity

#: width of descriptions, characters
_WIDTH = 100
#: the name under which the parameters of the run as a whole are listed
RUN = "run"

_EPILOG = """\
examples:
  gpucoron steps                            the steps in the order in which they run
  gpucoron steps jump                       one step with all its parameters
  gpucoron steps jump.rejection_threshold   one parameter
  gpucoron steps run                        parameters of the run as a whole
"""


def add_parser(commands):
    """Add the command to the command line."""
    steps = commands.add_parser(
        "steps",
        help="list the steps, or describe one with its parameters",
        description="List the steps in the order in which they run, or describe one: its parameters with the default\n"
        "values of each profile, its references and its products. No CRDS and no network are needed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps.add_argument("name", nargs="?", metavar="STEP[.PARAMETER]", help="a step, one of its parameters, or 'run'")
    steps.add_argument("--json", action="store_true", help="print JSON, for programs")
    add_verbosity(steps)
    steps.set_defaults(function=_run)


def _run(options):
    if options.name is None:
        return _print(_all_as_json(), options) if options.json else _print(_table())
    name, _, parameter = options.name.partition(".")
    if name == RUN:
        described = _choose(_run_parameters(), parameter, RUN)
        if options.json:
            return _print([one.as_json() for one in described], options)
        return _print("Parameters of the run as a whole\n\n" + _parameters_text(described))
    step = _describe(_find_step(name))
    if parameter:
        described = _choose((*step.parameters, *step.common), parameter, step.name)
        if options.json:
            return _print([one.as_json() for one in described], options)
        return _print(_parameters_text(described))
    return _print(step.as_json(), options) if options.json else _print(_step_text(step))


def _print(content, options=None):
    """Print a text, or anything else as JSON; return the exit code."""
    import json

    print(content if options is None else json.dumps(content, indent=2))
    return 0


def _find_step(name):
    """Return a step by its name, its former name, or the name of its class in jwst."""
    from gpucoron.batch.request import RENAMED
    from gpucoron.parameters import refuse_unknown
    from gpucoron.steps import STEPS

    by_class = {step.class_name: step.name for step in STEPS.values()}
    name = RENAMED.get(name, by_class.get(name, name))
    if name not in STEPS:
        refuse_unknown("step", name, (*STEPS, RUN))
    return STEPS[name]


def _choose(parameters, name, owner):
    """Return all parameters, or the one with this name or former name."""
    from gpucoron.batch.request import RENAMED
    from gpucoron.parameters import refuse_unknown

    if not name:
        return parameters
    name = RENAMED.get(f"{owner}.{name}", f"{owner}.{name}").rpartition(".")[2]
    known = {one.name: one for one in parameters}
    if name not in known:
        refuse_unknown(f"parameter of {owner}", name, known)
    return (known[name],)


def _orders():
    """Return instrument -> orders of its steps, with 1/f noise removed after or before the fit."""
    from gpucoron.engine import order_of
    from gpucoron.facts import Facts
    from gpucoron.steps import STEPS
    from gpucoron.steps.describe import INSTRUMENTS

    return {
        instrument: [tuple(STEPS[name] for name in order_of(Facts(instrument), stage)) for stage in ("ints", "groups")]
        for instrument in INSTRUMENTS
    }


def _describe(step):
    from gpucoron.steps.describe import describe_step

    return describe_step(step, _orders())


def _run_parameters():
    from gpucoron.steps.describe import describe_run_parameters

    return describe_run_parameters()


def _all_as_json():
    from gpucoron.steps import STEPS
    from gpucoron.steps.describe import INSTRUMENTS

    return {
        "orders": {
            INSTRUMENTS[instrument]: [step.name for step in several[0]] for instrument, several in _orders().items()
        },
        "steps": [_describe(step).as_json() for step in STEPS.values()],
        "run": [one.as_json() for one in _run_parameters()],
    }


def _table():
    """Return the tables of steps, one for each instrument."""
    from gpucoron.parameters import PROFILES
    from gpucoron.steps.describe import INSTRUMENTS, describe_switch

    parts = []
    for instrument, (order, _) in _orders().items():
        rows = [("step", "what it does", *PROFILES, "references")]
        for step in order:
            switches = [describe_switch(step, profile, [instrument]) for profile in PROFILES]
            rows.append((step.name, step.title, *switches, ", ".join(step.references)))
        parts.append(f"{INSTRUMENTS[instrument]}, in the order in which the steps run\n\n{_columns(rows)}")
    parts.append(
        "on, off: by default in the profile. CRDS parameter files, which the jwst and recommended profiles read, may\n"
        "change it.\n"
        "With stage_1overf=groups, subtract_1overf runs directly after subtract_ktc.\n"
        "gpucoron steps STEP shows the parameters of a step, gpucoron steps run those of the run as a whole."
    )
    return "\n\n".join(parts)


def _columns(rows):
    """Align the cells of rows; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


def _step_text(step):
    """Return the description of a step."""
    facts = [
        ("origin", step.origin),
        ("instruments", ", ".join(step.instruments)),
        ("by default", "; ".join(f"{profile}: {runs}" for profile, runs in step.runs.items())),
        ("references", ", ".join(step.references) or "none"),
        ("products", "; ".join(step.products)),
        ("page", step.page),
        ("source", step.source),
    ]
    lines = [f"{step.name}: {step.title}", ""]
    for label, text in facts:
        lines += _wrapped(f"{label + ':':<13}", text)
    if step.parameters:
        lines += ["", "Parameters of this step", "", _parameters_text(step.parameters)]
    lines += ["", "Parameters that every step has", "", _parameters_text(step.common)]
    lines += ["", f"Set one with --set {step.name}.PARAMETER=VALUE. x is the name of the exposure."]
    return "\n".join(lines)


def _parameters_text(parameters):
    """Return two or more lines for each parameter: its default and what it accepts, then what it means."""
    lines = []
    for one in parameters:
        accepted = one.kind if one.accepted == "any" else f"{one.kind}: {one.accepted}"
        lines.append(f"  {one.name} = {one.default_text}  ({accepted})")
        lines += _wrapped("      ", ": ".join(filter(None, (one.meaning, one.unused))))
    return "\n".join(lines)


def _wrapped(head, text):
    """Return a text in lines, the first after a head, the others indented by its width."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
    ) or [head.rstrip()]
