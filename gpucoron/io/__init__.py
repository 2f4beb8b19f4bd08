"""Exposures, references and products in the file formats of jwst and CRDS."""

from gpucoron import lazy_package

__getattr__, __dir__ = lazy_package(__name__, __path__)
