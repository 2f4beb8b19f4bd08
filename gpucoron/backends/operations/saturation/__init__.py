"""The operations on saturation and the A/D floor."""
