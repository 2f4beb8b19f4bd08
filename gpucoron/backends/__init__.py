"""Backends run the heavy operations. Get one from ``get_backend``; nothing is imported before that."""

import logging
import operator
import os
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpucoron.backends.sizes import memory_size
from gpucoron.errors import ArgumentError, BackendUnavailableError
from gpucoron.interactive import public

if TYPE_CHECKING:
    from gpucoron.backends.backend import Backend

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """One row of the table of backends.

    Attributes
    ----------
    device : str
        Module and class of its device, below ``gpucoron.backends.devices``. The function
        ``available()`` there returns whether the device can run here, and its description or the reason why not.
    meaning : str
        Description in help texts.
    options : tuple of str
        The options of ``get_backend`` that its device accepts; others are refused.
    instead : str
        The backend to suggest where this one cannot run.
    """

    device: str
    meaning: str
    options: tuple = ("n_threads", "max_memory", "scratch_dir", "tile_bytes")
    instead: str = "cpu"

    @property
    def _module(self):
        return import_module(f"gpucoron.backends.devices.{self.device.partition(':')[0]}")

    def status(self):
        """Return whether the backend can run here, and its description or the reason why not: (bool, str)."""
        return self._module.available()

    def make(self, options):
        """Make the device from the options that it accepts."""
        kind = getattr(self._module, self.device.partition(":")[2])
        return kind(**{name: value for name, value in options.items() if name in self.options})


#: name -> row of the table; a new backend needs a module with its device, and a row here
BACKENDS = {
    "numpy": Kind("numpy_device:NumpyDevice", "NumPy on the CPU; it defines the results"),
    "native": Kind(
        "native_device:NativeDevice",
        "NumPy and compiled CPU kernels where these are faster; bit-identical to numpy",
        instead="numpy",
    ),
    "cuda": Kind(
        "cuda_device:CudaDevice",
        "CuPy and CUDA kernels on a GPU",
        ("device", "max_memory", "scratch_dir", "defines", "cupy"),
    ),
    "host": Kind(
        "host_device:HostDevice",
        "the CUDA kernels compiled for the CPU, for tests",
        ("n_threads", "max_memory", "scratch_dir", "sanitize", "lanes", "defines"),
    ),
}

#: names that choose the first of several backends that can run; the log says which
CHOICES = {"auto": ("cuda", "native", "numpy"), "cpu": ("native", "numpy")}

#: names that a user may give
NAMES = (*CHOICES, *BACKENDS)


@public
def get_backend(name: "str | Backend | None" = "auto", **options: Any) -> "Backend":
    """Return a backend.

    Parameters
    ----------
    name : {'auto', 'cpu', 'numpy', 'native', 'cuda', 'host'} or Backend, optional
        'numpy' is the reference. 'native' is NumPy plus kernels compiled for this CPU where they are faster, with the
        same bits. 'cpu' chooses 'native' if there is a compiler, else 'numpy'. 'cuda' is CuPy with raw kernels. 'auto'
        chooses 'cuda' if it can run, else 'cpu'. The log says what was chosen. 'host' runs the CUDA kernels compiled
        for the CPU, for tests. None means 'auto'. A Backend is returned unchanged.
    **options
        Options of the backend's device, listed for each backend in `BACKENDS`: ``n_threads`` (int), ``max_memory``
        (bytes, or text such as '4G'; see `gpucoron.backends.sizes.memory_size`), ``scratch_dir`` (path), ``device``
        (int: number of the GPU), ``tile_bytes`` (int: part of a ramp that NumPy works on at once). None is the default.
        'auto' accepts the options of all backends that it may choose; the log lists those that the chosen one ignores.

    Returns
    -------
    Backend

    Raises
    ------
    BackendUnavailableError
        The backend does not exist or cannot run here; the message says why.
    ArgumentError
        ``name`` is neither a name nor a Backend, the backend has no such option, or the value is invalid.
    """
    name = check_backend(name)
    options = {option: value for option, value in options.items() if value is not None}
    if not isinstance(name, str):
        if options:
            msg = f"{', '.join(options)}: a Backend already has its options; give them to get_backend with a name"
            raise ArgumentError(msg)
        return name
    options = _checked(name, options)
    *first, last = CHOICES.get(name, (name,))
    for candidate in first:
        usable, reason = _status(candidate, options)
        if usable:
            log.info("backend %r is %r: %s", name, candidate, reason)
            return _make(candidate, options)
        log.info("backend %r: %r cannot run: %s", name, candidate, reason)
    usable, reason = _status(last, options)
    if not usable:
        msg = f"backend {name!r} cannot run here: {reason}; use backend={BACKENDS[last].instead!r}"
        raise BackendUnavailableError(msg)
    if first:
        log.info("backend %r is %r", name, last)
    return _make(last, options)


