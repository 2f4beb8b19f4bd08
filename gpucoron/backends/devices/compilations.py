"""Native kernels that are compiled in the background, while NumPy does their work.

Results have the same bits, so an operation may begin in NumPy and end with kernels. A process that ends stops its
compilations; libraries that were finished stay in the cache folder. The next process that needs a library of which the
compilation was stopped waits for it.
"""

import atexit
import logging
import os
import threading

from gpucoron.backends.devices import build
from gpucoron.backends.tiles import available_cores

log = logging.getLogger(__name__)

#: kernel files that nearly every exposure needs
COMMON = ("cpu/linearity_strips.cpp", "cpu/ramp_strips.cpp")
#: compilations at a time, of processors that are not more; each may need 0.3 GB of memory
_MOST_AT_A_TIME = max(1, min(4, available_cores()))
#: seconds that the end of a process waits for a compiler that it has stopped
_PATIENCE = 5.0


class _Compilation:
    """The compilation of a library in a thread of its own."""

    def __init__(self, library, places):
        self.error = None
        # an earlier process ended before it was compiled; otherwise short runs would never get it
        self.is_awaited = build.was_stopped(*library)
        self._library, self._places = library, places
        self.thread = threading.Thread(target=self._run, name="gpucoron-compilation", daemon=True)
        self.thread.start()

    def _run(self):
        try:
            with self._places:
                build.compile_natively(*self._library, in_background=True)
        except Exception as error:
            self.error = error


_lock = threading.Lock()
#: library -> its compilation
_begun: dict[tuple, _Compilation] = {}
#: kernel files that cannot be compiled or loaded
_refused: set[str] = set()
#: causes that a warning has named
_told: set[str] = set()
_places = threading.BoundedSemaphore(_MOST_AT_A_TIME)


def begin_common():
    """Begin to compile the kernels that nearly every exposure needs; the others begin when they are first needed."""
    if build.waits_for_compilations() or not build.native_available()[0]:
        return
    for source in COMMON:
        with _lock:
            _begin(source, False)


def are_ready(libraries):
    """Return whether kernels can be launched.

    Libraries that are not compiled begin to be compiled in the background, unless `build.SWITCH` asks to wait: then
    they are compiled at once. A failure is logged once.

    Parameters
    ----------
    libraries : sequence of (str, bool)
        Kernel file, and whether by pixel; see `build.library`.
    """
    # Threads of one operation may call this at the same time.
    with _lock:
        found = [_is_ready(*library) for library in libraries]
    return all(found)


def _is_ready(source, by_pixel):
    if source in _refused:
        return False
    try:
        if not build.waits_for_compilations() and not _is_compiled(source, by_pixel):
            return False
        build.library(source, by_pixel)
    except (RuntimeError, OSError) as error:
        _refused.add(source)
        # one cause may concern all kernels
        level = logging.INFO if str(error) in _told else logging.WARNING
        log.log(level, "NumPy replaces the native kernels of %s: %s", source, error)
        _told.add(str(error))
        return False
    return True


def _is_compiled(source, by_pixel):
    """Return whether a library is in the cache folder; begin to compile it if it is not; raise an error of that."""
    compilation = _begin(source, by_pixel)
    if compilation is None:
        return True
    if compilation.is_awaited:
        compilation.thread.join()
    if compilation.thread.is_alive():
        return False
    if compilation.error is not None:
        raise compilation.error
    return True


def _begin(source, by_pixel):
    """Return the compilation of a library, begun if it was not; None if the library was there before."""
    library = source, by_pixel
    if library not in _begun:
        usable, reason = build.native_available()
        if not usable:
            raise RuntimeError(reason)
        if build.native_path(*library).exists():
            _begun[library] = None
        else:
            log.info("the kernels of %s are compiled in the background; until then NumPy does their work", source)
            _begun[library] = _Compilation(library, _places)
    return _begun[library]


def wait():
    """Wait until all compilations that have begun have ended."""
    with _lock:
        compilations = [compilation for compilation in _begun.values() if compilation is not None]
    for compilation in compilations:
        compilation.thread.join()


def stop():
    """Stop all compilations, and wait until their unfinished files are removed. The process is about to end."""
    build.stop_compilers()
    for compilation in list(_begun.values()):
        if compilation is not None:
            compilation.thread.join(_PATIENCE)


def forget():
    """Forget all compilations and failures: those of the parent of a forked process, or of another cache folder."""
    global _lock, _places
    _lock, _places = threading.Lock(), threading.BoundedSemaphore(_MOST_AT_A_TIME)
    _begun.clear()
    _refused.clear()
    _told.clear()
    build.forget_compilers()


atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
