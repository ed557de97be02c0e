"""Clocked model of the compressor: cycles and addresses from the number of nonzero levels of each round.

The compressor is a walk over rounds, a rigid pipeline of ``PIPELINE`` stages, and a packer that counts levels into
lines. The lines' contents are those of :func:`neuroflex.formats.pack_chunk` at the addresses given here, so the
model carries counts only. One cycle: read the accessors, then call :func:`compressor_step` (or
:func:`compressor_start` in the cycle of the start pulse).
"""
import numpy as np

from neuroflex.formats import CHUNK_LINES
from neuroflex.sim.compaction import COMPACTION_STAGES, fill_line
from neuroflex.sim.loops import njit

__all__ = ["HEAD", "PIPELINE", "compressor_block_done", "compressor_busy", "compressor_finished", "compressor_init", "compressor_start",
           "compressor_step", "compressor_work", "compressor_write_address", "compressor_write_is_mask",
           "compressor_write_valid", "compressor_y_bank", "compressor_y_index", "layer_rounds", "layout_rounds"]

PIPELINE = COMPACTION_STAGES + 1    # stages between the cycle in which a round is read and the packer: its lines are there one later

# Configuration
_CHUNK_BITS, _LINE_BYTES, _ANN_PES, _SNN_PES, _BANKS, _ADDRESS_MASK = range(6)
# Settings of the layer
_POSITIONS, _GROUPS, _ANN_ROUNDS, _SNN_ROUNDS, _STRIDE, _ANN_WIDTH, _SNN_WIDTH = range(6, 13)
# Walk: next round to read
_ACTIVE, _POSITION, _ROUND, _OFFSET, _BLOCK = range(13, 18)
# Packer: levels in the line, lines in the chunk, addresses, lines waiting to be written
_FILL, _LINES, _CHUNK, _SPINE, _FULL, _REST, _MASK, _VALUE_ADDRESS, _MASK_ADDRESS, _LAST = range(18, 28)
# Pulses of this cycle
_BLOCK_DONE, _FINISHED = range(28, 30)
# Pipeline: a ring of tokens, 0 is a bubble
HEAD, _RING = 30, 31
_SIZE = _RING + PIPELINE

_CLOSING, _LAST_CHUNK, _LAST_ROUND, _COUNT = 1, 2, 3, 4      # bits of a token; bit 0: it is a round


def compressor_init(config):
    """State of an idle compressor, ``int64[...]``."""
    state = np.zeros(_SIZE, np.int64)
    state[[_CHUNK_BITS, _LINE_BYTES, _ANN_PES, _SNN_PES, _BANKS]] = (
        config.chunk_bits, config.line_bytes, config.ann_pes, config.snn_pes, config.row_buffers)
    state[_ADDRESS_MASK] = (1 << config.address_bits) - 1
    state[_GROUPS] = 1
    return state


def layer_rounds(ann_rounds, snn_rounds):
    """Rounds of a position; a layer without any takes one, of the SNN core, that is all zero."""
    return max(1, ann_rounds + snn_rounds)


