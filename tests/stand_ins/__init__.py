"""Stand-ins for what a test machine lacks: CuPy with a device, hypothesis, a machine without other packages."""
