"""Event model of an SNN PE: chunks through laggy unit, join and speculation FIFO; rows through the neuron.

With ``arrival`` the cycle of a chunk's last beat and ``s`` that in which the laggy unit takes it::

    s(k)     = max(arrival(k) + 1, s(k-1) + laggy_cycles)          levels_in of 1: s(k-1) + 1
    done(k)  = s(k) + laggy_cycles + 2
    join     : opened(k) = s(k), see sim/join.py                   last match M(k), retired(k)
    left(k)  = max(left(k-1) + matches, done(k) + matches - 1, M(k) + 4)
    ended(k) = max(retired(k) + 3, left(k) + 1, ended(k-1) + 1)    slot free from ended + 2 on
    drained  = ended + 4                                           of a row's last chunk

and for the columns ``c`` of the rows, in order, with the costs of the PASC-IF unit::

    fetched(c)  = max(drained + 1, fetched(c-1) + 1, accepted(c-1))
    accepted(c) = max(fetched(c) + 1, handover(c-1))
    handover(c) = max(accepted(c) + cost1(c), finished(c-1))
    finished(c) = handover(c) + cost2(c),   level written at the end of finished + 2
"""
import numpy as np

from neuroflex.sim.join import ENGINE_FREE, JOIN_WORDS, NEVER, join_chunk, new_join_state
from neuroflex.sim.laggy import DONE_LATENCY, GROUP_LATENCY
from neuroflex.sim.loops import njit
from neuroflex.sim.pascif import FIXED_LATENCY
from neuroflex.sim.speculation import chunk_leaves

__all__ = ["DRAIN_LATENCY", "RELEASE_LATENCY", "SNN_WORDS", "new_snn_state", "snn_chunk", "snn_row"]

MATCH_TO_PUSH = 1 + GROUP_LATENCY   # from the engine's match to the FIFO
RELEASE_LATENCY = 1                 # from `ended` to the pulse that frees the slot
DRAIN_LATENCY = 4                   # from `ended` to `drained`

LAGGY_FREE, LEFT, ENDED, FETCHED, ACCEPTED, HANDOVER, FINISHED = range(JOIN_WORDS, JOIN_WORDS + 7)
SNN_WORDS = FINISHED + 1


def new_snn_state(pes):
    """State of ``pes`` SNN PEs after reset: ``int64[pes, SNN_WORDS]``, the front end's words first."""
    state = np.full((pes, SNN_WORDS), NEVER, np.int64)
    state[:, :JOIN_WORDS] = new_join_state(pes)
    return state


@njit(cache=True)
def snn_chunk(state, arrival, correcting, laggy_cycles, pairs, ahead, empty, matches, first):
    """Advance one PE by one chunk.

    Parameters
    ----------
    state : int64[SNN_WORDS]
        A row of :func:`new_snn_state`; changed.
    arrival : int
        Cycle of the chunk's last beat.
    correcting : bool
        ``levels_in`` is above 1.
    laggy_cycles : int
        ``ArchConfig.laggy_cycles``.
    pairs, ahead, empty, matches, first
        As for :func:`~neuroflex.sim.join.join_chunk`.

    Returns
    -------
    taken, start, retired, left, ended : int
        Cycles in which the laggy unit takes the chunk, its scan starts, it retires, its last match leaves the
        speculation FIFO, and its end leaves it.
    """
    taken = max(arrival + 1, state[LAGGY_FREE])
    state[LAGGY_FREE] = taken + (laggy_cycles if correcting else 1)
    start, retired = join_chunk(state, taken, pairs, ahead, empty, matches, first)
    waiting = 0
    if correcting and not empty:
        for pair in range(pairs):
            waiting += matches[pair]
    left, ended = chunk_leaves(state[LEFT], state[ENDED], taken + laggy_cycles + DONE_LATENCY, waiting,
                               state[ENGINE_FREE] - 1 + MATCH_TO_PUSH, retired + GROUP_LATENCY)
    state[LEFT], state[ENDED] = left, ended
    return taken, start, retired, left, ended


@njit(cache=True)
def snn_row(state, drained, cost1, cost2, written):
    """Advance one PE's neuron by one row.

    Parameters
    ----------
    state : int64[SNN_WORDS]
        A row of :func:`new_snn_state`; changed.
    drained : int
        ``ended + DRAIN_LATENCY`` of the row's last chunk.
    cost1, cost2 : int64[columns]
        :func:`~neuroflex.sim.pascif.pascif_costs` of the columns.
    written : int64[>= columns]
        Filled with the cycle at whose end each column's level is written.

    Returns
    -------
    int
        That of the last column; ``row_free`` and ``done`` count the row from the cycle after it on.
    """
    fetched, accepted, handover, finished = state[FETCHED], state[ACCEPTED], state[HANDOVER], state[FINISHED]
    for column in range(len(cost1)):
        fetched = max(drained + 1, fetched + 1, accepted)
        accepted = max(fetched + 1, handover)
        handover = max(accepted + cost1[column], finished)
        finished = handover + cost2[column]
        written[column] = finished + FIXED_LATENCY
    state[FETCHED], state[ACCEPTED], state[HANDOVER], state[FINISHED] = fetched, accepted, handover, finished
    return finished + FIXED_LATENCY
