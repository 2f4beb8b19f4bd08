"""Periodic interference (MIRI).

MIRI's four outputs are read at once: four pixels side by side, a *quad*, share the time at which they are read. A
*wave* is one period of a function, in cubic pieces: ``(4, n_bins + 1)`` float64. With ``u = n_bins x + 1/2``, ``m`` its
whole and ``f`` its fractional part, its value at the phase ``x`` in [0, 1) is
``w[0, m] + f (w[1, m] + f (w[2, m] + f w[3, m]))``.
Group phases ``d_j`` and the like are fractions of a period; they may be larger than 1.
"""

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.emicorr import definition, kernels


def _native(settings, data, *tables):
    """List the native library for ramps in one piece."""
    return [("emicorr.cu", False)] if data.flags.c_contiguous else []


measure_scatter = Operation(
    definition.measure_scatter,
    kernels.measure_scatter,
    # the scatter itself
    working_bytes=lambda nints, ngroups: 4 * nints,
)
sum_by_phase = Operation(
    definition.sum_by_phase,
    kernels.sum_by_phase,
    cut="items",
    whole=("bins", "n_bins"),
)
match_emicorr = Operation(
    definition.match_emicorr,
    kernels.match_emicorr,
    cut=None,
    whole=("wave", "group_phases", "n_trials"),
)
subtract_emicorr = Operation(
    definition.subtract_emicorr,
    kernels.subtract_emicorr,
    written=("data",),
    whole=("wave", "group_phases", "integration_phases", "amplitudes"),
    native=_native,
)
