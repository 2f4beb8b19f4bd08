"""Count rates by segments of optimally weighted least squares."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.ramp_fit import definition, kernels
from gpucoron.backends.operations.ramp_fit.segments import POWERS
from gpucoron.backends.operations.ramp_fit.whole_ramps import fit_whole_ramps

__all__ = ["MANY_SAMPLES", "RampFitSettings", "fit_ramps", "fit_whole_ramps"]

#: groups of a ramp from which on the native kernels, which take one ramp after the other, are faster
MANY_SAMPLES = 66


@dataclass(frozen=True)
class RampFitSettings:
    """How ramps were read and are fitted.

    Attributes
    ----------
    group_time, frame_time : float, s
        From group to group, and of a frame.
    nframes, groupgap : int
        Frames averaged into a group, and dropped between groups. The gap enters only through ``group_time``.
    suppress_one_group : bool
        Ramps with a single good group are flagged already: no group has a timing of its own, and ZEROFRAME is not used.
    """

    group_time: float
    frame_time: float
    nframes: int = 1
    groupgap: int = 0
    suppress_one_group: bool = False


def _native(settings, data, *others):
    """List the native libraries for long ramps."""
    return [("ramp_fit.cu", True)] if data.shape[1] >= MANY_SAMPLES else []


def _working_bytes(nints, ngroups):
    # slope sums and two or three kinds of weights, float64; states; the products of the integrations and of the image
    return (4 * 8 + 4 + 20) * nints + 8 + 20


def _table_bytes(nints, ngroups):
    # the weights of all segments that may be, float32
    return 4 * len(POWERS) * ((ngroups + 1) ** 2 // 4)


fit_ramps = Operation(
    definition.fit_ramps,
    kernels.fit_ramps,
    settings=RampFitSettings,
    working_bytes=_working_bytes,
    table_bytes=_table_bytes,
    native=_native,
)
