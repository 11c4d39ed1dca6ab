"""What is done to arrays: one module a stage; numpy and numba kernels under lazy xarray functions."""

import logging

# A library is silent unless its user asks: no "last resort" lines on standard error.
logging.getLogger("skyloom").addHandler(logging.NullHandler())
