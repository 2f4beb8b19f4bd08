"""The operations on pedestals."""
