"""Load the libraries that the first exposure of a process needs, and the schemas of jwst's data models.

The command line does this first. The workers of a batch do it while the batch is being planned.
"""

import gc
from contextlib import contextmanager


def warm_up():
    """Import the libraries that every exposure needs, and initialize stdatamodels and ASDF.

    Garbage collection later ignores all objects that exist now, which saves 0.1 s in each full collection. Call this
    only in processes that gpucoron has started.
    """
    with _without_collection():
        from stdatamodels.jwst import datamodels

        from gpucoron.backends import backend_status
        from gpucoron.io import exposure  # noqa: F401

        backend_status()
        datamodels.RampModel().close()
        gc.freeze()


def warm_up_crds():
    """Import CRDS, with which a batch is planned; see `warm_up`."""
    with _without_collection():
        from crds.core import heavy_client  # noqa: F401

        gc.freeze()


@contextmanager
def _without_collection():
    """Switch garbage collection off while a block imports large packages, which takes a tenth of their time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
