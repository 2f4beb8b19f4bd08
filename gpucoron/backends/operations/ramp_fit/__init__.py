"""The operations on ramps by segments."""
