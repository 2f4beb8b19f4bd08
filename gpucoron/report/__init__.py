"""Write an HTML report of a batch or of a single exposure."""

from typing import TYPE_CHECKING

from gpucoron import lazy_package
from gpucoron.report.page import write_report

if TYPE_CHECKING:
    from gpucoron.report import ramp as ramp

__all__ = ["write_report"]
if not TYPE_CHECKING:  # a type checker would accept every name
    __getattr__, __dir__ = lazy_package(__name__, __path__, {"write_report": "gpucoron.report.page"})
