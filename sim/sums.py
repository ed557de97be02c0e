"""Model of the column sums."""
import numpy as np
from numba import njit

__all__ = ["ADD_LATENCY", "column_sums"]

ADD_LATENCY = 2   # cycles from an addition to the first take that has it


@njit(cache=True)
def column_sums(add_valid, add_address, weight, select, take_valid, take_address, depth, acc_bits):
    """What each take shows.

    Parameters
    ----------
    add_valid, add_address, weight : int64 arrays, shape (cycles,)
        Additions by cycle.
    select : bool array, shape (cycles, sums)
        Sums that each of them goes to.
    take_valid, take_address : int64 arrays, shape (cycles,)
        Takes by cycle, none of an address within ``ADD_LATENCY - 1`` cycles after an addition to it.
    depth, acc_bits : int
        Addresses, and width of a sum, which wraps around.

    Returns
    -------
    int64 array, shape (cycles, sums)
        Output in each cycle.
    """
    cycles, sums = select.shape
    half = np.int64(1) << (acc_bits - 1)
    totals = np.zeros((depth, sums), np.int64)
    shown = np.zeros((cycles, sums), np.int64)
    for cycle in range(cycles - 1):
        shown[cycle + 1] = shown[cycle]
        if take_valid[cycle]:
            shown[cycle + 1] = totals[take_address[cycle]]
            totals[take_address[cycle]] = 0
        if add_valid[cycle]:
            for i in range(sums):
                if select[cycle, i]:
                    total = totals[add_address[cycle], i] + weight[cycle]
                    totals[add_address[cycle], i] = (total + half) % (2 * half) - half
    return shown
