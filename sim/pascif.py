"""Cycle model of the PASC-IF unit: when it takes each column, and when each level comes out."""
import numpy as np
from numba import njit

__all__ = ["FIXED_LATENCY", "first_steps", "pascif_costs", "pascif_cycles"]

FIXED_LATENCY = 2  # cycles after the last step of stage 2


def first_steps(config, levels_in):
    """Steps of the neuron's first stage: those of the input, or one for the kinds of SNN PE that give it the whole sum in one."""
    return levels_in if config.snn_pe == "dual_prefix" else 1


def pascif_costs(steps_in, levels, steps_per_cycle):
    """Cycles of stage 1, ``ceil(T1 / steps)``, and of stage 2, ``max(1, ceil((max(T1, T2) - 1) / steps))``."""
    steps_in, levels = np.asarray(steps_in, np.int64), np.asarray(levels, np.int64)
    inhibit = np.maximum(steps_in, levels) - 1
    return np.maximum(1, -(-steps_in // steps_per_cycle)), np.maximum(1, -(-inhibit // steps_per_cycle))


@njit(cache=True)
def _recurrence(arrival, cost1, cost2):
    accept, handover, finish = np.empty_like(arrival), np.empty_like(arrival), np.empty_like(arrival)
    free1 = free2 = np.int64(0)
    for job in range(len(arrival)):
        accept[job] = max(arrival[job], free1)
        handover[job] = max(accept[job] + cost1[job], free2)
        finish[job] = handover[job] + cost2[job]
        free1, free2 = handover[job], finish[job]
    return accept, handover, finish


def pascif_cycles(arrival, steps_in, levels, steps_per_cycle=2):
    """Acceptance, hand-over and result cycle of each column, in order.

    With ``cost1`` and ``cost2`` of :func:`pascif_costs`, a two-stage pipeline without a buffer between the stages::

        accept[k]   = max(arrival[k], handover[k-1])
        handover[k] = max(accept[k] + cost1[k], finish[k-1])     last cycle of stage 1
        finish[k]   = handover[k] + cost2[k]                     last cycle of stage 2
        result[k]   = finish[k] + FIXED_LATENCY

    so columns of equal T1 and T2 start every ``max(cost1, cost2)`` cycles, and an idle unit answers after
    ``cost1 + cost2 + FIXED_LATENCY`` cycles.

    Parameters
    ----------
    arrival, steps_in, levels : int arrays, shape (jobs,)
        Cycle in which each job is there to be offered (not decreasing), its T1 and its T2.
    steps_per_cycle : int
        Neuron steps that the circuit chains in a cycle.

    Returns
    -------
    accept, handover, result : int64 arrays, shape (jobs,)
        Ready is 0 in the cycles ``accept + 1 ... handover - 1``.
    """
    cost1, cost2 = pascif_costs(steps_in, levels, steps_per_cycle)
    accept, handover, finish = _recurrence(np.ascontiguousarray(arrival, np.int64), cost1, cost2)
    return accept, handover, finish + FIXED_LATENCY
