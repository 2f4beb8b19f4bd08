"""The heavy operations, a room each: what they do in NumPy, and by which kernels."""
