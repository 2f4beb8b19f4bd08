"""Write an HTML report of a batch or of a single exposure."""

from gpucoron.report.page import write_report

__all__ = ["write_report"]
