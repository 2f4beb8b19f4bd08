"""The search for showers: typical differences of the pixels, and where the surroundings of a pixel exceed them."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.showers import definition, kernels
from gpucoron.backends.operations.showers.ring import make_ring


@dataclass(frozen=True)
class ShowerSettings:
    """Parameters of the search for showers, and of their flags.

    Attributes
    ----------
    extend_snr_threshold : float, sigma
        The average of the ratios in a ring about each pixel of a shower is larger.
    extend_min_area : int, pixels
        Minimum area of a shower.
    extend_inner_radius, extend_outer_radius : float, pixels
        The inner radius of the ring, and its width.
    extend_ellipse_expand_ratio : float
        Growth of the fitted ellipse.
    max_extended_radius : int, pixels
        Largest radius of the ellipse.
    n_groups_after : int
        Later groups that are flagged too.
    max_amplitude : float
        Largest change of a pixel's rate by the flags, in electrons or DN per group.
    amplitude_in_dn : bool
    minimum_sigclip_groups : int
        Integrations from which on differences are clipped over the integrations.
    nframes : int
        Reads averaged into a group.
    searched : bool
        Whether jumps were searched for: all unusable groups are then ignored.
    """

    extend_snr_threshold: float = 1.2
    extend_min_area: int = 90
    extend_inner_radius: float = 1.0
    extend_outer_radius: float = 2.6
    extend_ellipse_expand_ratio: float = 1.1
    max_extended_radius: int = 200
    n_groups_after: int = 5
    max_amplitude: float = 6.0
    amplitude_in_dn: bool = False
    minimum_sigclip_groups: int = 100
    nframes: int = 1
    searched: bool = True


_IN_STRIPS = ("cpu/showers_strips.cpp", False)


def _native_statistics(settings, data, groupdq, *others):
    """Return the native library if the ramps are contiguous."""
    return [_IN_STRIPS] if data.flags.c_contiguous and groupdq.flags.c_contiguous else []


def _native_excess(settings, data, groupdq, *others):
    """Return the native library if the ramps are contiguous and the ring is small."""
    ring = make_ring(settings.extend_inner_radius, settings.extend_outer_radius)
    is_small = 0 < ring.n_pixels <= kernels.MOST_RING_PIXELS
    return _native_statistics(settings, data, groupdq) if is_small else []


median_differences = Operation(
    definition.median_differences,
    kernels.median_differences,
    settings=ShowerSettings,
    native=_native_statistics,
    libraries=(_IN_STRIPS,),
)
clip_differences = Operation(
    definition.clip_differences,
    kernels.clip_differences,
    settings=ShowerSettings,
    native=_native_statistics,
    libraries=(_IN_STRIPS,),
)
find_excess = Operation(
    definition.find_excess,
    kernels.find_excess,
    settings=ShowerSettings,
    at_home=True,
    native=_native_excess,
    libraries=(_IN_STRIPS,),
)
