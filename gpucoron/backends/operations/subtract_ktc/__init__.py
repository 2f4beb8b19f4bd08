"""The kTC pedestals and slopes of ramps, from straight lines through their early groups."""

from dataclasses import dataclass

from gpucoron import get_by_old_name
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.subtract_ktc import definition, kernels


@dataclass(frozen=True)
class SubtractKtcSettings:
    """Parameters of the fit of kTC pedestals.

    Attributes
    ----------
    group_time : float, s
        Group k (from 0) is read at ``(k + 1) group_time``.
    """

    group_time: float


fit_ktc = Operation(
    definition.fit_ktc,
    kernels.fit_ktc,
    settings=SubtractKtcSettings,
    # pedestal and slope of each integration, the limit in float64
    working_bytes=lambda nints, ngroups: 16 * nints + 8,
)
fit_mean_slope = Operation(
    definition.fit_mean_slope,
    kernels.fit_mean_slope,
    settings=SubtractKtcSettings,
    # the usable groups of each integration; the slope, the limit in float64
    working_bytes=lambda nints, ngroups: 4 * nints + 16,
)


def __getattr__(name):
    return get_by_old_name(__name__, name)
