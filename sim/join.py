"""Event model of the join front end: when a chunk is scanned, matched and retired.

With ``s`` the cycle in which the scanner reads a pair, ``f`` the cycle of the pair's first match, ``m`` its matches::

    start(k)  = max(opened(k) + 1, end of scan(k-1) + 1, retired(k-ahead) + 1)
    s(k, j)   = start(k) + j                                  j = 0 ... pairs - 1; one cycle for an empty mask
    f(i)      = max(s(i) + 4, f(i-1) + m(i-1))                over the pairs i that have matches, across chunks
    retired(k) = max(last s(k) + 3, f(i) + m(i), retired(k-1) + 1)     i: the last pair with matches up to chunk k
"""
import numpy as np

from neuroflex.sim.loops import njit

__all__ = ["FIRST_MATCH", "JOIN_WORDS", "NEVER", "SCAN_TO_RETIRE", "join_chunk", "new_join_state", "scan_ahead"]

FIRST_MATCH = 4      # cycles from reading a pair to its first match
SCAN_TO_RETIRE = 3   # cycles from reading a chunk's last pair to its retirement, if nothing is left to match
NEVER = -(1 << 40)   # a cycle long past

_RING = 16           # retirements remembered: at least as many as a PE has slots
SCAN_FREE, ENGINE_FREE, CHUNKS, RETIRED = 0, 1, 2, 3
JOIN_WORDS = RETIRED + _RING


def new_join_state(pes):
    """State of ``pes`` front ends after reset: ``int64[pes, JOIN_WORDS]``.

    Words: first cycle in which the scanner is free, first cycle in which the engine is free, number of chunks, and the
    cycles of the last 16 retirements, that of chunk ``k`` at ``RETIRED + k % 16``.
    """
    state = np.full((pes, JOIN_WORDS), NEVER, np.int64)
    state[:, CHUNKS] = 0
    return state


def scan_ahead(columns, columns_per_pe):
    """Chunks that may be between start of scan and retirement, so that the join queue cannot overflow."""
    return np.where(np.asarray(columns) <= columns_per_pe // 2, 4, 2).astype(np.int64)


@njit(cache=True)
def join_chunk(state, opened, pairs, ahead, empty, matches, first, late=0):
    """Advance one front end by one chunk.

    Parameters
    ----------
    state : int64[>= JOIN_WORDS]
        A row of :func:`new_join_state`; changed.
    opened : int
        Cycle of the chunk's ``open``: in the ANN core that of its last beat.
    pairs : int
        ``ceil(columns / 2)``.
    ahead : int
        :func:`scan_ahead` of the PE's columns.
    empty : bool
        The chunk's mask is empty: the scanner takes one cycle.
    matches : int64[>= pairs]
        Matches of each pair of columns.
    first : int64[>= pairs]
        Filled with the cycle of each pair's first match; left as it is for pairs without. The others follow one per
        cycle.
    late : int
        Cycles after the engine in which matches count as made: those from it to what holds it, see ``sim/serial_pe.py``.

    Returns
    -------
    start, retired : int
        Cycle in which the scan starts, and in which the chunk retires.
    """
    chunk = state[CHUNKS]
    start = max(opened + 1, state[SCAN_FREE])
    if chunk >= ahead:
        start = max(start, state[RETIRED + (chunk - ahead) % _RING] + 1)
    last = start
    engine = state[ENGINE_FREE]
    if not empty:
        last = start + pairs - 1
        for pair in range(pairs):
            if matches[pair]:
                first[pair] = max(start + pair + FIRST_MATCH + late, engine)
                engine = first[pair] + matches[pair]
    retired = max(last + SCAN_TO_RETIRE, engine)
    if chunk:
        retired = max(retired, state[RETIRED + (chunk - 1) % _RING] + 1)
    state[SCAN_FREE] = last + 1
    state[ENGINE_FREE] = engine
    state[CHUNKS] = chunk + 1
    state[RETIRED + chunk % _RING] = retired
    return start, retired
