"""Load the libraries that the first exposure of a process needs, and the schemas of jwst's data models.

The command line does this first. The workers of a batch do it while the batch is being planned.
"""

import gc


def warm_up():
    """Import the libraries that every exposure needs, and initialize stdatamodels and ASDF.

    Garbage collection is off during the imports, and later ignores all objects that exist now. This saves a tenth of
    the time now, and 0.1 s in each full collection. Call this only in processes that gpucoron has started.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        from stdatamodels.jwst import datamodels

        from gpucoron.backends import backend_status
        from gpucoron.io import exposure  # noqa: F401

        backend_status()
        datamodels.RampModel().close()
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
