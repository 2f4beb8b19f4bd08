"""Reduce many exposures: input files (inputs), what to reduce (plan), one exposure (job), all of them (run)."""

_HOME = {"reduce": "gpucoron.batch.run", "Result": "gpucoron.batch.run"}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        msg = f"module 'gpucoron.batch' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
