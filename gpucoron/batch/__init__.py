"""Many exposures: what is found (inputs), what is to be done (plan), one of them (job), and all of them (run)."""

_HOME = {"reduce": "gpucoron.batch.run", "Result": "gpucoron.batch.run"}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        msg = f"module 'gpucoron.batch' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
