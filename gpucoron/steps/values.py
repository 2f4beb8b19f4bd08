"""Kinds of arguments of the array functions, other than arrays: the accepted values, and errors for others.

The engine has checked its values before (`gpucoron.parameters`), so most of these rules apply to direct calls.
"""

import math
import numbers
from dataclasses import dataclass, fields

import numpy as np

from gpucoron.errors import ArgumentError
from gpucoron.parameters import Bounds

#: longest value that a message quotes, characters
_LONGEST = 60


class Plain:
    """Base class of all kinds: without a unit, and None is not accepted."""

    unit = ""
    optional = False


@dataclass(frozen=True)
class Number(Bounds):
    """One number within bounds. In a run the bounds are not checked, because the parameter of the step was.

    Attributes
    ----------
    unit : str
        Unit for messages.
    positive : bool
        Above 0 and finite; also checked in a run.
    whole : bool
        An integer; 2.0 becomes 2.
    nan : bool
        NaN is accepted.
    optional : bool
        None is accepted for an attribute of an object.
    """

    unit: str = ""
    positive: bool = False
    whole: bool = False
    nan: bool = False
    optional: bool = False

    @property
    def expected(self):
        """The description of accepted numbers for messages."""
        parts = ["a whole number" if self.whole else "a finite number" if self.finite else "a number"]
        parts += [f"in {self.unit}"] if self.unit and not self.whole else []
        if self.minimum is not None:
            parts.append(f"of {self.minimum} or more")
        elif self.positive or self.above is not None:
            parts.append(f"above {0 if self.positive else self.above}")
        return " ".join(parts)

    def take(self, name, value, *, strict=True):
        """Return a Python number, or raise an ArgumentError; ``strict`` is false in a run."""
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
        if not is_number or (self.positive and not 0 < value < math.inf) or (strict and not self._fits(value)):
            refuse(name, self.expected, value)
        if self.whole:
            if not math.isfinite(value) or value != int(value):
                refuse(name, self.expected, value)
            return int(value)
        return value.item() if isinstance(value, np.generic) else value

    def _fits(self, value):
        return self.nan if math.isnan(value) else self.hold(value)


@dataclass(frozen=True)
class Switch(Plain):
    """True or false; 1 and 0 are accepted too."""

    def take(self, name, value):
        """Return the value as a bool, or raise an ArgumentError."""
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if not isinstance(value, numbers.Integral | np.bool_) or value not in (0, 1):
            refuse(name, "True or False", value)
        return bool(value)


@dataclass(frozen=True, init=False)
class Choice(Plain):
    """One of several names or numbers, or None."""

    options: tuple

    def __init__(self, *options):
        object.__setattr__(self, "options", options)

    def take(self, name, value):
        """Return the option, or raise an ArgumentError."""
        is_plain = value is None or (isinstance(value, str | numbers.Integral) and not isinstance(value, bool))
        if not is_plain or value not in self.options:
            refuse(name, f"one of {', '.join(map(str, self.options))}", value)
        return value


@dataclass(frozen=True, init=False)
class Having(Plain):
    """An object with certain attributes; it is passed on unchanged.

    ``what`` is its description for messages, ``names`` are attributes with any value, and ``kinds`` maps attributes to
    the kinds of their values.
    """

    what: str
    names: tuple
    kinds: dict

    def __init__(self, what, *names, **kinds):
        for name, value in (("what", what), ("names", names), ("kinds", kinds)):
            object.__setattr__(self, name, value)

    def take(self, name, value):
        """Return the object, or raise an ArgumentError."""
        missing = [each for each in (*self.names, *self.kinds) if not hasattr(value, each)]
        if missing:
            without = f", which has no {missing[0]}" if len(missing) < len(self.names) + len(self.kinds) else ""
            refuse(name, self.what, value, without)
        for each, kind in self.kinds.items():
            own = getattr(value, each)
            if own is not None or not kind.optional:
                kind.take(f"{name}.{each}", own)
        return value


@dataclass(frozen=True)
class Options(Plain):
    """Additional keywords of a function, by name; unknown keywords are refused by the function that it calls."""

    kinds: dict

    def take(self, name, value):
        """Return the keywords with their converted values."""
        return {key: self.kinds[key].take(key, own) if key in self.kinds else own for key, own in value.items()}


@dataclass(frozen=True)
class Kind(Plain):
    """Any other value: ``check`` raises an error for invalid values; valid values are passed on unchanged.

    The message is that of ``check`` if it raises an ArgumentError; for other errors it says what was expected.
    """

    what: str
    check: object

    def take(self, name, value):
        """Return the value, or raise an ArgumentError."""
        try:
            self.check(value)
        except ArgumentError as error:
            msg = f"{name}: {error}"
            raise ArgumentError(msg) from None
        except (TypeError, ValueError, AttributeError):
            refuse(name, self.what, value)
        return value


def kinds_of(settings, **others):
    """Return the kinds of the settings of an operation, by name.

    Parameters
    ----------
    settings : type
        A dataclass. Fields of type float and int must be 0 or more.
    **others
        Kinds of the other fields, by name.
    """
    usual = {float: Number(minimum=0), int: Number(whole=True, minimum=0), bool: Switch()}
    return {each.name: others.get(each.name) or usual[each.type] for each in fields(settings)}


def refuse(name, expected, value, more=""):
    """Raise the ArgumentError for an unexpected value."""
    text = repr(value)
    if len(text) > _LONGEST or "\n" in text:
        text = f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    msg = f"{name}: expected {expected}, got {text}{more}"
    raise ArgumentError(msg)


def refuse_units(name, value, unit=""):
    """Refuse quantities, because their unit would be lost."""
    is_value = isinstance(value, np.ndarray | np.generic | numbers.Number) or hasattr(value, "to_value")
    # astropy's quantities and columns have a unit; plain arrays and numbers have none
    if is_value and getattr(value, "unit", None) is not None:
        msg = f"{name}: has a unit, {value.unit}; give its value{unit and f' in {unit}'}"
        raise ArgumentError(msg)


def check_numbers(values, count=None):
    """Refuse values that are not a flat sequence of finite numbers, or not ``count`` of them."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        raise TypeError(values)
    if count not in (None, len(array)) or not np.isfinite(array).all():
        raise ValueError(values)
