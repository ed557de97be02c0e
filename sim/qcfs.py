"""Cycle model of the QCFS unit: when it takes each job, and when each level comes out."""
import numpy as np
from numba import njit

__all__ = ["FIXED_LATENCY", "qcfs_cost", "qcfs_cycles"]

FIXED_LATENCY = 3  # two cycles before the first comparison and one after the last


def qcfs_cost(levels):
    """Cycles that a job occupies the unit: one per bit of the level, ``max(1, ceil(log2(levels + 1)))``."""
    levels = np.asarray(levels, np.int64)
    return np.maximum(1, np.frexp(levels.astype(np.float64))[1]).astype(np.int64)


@njit(cache=True)
def _accept(arrival, cost):
    accept = np.empty_like(arrival)
    free = np.int64(0)
    for job in range(len(arrival)):
        accept[job] = max(arrival[job], free)
        free = accept[job] + cost[job]
    return accept


def qcfs_cycles(arrival, levels):
    """Acceptance and result cycle of each job, in order.

    ``accept[k] = max(arrival[k], accept[k-1] + cost[k-1])`` and ``result[k] = accept[k] + cost[k] + FIXED_LATENCY``.

    Parameters
    ----------
    arrival : int array, shape (jobs,)
        Cycle in which each job is there to be offered; not decreasing.
    levels : int array, shape (jobs,)
        Levels of each job.

    Returns
    -------
    accept, result : int64 arrays, shape (jobs,)
        Cycle in which valid and ready are both 1, and cycle in which the output is valid. Ready is 0 in the
        cycles after an acceptance until the unit is free: ``accept + 1 ... accept + cost - 1``.
    """
    cost = qcfs_cost(levels)
    accept = _accept(np.ascontiguousarray(arrival, np.int64), cost)
    return accept, accept + cost + FIXED_LATENCY
