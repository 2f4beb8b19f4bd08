"""Which backends have worked on a step. An exposure stays in its thread; a backend may work in several threads."""

import threading


class _Workers(threading.local):
    """The names of the backends that have worked on the step of a thread."""

    names = ()


_workers = _Workers()


def note(name):
    """Record that a backend works on this thread's step."""
    _workers.names = (*_workers.names, name)


def take():
    """Return and clear the names recorded in this thread since the last call."""
    names = list(dict.fromkeys(_workers.names))
    _workers.names = ()
    return names
