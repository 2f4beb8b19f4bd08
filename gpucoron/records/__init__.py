"""Records of reduced exposures that batches write and reports read: manifests, previews, headers of products."""

from gpucoron import lazy_package

__getattr__, __dir__ = lazy_package(__name__, __path__)
