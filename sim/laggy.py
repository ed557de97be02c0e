"""Model of the laggy prefix sum: offsets, and when a chunk's are ready."""
import numpy as np
from numba import njit

__all__ = ["DONE_LATENCY", "GROUP_LATENCY", "QUERY_LATENCY", "laggy_cycles", "mask_offsets"]

DONE_LATENCY = 2   # cycles from the last group to `done`
QUERY_LATENCY = 1  # cycles from a query to its answer
GROUP_LATENCY = 2  # cycles from a match to its count within its group


def mask_offsets(mask):
    """Ones below each position: ``int64[..., chunk_bits]`` for a bool array of that shape."""
    mask = np.asarray(mask, np.int64)
    return np.cumsum(mask, -1) - mask


@njit(cache=True)
def laggy_cycles(arrival, cycles):
    """Acceptance and completion of each job.

    ``accept[k] = max(arrival[k], accept[k-1] + cycles)``, ``done[k] = accept[k] + cycles + DONE_LATENCY``.

    Parameters
    ----------
    arrival : int64 array, shape (jobs,)
        First cycle in which each job is offered.
    cycles : int
        Cycles per job, ``chunk_bits / adders``.

    Returns
    -------
    accept, done : int64 arrays, shape (jobs,)
        Cycle of the handshake, and first cycle in which the slot's ``done`` is 1.
    """
    accept = np.empty_like(arrival)
    free = np.int64(0)
    for job in range(len(arrival)):
        accept[job] = max(arrival[job], free)
        free = accept[job] + cycles
    return accept, accept + cycles + DONE_LATENCY
