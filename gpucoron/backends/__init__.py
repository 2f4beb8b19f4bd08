"""Backends: where the heavy operations run. Ask ``get_backend`` for one; nothing is imported before that."""

import logging
from dataclasses import dataclass
from importlib import import_module

from gpucoron.errors import BackendUnavailableError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """One row of the table of backends.

    Attributes
    ----------
    device : str
        Module and class of its device, below ``gpucoron.backends.devices``. The module's ``available()`` tells whether
        it can run here, and on what, or why not: (bool, str).
    meaning : str
        For help texts.
    options : tuple of str
        Those of ``get_backend``'s that its device takes; others do not concern it.
    instead : str
        What runs where it cannot.
    """

    device: str
    meaning: str
    options: tuple = ("n_threads", "max_memory", "scratch_dir", "tile_bytes")
    instead: str = "cpu"

    @property
    def _module(self):
        return import_module(f"gpucoron.backends.devices.{self.device.partition(':')[0]}")

    def status(self):
        """Tell whether it can run here, and on what, or why not: (bool, str)."""
        return self._module.available()

    def make(self, options):
        """Make its device, from those of the options that concern it."""
        kind = getattr(self._module, self.device.partition(":")[2])
        return kind(**{name: value for name, value in options.items() if name in self.options})


#: name -> what it is; a backend is its device's module and its row here
BACKENDS = {
    "numpy": Kind("numpy_device:NumpyDevice", "the CPU by NumPy alone, the definition"),
    "native": Kind(
        "native_device:NativeDevice",
        "the CPU with kernels compiled for it where they are faster, with the same bits",
        instead="numpy",
    ),
    "cuda": Kind(
        "cuda_device:CudaDevice",
        "a GPU by CuPy and CUDA kernels",
        ("device", "max_memory", "scratch_dir", "defines", "cupy"),
    ),
    "host": Kind(
        "host_device:HostDevice",
        "the GPU's kernels compiled for the CPU, for tests",
        ("n_threads", "max_memory", "scratch_dir", "sanitize", "lanes", "defines"),
    ),
}

#: what stands for the first of several backends that can run, which the log tells
CHOICES = {"auto": ("cuda", "native", "numpy"), "cpu": ("native", "numpy")}

#: what a user may ask for
NAMES = (*CHOICES, *BACKENDS)


def get_backend(name="auto", **options):
    """Return a backend.

    Parameters
    ----------
    name : {'auto', 'cpu', 'numpy', 'native', 'cuda', 'host'} or Backend
        'numpy' is the definition. 'native' is NumPy with the kernels compiled for this CPU where they are faster; the
        bits are the same. 'cpu' takes 'native' where there is a compiler, else 'numpy', and says so in the log. 'cuda'
        is CuPy with raw kernels. 'auto' takes 'cuda' where it can run, else 'cpu', and says so in the log. 'host' runs
        the CUDA kernels compiled for the CPU: for tests. A Backend is returned as it is.
    **options
        For the backend's device: ``n_threads``, ``scratch_dir``, ``device`` ('cuda'), ``max_memory`` (bytes). What
        does not concern the device that is chosen is left out.

    Returns
    -------
    Backend

    Raises
    ------
    BackendUnavailableError
        The named backend cannot run here; the message says why.
    TypeError
        No backend has such an option.
    """
    if not isinstance(name, str):
        return name
    if name not in NAMES:
        msg = f"there is no backend {name!r}; known: {', '.join(NAMES)}"
        raise BackendUnavailableError(msg)
    known = {option for kind in BACKENDS.values() for option in kind.options}
    if not known.issuperset(options):
        unknown = ", ".join(sorted(set(options) - known))
        msg = f"get_backend: there is no option {unknown}; known: {', '.join(sorted(known))}"
        raise TypeError(msg)
    *first, last = CHOICES.get(name, (name,))
    for candidate in first:
        usable, reason = _status(candidate, options)
        if usable:
            log.info("backend %r is %r: %s", name, candidate, reason)
            return _make(candidate, options)
        log.info("backend %r: not %r, since %s", name, candidate, reason)
    usable, reason = _status(last, options)
    if not usable:
        msg = f"backend {name!r} cannot run here: {reason}; use backend={BACKENDS[last].instead!r}"
        raise BackendUnavailableError(msg)
    if first:
        log.info("backend %r is %r", name, last)
    return _make(last, options)


def _status(name, options):
    # A test's own CuPy is there.
    return (True, "") if options.get("cupy") is not None else BACKENDS[name].status()


def _make(name, options):
    from gpucoron.backends.backend import Backend

    return Backend(BACKENDS[name].make(options))


def backend_status():
    """Tell which backends can run here: name -> (usable, reason)."""
    status = {name: kind.status() for name, kind in BACKENDS.items()}
    chosen = next(name for name in CHOICES["cpu"] if status[name][0])
    reason = status["native"][1]
    return {"cpu": (True, f"{chosen}: {reason}"), **status}
