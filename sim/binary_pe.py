"""Event model of an SNN PE that corrects in binary: chunks as in ``sim/snn_pe.py``; rows through a stage that weighs sums, and then the neuron.

For the columns ``c`` of the rows, in order, with ``bits`` those of the number of input levels and the costs of the PASC-IF unit for ``T1 = 1``::

    taken(c)    = max(drained + 1, last(c-1))
    last(c)     = max(taken(c) + 1, accepted(c-1)) + bits - 1     last bit of the weighted sum
    accepted(c) = max(last(c) + 1, handover(c-1))
    handover(c) = max(accepted(c) + cost1(c), finished(c-1))
    finished(c) = handover(c) + cost2(c),   level written at the end of finished + 2
"""
from neuroflex.sim.loops import njit
from neuroflex.sim.pascif import FIXED_LATENCY
from neuroflex.sim.snn_pe import ACCEPTED, FETCHED, FINISHED, HANDOVER

__all__ = ["bit_count", "weighed_row"]


@njit(cache=True)
def bit_count(levels):
    """Bits of a number of levels: cycles in which a column's sum is formed."""
    bits = 0
    while levels >> bits:
        bits += 1
    return bits


@njit(cache=True)
def weighed_row(state, drained, bits, cost1, cost2, written):
    """Advance one PE's neuron by one row.

    Parameters
    ----------
    state : int64[SNN_WORDS]
        A row of :func:`~neuroflex.sim.snn_pe.new_snn_state`; changed.
    drained : int
        Cycle in which the row's sums are complete.
    bits : int
        :func:`bit_count` of the input levels.
    cost1, cost2, written
        As for :func:`~neuroflex.sim.snn_pe.snn_row`.

    Returns
    -------
    int
        Cycle at whose end the last column's level is written.
    """
    last, accepted, handover, finished = state[FETCHED], state[ACCEPTED], state[HANDOVER], state[FINISHED]
    for column in range(len(cost1)):
        taken = max(drained + 1, last)
        last = max(taken + 1, accepted) + bits - 1
        accepted = max(last + 1, handover)
        handover = max(accepted + cost1[column], finished)
        finished = handover + cost2[column]
        written[column] = finished + FIXED_LATENCY
    state[FETCHED], state[ACCEPTED], state[HANDOVER], state[FINISHED] = last, accepted, handover, finished
    return finished + FIXED_LATENCY
