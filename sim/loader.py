"""Model of the loader: what a load stream says, line by line, and when the loader does it.

:func:`parse_load_stream` reads a whole stream and gives the load bus beat of each line and the first bad line. The
clocked part, ``loader_*``, needs only the number of lines and where the first bad one is: a line's beat comes
``LATENCY`` cycles after the line. One cycle: read the accessors, then call :func:`loader_step` (or
:func:`loader_start` in the cycle of the start pulse).
"""
from dataclasses import dataclass

import numpy as np

from neuroflex.formats import LOAD_BURST, RECORD_MAGIC, Core, LoadKind, Status, column_record_lines, most_levels
from neuroflex.sim.loops import njit

__all__ = ["LATENCY", "LoadBeats", "loader_beat_line", "loader_busy", "loader_error", "loader_finished", "loader_init",
           "loader_request_address", "loader_request_lines", "loader_request_valid", "loader_start", "loader_step",
           "parse_load_stream"]

LATENCY = 5     # cycles from a line's arrival to its beat

NO_FAULT = -1


@dataclass(frozen=True)
class LoadBeats:
    """What each line of a load stream does.

    Attributes
    ----------
    valid : bool[lines]
        The line has a beat on the load bus.
    core, pe, kind, address : int64[lines]
        Fields of the beat.
    data : list of int
        Its data, as unsigned integers.
    fault_line, fault : int
        The first line that is refused, -1 when there is none, and its ``Status``; no beats from there on.
    """

    valid: np.ndarray
    core: np.ndarray
    pe: np.ndarray
    kind: np.ndarray
    address: np.ndarray
    data: list
    fault_line: int
    fault: int


class _Refused(Exception):
    def __init__(self, line, status):
        self.line, self.status = line, status


def parse_load_stream(lines, config, groups_log2):
    """Read a load stream as the loader does.

    Parameters
    ----------
    lines : uint8[n, line_bytes]
    config : ArchConfig
    groups_log2 : int

    Returns
    -------
    LoadBeats
        An empty stream is refused at line 0 with BAD_LOAD_LENGTH.
    """
    words = [int.from_bytes(bytes(line), "little") for line in np.asarray(lines, np.uint8)]
    beats = []      # (line, core, pe, kind, address, data)
    fault_line, fault = NO_FAULT, Status.NONE
    try:
        if not words:
            raise _Refused(0, Status.BAD_LOAD_LENGTH)
        at, seen = 0, set()
        while at < len(words):
            at = _parse_record(words, at, config, groups_log2, seen, beats)
    except _Refused as refused:
        fault_line, fault = refused.line, refused.status
        beats = [beat for beat in beats if beat[0] < fault_line]
    count = len(words)
    valid = np.zeros(count, bool)
    fields = np.zeros((4, count), np.int64)
    data = [0] * count
    for line, *values, content in beats:
        valid[line], fields[:, line], data[line] = True, values, content
    return LoadBeats(valid, *fields, data, fault_line, int(fault))


def _parse_record(words, at, config, groups_log2, seen, beats):
    """Append a record's beats and its PE to those ``seen``; returns the line after it."""
    def line(index):
        if index >= len(words):     # the stream ended with the line before
            raise _Refused(len(words) - 1, Status.BAD_LOAD_LENGTH)
        return words[index]

    core, pe, columns, magic = line(at).to_bytes(config.line_bytes, "little")[:4]
    if (magic != RECORD_MAGIC or core not in (Core.ANN, Core.SNN) or not 1 <= columns <= config.columns_per_pe
            or pe >= (config.snn_pes if core else config.ann_pes) >> groups_log2 or (core, pe) in seen):
        raise _Refused(at, Status.BAD_LOAD_RECORD)
    seen.add((core, pe))
    beats.append((at, core, pe, LoadKind.COLUMNS, 0, columns))

    at += 1
    mask_pairs, value_lines = line(at) & 0xFFFF, line(at) >> 16 & 0xFFFF
    if not 1 <= mask_pairs <= config.mask_pairs or value_lines > config.value_lines:
        raise _Refused(at, Status.BAD_LOAD_LENGTH)

    at += 1
    lines = column_record_lines(config)
    for column in range(columns):
        record = sum(line(at + i) << (config.chunk_bits * i) for i in range(lines))
        at += lines
        theta, levels = record & 0xFFFFFFFF, record >> 64 & 0xFFFFFFFF
        if not (1 <= theta < 1 << config.theta_bits and 1 <= levels <= most_levels(core, config)):
            raise _Refused(at - 1, Status.BAD_LOAD_RECORD)
        beats.append((at - 1, core, pe, LoadKind.PARAMETER, column, record & (1 << 72) - 1))

    chunk_pairs = (columns + 1) // 2
    address_mask = (1 << config.value_base_bits) - 1
    ones = 0
    for pair in range(mask_pairs):
        base, masks = [], []
        for half in range(2):
            mask = line(at)
            if mask and 2 * (pair % chunk_pairs) + half == columns:
                raise _Refused(at, Status.BAD_LOAD_RECORD)
            base.append(ones & address_mask)
            masks.append(mask)
            ones += mask.bit_count()
            last = pair + 1 == mask_pairs and half == 1
            if ones > value_lines * config.line_bytes or (last and (pair + 1) % chunk_pairs):
                raise _Refused(at, Status.BAD_LOAD_LENGTH)
            at += 1
        packed = 0
        for value, bits in zip((base[1], base[0], masks[1], masks[0]),
                               (config.value_base_bits, config.value_base_bits, config.chunk_bits, config.chunk_bits)):
            packed = packed << bits | value
        beats.append((at - 1, core, pe, LoadKind.MASKS, pair, packed))

    for index in range(value_lines):
        beats.append((at, core, pe, LoadKind.VALUES, index, line(at)))
        at += 1
    return at


