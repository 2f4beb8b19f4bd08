"""Which backends have worked on a step. An exposure stays in its thread; a backend may work in several threads."""

import threading


class _Workers(threading.local):
    """The names of the backends that have worked on the step of a thread."""

    names = ()
    alone = False


_workers = _Workers()


def note(name, *, alone=False):
    """Record that a backend, or 'jwst', works on this thread's step; ``alone``: without the exposure's backend."""
    _workers.names = (*_workers.names, name)
    _workers.alone = alone or _workers.alone


def take():
    """Return and clear the names recorded in this thread since the last call, and whether they worked alone."""
    names, alone = list(dict.fromkeys(_workers.names)), _workers.alone
    _workers.names, _workers.alone = (), False
    return names, alone
