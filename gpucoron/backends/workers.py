"""Who has worked on a step: an exposure stays in its thread, a backend may be in several."""

import threading

_noted = threading.local()


def note(name, *, alone=False):
    """Note who works on this thread's step: a backend, or 'jwst'; ``alone``: the exposure's own backend does not."""
    _noted.names = [*getattr(_noted, "names", []), name]
    _noted.alone = alone or getattr(_noted, "alone", False)


def take():
    """Tell who was noted in this thread since this was asked last: names, and whether they were alone."""
    noted = list(dict.fromkeys(getattr(_noted, "names", []))), getattr(_noted, "alone", False)
    _noted.names, _noted.alone = [], False
    return noted
