"""Reduce many exposures: input files (inputs), what to reduce (plan), one exposure (job), all of them (run)."""

from typing import TYPE_CHECKING

from gpucoron import lazy_package

if TYPE_CHECKING:
    from gpucoron.batch.run import Result as Result
    from gpucoron.batch.run import reduce as reduce

_HOME = {"reduce": "gpucoron.batch.run", "Result": "gpucoron.batch.run"}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_package(__name__, __path__, _HOME)
