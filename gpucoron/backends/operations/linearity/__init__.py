"""Linearity correction."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.linearity import definition, kernels


@dataclass(frozen=True)
class LinearitySettings:
    """Parameters of the linearity correction.

    Attributes
    ----------
    nframes : int
        Reads averaged into a group; only used with inverse coefficients.
    """

    nframes: int = 1


def _native(settings, data, groupdq, coeffs, inverse_coeffs):
    """Return the native library if the ramps are contiguous: by pixel for averaged reads, otherwise in strips."""
    averaged = inverse_coeffs is not None and data.shape[1] > 1
    is_whole = data.flags.c_contiguous and groupdq.flags.c_contiguous
    library = ("linearity.cu", True) if averaged else ("cpu/linearity_strips.cpp", False)
    return [library] if is_whole else []


linearity = Operation(
    definition.linearity,
    kernels.linearity,
    settings=LinearitySettings,
    written=("data",),
    native=_native,
    libraries=(("linearity.cu", True), ("cpu/linearity_strips.cpp", False)),
)
