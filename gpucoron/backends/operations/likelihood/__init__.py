"""The operations on ramps by likelihood."""
