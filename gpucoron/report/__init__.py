"""A batch, or a single exposure, as one HTML page."""

from gpucoron.report.page import write_report

__all__ = ["write_report"]
