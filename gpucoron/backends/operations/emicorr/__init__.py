"""Correction of MIRI's periodic electromagnetic interference (EMI).

MIRI reads its four outputs at the same time: four neighbouring pixels, a *quad*, share their read time. A *wave* is one
period of the interference, in cubic pieces: ``(4, n_bins + 1)`` float64. With ``u = n_bins x + 1/2`` and its integer
and fractional parts ``m`` and ``f``, its value at the phase ``x`` in [0, 1) is
``w[0, m] + f (w[1, m] + f (w[2, m] + f w[3, m]))``.
All phases are in units of a period, and may exceed 1.
"""

from gpucoron import get_by_old_name
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.emicorr import definition, kernels

_LIBRARIES = (("cpu/emicorr_strips.cpp", False),)


def _native(settings, data, *others):
    """Return the native library if the ramps are contiguous."""
    return list(_LIBRARIES) if data.flags.c_contiguous else []


measure_scatter = Operation(
    definition.measure_scatter,
    kernels.measure_scatter,
    # the scatter itself
    working_bytes=lambda nints, ngroups: 4 * nints,
    native=_native,
    libraries=_LIBRARIES,
)
sum_by_phase = Operation(
    definition.sum_by_phase,
    kernels.sum_by_phase,
    cut="items",
    whole=("bins", "n_bins"),
    native=_native,
    libraries=_LIBRARIES,
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
    libraries=_LIBRARIES,
)


def __getattr__(name):
    return get_by_old_name(__name__, name)
