"""The operations on the coupling between pixels."""
