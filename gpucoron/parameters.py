"""Parameters: what one is, how a value is converted and checked, and which of several sources decides.

No step is known here. Each declares its own parameters (`gpucoron.steps`); what needs all of them takes the table of
steps, name -> Step, as an argument. From the declarations come the checks of what a user asks for, the ``spec`` of the
jwst Pipeline class, the command line's help and the table in the documentation.
"""

import difflib
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from functools import partial

import numpy as np

from gpucoron.errors import ParameterError

log = logging.getLogger(__name__)

PROFILES = ("jwst", "spaceklip")

#: under this name the steps declare what spaceKLIP's pipeline class sets, before its run_single_file sets more
SPACEKLIP_CLASS = "Coron1Pipeline_spaceKLIP"

#: longest value that a message repeats, characters
_LONGEST = 120

#: kinds of one number
_NUMBERS = ("float", "integer")

#: kinds whose value may be, or must be, the path of a file that is read before the step runs
FROM_FILES = ("array", "flags")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Which numbers are accepted; NaN never is.

    Attributes
    ----------
    minimum, maximum : float, optional
        The least and the greatest value.
    above : float, optional
        What a value must exceed.
    finite : bool
        Infinity is refused.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    finite: bool = False

    def hold(self, value):
        """Tell whether a number lies within them."""
        return (
            value == value
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and not (self.finite and abs(value) == math.inf)
        )

    @property
    def told(self):
        """The bounds in words: 'at least 0', 'above 0, finite'; '' without any."""
        if self.minimum is not None and self.maximum is not None:
            words = [f"from {self.minimum} to {self.maximum}"]
        else:
            words = [f"at least {self.minimum}"] if self.minimum is not None else []
            words += [f"above {self.above}"] if self.above is not None else []
            words += [f"at most {self.maximum}"] if self.maximum is not None else []
        return ", ".join(words + (["finite"] if self.finite and self.maximum is None else []))


@dataclass(frozen=True)
class Parameter(Bounds):
    """One parameter of a step.

    ``kind`` is 'float', 'integer', 'boolean', 'string', 'option', 'float_list', 'int_list', 'string_list', 'array'
    (an array, or the path of a ``.npy`` file), 'flags' (the path of a FITS file) or 'hooks' (steps, functions and
    commands, or text that names them); None is accepted where it is the default or one of the ``options``, and where
    the parameter is ``optional``.
    Numbers, also those of a list, lie within its `Bounds`; a list holds ``counts`` values (any number of them if it is
    empty). ``reads`` names the kinds of file that a text may name: it must exist before any work, unless
    ``may_be_missing``; ``holds`` is the array that jwst's own code takes from it. ``names`` marks the name of a file
    that is written, whose folder must be there if it is ``in_folder``. ``ours`` marks what jwst's step of the same name
    does not have. ``unused`` says why a value has no effect, for what is accepted because jwst or spaceKLIP have it.
    """

    name: str
    kind: str
    default: object
    meaning: str
    unit: str = ""
    options: tuple = ()
    counts: tuple = ()
    reads: tuple = ()
    holds: str = ""
    may_be_missing: bool = False
    names: bool = False
    in_folder: bool = False
    optional: bool = False
    ours: bool = False
    unused: str = ""


#: short, for the tables of declarations
P = Parameter

#: why numbers of processes have no effect
OWN_THREADS = "threads follow the cores that the process may use, and results do not depend on them"

#: parameters of the run as a whole
PIPELINE = (
    P("save_calibrated_ramp", "boolean", False, "save the ramp as ramp_fit sees it"),
    P("save_intermediates", "boolean", False, "save the result of every step"),
    P("return_rateints", "boolean", False, "return the rateints instead of the rate"),
    P("stage_1overf", "option", "ints", "where 1/f noise is removed", options=("groups", "ints")),
    P("rate_int_outliers", "boolean", False, "look for outliers over the integrations, and fit them again"),
)


def settings_class(name, parameters):
    """Make a frozen dataclass with a field for each parameter; the default values are those of the declarations."""
    fields = [(one.name, object, _field_default(one.default)) for one in parameters]
    return make_dataclass(name, fields, frozen=True, kw_only=True)


def _field_default(value):
    # a dataclass accepts no list as a default
    return field(default_factory=partial(list, value)) if isinstance(value, list) else field(default=value)


#: the parameters of the run as a whole, as they apply to a run
RunParameters = settings_class("RunParameters", PIPELINE)


