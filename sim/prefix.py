"""Model of the prefix count and the priority encoder: values; their timing is a constant."""
import numpy as np

__all__ = ["FAST_PREFIX_LATENCY", "lowest_bit", "prefix_count"]

FAST_PREFIX_LATENCY = 2


def prefix_count(mask, position):
    """Set bits below a position.

    Parameters
    ----------
    mask : bool array, shape (..., bits)
    position : int array, shape (...)

    Returns
    -------
    int64 array, shape (...)
    """
    mask = np.asarray(mask, bool)
    counts = np.cumsum(mask, axis=-1, dtype=np.int64) - mask
    return np.take_along_axis(counts, np.asarray(position, np.int64)[..., None], axis=-1)[..., 0]


def lowest_bit(mask):
    """Position of the lowest set bit and the mask without it; every mask has a bit set.

    Parameters
    ----------
    mask : bool array, shape (..., bits)

    Returns
    -------
    position : int64 array, shape (...)
    rest : bool array, shape (..., bits)
    """
    mask = np.asarray(mask, bool)
    position = np.argmax(mask, axis=-1)
    return position.astype(np.int64), mask & (np.cumsum(mask, axis=-1) != 1)
