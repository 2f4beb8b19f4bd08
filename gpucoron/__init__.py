"""JWST coronagraphy stage 1, from ``*_uncal.fits`` to ``*_rateints.fits`` and ``*_rate.fits``.

The public names are loaded when first used: importing gpucoron imports neither jwst nor cupy.
"""

__version__ = "0.1.0"

_HOME = {
    "Coron1Pipeline": "gpucoron.pipeline",
    "Exposure": "gpucoron.exposure",
    "GpucoronError": "gpucoron.errors",
    "get_backend": "gpucoron.backends",
    "reduce_file": "gpucoron.engine",
    "run_obs": "gpucoron.coron1pipeline",
    "run_single_file": "gpucoron.coron1pipeline",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name):
    if name not in _HOME:
        msg = f"module 'gpucoron' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__():
    return __all__


def stpipe_steps():
    """List the pipelines that ``strun`` finds: (class, alias, whether it is a pipeline)."""
    return [("gpucoron.pipeline.Coron1Pipeline", "calwebb_coron1", True)]
