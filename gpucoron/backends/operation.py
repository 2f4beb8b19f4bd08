"""What a heavy operation is: its definition in NumPy, its kernels, and how its work may be cut.

An operation is a method of `gpucoron.backends.backend.Backend`. Its signature and its contract are those of its
definition: ``definition(device, data, ..., *, settings)`` with ``settings`` where it has any.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from types import MethodType

from gpucoron.backends import chunks
from gpucoron.errors import ArgumentError


@dataclass(frozen=True)
class Operation:
    """One heavy operation.

    Attributes
    ----------
    definition : callable
        In NumPy, on a device of the host.
    kernels : callable, optional
        The same by kernels, on their device; the same signature.
    settings : type, optional
        Frozen dataclass of what is no array.
    written : tuple of str
        Arguments that are changed in place.
    cut : {'rows', 'items', None}
        The axis of which some may be worked on at a time: the rows of the image, or the first axis of all arrays
        (integrations, frames). None for what is small.
    whole : tuple of str
        Arguments that are not cut.
    halo : callable
        Rows around a chunk that its answer depends on, from the settings.
    working_bytes : callable
        Bytes per pixel that it takes on a device besides its arguments, from the axes before the image of the first.
    scratch_bytes : callable
        Likewise for what is under way, which is limited: a whole exposure does with less.
    table_bytes : callable
        Bytes that it takes whatever the image, from the same axes.
    at_home : bool
        It looks at whole frames, and so works where the arrays lie, whatever the memory.
    has_kernels : callable
        Whether the kernels know the settings.
    native : callable, optional
        ``native(settings, *arguments)`` lists the libraries, as (file, by pixel), of the kernels compiled for this CPU
        where they are faster than NumPy, and nothing where they are not.
    of_others : bool
        The definition is made of other operations and gets the backend, not a device.
    """

    definition: Callable
    kernels: Callable | None = None
    settings: type | None = None
    written: tuple[str, ...] = ()
    cut: str | None = "rows"
    whole: tuple[str, ...] = ()
    halo: Callable = lambda settings: 0
    working_bytes: Callable = lambda *axes: 0
    scratch_bytes: Callable = lambda *axes: 0
    table_bytes: Callable = lambda *axes: 0
    at_home: bool = False
    has_kernels: Callable = lambda settings: True
    native: Callable | None = None
    of_others: bool = False

    def __post_init__(self):
        # An operation looks like its definition, to help() too.
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            object.__setattr__(self, name, getattr(self.definition, name))
        object.__setattr__(self, "__signature__", inspect.signature(self.definition))

    @property
    def name(self):
        """Of the definition."""
        return self.definition.__name__

    @cached_property
    def signature(self):
        """Of the arguments, without the device and the settings."""
        _, *parameters = self.__signature__.parameters.values()
        return inspect.Signature([each for each in parameters if each.name != "settings"])

    def __get__(self, backend, owner=None):
        return self if backend is None else MethodType(self, backend)

    def __call__(self, backend, *arguments, settings=None, **named):
        """Run the operation: ``backend.operation(data, ..., settings=...)``, or with the settings' own names."""
        own = {name: named.pop(name) for name in self.signature.parameters if name in named}
        try:
            bound = self.signature.bind(*arguments, **own)
            settings = self._settle(settings, named)
        except TypeError as error:
            msg = f"{self.name}: {error}"
            raise ArgumentError(msg) from None
        bound.apply_defaults()
        if self.of_others:
            return self.run(backend, bound.args, settings)
        return chunks.run(self, backend, bound.arguments, settings)

    def _settle(self, settings, named):
        """Take the settings as they are, or make them of their own names."""
        if settings is None and self.settings is not None:
            return self.settings(**named)
        kind = self.settings or type(None)
        if not isinstance(settings, kind):
            msg = f"settings must be {kind.__name__}, not {type(settings).__name__}"
            raise TypeError(msg)
        if named:
            msg = f"{', '.join(named)} given beside settings" if settings else f"unknown arguments {', '.join(named)}"
            raise TypeError(msg)
        return settings

    def run(self, place, arguments, settings, how=None):
        """Call the definition, or another function of its signature, on a device."""
        options = {} if self.settings is None else {"settings": settings}
        return (how or self.definition)(place, *arguments, **options)


def settings_from(kind, parameters, **others):
    """Make an operation's settings from a step's parameters of the same names, and from what the step worked out.

    Parameters
    ----------
    kind : type
        A dataclass.
    parameters : namespace
    **others
        Go before the parameters.
    """
    names = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in vars(parameters).items() if name in names} | others)