_STAGES = LATENCY - 1
(_BUSY, _ENDED, _ERROR, _FINISHED, _LENGTH, _FAULT_LINE, _FAULT, _ADDRESS_MASK, _TO_REQUEST, _NEXT_ADDRESS, _REQUEST_VALID,
 _REQUEST_ADDRESS, _REQUEST_LINES, _OUTSTANDING, _PARSED, _BEAT, _HEAD, _RING) = range(18)
_SIZE = _RING + _STAGES


def loader_init(config):
    """State of an idle loader, ``int64[...]``."""
    state = np.zeros(_SIZE, np.int64)
    state[_ADDRESS_MASK] = (1 << config.address_bits) - 1
    state[_ENDED] = 1
    state[_BEAT] = NO_FAULT
    return state


@njit(cache=True)
def loader_start(state, address, lines, fault_line, fault):
    """The cycle of the start pulse; ``fault_line`` and ``fault`` as from :func:`parse_load_stream`."""
    state[_BUSY] = 1
    state[_ENDED] = lines == 0
    state[_ERROR] = Status.BAD_LOAD_LENGTH.value if lines == 0 else 0
    state[_FINISHED] = 0
    state[_LENGTH], state[_FAULT_LINE], state[_FAULT] = lines, fault_line, fault
    state[_TO_REQUEST], state[_NEXT_ADDRESS] = lines, address
    state[_PARSED] = 0
    state[_BEAT] = NO_FAULT


@njit(cache=True)
def loader_step(state, request_ready, data_valid, data_error):
    """One cycle without a start pulse.

    Parameters
    ----------
    state : int64[...]
    request_ready, data_valid, data_error : int
        Inputs of this cycle. Data come only for what was asked for.
    """
    state[_FINISHED] = state[_BUSY] and state[_ENDED] and not state[_REQUEST_VALID] and state[_OUTSTANDING] == 0
    state[_BUSY] -= state[_FINISHED]
    ended = state[_ENDED]

    # The line that has come through the counting stages: 1, or 2 with a bus error.
    slot = _RING + state[_HEAD]
    arrived = state[slot]
    state[slot] = data_valid * (1 + data_error)
    state[_HEAD] = (state[_HEAD] + 1) % _STAGES
    state[_BEAT] = NO_FAULT
    if arrived:
        state[_OUTSTANDING] -= 1
        if not ended:
            line = state[_PARSED]
            state[_PARSED] += 1
            if arrived == 2:
                state[_ERROR] = Status.BUS_ERROR.value
            elif line == state[_FAULT_LINE]:
                state[_ERROR] = state[_FAULT]
            else:
                state[_BEAT] = line
            state[_ENDED] = state[_ERROR] != 0 or line + 1 == state[_LENGTH]

    if not state[_REQUEST_VALID] or request_ready:
        if state[_REQUEST_VALID]:
            state[_OUTSTANDING] += state[_REQUEST_LINES]
        state[_REQUEST_VALID] = state[_TO_REQUEST] > 0 and not ended
        if state[_REQUEST_VALID]:
            burst = min(state[_TO_REQUEST], LOAD_BURST)
            state[_REQUEST_ADDRESS] = state[_NEXT_ADDRESS] & state[_ADDRESS_MASK]
            state[_REQUEST_LINES] = burst
            state[_NEXT_ADDRESS] += burst
            state[_TO_REQUEST] -= burst


@njit(cache=True)
def loader_busy(state):
    """Whether a stream is being loaded."""
    return state[_BUSY]


@njit(cache=True)
def loader_request_valid(state):
    """``request.valid``."""
    return state[_REQUEST_VALID]


@njit(cache=True)
def loader_request_address(state):
    """``request.payload.address``, of the burst that is or was last offered."""
    return state[_REQUEST_ADDRESS]


@njit(cache=True)
def loader_request_lines(state):
    """``request.payload.lines``."""
    return state[_REQUEST_LINES]


@njit(cache=True)
def loader_beat_line(state):
    """Index of the line whose beat, if it has one, is on the load bus in this cycle; -1: none."""
    return state[_BEAT]


@njit(cache=True)
def loader_finished(state):
    """``finished``."""
    return state[_FINISHED]


@njit(cache=True)
def loader_error(state):
    """``error``: a ``Status``."""
    return state[_ERROR]
