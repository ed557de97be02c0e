"""Stream queue: when each entry goes in and out."""
import numpy as np
from numba import njit

__all__ = ["fifo_times"]


@njit(cache=True)
def fifo_times(arrival, ready, depth):
    """Cycles in which entries are accepted and leave.

    ``accept[k] = max(arrival[k], accept[k-1] + 1, leave[k-depth] + 1)``; entry k leaves in the first cycle that is after its
    acceptance and the leaving of the one before, and in which the receiver is ready.

    Parameters
    ----------
    arrival : int64[n]
        Cycle from which each entry is offered.
    ready : bool[T]
        The receiver's readiness in every cycle.
    depth : int

    Returns
    -------
    accept, leave : int64[n]
        ``T`` stands for not within the run.
    """
    cycles, count = len(ready), len(arrival)
    accept, leave = np.full(count, cycles, np.int64), np.full(count, cycles, np.int64)
    taken, left = -1, -1
    for k in range(count):
        at = max(arrival[k], taken + 1)
        if k >= depth:
            at = max(at, leave[k - depth] + 1)
        if at >= cycles:
            break
        accept[k] = taken = at
        out = max(at, left) + 1
        while out < cycles and not ready[out]:
            out += 1
        leave[k] = left = out
    return accept, leave
