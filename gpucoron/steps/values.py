"""What the array functions of the steps take besides arrays: each kind of value, what it accepts, and how it says no.

A value that a run hands on was settled before (`gpucoron.parameters`), so that most of these rules are for those who
call a function themselves.
"""

import math
import numbers
from dataclasses import dataclass, fields

import numpy as np

from gpucoron.errors import ArgumentError
from gpucoron.parameters import Bounds

#: longest value that a message repeats, characters
_LONGEST = 60


class Plain:
    """What all kinds have in common: no unit, and a value is needed."""

    unit = ""
    optional = False


@dataclass(frozen=True)
class Number(Bounds):
    """One number, within bounds that are not checked in a run: there the step's own parameter decides.

    Attributes
    ----------
    unit : str
        For messages.
    positive : bool
        Above 0 and finite, in a run as well.
    whole : bool
        Without a fraction; 2.0 is taken as 2.
    nan : bool
        NaN is accepted.
    optional : bool
        As a field: None is accepted.
    """

    unit: str = ""
    positive: bool = False
    whole: bool = False
    nan: bool = False
    optional: bool = False

    @property
    def expected(self):
        """What a message says that it must be."""
        words = ["a whole number" if self.whole else "a finite number" if self.finite else "a number"]
        words += [f"in {self.unit}"] if self.unit and not self.whole else []
        if self.minimum is not None:
            words.append(f"of {self.minimum} or more")
        elif self.positive or self.above is not None:
            words.append(f"above {0 if self.positive else self.above}")
        return " ".join(words)

    def take(self, name, value, *, strict=True):
        """Give a number as Python has it, or refuse it; without ``strict`` as in a run."""
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
    """True or false; 1 and 0 stand for them."""

    def take(self, name, value):
        """Give the value as a bool, or refuse it."""
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if not isinstance(value, numbers.Integral | np.bool_) or value not in (0, 1):
            refuse(name, "True or False", value)
        return bool(value)


@dataclass(frozen=True, init=False)
class Choice(Plain):
    """One of several names or numbers."""

    options: tuple

    def __init__(self, *options):
        object.__setattr__(self, "options", options)

    def take(self, name, value):
        """Give the option, or refuse the value."""
        is_plain = isinstance(value, str | numbers.Integral) and not isinstance(value, bool)
        if not is_plain or value not in self.options:
            refuse(name, f"one of {', '.join(map(str, self.options))}", value)
        return value


@dataclass(frozen=True, init=False)
class Having(Plain):
    """An object of a kind, known by what it has.

    ``names`` are attributes of any value; ``kinds`` of a value of a kind, by name. The object is passed on as it is.
    """

    what: str
    names: tuple
    kinds: dict

    def __init__(self, what, *names, **kinds):
        for name, value in (("what", what), ("names", names), ("kinds", kinds)):
            object.__setattr__(self, name, value)

    def take(self, name, value):
        """Give the object, or refuse it."""
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
    """Keywords that a function takes beside its own, by name; others are for what it calls to refuse."""

    kinds: dict

    def take(self, name, value):
        """Give the keywords, each as its kind gives it."""
        return {key: self.kinds[key].take(key, own) if key in self.kinds else own for key, own in value.items()}


@dataclass(frozen=True)
class Kind(Plain):
    """Anything else: ``check`` raises for what is none, and the value is passed on as it is.

    An ArgumentError of ``check`` tells what is wrong; at another error the message says what was expected.
    """

    what: str
    check: object

    def take(self, name, value):
        """Give the value, or refuse it."""
        try:
            self.check(value)
        except ArgumentError as error:
            msg = f"{name}: {error}"
            raise ArgumentError(msg) from None
        except (TypeError, ValueError, AttributeError):
            refuse(name, self.what, value)
        return value


def kinds_of(settings, **others):
    """List the kinds of an operation's settings, by name: 0 or more, or true or false, unless ``others`` say so.

    Parameters
    ----------
    settings : type
        A dataclass whose fields are float, int or bool, or among the others.
    **others
        Kinds by the fields' names.
    """
    usual = {float: Number(minimum=0), int: Number(whole=True, minimum=0), bool: Switch()}
    return {each.name: others.get(each.name) or usual[each.type] for each in fields(settings)}


def refuse(name, expected, value, more=""):
    """Raise the ArgumentError for a value that is none of the expected."""
    text = repr(value)
    if len(text) > _LONGEST or "\n" in text:
        text = f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    msg = f"{name}: expected {expected}, got {text}{more}"
    raise ArgumentError(msg)


def refuse_units(name, value, unit=""):
    """Refuse quantities, whose unit would be lost without a word."""
    is_value = isinstance(value, np.ndarray | np.generic | numbers.Number) or hasattr(value, "to_value")
    # astropy's quantities and columns have a unit; plain arrays and numbers have none
    if is_value and getattr(value, "unit", None) is not None:
        msg = f"{name}: has a unit, {value.unit}; give its value{unit and f' in {unit}'}"
        raise ArgumentError(msg)


def check_numbers(values, count=None):
    """Refuse what is no flat sequence of finite numbers, of ``count`` of them where that is given."""
    numbers_given = np.asarray(values)
    if numbers_given.ndim != 1 or numbers_given.dtype.kind not in "fiu":
        raise TypeError(values)
    if count not in (None, len(numbers_given)) or not np.isfinite(numbers_given).all():
        raise ValueError(values)
