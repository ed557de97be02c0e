"""Model of the row end of a PE: which column the neuron unit gets when, and what the output memory shows.

Every output is a count of what came before. With the events of earlier cycles, counted since the last ``clear``, for ``columns`` columns::

    job_valid  = taken < columns * drained         column and bank of the job: taken % columns, taken // columns
    rows ended = results // columns                the last column's result ends its row
    row_free   = fewer than row_buffers rows between start and end
    done       = ended rows that are the last of their window, modulo 2 * row_buffers

A result goes to the output bank number ``done``: as it is in the first row of a window, later only when it is larger.
"""
import numpy as np
from numba import njit

__all__ = ["row_end"]


@njit(cache=True)
def _levels(result, y, row, column, first_window, bank, columns, y_bank, y_index, row_buffers, columns_per_pe):
    """What the output memory shows, a cycle after it was asked."""
    memory = np.zeros((row_buffers, columns_per_pe), np.int64)
    shown = np.zeros(len(result), np.int64)
    for cycle in range(len(result) - 1):
        if y_index[cycle] < columns[cycle]:
            shown[cycle + 1] = memory[y_bank[cycle], y_index[cycle]]
        if result[cycle]:
            old = np.int64(0) if first_window[row[cycle]] else memory[bank[cycle], column[cycle]]
            memory[bank[cycle], column[cycle]] = max(old, y[cycle])
    return shown


def row_end(*, columns, clear, row_started, drained, first_window, last_window, taken, result, y, y_bank, y_index,
            row_buffers, columns_per_pe):
    """Outputs of the row end in each cycle.

    Parameters
    ----------
    columns : int array, shape (cycles,)
        Columns of the PE; they change only while no row is held, after a ``clear``.
    clear, row_started, drained, taken, result : bool arrays, shape (cycles,)
        Pulses: a layer begins, a row begins, the next row's sums are complete, a job was taken, a level comes.
    first_window, last_window : bool arrays, shape (cycles,)
        Place of the row in its window, where ``drained``.
    y : int array, shape (cycles,)
        Level, where ``result``; levels come in the order of the jobs.
    y_bank, y_index : int arrays, shape (cycles,)
        Address that is read.
    row_buffers, columns_per_pe : int

    Returns
    -------
    dict of arrays, shape (cycles,)
        ``job_valid``, ``job_bank``, ``job_column``, ``row_free``, ``busy``, ``done``, ``y``.
    """
    cycles = len(clear)
    cleared = np.maximum.accumulate(np.where(clear, np.arange(cycles), -1))
    cleared = np.r_[-1, cleared[:-1]]                     # last clear before each cycle

    def since(events):
        total = np.r_[0, np.cumsum(events)]
        return total[:-1] - total[cleared + 1]

    of = np.maximum(columns, 1)
    taken_before, results_before = since(taken), since(result)
    ends = np.asarray(result, bool) & (results_before % of == columns - 1)
    row = np.r_[0, np.cumsum(ends)][:-1]                  # since reset: rows are drained and end in order
    last = np.append(np.asarray(last_window, bool)[np.asarray(drained, bool)], False)
    first = np.append(np.asarray(first_window, bool)[np.asarray(drained, bool)], False)
    held = np.cumsum(row_started) - row_started - row
    done = since(ends & last[row])
    return {
        "job_valid": taken_before < columns * since(drained),
        "job_bank": taken_before // of % row_buffers, "job_column": taken_before % of,
        "row_free": (held < row_buffers) | (columns == 0), "busy": held > 0, "done": done % (2 * row_buffers),
        "y": _levels(np.asarray(result, bool), np.asarray(y, np.int64), row, results_before % of, first, done % row_buffers, columns,
                     y_bank, y_index, row_buffers, columns_per_pe),
    }
