"""What the first exposure of a process waits for: imports, and the schemas and extensions of jwst's data models.

The command line does this first, and a batch's workers do it while the batch is still being planned.
"""

import gc


def warm_up():
    """Import what every exposure needs beside the engine, and let stdatamodels and ASDF set themselves up.

    Nothing of that, nor of what was imported before, is ever thrown away: Python need not look for garbage in it, now
    (a tenth of the time) or later (0.1 s at each full collection). For a process of our own alone.
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
