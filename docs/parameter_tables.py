"""Write the page of parameters from the declarations of the steps in ``gpucoron.steps``."""

from importlib import import_module
from inspect import Parameter, Signature, getdoc, isfunction, signature

from gpucoron.backends import BACKENDS, CHOICES
from gpucoron.backends.backend import Backend
from gpucoron.backends.operation import Operation
from gpucoron.engine import order_of
from gpucoron.facts import Facts
from gpucoron.parameters import PIPELINE, PROFILES
from gpucoron.steps import STEPS
from gpucoron.steps.declaration import COMMON
from gpucoron.steps.describe import INSTRUMENTS, WITHOUT_STEP, accepted_values, describe_switch

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
files. The `recommended` profile has those of `jwst`, with the CRDS parameter files, and overrides some of them:
[](recommended.md). Your own parameter files override all three: [](references.md).
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
    for name in sorted([*STEPS, "likelihood", "pseudo_reference"]):
        if _functions_of(name):
            yield _SECTION.format(name=name)


def write_functions_of_steps(path):
    """Write the API page's table of the functions on arrays, with the first lines of their docstrings."""
    _write(path, ["| function | what it does |", "|---|---|", *_rows_of_functions(), ""])


def _rows_of_functions():
    for name in (*STEPS, *WITHOUT_STEP):
        for key, function in _functions_of(name).items():
            if hasattr(function, "declared"):
                text = getdoc(function).partition("\n\n")[0].replace("\n", " ").replace("``", "`")
                yield f"| `{name}.{key}{_without_types(signature(function))}` | {text} |"


def _without_types(found):
    """Return a signature without annotations; the full one stands below the table."""
    bare = [one.replace(annotation=Parameter.empty) for one in found.parameters.values()]
    return found.replace(parameters=bare, return_annotation=Signature.empty)


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
    yield (
        "With `stage_1overf` at `groups`, as in the profile `recommended`, subtract_1overf runs directly after "
        "subtract_ktc.\n"
    )
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
    instruments = [name for name in INSTRUMENTS if step.name in order_of(Facts(name))]
    runs = {profile: describe_switch(step, profile, instruments) for profile in PROFILES}
    where = ", ".join(f"{text} in the `{profile}` profile" for profile, text in runs.items())
    if len(set(runs.values())) == 1:
        where = f"{runs['jwst']} in all profiles"
    if len(instruments) == 1:
        where += f", {INSTRUMENTS[instruments[0]]} only"
    source = "a step of spaceKLIP" if step.custom else f"jwst's `{step.jwst_class}`"
    references = f"; reference files: {', '.join(step.references)}" if step.references else ""
    return f"**Default.** {where[0].upper()}{where[1:]} ({source}{references})."


def _parameters_of(step):
    """Yield the table of a step's parameters."""
    if step.parameters:
        yield from _table(step.parameters, step.profiles)
    else:
        yield "The step has no parameters of its own.\n"


def _table(parameters, profiles):
    presets = [profiles.get(profile) for profile in PROFILES]
    yield f"| parameter | kind | accepted | {' | '.join(f'`{profile}`' for profile in PROFILES)} | unit | meaning |"
    yield "|---" * (5 + len(PROFILES)) + "|"
    for parameter in parameters:
        values = [dict(preset.values if preset else {}).get(parameter.name, parameter.default) for preset in presets]
        yield (
            f"| `{parameter.name}` | {parameter.kind} | {accepted_values(parameter)} "
            f"| {' | '.join(f'`{value!r}`' for value in values)} "
            f"| {parameter.unit or '-'} | {': '.join(filter(None, (parameter.meaning, parameter.unused)))} |"
        )
    yield ""
