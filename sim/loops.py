"""How the models' loops are compiled: by Numba, without counting references.

A step of a block takes a few dozen nanoseconds, and counting references to the arrays that it gets would cost more
than that. The caller keeps the arrays alive. Such functions can change arrays, but neither make nor return any.
"""
from functools import partial

import numba

__all__ = ["njit"]

njit = partial(numba.njit, _nrt=False)
