"""Results of operations: named arrays, on any device."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gpucoron.interactive import Shown


@dataclass(frozen=True, repr=False)
class Slopes(Shown):
    """Count rates of one product: ``(ny, nx)`` for the rate, ``(nints, ny, nx)`` for the rateints.

    ``rate`` and ``err`` are float32 DN/s, the variances float32 (DN/s)^2, ``dq`` uint32 with jwst's pixel flags.
    """

    rate: Any
    dq: Any
    var_poisson: Any
    var_rnoise: Any
    err: Any

    @classmethod
    def empty(cls, shape: tuple[int, ...], xp: Any) -> Self:
        """Return uninitialized slopes in a namespace."""
        images = [xp.empty(shape, xp.float32) for _ in range(4)]
        return cls(images[0], xp.empty(shape, xp.uint32), *images[1:])


@dataclass(frozen=True, repr=False)
class LikelihoodFit(Shown):
    """Results of likelihood fits, one value per ramp.

    ``countrate`` and its standard deviation ``uncert`` are counts per second; the sum of ``var_poisson`` and
    ``var_rdnoise`` is its variance; ``chisq`` has no unit. ``diffs2use`` is uint8, 1 for each resultant difference
    used by the fit, or None if the jumps are flagged in the ramp instead.
    """

    countrate: Any
    uncert: Any
    chisq: Any
    var_poisson: Any
    var_rdnoise: Any
    diffs2use: Any = None


@dataclass(frozen=True, repr=False)
class SegmentFit(Shown):
    """The values of the segments of each ramp, as in jwst's optional product: float32.

    ``slope`` and its uncertainty ``sigslope``, from read noise alone, the variances of the slope, the intercept
    ``yint`` and its uncertainty ``sigyint``, and ``weights``, the inverse of ``var_rnoise``, are (nints, nsegments, ny,
    nx): 0 beyond the last segment of a ramp. ``slope`` is in DN/s, the variances in (DN/s)^2, ``yint`` in DN, but
    ``sigslope`` in e- per group and ``sigyint`` in e-. ``pedestal`` is (nints, ny, nx), DN. ``crmag`` is (nints,
    njumps, ny, nx), DN: the differences of groups with JUMP_DET from the groups before.
    """

    slope: Any
    sigslope: Any
    var_poisson: Any
    var_rnoise: Any
    yint: Any
    sigyint: Any
    pedestal: Any
    weights: Any
    crmag: Any


@dataclass(frozen=True, repr=False)
class FlagCounts(Shown):
    """Counts of group flags, on the host. The last axis of the counts has the eight flags, int64.

    ``total`` are the samples with a flag, ``groups`` (ngroups, 8) those of each group, over all integrations, and
    ``pixels`` the pixels that have a flag in any group. ``everywhere`` (nints, ngroups) uint8 are the flags that all
    pixels of a group have.
    """

    total: Any
    groups: Any
    pixels: Any
    everywhere: Any
    n_samples: int

    def samples_with(self, flag: int) -> int:
        """Return the number of samples with a flag."""
        return int(self.total[flag.bit_length() - 1])

    def pixels_with(self, flag: int) -> int:
        """Return the number of pixels that have a flag in any group."""
        return int(self.pixels[flag.bit_length() - 1])

    def fractions(self, flag: int) -> Any:
        """Return the fraction of the samples of each group with a flag: (ngroups,) float32."""
        of_group = self.n_samples // len(self.groups)
        return (self.groups[:, flag.bit_length() - 1] / of_group).astype(np.float32)
