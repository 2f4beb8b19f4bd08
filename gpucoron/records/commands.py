"""The commands that repeat a recorded reduction: ``gpucoron run`` for its products, ``gpucoron ramp`` for one pixel.

Both are made from the user's request in the record (`gpucoron.batch.request.user_request`). Each value is written as
text and read again as the command line reads it. If the result differs from the request, there is no command.
"""

import json
import os
import shlex
from dataclasses import dataclass, field

from gpucoron.errors import ParameterError
from gpucoron.parameters import BASED_ON_JWST, PIPELINE, convert
from gpucoron.steps import STEPS

#: the folder for products that are made again, below the current one, so that none is replaced
AGAIN = "again"

_RUN_PARAMETERS = {parameter.name: parameter for parameter in PIPELINE}
#: parameters of the whole run that change no result of a command, which has no option for them
_WITHOUT_EFFECT = {
    "run": ("return_rateints",),
    "ramp": ("return_rateints", "save_calibrated_ramp", "save_intermediates"),
}


@dataclass(frozen=True)
class Request:
    """What the user asked for, in the form that `gpucoron.engine.reduce_file` accepts.

    Attributes
    ----------
    profile : str
    use_pars : bool
        Whether CRDS parameter files apply.
    steps : dict of dicts
        step -> parameter -> value.
    run_parameters : dict
        Parameters of the run as a whole.
    """

    profile: str
    use_pars: bool
    steps: dict = field(default_factory=dict)
    run_parameters: dict = field(default_factory=dict)


def find_parameter(name):
    """Return the Parameter named ``step.parameter``, or ``run.parameter`` for the whole run; None if unknown."""
    step, _, parameter = name.partition(".")
    parameters = _RUN_PARAMETERS if step == "run" else STEPS[step].known if step in STEPS else {}
    return parameters.get(parameter)


def request_of(record):
    """Return the request in a record; None if it cannot be repeated.

    Parameters
    ----------
    record : dict
        A record of a manifest, of any version.

    Returns
    -------
    Request or None
        None if the record has no complete request or names a parameter that does not exist, if the user gave an array
        or an object in Python, whose contents are not in the record, or if the exposure read the persistence that
        other exposures of its batch had left.
    """
    asked, persistence = record.get("asked"), record.get("persistence")
    if isinstance(persistence, dict) and persistence.get("found") is not None:
        return None
    if not isinstance(asked, dict) or not isinstance(asked.get("parameters"), dict):
        return None
    if not isinstance(asked.get("profile"), str) or not isinstance(asked.get("use_pars"), bool):
        return None
    steps, run_parameters = {}, {}
    for name, value in asked["parameters"].items():
        parameter = find_parameter(name)
        if parameter is None or not _is_whole(parameter, value):
            return None
        step = name.partition(".")[0]
        (run_parameters if step == "run" else steps.setdefault(step, {}))[parameter.name] = value
    return Request(asked["profile"], asked["use_pars"], steps, run_parameters)


def input_path(record):
    """Return the path of the input file of a record: absolute if it is known, else its name; '' without an input."""
    path = record.get("input_path") or record.get("input")
    return path if isinstance(path, str) else ""


def command_again(record, output_dir=AGAIN):
    """Return the shell command that makes the products of a record again.

    Parameters
    ----------
    record : dict
        A record of a manifest, of any version.
    output_dir : str
        Folder for the products; by default a new one, because existing products are not replaced.

    Returns
    -------
    str
        ``gpucoron run FILE -o DIR --profile ... --set ...``; '' if no command makes the same request.
    """
    return _command("run", record, "-o", output_dir)


def command_ramp(record):
    """Return the shell command that shows the ramp of a pixel of a recorded exposure.

    Parameters
    ----------
    record : dict
        A record of a manifest, of any version.

    Returns
    -------
    str
        ``gpucoron ramp FILE {x} {y} --profile ... --set ...``, with ``{x}`` and ``{y}`` to be replaced; '' if no
        command makes the same request.
    """
    return _command("ramp", record, "{x}", "{y}")


def _command(name, record, *arguments):
    """Write a command; ``arguments`` follow the path of the input."""
    request, path = request_of(record), input_path(record)
    options = _options(request, _WITHOUT_EFFECT[name]) if request is not None and path else None
    if options is None or any("{x}" in text or "{y}" in text for text in (path, *options)):
        return ""
    # a relative path that begins with a dash would be an option
    path = f"./{path}" if path.startswith("-") else path
    quoted = [argument if argument in ("{x}", "{y}") else shlex.quote(argument) for argument in arguments]
    return " ".join(["gpucoron", name, shlex.quote(path), *quoted, *map(shlex.quote, options)])


def _options(request, without_effect):
    """Return the options that make a request, except for parameters without effect; None if there are none that do."""
    options = ["--profile", request.profile]
    is_based_on_jwst = request.profile in BASED_ON_JWST
    if is_based_on_jwst and not request.use_pars:
        options.append("--no-pars")
    elif not is_based_on_jwst and request.use_pars:
        return None  # no option switches CRDS parameter files on
    for step, values in request.steps.items():
        for name, value in values.items():
            text = _as_text(STEPS[step].known[name], value, step)
            if text is None:
                return None
            options += ["--set", f"{step}.{name}={text}"]
    for name, value in request.run_parameters.items():
        option = f"--{name.replace('_', '-')}"
        if name in without_effect:
            continue
        if _RUN_PARAMETERS[name].kind == "option":
            options += [option, str(value)]
        elif value:
            options.append(option)
        elif request.use_pars:
            return None  # a parameter file may switch it on, and no option switches it off
    return options


def _as_text(parameter, value, step):
    """Return the text of a value that the command line converts to the same value; None if there is none."""
    for text in _candidates(value):
        try:
            if _is_same(convert(parameter, text, step), value) and text == text.strip():
                return text
        except ParameterError:
            continue
    return None


def _candidates(value):
    """Yield texts that may mean a value."""
    if value is None:
        yield from ("none", "")
    elif isinstance(value, (list, tuple)):
        yield ",".join(str(one) for one in value)
    else:
        yield str(value)


def _is_whole(parameter, value):
    """Return whether a record holds the whole value: of arrays and objects in memory, only their text is recorded."""
    if value is None:
        return True
    if parameter.kind == "hooks":
        return isinstance(value, list) and not any(str(hook).startswith("<") for hook in value)
    return parameter.kind != "array" or (isinstance(value, str) and os.path.isabs(value))


def _is_same(one, other):
    return json.dumps(one, default=str) == json.dumps(other, default=str)
