"""Compare two reductions: what changed in the pixels, the flags and the headers of their products."""

from gpucoron.report.compare.differences import Comparison
from gpucoron.report.compare.reductions import compare_reductions
from gpucoron.report.compare.written import write_comparison

__all__ = ["Comparison", "compare_reductions", "write_comparison"]
