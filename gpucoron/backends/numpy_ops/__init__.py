"""The heavy operations in NumPy: the definition that every other backend is held against."""
