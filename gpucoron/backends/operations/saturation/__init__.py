"""Flags of saturation and of the A/D floor."""

from dataclasses import dataclass

from gpucoron.backends.devices.launch import words_of
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.saturation import definition, kernels


@dataclass(frozen=True)
class SaturationSettings:
    """Parameters of the saturation flags.

    Attributes
    ----------
    n_pix_grow_sat : int
        Pixels by which saturation grows.
    nframes : int or None
        Frames averaged into a group; None disables the read-pattern passes.
    grow_diagonal : bool
        Whether flags grow to diagonal neighbours.
    """

    n_pix_grow_sat: int = 1
    nframes: int | None = None
    grow_diagonal: bool = True

    @property
    def n_pix_square(self):
        """Pixels by which flags grow as a square."""
        return self.n_pix_grow_sat if self.grow_diagonal else 0


_LIBRARIES = (("cpu/saturation_strips.cpp", False),)


def _native(settings, data, groupdq, *others):
    """Return the native library if the ramps are contiguous."""
    return list(_LIBRARIES) if data.flags.c_contiguous and groupdq.flags.c_contiguous else []


flag_saturation = Operation(
    definition.flag_saturation,
    kernels.flag_saturation,
    settings=SaturationSettings,
    written=("groupdq",),
    # Flags grow in the first pass and again after the second, which depends on them.
    halo=lambda settings: 2 * max(settings.n_pix_grow_sat, 0),
    # words with the groups to grow: saturated ones, and partially saturated ones if separate
    working_bytes=lambda nints, ngroups: 2 * 4 * nints * words_of(ngroups),
    native=_native,
    libraries=_LIBRARIES,
)
