"""Saturation and the A/D floor."""

from dataclasses import dataclass

from gpucoron.backends.devices.launch import words_of
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.saturation import definition, kernels


@dataclass(frozen=True)
class SaturationSettings:
    """How saturation is flagged.

    Attributes
    ----------
    n_pix_grow_sat : int
        How far it grows.
    nframes : int or None
        Frames averaged into a group; None switches the read-pattern passes off.
    grow_diagonal : bool
        Grow over corners too.
    """

    n_pix_grow_sat: int = 1
    nframes: int | None = None
    grow_diagonal: bool = True

    @property
    def n_pix_square(self):
        """How far flags grow by a square."""
        return self.n_pix_grow_sat if self.grow_diagonal else 0


flag_saturation = Operation(
    definition.flag_saturation,
    kernels.flag_saturation,
    settings=SaturationSettings,
    written=("groupdq",),
    # Flags grow in the first pass, are looked at in the second, and grow again.
    halo=lambda settings: 2 * max(settings.n_pix_grow_sat, 0),
    # the groups that grow: saturated, and spoiled where those are kept
    working_bytes=lambda nints, ngroups: 2 * 4 * nints * words_of(ngroups),
)
