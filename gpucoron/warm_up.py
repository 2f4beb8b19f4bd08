"""What the first exposure of a process waits for: imports, and the schemas and extensions of jwst's data models.

A batch's workers see to it while the batch is still being planned.
"""


def warm_up():
    """Import what every exposure needs, and let stdatamodels and ASDF set themselves up."""
    from stdatamodels.jwst import datamodels

    from gpucoron import engine, exposure, previews, products  # noqa: F401
    from gpucoron.backends import backend_status

    backend_status()
    datamodels.RampModel().close()
