"""Ramp fitting: count rates by optimally weighted least squares of segments."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.ramp_fit import definition, kernels
from gpucoron.backends.operations.ramp_fit.optional import SEGMENT_FIELDS, by_field
from gpucoron.backends.operations.ramp_fit.segments import POWERS

__all__ = ["SEGMENT_FIELDS", "RampFitSettings", "by_field", "fit_ramps", "fit_segments"]


@dataclass(frozen=True)
class RampFitSettings:
    """Read pattern and parameters of ramp fitting.

    Attributes
    ----------
    group_time, frame_time : float, s
        Time from group to group, and of a frame.
    nframes, groupgap : int
        Frames averaged into a group, and dropped between groups. The gap only affects ``group_time`` and pedestals.
    suppress_one_group : bool
        Ramps with a single good group are already flagged: no group gets a special time, and ZEROFRAME is not used.
    drop_frames : int
        Frames dropped before the first group, for pedestals.
    """

    group_time: float
    frame_time: float
    nframes: int = 1
    groupgap: int = 0
    suppress_one_group: bool = False
    drop_frames: int = 0


_LIBRARY = ("cpu/ramp_strips.cpp", False)


def _working_bytes(nints, ngroups):
    # median rates, slope sums and weights, float64; states; products of the integrations and of the image; its signal
    return (3 * 8 + 4 + 20) * nints + 20 + 8


def _table_bytes(nints, ngroups):
    # the weights of all possible segments, float32
    return 4 * len(POWERS) * ((ngroups + 1) ** 2 // 4)


fit_ramps = Operation(
    definition.fit_ramps,
    kernels.fit_ramps,
    settings=RampFitSettings,
    working_bytes=_working_bytes,
    table_bytes=_table_bytes,
    native=lambda settings, *arguments: [_LIBRARY],
    libraries=(_LIBRARY,),
)

fit_segments = Operation(
    definition.fit_segments,
    kernels.fit_segments,
    settings=RampFitSettings,
    written=("segments", "pedestal", "crmag"),
    working_bytes=_working_bytes,
    table_bytes=_table_bytes,
    native=lambda settings, *arguments: [_LIBRARY],
    libraries=(_LIBRARY,),
)
