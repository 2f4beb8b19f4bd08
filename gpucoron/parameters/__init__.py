"""Parameters: how one is declared, how a value is converted and checked, and which of several sources applies.

This module imports no step. Each step declares its own parameters (`gpucoron.steps`); functions that need all of them
take the table of steps, name -> Step, as an argument. The declarations are used to check the user's settings, and to
make the ``spec`` of the jwst Pipeline class, the help of the command line and the table in the documentation.
"""

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, field, fields, make_dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from gpucoron.errors import ParameterError
from gpucoron.parameters.kinds import Bounds, P, Parameter, accepted, convert, quote

__all__ = [
    "BASED_ON_JWST", "FROM_FILES", "OWN_THREADS", "PIPELINE", "PROFILES", "SPACEKLIP_CLASS", "Bounds", "P", "Parameter",
    "Profile", "RunParameters", "StepSettings",
    "accepted", "changed", "convert", "copied_steps", "differs", "known_parameters", "refuse_unknown", "resolve",
    "settings_class", "settle_run",
]  # fmt: skip

PROFILES = ("jwst", "spaceklip", "recommended")
#: profiles that start from jwst's parameters, by default with the parameter files of CRDS
BASED_ON_JWST = ("jwst", "recommended")
#: the argument ``profile``, and the argument ``steps``: step -> parameter -> value
Profile: TypeAlias = Literal["jwst", "spaceklip", "recommended"]
StepSettings: TypeAlias = Mapping[str, Mapping[str, Any]]

#: name of the preset with the values that spaceKLIP's pipeline class sets; its run_single_file sets more
SPACEKLIP_CLASS = "Coron1Pipeline_spaceKLIP"

#: kinds of parameters that may name a file, which is read before the step runs
FROM_FILES = ("array", "flags")


#: why the number of processes has no effect
OWN_THREADS = "gpucoron uses all cores available to the process, and results do not depend on their number"

#: parameters of the run as a whole
PIPELINE = (
    P("save_calibrated_ramp", "boolean", False, "save the ramp before it is fitted"),
    P("save_intermediates", "boolean", False, "save the result of every step"),
    P("return_rateints", "boolean", False, "return the rateints instead of the rate"),
    P("stage_1overf", "option", "ints", "where 1/f noise is removed", options=("groups", "ints")),
    P("rate_int_outliers", "boolean", False, "refit pixels without their outlying integrations"),
)

#: parameters of the run as a whole that a profile changes
RUN_PRESETS: Mapping[str, Mapping[str, Any]] = {"recommended": {"stage_1overf": "groups"}}


def settings_class(name, parameters, module):
    """Make a frozen dataclass with a field for each parameter; the default values are those of the declarations.

    ``module`` is the module that has the class as an attribute: without it, objects cannot be pickled.
    """
    declared = [(one.name, object, _field_default(one.default)) for one in parameters]
    namespace = {"__module__": module, "__doc__": f"Parameters: {', '.join(name for name, *_ in declared)}."}
    return make_dataclass(
        name, declared, bases=(_Settings,), namespace=namespace, frozen=True, init=False, eq=False, repr=False
    )


class _Settings:
    """Methods that dataclasses would compile for each class, at every start of the program."""

    def __init__(self, **values):
        known = fields(self)
        unknown = values.keys() - {one.name for one in known}
        if unknown:
            msg = f"{type(self).__name__} has no parameter {', '.join(sorted(unknown))}"
            raise TypeError(msg)
        vars(self).update({one.name: values[one.name] if one.name in values else _default_of(one) for one in known})

    def __eq__(self, other):
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def _default_of(one):
    return one.default if one.default_factory is MISSING else one.default_factory()


def _field_default(value):
    # a dataclass accepts no list as a default
    return field(default_factory=partial(list, value)) if isinstance(value, list) else field(default=value)


#: the parameters of the run as a whole, as they apply to a run
RunParameters = settings_class("RunParameters", PIPELINE, __name__)


def known_parameters(table, step_name):
    """Return name -> Parameter of a step, including the parameters that all steps have.

    Parameters
    ----------
    table : mapping
        name -> Step.
    step_name : str

    Raises
    ------
    ParameterError
        If there is no such step; the message names the nearest one.
    """
    if step_name not in table:
        refuse_unknown("step", step_name, table)
    return table[step_name].known


