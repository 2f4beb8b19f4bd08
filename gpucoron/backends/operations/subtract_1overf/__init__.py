"""The operations on 1/f noise."""
