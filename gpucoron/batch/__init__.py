"""Reduce many exposures: input files (inputs), what to reduce (plan), one exposure (job), all of them (run)."""

from typing import TYPE_CHECKING

from gpucoron import lazy_package

if TYPE_CHECKING:
    from gpucoron.batch import inputs as inputs
    from gpucoron.batch import plan as plan
    from gpucoron.batch import progress as progress
    from gpucoron.batch.run import Result as Result
    from gpucoron.batch.run import reduce as reduce

_HOME = {"reduce": "gpucoron.batch.run", "Result": "gpucoron.batch.run"}

__all__ = sorted(_HOME)
if not TYPE_CHECKING:  # a type checker would accept every name
    __getattr__, __dir__ = lazy_package(__name__, __path__, _HOME)
