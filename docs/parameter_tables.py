"""Write the page of parameters from the declarations of the steps in ``gpucoron.steps``."""

from importlib import import_module
from inspect import getdoc, isfunction, signature

from gpucoron.backends import BACKENDS, CHOICES
from gpucoron.backends.backend import Backend
from gpucoron.backends.operation import Operation
from gpucoron.engine import order_of
from gpucoron.facts import Facts
from gpucoron.parameters import PIPELINE
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import COMMON
from gpucoron.steps.describe import accepted_values

#: modules of functions that steps share
SHARED_MODULES = ("likelihood", "group_matching", "combined_rate", "known_sources")

_HEAD = """# Parameters

% Written by docs/parameter_tables.py at every build; edit the declarations in gpucoron/steps/ instead.

The names are those of jwst and spaceKLIP. Set a parameter with `--set step.parameter=value`, with
`steps={"step": {"parameter": value}}`, or with `strun calwebb_coron1 FILE --steps.step.parameter=value`. An error for
an unknown parameter suggests the nearest name. Parameters that are accepted only for compatibility cause a warning.

Before any work starts, gpucoron refuses a value outside the bounds below, NaN, and a file that is missing or of the
wrong kind. The message names the step and the parameter. Outside most bounds jwst's own code fails; see
[](deviations.md).

The `jwst` profile has the values of `Detector1Pipeline.call`: the defaults below, overridden by the CRDS parameter
files. The `spaceklip` profile has the values of spaceKLIP's `run_single_file`, and by default reads no CRDS parameter
files. Your own parameter files override both: [](references.md).
"""

_SECTION = """### {name}

```{{eval-rst}}
.. automodule:: gpucoron.steps.{name}
   :members:
   :exclude-members: run
```
"""


def write_parameter_pages(path, folder):
    """Write the page of all parameters, and into ``folder`` the defaults and the table for the page of each step."""
    _write(path, _lines())
    folder.mkdir(exist_ok=True)
    for step in STEPS.values():
        _write(folder / f"defaults_{step.name}.md", [_defaults_of(step), ""])
        _write(folder / f"parameters_{step.name}.md", _parameters_of(step))


def write_backends(path):
    """Write the table of backends."""
    rows = [f"| `{name}` | {kind.meaning} | {_listed(kind.options)} |" for name, kind in BACKENDS.items()]
    choices = [f"| `{name}` | the first that can run: {_listed(first)} | |" for name, first in CHOICES.items()]
    _write(path, ["| backend | what it is | options |", "|---|---|---|", *choices, *rows, ""])


def _listed(names):
    return ", ".join(f"`{name}`" for name in names)


def write_api_of_operations(path):
    """Write the API page's part on operations, with their settings."""
    _write(path, _operations())


def _operations():
    seen = set()
    for name, operation in vars(Backend).items():
        if isinstance(operation, Operation):
            function, settings = operation.definition, operation.settings
            yield f"```{{eval-rst}}\n.. autofunction:: {function.__module__}.{name}"
            if settings is not None and settings not in seen:
                seen.add(settings)
                yield f".. autoclass:: {settings.__module__}.{settings.__name__}"
            yield "```\n"


def write_api_of_steps(path):
    """Write the API page's part on steps: each module with functions on arrays."""
    _write(path, _sections())


def _sections():
    for name in sorted([*STEPS, "likelihood"]):
        if _functions_of(name):
            yield _SECTION.format(name=name)


def write_functions_of_steps(path):
    """Write the API page's table of the functions on arrays, with the first lines of their docstrings."""
    _write(path, ["| function | what it does |", "|---|---|", *_rows_of_functions(), ""])


def _rows_of_functions():
    for name in (*STEPS, *SHARED_MODULES):
        for key, function in _functions_of(name).items():
            if hasattr(function, "declared"):
                text = getdoc(function).partition("\n\n")[0].replace("\n", " ").replace("``", "`")
                yield f"| `{name}.{key}{signature(function)}` | {text} |"


def _functions_of(name):
    """Return the public functions of a module of steps, except ``run``: name -> function."""
    module = import_module(f"gpucoron.steps.{name}")
    found = {key: value for key, value in vars(module).items() if isfunction(value) and key[0] != "_" and key != "run"}
    return {key: value for key, value in found.items() if value.__module__ == module.__name__}


def _write(path, lines):
    """Write a file; do not rewrite an unchanged one, so that Sphinx need not read it again."""
    text = "\n".join(lines)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _lines():
    yield _HEAD
    for instrument in ("NIRCam", "MIRI"):
        order = order_of(Facts(instrument.upper()))
        yield f"{instrument} order: {', '.join(order)}.\n"
    yield "With `stage_1overf` at `groups`, subtract_1overf runs directly after subtract_ktc.\n"
    yield "## The run as a whole\n"
    yield from _table(PIPELINE, {})
    yield "## Every step\n"
    yield "In addition to `skip`, `save_results`, and `override_<type>` for each reference type that it uses:\n"
    yield from _table(COMMON, {})
    for step in STEPS.values():
        yield f"## {step.name}\n"
        yield f"{step.title[0].upper()}{step.title[1:]}.\n"
        yield _defaults_of(step) + "\n"
        yield from _parameters_of(step)


def _defaults_of(step):
    """Return in which profiles a step runs, where it comes from, and which references it reads."""
    preset = step.profiles.get("spaceklip")
    skip = preset.values.get("skip", step.skipped) if preset else step.skipped
    state = {True: "off", False: "on"}
    where = f"{state[step.skipped].capitalize()} in both profiles"
    if skip != step.skipped:
        other = f"{state[skip]} {_exposures_of(preset)} in the `spaceklip` profile"
        where = f"{state[step.skipped].capitalize()} in the `jwst` profile, {other}"
    source = "a step of spaceKLIP" if step.custom else f"jwst's `{step.jwst_class}`"
    references = f"; reference files: {', '.join(step.references)}" if step.references else ""
    return f"**Default.** {where}{_only(step)} ({source}{references})."


def _exposures_of(preset):
    """Return for which exposures a profile differs from jwst."""
    names = " and ".join({"NIRCAM": "NIRCam"}.get(name, name) for name in preset.instruments)
    return f"for {names} subarrays".replace("  ", " ") if preset.subarrays_only else f"for {names}"


def _only(step):
    """Return the only instrument whose exposures go through the step, if there is one."""
    for name, other in (("NIRCam", "MIRI"), ("MIRI", "NIRCam")):
        if step.name not in order_of(Facts(other.upper())):
            return f", {name} only"
    return ""


def _parameters_of(step):
    """Yield the table of a step's parameters."""
    preset = step.profiles.get("spaceklip")
    if step.parameters:
        yield from _table(step.parameters, dict(preset.values) if preset else {})
    else:
        yield "The step has no parameters of its own.\n"


def _table(parameters, spaceklip):
    yield "| parameter | kind | accepted | `jwst` | `spaceklip` | unit | meaning |"
    yield "|---|---|---|---|---|---|---|"
    for parameter in parameters:
        default = parameter.default
        other = spaceklip.get(parameter.name, default)
        yield (
            f"| `{parameter.name}` | {parameter.kind} | {accepted_values(parameter)} | `{default!r}` | `{other!r}` "
            f"| {parameter.unit or '-'} | {': '.join(filter(None, (parameter.meaning, parameter.unused)))} |"
        )
    yield ""
