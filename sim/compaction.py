"""Model of the compaction: where the levels of a round land in the lines, and in which cycle.

A round taken in some cycle with ``advance`` is shown after ``COMPACTION_STAGES`` such cycles, that one included. Its
first level continues the line that the rounds before it have begun; the count of the levels before it in the chunk is all that
it needs of them. :func:`fill_line` says how one round fills the line; the compressor's model goes by it, round by round.
"""
import numpy as np

from neuroflex.sim.loops import njit

__all__ = ["COMPACTION_STAGES", "compaction", "fill_line"]

COMPACTION_STAGES = 6
_FILL_STAGE = 3         # moves after the one that takes a round, in which it learns where the line continues


@njit(inline="always")
def fill_line(fill, count, closing, line_bytes):
    """A round of ``count`` levels behind ``fill`` levels of an unfinished line.

    Returns
    -------
    full, rest, fill : int
        Whether it completes the line; whether it ends the chunk and leaves a part of a line; levels in the line after it.
    """
    filled = fill + count
    left = filled & (line_bytes - 1)
    return (1 if filled >= line_bytes else 0), (1 if closing and left > 0 else 0), (0 if closing else left)


@njit(cache=True)
def _schedule(advance, clear, valid, closing, counts, line_bytes, taken, source, first, full, rest):
    """Cycle of the round taken in each move; cycle of the round shown in each cycle, -1 for none; each round's place."""
    moves, fill = 0, 0
    for cycle in range(len(advance)):
        source[cycle] = taken[moves - COMPACTION_STAGES] if moves >= COMPACTION_STAGES else -1
        if advance[cycle]:
            taken[moves] = cycle
            if moves >= _FILL_STAGE:
                round = taken[moves - _FILL_STAGE]
                first[round] = fill
                full[round], rest[round], after = fill_line(fill, counts[round], closing[round], line_bytes)
                if valid[round]:
                    fill = after
            moves += 1
        if clear[cycle]:
            fill = 0


def compaction(config, *, advance, clear, valid, levels, offset, closing, last_chunk, last):
    """The outputs of all cycles.

    Parameters
    ----------
    config : ArchConfig
    advance, clear, valid, offset, closing, last_chunk, last : int64[cycles]
        The inputs.
    levels : int64[cycles, lanes]

    Returns
    -------
    dict of arrays over cycles
        ``known``: a round has come through since reset; then, as :func:`~neuroflex.hdl.compaction.compacted_layout` has
        them, ``valid``, ``levels`` (cycles, line_bytes), ``above`` (cycles, line_bytes), ``full``, ``rest``, ``mask`` (cycles,
        lanes), ``segment``, ``closing``, ``last_chunk``, ``last``.
    """
    levels = np.asarray(levels, np.int64)
    cycles, lanes = levels.shape
    nonzero = levels != 0
    taken, source, first, full, rest = (np.zeros(cycles, np.int64) for _ in range(5))
    _schedule(*(np.asarray(a, np.int64) for a in (advance, clear, valid, closing)), nonzero.sum(axis=1), config.line_bytes,
              taken, source, first, full, rest)

    round, lane = np.nonzero(nonzero)
    rank = nonzero.cumsum(axis=1)[round, lane] - 1
    packed = np.zeros((cycles, config.line_bytes), np.int64)
    packed[round, (first[round] + rank) % config.line_bytes] = levels[round, lane]
    mask = np.zeros((cycles, lanes), bool)
    mask[round, (lane + np.asarray(offset)[round]) % lanes] = True

    known = source >= 0
    shown = {"valid": valid, "levels": packed, "above": np.arange(config.line_bytes) >= first[:, None], "full": full, "rest": rest,
             "mask": mask, "segment": 1 << np.asarray(offset, np.int64) // lanes, "closing": closing, "last_chunk": last_chunk,
             "last": last}
    return {"known": known} | {name: np.asarray(values)[source] for name, values in shown.items()}
