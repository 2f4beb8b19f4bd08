"""Likelihood fits of ramps, with rejection of jumps."""

from dataclasses import dataclass

from gpucoron.backends.devices.launch import words_of
from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.likelihood import definition, kernels


@dataclass(frozen=True)
class LikelihoodSettings:
    """Parameters of the fit of resultant differences.

    Attributes
    ----------
    reject_jumps : bool
    threshold_oneomit, threshold_twoomit : float
        Minimum decrease of chi-square for rejecting one difference, or two neighbours.
    rules : {'spaceklip', 'stcal', 'sound'}
        Variant of the algorithm: see `gpucoron.backends.operations.likelihood.jumps.Rules`.
    max_diffs_one_sided : int
        With this many used differences or fewer, only upward jumps are rejected.
    """

    reject_jumps: bool = True
    threshold_oneomit: float = 20.25
    threshold_twoomit: float = 23.8
    rules: str = "spaceklip"
    max_diffs_one_sided: int = 0


@dataclass(frozen=True)
class LikelihoodRampSettings:
    """Parameters of the fit of ramps, which always rejects jumps.

    Attributes
    ----------
    unusable : int
        Flags that make a group unusable.
    threshold_oneomit, threshold_twoomit, rules, max_diffs_one_sided
        As in `LikelihoodSettings`.
    """

    unusable: int = 0xFF
    threshold_oneomit: float = 20.25
    threshold_twoomit: float = 23.8
    rules: str = "stcal"
    max_diffs_one_sided: int = 0


def _scratch_bytes(nints, ngroups):
    # numbers for each difference (one per group with ZEROFRAME) and one more, and flags of used differences
    return nints * (8 * kernels.SCRATCH_ROWS * (ngroups + 1) + 4 * words_of(ngroups))


#: libraries of the native kernels
_LIBRARIES = (("cpu/likelihood_strips.cpp", False),)


def _native(settings, diffs, *others):
    """Return the native library if there are differences."""
    return _LIBRARIES if len(diffs) > 0 else ()


def _native_ramps(settings, data, groupdq, gain, readnoise, read_times, *others):
    """Return the native library if ramps have differences."""
    return _LIBRARIES if len(read_times) > 1 else ()


fit_likelihood = Operation(
    definition.fit_likelihood,
    kernels.fit_likelihood,
    settings=LikelihoodSettings,
    cut=None,
    whole=("read_times",),
    native=_native,
    libraries=_LIBRARIES,
)
fit_likelihood_ramps = Operation(
    definition.fit_likelihood_ramps,
    kernels.fit_likelihood_ramps,
    settings=LikelihoodRampSettings,
    written=("groupdq",),
    whole=("read_times",),
    working_bytes=lambda nints, ngroups: 20 * nints,
    scratch_bytes=_scratch_bytes,
    native=_native_ramps,
    libraries=_LIBRARIES,
)
