"""The operations on the non-linear response."""
