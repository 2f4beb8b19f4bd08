"""Subtraction of the levels that reference pixels measure."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.refpix import clipping, definition, kernels


@dataclass(frozen=True)
class LevelSettings:
    """How the levels are subtracted.

    Attributes
    ----------
    along_y : bool
        The detector reads along y: its rows are the columns of the frames.
    keeps_zeros : bool
        Zeros mark bad data and stay zero.
    """

    along_y: bool = False
    keeps_zeros: bool = False


def _native(settings, frames, *others):
    """Return the native library if the frames are contiguous."""
    return [("refpix.cu", False)] if frames.flags.c_contiguous else []


subtract_levels = Operation(
    definition.subtract_levels,
    kernels.subtract_levels,
    settings=LevelSettings,
    written=("frames",),
    cut="items",
    native=_native,
    libraries=(("refpix.cu", False),),
)

# light work, so it runs in the memory of the exposure
clip_levels = Operation(
    clipping.clip_levels, kernels.clip_levels, whole=("pixels", "n_first", "siglimit"), at_home=True
)
