"""The search for showers: typical differences of the pixels, and where the surroundings of a pixel exceed them."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.showers import definition, kernels


@dataclass(frozen=True)
class ShowersSettings:
    """Parameters of the search for showers.

    Attributes
    ----------
    extend_snr_threshold : float, sigma
        The average of the ratios in a ring about each pixel of a shower is larger.
    extend_inner_radius, extend_outer_radius : float, pixels
        The inner radius of the ring, and its width.
    searched : bool
        Whether jumps were searched for: all unusable groups are then ignored.
    """

    extend_snr_threshold: float = 1.2
    extend_inner_radius: float = 1.0
    extend_outer_radius: float = 2.6
    searched: bool = True


median_differences = Operation(definition.median_differences, kernels.median_differences, settings=ShowersSettings)
clip_differences = Operation(definition.clip_differences, kernels.clip_differences, settings=ShowersSettings)
find_excess = Operation(definition.find_excess, kernels.find_excess, settings=ShowersSettings, at_home=True)
