"""Heavy operations: each has a definition in NumPy, kernels, and a description of how its work may be divided.

An operation is a method of `gpucoron.backends.backend.Backend`, with the signature and docstring of its definition:
``definition(device, data, ..., *, settings)``, with ``settings`` if it has any.
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
        The operation in NumPy, on a host device.
    kernels : callable, optional
        The operation by kernels, on their device, with the same signature.
    settings : type, optional
        Frozen dataclass of the parameters that are not arrays.
    written : tuple of str
        Names of arguments that are changed in place.
    cut : {'rows', 'items', None}
        Axis that may be divided into chunks: the rows of the image, or the first axis of all arrays (integrations,
        frames). None for small arrays.
    whole : tuple of str
        Names of arguments that are not divided.
    halo : callable
        Number of rows around a chunk that its result depends on, from the settings.
    working_bytes : callable
        Bytes per pixel needed on a device besides the arguments, from the axes before the image of the first argument.
    scratch_bytes : callable
        The same for scratch arrays, whose total size is limited for a whole exposure.
    table_bytes : callable
        Bytes that do not depend on the size of the image, from the same axes.
    at_home : bool
        The operation needs whole frames, or is light work: it always runs in the memory of the exposure.
    native : callable, optional
        ``native(settings, *arguments)`` returns the libraries of native kernels, as (file, by pixel), if they are
        faster than NumPy for these arguments, else an empty list.
    libraries : tuple of (str, bool)
        All libraries that ``native`` may return, to compile them in advance.
    of_others : bool
        The definition calls other operations; its first argument is the backend, not a device.
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
    native: Callable | None = None
    libraries: tuple[tuple[str, bool], ...] = ()
    of_others: bool = False

    def __post_init__(self):
        # help() shows the definition's docstring and signature.
        for name in ("__name__", "__qualname__", "__module__", "__doc__"):
            object.__setattr__(self, name, getattr(self.definition, name))
        object.__setattr__(self, "__signature__", inspect.signature(self.definition))

    @property
    def name(self):
        """Name of the definition."""
        return self.definition.__name__

    @cached_property
    def signature(self):
        """Signature of the definition without the device and the settings."""
        _, *parameters = self.__signature__.parameters.values()
        return inspect.Signature([each for each in parameters if each.name != "settings"])

    def __get__(self, backend, owner=None):
        return self if backend is None else MethodType(self, backend)

    def __call__(self, backend, *arguments, settings=None, **named):
        """Run ``backend.operation(data, ..., settings=...)``; fields of the settings may be keywords instead."""
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
        """Return the given settings, or settings made from keywords."""
        return choose_settings(self.settings, settings, named)

    def run(self, place, arguments, settings, how=None):
        """Call the definition, or another function with its signature, on a device."""
        options = {} if self.settings is None else {"settings": settings}
        return (how or self.definition)(place, *arguments, **options)


def choose_settings(kind, settings, named):
    """Return the given settings, or settings made from keywords.

    Parameters
    ----------
    kind : type or None
        The dataclass of the settings; None if there are none.
    settings : object or None
    named : dict
        Keywords of the caller: fields of the settings.

    Raises
    ------
    TypeError
        The settings are of another type, a keyword is unknown, or both were given.
    """
    if settings is None and kind is not None:
        return kind(**named)
    kind = kind or type(None)
    if not isinstance(settings, kind):
        msg = f"settings must be {kind.__name__}, not {type(settings).__name__}"
        raise TypeError(msg)
    if named:
        msg = f"{', '.join(named)} given besides settings" if settings else f"unknown arguments {', '.join(named)}"
        raise TypeError(msg)
    return settings


def settings_from(kind, parameters, **others):
    """Make an operation's settings from the step's parameters of the same names, and from values computed by the step.

    Parameters
    ----------
    kind : type
        A dataclass.
    parameters : namespace
    **others
        Override the parameters.
    """
    names = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in vars(parameters).items() if name in names} | others)
