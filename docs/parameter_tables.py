"""Write the page of parameters from the declarations in ``gpucoron.parameters``."""

from types import SimpleNamespace

from gpucoron.engine import order_of
from gpucoron.parameters import NIRCAM_ONLY, PIPELINE, SPACEKLIP, STEPS

_HEAD = """# Parameters

% Written by docs/parameter_tables.py at every build; edit gpucoron/parameters.py instead.

Names are jwst's and spaceKLIP's. A parameter is set with `--set step.parameter=value`, with
`steps={"step": {"parameter": value}}`, or with `strun calwebb_coron1 FILE --steps.step.parameter=value`; an unknown one
is refused with the nearest known name. Every step also understands `skip`, `save_results`, and `override_<type>` for
each reference type that it uses.

The `jwst` profile is what `Detector1Pipeline.call` gives: the defaults below, with CRDS's parameter files on top. The
`spaceklip` profile is what spaceKLIP's `run_single_file` sets; it reads no parameter files.
"""


def write_parameter_pages(path, folder):
    """Write the page of all parameters, and into ``folder`` a table for the page of each step."""
    _write(path, _lines())
    folder.mkdir(exist_ok=True)
    for step in STEPS.values():
        _write(folder / f"parameters_{step.name}.md", _parameters_of(step))


def _write(path, lines):
    """Write a file; leave it alone where nothing changed, so that Sphinx need not read it again."""
    text = "\n".join(lines)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _lines():
    yield _HEAD
    for instrument in ("NIRCam", "MIRI"):
        order = order_of(SimpleNamespace(is_miri=instrument == "MIRI"))
        yield f"{instrument} order: {', '.join(order)}.\n"
    yield "With `stage_1overf` at `groups`, subtract_1overf comes right after subtract_ktc.\n"
    yield "## The run as a whole\n"
    yield from _table(PIPELINE, {})
    for step in STEPS.values():
        yield f"## {step.name}\n"
        yield from _parameters_of(step)


def _parameters_of(step):
    """Say what a step is, whether it runs by default, and list its parameters."""
    kind = "custom step of spaceKLIP" if step.custom else f"jwst's `{step.jwst_class}`"
    needs = f"; references: {', '.join(step.references)}" if step.references else ""
    yield f"{step.title[0].upper()}{step.title[1:]} ({kind}{needs}).\n"
    spaceklip = dict(SPACEKLIP.get(step.name, {}))
    skip = spaceklip.pop("skip", step.skipped)
    where = " (NIRCam)" if step.name in NIRCAM_ONLY and skip != step.skipped else ""
    off = {True: "skipped", False: "run", "subarray": "skipped for subarrays"}
    yield f"By default {off[step.skipped]} in `jwst`, {off[skip]}{where} in `spaceklip`.\n"
    if step.parameters:
        yield from _table(step.parameters, spaceklip)


def _table(parameters, spaceklip):
    yield "| parameter | kind | `jwst` | `spaceklip` | unit | meaning |"
    yield "|---|---|---|---|---|---|"
    for parameter in parameters:
        options = f" ({', '.join(map(str, parameter.options))})" if parameter.options else ""
        default = parameter.default
        other = spaceklip.get(parameter.name, default)
        yield (
            f"| `{parameter.name}` | {parameter.kind}{options} | `{default!r}` | `{other!r}` "
            f"| {parameter.unit or '-'} | {parameter.meaning} |"
        )
    yield ""
