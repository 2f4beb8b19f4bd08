"""Python sessions and notebooks: short tracebacks of public functions, one-line texts and HTML tables of objects."""

import difflib
import functools
import html
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any, TypeVar

from gpucoron.errors import ArgumentError, GpucoronError, ParameterError

#: the environment variable that keeps all frames of tracebacks, if it is 'full'
VARIABLE = "GPUCORON_TRACEBACK"

#: longest text of a value in a table or a representation, and the most rows of a table
_LONGEST, _MOST_ROWS = 100, 500

#: whether an outer function decides on the traceback
_is_inside = ContextVar("_is_inside", default=False)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def public(function: _Function) -> _Function:
    """Decorate a public function: errors of gpucoron that leave it have the frames of the caller, and one of ours.

    All frames stay if the environment variable GPUCORON_TRACEBACK is 'full', if the logger ``gpucoron`` is enabled for
    DEBUG, within `full_tracebacks`, and in a public function that another one calls. Exceptions of other classes and
    ``__cause__`` are not changed. A wrong call raises an ArgumentError, which is also a TypeError.

    Parameters
    ----------
    function : callable
        A function, a method, or a generator function.

    Returns
    -------
    callable
        With the same name, signature and documentation.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def call(*args, **kwargs):
            try:
                return (yield from function(*args, **kwargs))
            except GpucoronError as error:
                short = _shortened(error)
            raise short  # GPUCORON_TRACEBACK=full shows all frames
    else:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            if _is_inside.get():
                return function(*args, **kwargs)
            token = _is_inside.set(True)
            try:
                return function(*args, **kwargs)
            except GpucoronError as error:
                short = _shortened(_with_hint(error, signature, kwargs))
            except TypeError as error:
                short = _wrong_call(function.__qualname__, signature, args, kwargs)
                if short is None:
                    raise
                short.__cause__ = error if _shows_all() else None
                short.__suppress_context__ = True
            finally:
                _is_inside.reset(token)
            try:
                raise short  # GPUCORON_TRACEBACK=full shows all frames
            finally:
                short = None  # the traceback refers to this frame

    # a traceback names the function, not the wrapper
    code: Any = call.__code__  # type: ignore[attr-defined]
    call.__code__ = code.replace(  # type: ignore[attr-defined]
        co_name=function.__name__, co_qualname=function.__qualname__
    )
    return call  # type: ignore[return-value]


@contextmanager
def full_tracebacks() -> Iterator[None]:
    """Keep all frames of tracebacks in the block, for records and logs. Also a decorator."""
    token = _is_inside.set(True)
    try:
        yield
    finally:
        _is_inside.reset(token)


def _shows_all() -> bool:
    return os.environ.get(VARIABLE) == "full" or logging.getLogger("gpucoron").isEnabledFor(logging.DEBUG)


def _shortened(error):
    """Return an error without its traceback, unless all frames are wanted."""
    return error if _shows_all() else error.with_traceback(None)


def _wrong_call(name, signature, args, kwargs):
    """Return the error for arguments that a function does not accept; None if it accepts them."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as problem:
        named = _named(signature)
        given = dict.fromkeys([*named[: len(args)], *kwargs])
        free = [one for one in named if one not in given]
        hints = [_suggest(one, free) for one in kwargs if one not in named]
        return ArgumentError("; ".join([f"{name}: {problem}", *filter(None, hints)]))
    return None


def _with_hint(error, signature, kwargs):
    """Return an error about a parameter; if that is a misspelt argument of the function, the message says so."""
    if type(error) is ParameterError:
        named = _named(signature)
        hints = [_suggest(one, named) for one in kwargs if one not in named and f"{one!r}" in str(error)]
        if any(hints):
            error.args = ("; ".join([str(error), *filter(None, hints)]),)
    return error


def _named(signature):
    """List the arguments of a function that have a name."""
    parameters = signature.parameters.values()
    return [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


def _suggest(name, known):
    """Return the question whether a similar known name was meant; '' if none is similar."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.75)
    return f"did you mean {near[0]!r} instead of {name!r}?" if near else ""


def text_of(value: Any) -> str:
    """Describe a value in a few words; of an array only the dtype and the shape, without reading it."""
    if all(hasattr(value, name) for name in ("dtype", "shape", "ndim")) and value.ndim:
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, list | tuple | dict | set) and len(value) > 6:
        return f"{type(value).__name__} of {len(value)}"
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def table(title: str, header: tuple[str, ...], rows: list[tuple], note: str = "") -> str:
    """Write a table in HTML; all text is escaped.

    Parameters
    ----------
    title : str
    header : tuple of str
        Empty for a table without a header.
    rows : list of tuple
    note : str, optional
        Text below the table.

    Returns
    -------
    str
    """
    parts = [f"<div class='gpucoron'><b>{html.escape(title)}</b>", "<table>"]
    if header:
        parts.append(f"<thead><tr>{_cells('th', header)}</tr></thead>")
    parts += ["<tbody>", *(f"<tr>{_cells('td', row)}</tr>" for row in rows[:_MOST_ROWS]), "</tbody></table>"]
    if len(rows) > _MOST_ROWS:
        note = f"{note} {len(rows) - _MOST_ROWS:,} more rows are not shown".strip()
    if note:
        parts.append(f"<small>{html.escape(note)}</small>")
    return "\n".join([*parts, "</div>"])


def _cells(tag, values):
    return "".join(f"<{tag} style='text-align: left'>{html.escape(text_of(value))}</{tag}>" for value in values)


class Shown:
    """A base of dataclasses that print as one line, and as a table in a notebook; arrays by dtype and shape."""

    def _summary(self) -> str:
        """Return what the object is, in one line without its class."""
        return ", ".join(f"{name}: {text_of(value)}" for name, value in self._fields())

    @property
    def summary(self) -> str:
        """What the object is, in one line."""
        return self._summary()

    def _fields(self) -> list[tuple[str, Any]]:
        """Return the rows of the table."""
        return [(one.name, getattr(self, one.name)) for one in fields(self) if one.repr]  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._summary()}>"

    def _repr_html_(self) -> str:
        return table(f"{type(self).__name__} {self._summary()}", (), self._fields())
