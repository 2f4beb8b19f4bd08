"""Write an HTML report of a batch or of a single exposure."""

from gpucoron import lazy_package
from gpucoron.report.page import write_report

__all__ = ["write_report"]
__getattr__, __dir__ = lazy_package(__name__, __path__, {"write_report": "gpucoron.report.page"})
