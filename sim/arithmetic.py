"""Model of the sums in ``hdl/arithmetic.py``."""
import numpy as np

__all__ = ["stepped", "times"]


def stepped(count, up, down):
    """A counter's next value.

    Parameters
    ----------
    count : int64 array
    up, down : bool array, of the same shape
        Reasons to count; both together leave it.

    Returns
    -------
    int64 array
        Not wrapped around.
    """
    return np.asarray(count, np.int64) + np.asarray(up, np.int64) - np.asarray(down, np.int64)


def times(value, factor):
    """Multiples of a signed or unsigned value: int64 array of ``value``'s shape; ``factor`` is a positive int."""
    return np.asarray(value, np.int64) * np.int64(factor)
