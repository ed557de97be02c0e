"""Event model of the speculation FIFO: when matches leave it, and when a chunk's corrections are done."""

from neuroflex.sim.loops import njit

__all__ = ["APPLY_LATENCY", "WEIGHT_DELAY", "chunk_leaves"]

WEIGHT_DELAY = 3    # cycles from a match to its weight
APPLY_LATENCY = 4   # cycles from leaving to the correction


@njit(cache=True)
def chunk_leaves(left, ended, done, matches, last_match, end):
    """Cycles in which a chunk's last match and its end leave the FIFO.

    One match leaves per cycle, not before ``done`` nor in the cycle of its arrival. Since at most one arrives per cycle, all
    but the last arrival are hidden behind it: ``left' = max(left + matches, done + matches - 1, last_match + 1)``.

    Parameters
    ----------
    left, ended : int
        Cycles in which the last match and the last chunk end before this chunk left.
    done : int
        First cycle in which the laggy unit says that the chunk is counted.
    matches : int
        Matches of the chunk.
    last_match : int
        Cycle in which the last of them came; without meaning if there is none.
    end : int
        Cycle in which the chunk's end came.

    Returns
    -------
    left, ended : int
        The same for this chunk; ``left`` is that of the chunks before when it has no match.
    """
    if matches:
        left = max(left + matches, done + matches - 1, last_match + 1)
    return left, max(end + 1, left + 1, ended + 1)