def layout_rounds(config, groups_log2, ann_rounds, snn_rounds):
    """Where the rounds of a position lie.

    Returns
    -------
    list of (core, round of that core, first position, positions)
        In the order in which they are packed; core 0 is the ANN core.
    """
    rounds, at = [], 0
    for core, (pes, count) in enumerate(((config.ann_pes, ann_rounds), (config.snn_pes, snn_rounds))):
        width = pes >> groups_log2
        if count:
            at = -(-at // width) * width
        for index in range(count):
            rounds.append((core, index, at, width))
            at += width
    return rounds or [(1, 0, 0, config.snn_pes >> groups_log2)]


@njit(cache=True)
def compressor_start(state, out_base, positions, out_chunks, out_first_chunk, groups_log2, ann_rounds, snn_rounds):
    """The cycle of the start pulse; ``positions = out_height * out_width``. The compressor is idle before."""
    state[_POSITIONS] = positions
    state[_GROUPS] = 1 << groups_log2
    state[_ANN_ROUNDS] = ann_rounds
    state[_SNN_ROUNDS] = max(snn_rounds, 1 - min(ann_rounds, 1))
    state[_STRIDE] = out_chunks * CHUNK_LINES
    state[_ANN_WIDTH], state[_SNN_WIDTH] = state[_ANN_PES] >> groups_log2, state[_SNN_PES] >> groups_log2
    state[_ACTIVE] = 1
    state[_POSITION] = state[_ROUND] = state[_OFFSET] = state[_BLOCK] = 0
    state[_FILL] = state[_LINES] = 0
    state[_SPINE] = out_base + out_first_chunk * CHUNK_LINES
    state[_CHUNK] = state[_SPINE]
    state[_BLOCK_DONE] = state[_FINISHED] = 0


@njit(inline="always")
def _finished_outputs(done, columns, group, pes, behind):
    """Whether none of a group's PEs that have columns still shows the count ``behind``."""
    for pe in range(group * pes, (group + 1) * pes):
        if columns[pe] > 0 and done[pe] == behind:
            return False
    return True


@njit(inline="always")
def _issue(state, nonzeros, ann_columns, ann_done, snn_columns, snn_done):
    """The walk's part of a cycle in which the pipeline moves: the token of the round that is read, or 0."""
    if not state[_ACTIVE]:
        return 0
    position, index = state[_POSITION], state[_ROUND]
    ann_width, snn_width = state[_ANN_WIDTH], state[_SNN_WIDTH]
    last_group = state[_GROUPS] - 1     # all counts are powers of two, so that & takes the place of the slower %
    if index == 0:
        group, behind = position & last_group, state[_BLOCK] & (2 * state[_BANKS] - 1)
        if not (_finished_outputs(ann_done, ann_columns, group, ann_width, behind)
                and _finished_outputs(snn_done, snn_columns, group, snn_width, behind)):
            return 0
    last_round = index + 1 == state[_ANN_ROUNDS] + state[_SNN_ROUNDS]
    end = state[_OFFSET] + (ann_width if index < state[_ANN_ROUNDS] else snn_width)
    if index + 1 == state[_ANN_ROUNDS]:
        end = (end + snn_width - 1) & -snn_width if not last_round else end
    closing = last_round or end == state[_CHUNK_BITS]
    last_position = position + 1 == state[_POSITIONS]
    token = 1 | closing << _CLOSING | last_round << _LAST_CHUNK | (last_round and last_position) << _LAST_ROUND
    token |= nonzeros[position, index] << _COUNT

    state[_ROUND], state[_OFFSET] = index + 1, 0 if closing else end
    if last_round:
        state[_ROUND] = 0
        state[_POSITION] += 1
        if last_position or position & last_group == last_group:
            state[_BLOCK] += 1
            state[_BLOCK_DONE] = 1
        if last_position:
            state[_ACTIVE] = 0
    return token


@njit(inline="always")
def _pack(state, token):
    """The packer takes a round: which lines it completes."""
    state[_VALUE_ADDRESS] = state[_CHUNK] + 1 + state[_LINES]
    state[_MASK_ADDRESS] = state[_CHUNK]
    state[_FULL], state[_REST], state[_FILL] = fill_line(state[_FILL], token >> _COUNT, token >> _CLOSING & 1, state[_LINE_BYTES])
    state[_LINES] += state[_FULL]
    if token >> _CLOSING & 1:
        state[_MASK] = 1
        state[_LAST] = token >> _LAST_ROUND & 1
        state[_LINES] = 0
        if token >> _LAST_CHUNK & 1:
            state[_SPINE] += state[_STRIDE]
            state[_CHUNK] = state[_SPINE]
        else:
            state[_CHUNK] += CHUNK_LINES


@njit(cache=True)
def compressor_step(state, nonzeros, ann_columns, ann_done, snn_columns, snn_done, write_ready):
    """One cycle without a start pulse.

    Parameters
    ----------
    nonzeros : int64[positions, rounds]
        Nonzero levels of each round, in the order of :func:`layout_rounds`.
    ann_columns, ann_done, snn_columns, snn_done : int64[PEs]
        The inputs of this cycle; ``done`` mod ``2 * row_buffers``.
    write_ready : int
        ``write.ready`` of this cycle.

    Returns
    -------
    int
        1 when a round is read: the arrays' ``y`` of the next cycle are used.
    """
    state[_BLOCK_DONE] = state[_FINISHED] = 0
    waiting = state[_FULL] + state[_REST] + state[_MASK]
    if waiting and write_ready:
        waiting -= 1
        if state[_FULL]:
            state[_FULL] = 0
            state[_VALUE_ADDRESS] += 1
        elif state[_REST]:
            state[_REST] = 0
        else:
            state[_MASK] = 0
            state[_FINISHED] = state[_LAST]
            state[_LAST] = 0
    if waiting:
        return 0
    slot = _RING + state[HEAD]
    arrived = state[slot]
    state[slot] = _issue(state, nonzeros, ann_columns, ann_done, snn_columns, snn_done)
    state[HEAD] = state[HEAD] + 1 if state[HEAD] + 1 < PIPELINE else 0
    if arrived:
        _pack(state, arrived)
    return state[slot] & 1


@njit(cache=True)
def compressor_busy(state):
    """Whether rounds are to be read, on their way, or lines are to be written."""
    busy = state[_ACTIVE] + state[_FULL] + state[_REST] + state[_MASK]
    for stage in range(PIPELINE):
        busy += state[_RING + stage]
    return busy > 0


@njit(cache=True)
def compressor_work(state):
    """Rounds on their way to the packer."""
    rounds = 0
    for stage in range(PIPELINE):
        rounds += state[_RING + stage] & 1
    return rounds


@njit(cache=True)
def compressor_write_valid(state):
    """``write.valid``."""
    return state[_FULL] | state[_REST] | state[_MASK]


@njit(cache=True)
def compressor_write_address(state):
    """Address of the line offered, while :func:`compressor_write_valid`."""
    return (state[_VALUE_ADDRESS] if state[_FULL] | state[_REST] else state[_MASK_ADDRESS]) & state[_ADDRESS_MASK]


@njit(cache=True)
def compressor_write_is_mask(state):
    """Whether the line offered is a chunk's mask, its last line."""
    return compressor_write_valid(state) and not state[_FULL] | state[_REST]


@njit(cache=True)
def compressor_block_done(state):
    """``block_done``."""
    return state[_BLOCK_DONE]


@njit(cache=True)
def compressor_finished(state):
    """``finished``."""
    return state[_FINISHED]


@njit(cache=True)
def compressor_y_bank(state):
    """``y_bank``."""
    return state[_BLOCK] & (state[_BANKS] - 1)


@njit(cache=True)
def compressor_y_index(state):
    """``y_index``."""
    index = state[_ROUND]
    return index if index < state[_ANN_ROUNDS] else index - state[_ANN_ROUNDS]
