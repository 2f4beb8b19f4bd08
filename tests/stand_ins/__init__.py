"""Stand-ins for missing packages and devices: CuPy with a device, hypothesis, a machine without other packages."""
