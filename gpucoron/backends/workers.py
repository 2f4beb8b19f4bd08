"""Which backends have worked on a step. An exposure stays in its thread; a backend may work in several threads."""

import threading


class _Noted(threading.local):
    """The names that were noted in a thread."""

    names = ()
    alone = False


_noted = _Noted()


def note(name, *, alone=False):
    """Note a backend, or 'jwst', that works on this thread's step; ``alone``: the exposure's own backend does not."""
    _noted.names = (*_noted.names, name)
    _noted.alone = alone or _noted.alone


def take():
    """Return the names noted in this thread since the last call, and whether they worked alone; forget both."""
    noted = list(dict.fromkeys(_noted.names)), _noted.alone
    _noted.names, _noted.alone = (), False
    return noted
