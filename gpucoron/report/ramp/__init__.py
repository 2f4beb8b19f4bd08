"""See why a pixel was flagged: its ramp, what each step did to it, and the cause of every flag."""

from gpucoron.report.ramp.page import ramp_page
from gpucoron.report.ramp.plot import plot_ramp, write_ramp
from gpucoron.report.ramp.trace import RampTrace, trace_ramp

__all__ = ["RampTrace", "plot_ramp", "ramp_page", "trace_ramp", "write_ramp"]
