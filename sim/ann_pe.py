"""Event model of the ANN core's PEs: chunks by the join front end's recurrence, rows by that of the QCFS unit.

With ``retired`` the cycle in which a chunk retires and ``cost`` the QCFS cycles of a column::

    slot_free = retired + 2                                   first cycle in which the slot counts as free
    accept(0) = max(retired + 8, free(row-1))                 retired: of the row's last chunk
    accept(c) = accept(c-1) + cost(c-1)                       free(row) = accept + cost of its last column
    written(c) = accept(c) + cost(c) + 3                      cycle at whose end the output memory is written
    row_free = done = written(last column) + 1                first cycle in which they count
"""
import numpy as np

from neuroflex.sim.join import JOIN_WORDS, NEVER, join_chunk, new_join_state, scan_ahead
from neuroflex.sim.loops import njit
from neuroflex.sim.qcfs import FIXED_LATENCY, qcfs_cost

__all__ = ["ACCUMULATED", "ANN_WORDS", "AnnPes", "EVENTS", "ROW_START", "SLOT_RELEASE", "ann_chunk", "ann_row_end"]

SLOT_RELEASE = 2    # from retirement to the first cycle in which the slot counts as free
ROW_START = 8       # from retirement of a row's last chunk to its first QCFS job
ACCUMULATED = 8     # from a match to the first cycle in which its product is in the sum

UNIT_FREE = JOIN_WORDS
ANN_WORDS = JOIN_WORDS + 1
EVENTS = ("start", "retired", "slot_free", "row_free")


@njit(cache=True)
def ann_row_end(state, retired, cost, columns, written):
    """The end of a row in one PE.

    Parameters
    ----------
    state : int64[ANN_WORDS]
        State of the PE; changed.
    retired : int
        Cycle in which the row's last chunk retired.
    cost : int64[>= columns]
        QCFS cycles of each column.
    columns : int
    written : int64[>= columns]
        Filled with the cycle in which each column's output is written.

    Returns
    -------
    int
        First cycle in which the row's buffer is free and, if it was the last of its window, ``done`` counts it.
    """
    accept = max(retired + ROW_START, state[UNIT_FREE])
    for column in range(columns):
        accept += cost[column]
        written[column] = accept + FIXED_LATENCY
    state[UNIT_FREE] = accept
    return accept + FIXED_LATENCY + 1


@njit(cache=True)
def ann_chunk(state, columns, ahead, cost, first_pe, stop_pe, last_beat, empty, last_chunk, matches, events, first, written):
    """Advance the PEs ``first_pe`` ... ``stop_pe - 1`` (one group) by one chunk of their row.

    Parameters
    ----------
    state : int64[pes, ANN_WORDS]
        Changed.
    columns, ahead : int64[pes]
        Columns of each PE (0: not enabled), and :func:`~neuroflex.sim.join.scan_ahead` of them.
    cost : int64[pes, columns_per_pe]
        QCFS cycles of each column.
    last_beat : int
        Cycle of the chunk's last beat.
    empty, last_chunk : bool
        The chunk's mask is empty; the chunk ends a row.
    matches : int64[pes, pairs_per_pe]
        Matches of each pair of columns.
    events : int64[pes, len(EVENTS)]
        Filled with the cycles of ``EVENTS``; ``row_free`` only when ``last_chunk``. Not for PEs without columns.
    first : int64[pes, pairs_per_pe]
        Filled with the first match of each pair that has any.
    written : int64[pes, columns_per_pe]
        Filled with the cycle of each column's output, when ``last_chunk``.

    Returns
    -------
    slot_free, row_free : int
        The latest of the PEs; 0 if none has columns.
    """
    slot_free, row_free = 0, 0
    for pe in range(first_pe, stop_pe):
        if columns[pe]:
            start, retired = join_chunk(state[pe], last_beat, (columns[pe] + 1) // 2, ahead[pe], empty, matches[pe], first[pe])
            events[pe, 0] = start
            events[pe, 1] = retired
            events[pe, 2] = retired + SLOT_RELEASE
            slot_free = max(slot_free, retired + SLOT_RELEASE)
            if last_chunk:
                events[pe, 3] = ann_row_end(state[pe], retired, cost[pe], columns[pe], written[pe])
                row_free = max(row_free, events[pe, 3])
    return slot_free, row_free


class AnnPes:
    """The PEs of an ANN core between two ``clear`` pulses, over the arrays that :func:`ann_chunk` takes.

    Parameters
    ----------
    columns : int array, shape (pes,)
    levels : sequence of int arrays
        Levels of each PE's columns: they give the QCFS cycles.
    columns_per_pe : int
    """

    def __init__(self, columns, levels, columns_per_pe):
        self.columns = np.asarray(columns, np.int64)
        pes = len(self.columns)
        self.ahead = scan_ahead(self.columns, columns_per_pe)
        self.cost = np.zeros((pes, columns_per_pe), np.int64)
        for pe, column_levels in enumerate(levels):
            self.cost[pe, :self.columns[pe]] = qcfs_cost(column_levels)
        self.state = np.full((pes, ANN_WORDS), NEVER, np.int64)
        self.state[:, :JOIN_WORDS] = new_join_state(pes)
        self.events = np.zeros((pes, len(EVENTS)), np.int64)
        self.first = np.zeros((pes, columns_per_pe // 2), np.int64)
        self.written = np.zeros((pes, columns_per_pe), np.int64)

    def chunk(self, first_pe, stop_pe, last_beat, empty, last_chunk, matches):
        """:func:`ann_chunk` on the own arrays; ``events``, ``first`` and ``written`` hold the details afterwards."""
        return ann_chunk(self.state, self.columns, self.ahead, self.cost, first_pe, stop_pe, last_beat, empty, last_chunk,
                         matches, self.events, self.first, self.written)
