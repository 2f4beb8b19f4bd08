"""Group flags: counts of them, flags that follow from them, and flags that are set in many groups."""

from dataclasses import dataclass

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.flags import definition, kernels


@dataclass(frozen=True)
class FlagsSettings:
    """What is counted: each field is the sum of some of the eight flags.

    Attributes
    ----------
    in_samples : int
        Count the samples with these flags.
    in_groups : int
        Count the samples of each group.
    in_pixels : int
        Count the pixels that have these flags in any group.
    everywhere : int
        Find the groups in which all pixels have these flags.
    """

    in_samples: int = 0
    in_groups: int = 0
    in_pixels: int = 0
    everywhere: int = 0


# They reduce the flags to a few numbers or are light work, so they run in the memory of the exposure.
count_flags = Operation(definition.count_flags, kernels.count_flags, settings=FlagsSettings, at_home=True)
find_lost_groups = Operation(definition.find_lost_groups, kernels.find_lost_groups, at_home=True)
join_group_flags = Operation(definition.join_group_flags, kernels.join_group_flags, at_home=True)
join_integration_flags = Operation(definition.join_integration_flags, kernels.join_integration_flags, at_home=True)
add_flags = Operation(definition.add_flags, kernels.add_flags, written=("groupdq",), at_home=True)
suppress_single_groups = Operation(
    definition.suppress_single_groups, kernels.suppress_single_groups, written=("groupdq",), at_home=True
)
flag_first_groups = Operation(
    definition.flag_first_groups, kernels.flag_first_groups, written=("groupdq", "pixeldq"), at_home=True
)
