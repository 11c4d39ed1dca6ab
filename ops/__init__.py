"""What is done to arrays: one module a stage; numpy and numba kernels under lazy xarray functions."""
