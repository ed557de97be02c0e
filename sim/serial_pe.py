"""Event model of an SNN PE that adds serially: chunks by the join front end's recurrence, with additions for matches.

A match of level ``q`` takes the adder for ``q`` cycles. Eight matches may be between the engine and the end of their additions, one more than the cycles
from the engine to the adder: whenever an addition is the last of its match, the next match is there, if the scanner has found it. So the adder does not see
that the engine is held, and with ``m(i)`` the *additions* of pair ``i`` the front end's formulas hold, seen from the adder ``ADD_LATENCY`` cycles later::

    f(i)       = max(s(i) + 4 + ADD_LATENCY, f(i-1) + m(i-1))                   first addition of pair i
    retired(k) = max(last s(k) + 3, f(i) + m(i), retired(k-1) + 1)              slot free from retired + 2 on
    drained    = retired + 1                                                    of a row's last chunk

Columns go through PASC-IF as in ``sim/snn_pe.py``, with ``T1 = 1``: ``cost1 = 1``.
"""
from neuroflex.sim.join import NEVER, join_chunk
from neuroflex.sim.loops import njit
from neuroflex.sim.snn_pe import new_snn_state

__all__ = ["ADD_LATENCY", "DRAIN_LATENCY", "SLOT_RELEASE", "WAITING", "addition_cycles", "new_serial_state", "serial_chunk"]

ADD_LATENCY = 7     # from the engine's match to its first addition, if none is before it
WAITING = 8         # matches between the engine and the end of their additions
SLOT_RELEASE = 2    # from retirement to the first cycle in which the slot counts as free
DRAIN_LATENCY = 1   # from retirement to `drained`

# The state of an SNN PE of the other kind has room for this one's, and the same words for the neuron.
new_serial_state = new_snn_state


@njit(cache=True)
def serial_chunk(state, arrival, pairs, ahead, empty, additions, first):
    """Advance one PE by one chunk.

    Parameters
    ----------
    state : int64[SNN_WORDS]
        A row of :func:`new_serial_state`; changed.
    arrival : int
        Cycle of the chunk's last beat.
    additions : int64[>= pairs]
        Additions of each pair of columns: levels of its matches, summed up.
    first : int64[>= pairs]
        Filled with the first addition of each pair that has any; the others follow one per cycle.
    pairs, ahead, empty
        As for :func:`~neuroflex.sim.join.join_chunk`.

    Returns
    -------
    start, retired : int
        Cycle in which the scan starts, and in which the chunk retires.
    """
    return join_chunk(state, arrival, pairs, ahead, empty, additions, first, ADD_LATENCY)


def addition_cycles(available, levels, *, waiting=WAITING):
    """First addition of each match, match by match, with an engine that is held: what the recurrence above rests on.

    Parameters
    ----------
    available : sequence of int
        First cycle in which the engine could hold the match, as far as the scanner goes.
    levels : sequence of int
        Additions of the match.
    waiting : int
        Matches that may be between the engine and the end of their additions.

    Returns
    -------
    list of int
    """
    engine, additions, ends = NEVER, [], []
    for number, (earliest, level) in enumerate(zip(available, levels)):
        engine = max(earliest, engine + 1)
        if number >= waiting:
            engine = max(engine, ends[number - waiting])
        additions.append(max(engine + ADD_LATENCY, ends[-1] if ends else NEVER))
        ends.append(additions[-1] + level)
    return additions
