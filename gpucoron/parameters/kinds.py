"""One parameter: its kind and bounds, and how a value is converted and checked."""

import math
import os
import re
from dataclasses import dataclass

import numpy as np

from gpucoron.errors import ParameterError

#: longest value that a message quotes, characters
_LONGEST = 120

#: kinds of parameters that are one number
_NUMBERS = ("float", "integer")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The range of numbers that are accepted. NaN is never accepted.

    Attributes
    ----------
    minimum, maximum : float, optional
        The smallest and the largest value.
    above : float, optional
        Values must be larger than this.
    finite : bool
        Refuse infinity.
    """

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    finite: bool = False

    def hold(self, value):
        """Return whether a number lies within the bounds."""
        return (
            value == value
            and (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and not (self.finite and abs(value) == math.inf)
        )

    @property
    def description(self):
        """The bounds as text: 'at least 0', 'above 0, finite'; '' if there are none."""
        if self.minimum is not None and self.maximum is not None:
            parts = [f"from {self.minimum} to {self.maximum}"]
        else:
            parts = [f"at least {self.minimum}"] if self.minimum is not None else []
            parts += [f"above {self.above}"] if self.above is not None else []
            parts += [f"at most {self.maximum}"] if self.maximum is not None else []
        return ", ".join(parts + (["finite"] if self.finite and self.maximum is None else []))


@dataclass(frozen=True)
class Parameter(Bounds):
    """One parameter of a step.

    Its `Bounds` apply to numbers and to the numbers of a list.

    Attributes
    ----------
    name : str
    kind : str
        'float', 'integer', 'boolean', 'string', 'option', 'float_list', 'int_list', 'string_list', 'array' (an array,
        or the path of a ``.npy`` file), 'flags' (the path of a FITS file) or 'hooks' (steps, functions and commands, or
        text that names them).
    default
    meaning : str
        One phrase for the documentation and the help.
    unit : str
    options : tuple
        The only values that are accepted.
    counts : tuple of int
        Accepted lengths of a list; empty for any length.
    reads : tuple of str
        Kinds of file ('FITS', 'ASDF') that a text may name. The file must exist before any work starts.
    holds : str
        What the step gets from that file instead of its path: an array of a model of jwst, a mask; or 'ends',
        see `gpucoron.io.persistence_file.read_ends`.
    reference : str
        Type of reference in that file, which the step gets as a `gpucoron.io.references.Reference`.
    may_be_missing : bool
        The file need not exist.
    names : bool
        The value names a file that is written.
    in_folder : bool
        The folder of that file must exist.
    optional : bool
        None is accepted. It is also accepted where it is the default or one of the ``options``.
    ours : bool
        jwst's step of the same name does not have the parameter.
    unused : str
        Why the value has no effect, for parameters that are accepted because jwst or spaceKLIP have them.
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
    reference: str = ""
    may_be_missing: bool = False
    names: bool = False
    in_folder: bool = False
    optional: bool = False
    ours: bool = False
    unused: str = ""


#: short name for the declarations of the steps
P = Parameter


def convert(parameter, value, owner):
    """Convert a value, or its text from the command line, to the kind of a parameter.

    Raises
    ------
    ParameterError
        The value cannot be converted or is out of range; the message names ``owner``, the step.
    """
    is_none = isinstance(value, str) and value.strip().lower() == "none"
    if (is_none and (parameter.kind != "string" or parameter.reads)) or (parameter.names and str(value) == ""):
        value = None
    if value is None:
        if parameter.optional or parameter.default is None or None in parameter.options:
            return None
        if parameter.kind == "boolean" and parameter.name != "skip":
            return False  # jwst accepts None too, and treats it as false
        if parameter.default == "":
            return ""
        msg = f"{owner}.{parameter.name}: needs a value of kind {parameter.kind}, got None"
        raise ParameterError(msg)
    try:
        converted = _CONVERTERS[parameter.kind](value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        msg = f"{owner}.{parameter.name}: expected {accepted(parameter)}, got {quote(value)}"
        raise ParameterError(msg) from None
    if not _is_accepted(parameter, converted):
        msg = f"{owner}.{parameter.name}: expected {accepted(parameter)}, got {quote(value)}"
        raise ParameterError(msg)
    return converted


def accepted(parameter):
    """Describe the values that a parameter accepts: 'integer, at least 0', "one of ('a', 'b')"."""
    if parameter.options:
        return f"one of {parameter.options}"
    parts = [parameter.kind]
    if parameter.counts:
        parts.append(f"{' or '.join(map(str, parameter.counts))} values")
    bounds = parameter.description
    if bounds:
        parts.append(f"each {bounds}" if parameter.kind.endswith("_list") else bounds)
    return ", ".join(parts)


def _is_accepted(parameter, value):
    if parameter.options:
        return value in parameter.options
    if parameter.kind in _NUMBERS:
        return parameter.hold(value)
    if parameter.kind in ("float_list", "int_list"):
        return all(parameter.hold(one) for one in value) and (not parameter.counts or len(value) in parameter.counts)
    return True


def quote(value):
    """Return a value as text for a message, on one short line."""
    if hasattr(value, "shape") and value.shape:
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _boolean(value):
    if isinstance(value, str):
        meanings = {"true": True, "yes": True, "on": True, "1": True}
        meanings |= {"false": False, "no": False, "off": False, "0": False}
        return meanings[value.strip().lower()] if value.strip().lower() in meanings else _fail(value)
    if value in (0, 1):
        return bool(value)
    return _fail(value)


def _fail(value):
    raise ValueError(value)


def _integer(value):
    if type(value).__name__ in ("bool", "bool_"):  # NumPy's bool too: a mask is not a list of numbers
        _fail(value)
    number = float(value)  # refuses integers that float64 cannot represent
    if number != int(number):
        _fail(value)
    return value if type(value) is int else int(number)


def _text(value):
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
    # neither file names nor FITS headers hold control characters
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
    """List hooks; text is split at commas outside of parentheses."""
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