def check_backend(backend: "str | Backend | None", *, by_name: bool = False) -> Any:
    """Raise an error unless the value names or is a backend; no backend is made.

    Parameters
    ----------
    backend : str, Backend or None
    by_name : bool
        Accept names only, for use in other processes.

    Returns
    -------
    str or Backend
        'auto' for None.

    Raises
    ------
    BackendUnavailableError, ArgumentError
        As from `get_backend`.
    """
    if backend is None:
        return "auto"
    choices = ", ".join(NAMES)
    if isinstance(backend, str):
        if backend not in NAMES:
            msg = f"there is no backend {backend!r}; known: {choices}"
            raise BackendUnavailableError(msg)
        return backend
    from gpucoron.backends.backend import Backend

    if not isinstance(backend, Backend):
        also = "" if by_name else ", a Backend"
        msg = f"backend: expected one of {choices}{also} or None, got {backend!r}"
        raise ArgumentError(msg)
    if by_name:
        msg = f"backend: other processes need the name of a backend: give one of {choices}, not a Backend"
        raise ArgumentError(msg)
    return backend


def options_of(name):
    """Return the options of ``get_backend`` for a name: those of the backend, or of all backends that it may choose."""
    return tuple(dict.fromkeys(option for each in CHOICES.get(name, (name,)) for option in BACKENDS[each].options))


def _checked(name, options):
    """Return the options with their values checked; raise an error for unknown options and invalid values."""
    taken = options_of(name)
    for option in options:
        if option not in taken:
            others = [each for each, kind in BACKENDS.items() if option in kind.options]
            of_others = f", which is for {', '.join(others)}" if others else ""
            msg = f"get_backend: backend {name!r} has no option {option}{of_others}; known: {', '.join(taken)}"
            raise ArgumentError(msg)
    for option, least in (("n_threads", 1), ("device", 0), ("tile_bytes", 1), ("lanes", 1)):
        if option in options:
            options[option] = _whole_number(option, options[option], least)
    for option, is_right, expected in (
        ("scratch_dir", lambda value: isinstance(value, str | os.PathLike), "the path of a folder"),
        ("cupy", lambda value: hasattr(value, "cuda"), "a module like CuPy, for tests"),
        ("sanitize", lambda value: isinstance(value, str), "names of sanitizers"),
        ("defines", lambda value: isinstance(value, tuple | list), "a list of definitions"),
    ):
        if option in options and not is_right(options[option]):
            msg = f"{option}: expected {expected}, got {options[option]!r}"
            raise ArgumentError(msg)
    if "max_memory" in options:
        options["max_memory"] = memory_size(options["max_memory"])
    return options


def _whole_number(option, value, least):
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        msg = f"{option}: expected a whole number, {least} or more, got {value!r}"
        raise ArgumentError(msg)
    return number


def _status(name, options):
    # A CuPy given by a test needs no check.
    return (True, "") if options.get("cupy") is not None else BACKENDS[name].status()


def _make(name, options):
    from gpucoron.backends.backend import Backend

    idle = [option for option in options if option not in BACKENDS[name].options]
    if idle:
        log.info("backend %r ignores %s", name, ", ".join(idle))
    return Backend(BACKENDS[name].make(options))


@public
def backend_status() -> dict[str, tuple[bool, str]]:
    """Return which backends can run here: name -> (usable, reason)."""
    status = {name: kind.status() for name, kind in BACKENDS.items()}
    chosen = next(name for name in CHOICES["cpu"] if status[name][0])
    reason = status["native"][1]
    return {"cpu": (True, f"{chosen}: {reason}"), **status}
