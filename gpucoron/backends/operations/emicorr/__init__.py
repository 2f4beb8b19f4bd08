"""The operations on periodic interference (MIRI)."""
