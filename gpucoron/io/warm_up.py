"""What the first exposure of a process waits for: imports, and the schemas and extensions of jwst's data models.

The command line does this first, and a batch's workers do it while the batch is still being planned.
"""

import gc
from contextlib import contextmanager


@contextmanager
def warming_up():
    """Import what every exposure needs, and in the block whatever else; let stdatamodels and ASDF set themselves up.

    Nothing of that is ever thrown away: Python need not look for garbage in it, now (a tenth of the time) or later
    (0.1 s at each full collection). For a process of our own alone.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        from stdatamodels.jwst import datamodels

        from gpucoron.backends import backend_status
        from gpucoron.io import exposure, products  # noqa: F401

        yield
        backend_status()
        datamodels.RampModel().close()
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
