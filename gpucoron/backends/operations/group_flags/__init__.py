"""Flags of groups that follow from a pixel, or from other groups of its ramp."""

from gpucoron.backends.operation import Operation
from gpucoron.backends.operations.group_flags import definition, kernels

# light work, so it runs in the memory of the exposure
add_flags = Operation(definition.add_flags, kernels.add_flags, written=("groupdq",), at_home=True)
suppress_single_groups = Operation(
    definition.suppress_single_groups, kernels.suppress_single_groups, written=("groupdq",), at_home=True
)
flag_first_groups = Operation(
    definition.flag_first_groups, kernels.flag_first_groups, written=("groupdq", "pixeldq"), at_home=True
)