def known_parameters(table, step_name):
    """Return name -> Parameter of a step, those that every step has included.

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
    """Copy step -> parameter -> value, as a user gave it; None is an empty dictionary.

    Raises
    ------
    ParameterError
        It is something else.
    """
    for owner, given in (("steps", steps), *(steps.items() if isinstance(steps, Mapping) else ())):
        is_named = isinstance(given, Mapping) and all(isinstance(name, str) for name in given)
        if not (is_named or given is None) or not isinstance(owner, str):
            msg = (
                f"steps: expected step -> parameter -> value, such as {{'jump': {{'skip': True}}}}, got {_told(steps)}"
            )
            raise ParameterError(msg)
    return {name: dict(values or {}) for name, values in (steps or {}).items()}


def _unknown(what, name, known):
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"there is no {what} {name!r}; {hint}"


def refuse_unknown(what, name, known):
    """Raise the ParameterError for a name that does not exist; its message holds the nearest one that does."""
    raise ParameterError(_unknown(what, name, known))


def convert(parameter, value, owner):
    """Convert a value (also from a command line's text) to the parameter's kind, or say why it cannot be."""
    is_none = isinstance(value, str) and value.strip().lower() == "none"
    if (is_none and (parameter.kind != "string" or parameter.reads)) or (parameter.names and str(value) == ""):
        value = None
    if value is None:
        if parameter.optional or parameter.default is None or None in parameter.options:
            return None
        if parameter.kind == "boolean" and parameter.name != "skip":
            return False  # as jwst, which takes it and asks whether it is true
        if parameter.default == "":
            return ""
        msg = f"{owner}.{parameter.name}: needs a value of kind {parameter.kind}, got None"
        raise ParameterError(msg)
    try:
        converted = _CONVERTERS[parameter.kind](value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        msg = f"{owner}.{parameter.name}: expected {accepted(parameter)}, got {_told(value)}"
        raise ParameterError(msg) from None
    if not _is_accepted(parameter, converted):
        msg = f"{owner}.{parameter.name}: expected {accepted(parameter)}, got {_told(value)}"
        raise ParameterError(msg)
    return converted


def accepted(parameter):
    """Say in words which values a parameter takes: 'integer, at least 0', "one of ('a', 'b')"."""
    if parameter.options:
        return f"one of {parameter.options}"
    words = [parameter.kind]
    if parameter.counts:
        words.append(f"{' or '.join(map(str, parameter.counts))} values")
    if parameter.told:
        words.append(f"each {parameter.told}" if parameter.kind.endswith("_list") else parameter.told)
    return ", ".join(words)


def _is_accepted(parameter, value):
    if parameter.options:
        return value in parameter.options
    if parameter.kind in _NUMBERS:
        return parameter.hold(value)
    if parameter.kind in ("float_list", "int_list"):
        return all(parameter.hold(one) for one in value) and (not parameter.counts or len(value) in parameter.counts)
    return True


def _told(value):
    """Give a value for a message, not longer than a line."""
    if hasattr(value, "shape") and value.shape:
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _boolean(value):
    if isinstance(value, str):
        words = {"true": True, "yes": True, "on": True, "1": True}
        words |= {"false": False, "no": False, "off": False, "0": False}
        return words[value.strip().lower()] if value.strip().lower() in words else _fail(value)
    if value in (0, 1):
        return bool(value)
    return _fail(value)


def _fail(value):
    raise ValueError(value)


def _integer(value):
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's too: a mask is no list of numbers
        _fail(value)
    number = float(value)  # larger ones are no numbers for those who reckon with them
    if number != int(number):
        _fail(value)
    return value if type(value) is int else int(number)


def _text(value):
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
    # a control character is in no name of a file, and in no header
    return text if isinstance(text, str) and text.isprintable() else _fail(value)


def _array(value):
    if isinstance(value, (str, os.PathLike)):
        return _text(value)
    array = value if hasattr(value, "shape") and hasattr(value, "dtype") else np.asarray(value)
    return array if array.ndim and array.dtype.kind in "biuf" else _fail(value)


def _texts(value):
    texts = [item.strip() for item in value.split(",")] if isinstance(value, str) else list(value)
    return texts if all(isinstance(text, str) for text in texts) else _fail(value)


def _list_of(kind):
    def convert_list(value):
        items = value.strip("[]() ").split(",") if isinstance(value, str) else value
        return [kind(item) for item in items]

    return convert_list


def _hooks(value):
    """List hooks: text is taken apart at commas, but for those within parentheses."""
    if isinstance(value, str):
        hooks = [hook.strip() for hook in _COMMA.split(value.strip("[] "))]
    else:
        hooks = list(value) if isinstance(value, (list, tuple)) else [value]
    hooks = [hook for hook in hooks if hook != ""]
    return (
        hooks
        if all(isinstance(hook, str) or callable(hook) or hasattr(hook, "run") for hook in hooks)
        else _fail(value)
    )


#: a comma outside of parentheses
_COMMA = re.compile(r",(?![^(]*\))")

_CONVERTERS = {
    "float": float,
    "integer": _integer,
    "boolean": _boolean,
    "string": _text,
    "option": str,
    "array": _array,
    "flags": _text,
    "string_list": _texts,
    "float_list": _list_of(float),
    "int_list": _list_of(_integer),
    "hooks": _hooks,
}


def resolve(table, profile="jwst", *, from_files=None, steps=None, instrument="NIRCAM", subarray=""):
    """Settle the parameters of every step: defaults, profile, parameter files, the user; later ones decide.

    Parameters
    ----------
    table : mapping
        name -> Step.
    profile : 'jwst' or 'spaceklip'
    from_files : dict of dicts, optional
        step -> parameter -> value, as parameter files set them.
    steps : dict of dicts, optional
        step -> parameter -> value, as the user gave them. Never changed.
    instrument, subarray : str
        The spaceklip profile depends on them.

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
    changes = {step_name: dict(step.preset_values(profile, instrument, subarray)) for step_name, step in table.items()}
    for layer in (from_files or {}, steps or {}):
        for step_name, wanted in layer.items():
            known = known_parameters(table, step_name)
            for name, value in dict(wanted or {}).items():
                if name not in known:
                    refuse_unknown(f"parameter of {step_name}", name, known)
                changes[step_name][name] = convert(known[name], value, step_name)
    return {
        name: replace(step.default_settings, **changes[name]) if changes[name] else step.default_settings
        for name, step in table.items()
    }


def settle_run(table, settled, given):
    """Settle the parameters of the run as a whole, and what switches steps on, or off in favour of others.

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


def unused(table, steps):
    """List what a user asks for and nothing comes of: ``step.parameter`` -> why. One step may replace another.

    Parameters
    ----------
    table : mapping
        name -> Step.
    steps : dict of dicts
        step -> parameter -> value, as the user gave them; every name must exist.
    """
    reasons = {}
    for step_name, values in steps.items():
        for name, value in dict(values or {}).items():
            parameter = known_parameters(table, step_name)[name]
            # 'none' is spaceKLIP's default for what we call 1 core
            if parameter.unused and value not in (None, "none", parameter.default):
                reasons[f"{step_name}.{name}"] = parameter.unused
    for step in table.values():
        if _is_switched_on(step, steps):
            why = f"{step.name} replaces {' and '.join(step.replaces)}"
            reasons |= dict.fromkeys(_not_taken_over(table, step, steps), why)
    return reasons


def _is_switched_on(step, steps):
    wanted = dict(steps.get(step.name) or {}).get(step.switch) if step.switch else None
    return wanted is not None and bool(convert(step.known[step.switch], wanted, step.name))


def _not_taken_over(table, step, steps):
    """List what a user has set of the steps that another one replaces, and that one does not go by."""
    for replaced in step.replaces:
        owner = table[replaced]
        for name, value in dict(steps.get(replaced) or {}).items():
            usual = [owner.known[name].default, *(preset.values.get(name) for preset in owner.profiles.values())]
            is_set = hasattr(value, "shape") or convert(owner.known[name], value, replaced) not in (None, *usual)
            # hooks run for a step that is left out too
            has_effect = name in ("skip", "pre_hooks", "post_hooks", *owner.for_run)
            if is_set and not has_effect and f"{replaced}.{name}" not in step.takes_over:
                yield f"{replaced}.{name}"


def tell_unused(table, steps):
    """Warn of what `unused` lists; what another step replaces is named in one message."""
    together = {}
    for name, reason in unused(table, steps).items():
        key = reason if " replaces " in reason else name
        together.setdefault(key, ([], reason))[0].append(name)
    for names, reason in together.values():
        log.warning("%s %s accepted and not used: %s", ", ".join(names), "are" if len(names) > 1 else "is", reason)


def without_comparisons(table, steps):
    """Take out what only compares exposures with each other, with a warning: for exposures that come one by one.

    Parameters
    ----------
    table : mapping
        name -> Step.
    steps : dict of dicts or None
        step -> parameter -> value, as the user gave them; not changed.

    Returns
    -------
    dict of dicts
    """
    kept = {step: dict(values or {}) for step, values in (steps or {}).items()}
    names = []
    for step in table.values():
        if step.alone is not None and kept.get(step.name):
            for name in step.alone(kept[step.name]):
                del kept[step.name][name]
                names.append(f"{step.name}.{name}")
    if names:
        log.warning(
            "%s: not used, for each exposure is reduced by itself here; gpucoron.coron1pipeline.run_obs compares the "
            "exposures of a database. Name the groups of an exposure with mask_groups.groups, or with "
            "mask_groups.mask_method='custom' and custom_group",
            ", ".join(names),
        )
    return kept


def without_unused(table, steps):
    """Copy step -> parameter -> value without the parameters that `unused` lists: what needs saying once was said."""
    gone = unused(table, steps)
    return {
        step_name: {name: value for name, value in dict(values or {}).items() if f"{step_name}.{name}" not in gone}
        for step_name, values in steps.items()
    }


def changed(table, settled):
    """List what differs from jwst's defaults: step -> parameter -> value."""
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
    """Tell whether a value is another than its default; an array always is."""
    return hasattr(value, "shape") or value != default