def copied_steps(steps):
    """Copy the user's settings, step -> parameter -> value; None becomes an empty dictionary.

    Raises
    ------
    ParameterError
        The settings are not such a dictionary.
    """
    for owner, given in (("steps", steps), *(steps.items() if isinstance(steps, Mapping) else ())):
        is_named = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
        if not (is_named or given is None) or not isinstance(owner, str):
            msg = (
                f"steps: expected step -> parameter -> value, such as {{'jump': {{'skip': True}}}}, got {quote(steps)}"
            )
            raise ParameterError(msg)
    return {name: dict(values or {}) for name, values in (steps or {}).items()}


def refuse_unknown(what, name, known):
    """Raise a ParameterError for a name that does not exist; the message suggests the most similar known name."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    msg = f"there is no {what} {name!r}; {hint}"
    raise ParameterError(msg)


def resolve(table, profile="jwst", *, from_crds=None, from_files=None, steps=None, instrument="NIRCAM", subarray=""):
    """Return the parameters of all steps.

    The order of precedence is: the user, the user's files, the files of CRDS, the profile, the defaults. A profile that
    is based on jwst changes jwst's parameters, and so takes precedence over the files of CRDS.

    Parameters
    ----------
    table : mapping
        name -> Step.
    profile : {'jwst', 'spaceklip', 'recommended'}
    from_crds, from_files : dict of dicts, optional
        step -> parameter -> value from parameter files of CRDS and of the user.
    steps : dict of dicts, optional
        step -> parameter -> value from the user. Not changed.
    instrument, subarray : str
        The profiles depend on them.

    Returns
    -------
    dict of frozen dataclasses
        step -> its parameters.

    Raises
    ------
    ParameterError
        Unknown profile, step or parameter, or a value that is not accepted.
    """
    if profile not in PROFILES:
        refuse_unknown("profile", profile, PROFILES)
    presets = {name: step.preset_values(profile, instrument, subarray) for name, step in table.items()}
    lowest = (from_crds or {}, presets) if profile in BASED_ON_JWST else (presets, from_crds or {})
    changes = {step_name: {} for step_name in table}
    for layer in (*lowest, from_files or {}, steps or {}):
        for step_name, values in layer.items():
            known = known_parameters(table, step_name)
            for name, value in dict(values or {}).items():
                if name not in known:
                    refuse_unknown(f"parameter of {step_name}", name, known)
                changes[step_name][name] = convert(known[name], value, step_name)
    return {
        name: replace(step.default_settings, **changes[name]) if changes[name] else step.default_settings
        for name, step in table.items()
    }


def settle_run(table, settled, given):
    """Settle the parameters of the run as a whole, and switch steps on or off accordingly.

    Parameters
    ----------
    table : mapping
        name -> Step.
    settled : dict
        step -> its parameters, from ``resolve``. Not changed.
    given : dict
        Parameters of the run, by name, as files and the user set them.

    Returns
    -------
    settled : dict
        The same with steps switched on and off.
    run_parameters : RunParameters
    """
    known = {parameter.name: parameter for parameter in PIPELINE}
    values = {name: parameter.default for name, parameter in known.items()}
    settled = dict(settled)

    def switch(name, *, skip):
        settled[name] = replace(settled[name], skip=skip)

    for name, value in given.items():
        if name not in known:
            refuse_unknown("parameter", name, known)
        values[name] = convert(known[name], value, "run")
    for name, step in table.items():
        for parameter in step.for_run:
            values[parameter] = values[parameter] or getattr(settled[name], parameter)
        if step.run_switch and values[step.run_switch]:
            switch(name, skip=False)
        if step.switch and getattr(settled[name], step.switch):
            switch(name, skip=False)
            for replaced in step.replaces:
                switch(replaced, skip=True)
    return settled, RunParameters(**values)


def changed(table, settled):
    """Return step -> parameter -> value of all parameters that differ from jwst's defaults."""
    differences = {}
    for step_name, values in settled.items():
        known = table[step_name].known
        different = {
            name: value
            for name, value in vars(values).items()
            if not known[name].unused and value is not known[name].default and differs(value, known[name].default)
        }
        if different:
            differences[step_name] = different
    return differences


def differs(value, default):
    """Return whether a value differs from the default; an array always does."""
    return hasattr(value, "shape") or value != default
