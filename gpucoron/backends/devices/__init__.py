"""Devices, which hold arrays and run kernels: NumPy, the kernels on this CPU, and CUDA."""
