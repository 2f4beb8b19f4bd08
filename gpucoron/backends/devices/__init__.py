"""Where arrays lie and kernels run: NumPy, the kernels on this CPU, and CUDA."""
