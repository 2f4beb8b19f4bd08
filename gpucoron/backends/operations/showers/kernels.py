"""The search for showers on devices with kernels; see `gpucoron.backends.operations.showers.definition`."""

from gpucoron.backends.operations.showers import definition

median_differences = definition.median_differences
clip_differences = definition.clip_differences
find_excess = definition.find_excess
