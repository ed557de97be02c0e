"""Clocked model of the broadcaster: which chunk it fetches, reads and sends in which cycle.

No data: a chunk is its number in the table of :func:`~neuroflex.sim.walk.walk_chunks`, and the caller says how many
value lines each has. What the circuit keeps in queues is here the difference of two running numbers.
"""
import numpy as np

from neuroflex.formats import StallCause
from neuroflex.queues import CHUNK_QUEUE, LINE_QUEUE
from neuroflex.sim.loops import njit
from neuroflex.sim.walk import FIRST_CHUNK, GROUP, LAST_OF_LAYER, NEW_BLOCK, OUTSIDE, WALK_LATENCY

__all__ = ["BUS_BEAT", "BUS_CHUNK", "BUS_FIRST", "BUS_LAST", "BUS_VALID", "CAUSE", "CYCLE", "FETCH_CHUNK", "FETCH_VALID", "FINISHED",
           "READ_CHUNK", "READ_LINE", "READ_VALID", "broadcaster_init", "broadcaster_step"]

_COUNT_LATENCY = 3    # cycles from a mask's answer until its number of value lines is known
_NEVER = 1 << 62

# What other blocks see: the registers of the current cycle.
(FETCH_VALID, FETCH_CHUNK,                            # fetch stream: chunk number
 READ_VALID, READ_CHUNK, READ_LINE,                   # read stream: chunk number, 0 for its mask or 1 ... 8 for a value line
 BUS_VALID, BUS_CHUNK, BUS_BEAT, BUS_FIRST, BUS_LAST,  # broadcast bus: chunk number, number of the beat, flags
 FINISHED, CAUSE) = range(12)

# What only the broadcaster knows: chunks and lines are numbered from 0 in a layer.
(CYCLE, _WALK_AT, _RUNNING, _SENT_ALL, _ROW_BUFFERS, _FETCH_AHEAD, _BLOCKS,
 _ASKED, _ANSWERED,                                   # reads so far
 _FETCHED, _TAKEN, _VALUED, _SENT,                    # next chunk of: fetch walk, read walk, value reads, bus
 _VALUE_LINE,                                         # value lines asked for of chunk _VALUED
 _LINES_ASKED, _LINES_THERE, _LINES_SENT,             # value lines so far
 _BEATS_LEFT, _LAYER_END) = range(12, 31)             # of the chunk on the bus
_USABLE = 32                                          # per chunk: cycle from which mask and number of lines are known
_EXPECTED = _USABLE + CHUNK_QUEUE                     # per read: its chunk if it reads a mask, else -1
_READS = CHUNK_QUEUE + LINE_QUEUE
_WORDS = _EXPECTED + _READS

_CONTROL, _BROADCAST, _MEMORY, _SLOT, _ROW, _OUTPUT, _DRAIN = (
    int(StallCause[name]) for name in ("CONTROL", "BROADCAST", "MEMORY", "SLOT", "ROW", "OUTPUT", "DRAIN"))


def broadcaster_init(config):
    """State after reset, ``int64[...]``; words ``FETCH_VALID`` ... ``CAUSE`` are what other blocks see in this cycle."""
    state = np.zeros(_WORDS, np.int64)
    state[_ROW_BUFFERS] = config.row_buffers
    state[_FETCH_AHEAD] = config.fetch_ahead
    return state


@njit(cache=True)
def broadcaster_step(state, chunks, lines, start, fetch_ready, read_ready, response_valid, slot_free, row_free, block_done):
    """Advance by one cycle.

    Parameters
    ----------
    state : int64[...]
        From :func:`broadcaster_init`; changed.
    chunks : int64[n, fields]
        The layer's :func:`~neuroflex.sim.walk.walk_chunks`, from the cycle after ``start`` on.
    lines : int64[n]
        Value lines of each chunk, 0 ... 8: ``ceil(nonzeros / line_bytes)``. Looked at when its mask has been read;
        that of a chunk outside its tensor counts as 0.
    start, fetch_ready, read_ready, response_valid, block_done : bool or int
        The circuit's inputs in this cycle.
    slot_free, row_free : int
        One bit per group.
    """
    now = state[CYCLE]
    walking = state[_RUNNING] and now >= state[_WALK_AT]
    fetched, taken, valued, sent = state[_FETCHED], state[_TAKEN], state[_VALUED], state[_SENT]
    lines_asked, lines_there, lines_sent = state[_LINES_ASKED], state[_LINES_THERE], state[_LINES_SENT]
    beats_left = state[_BEATS_LEFT]

    # The beat that will be on the bus in the next cycle.
    beat, cause = False, _MEMORY
    if beats_left:
        if lines_there > lines_sent:
            beat = True
            state[_BEATS_LEFT] = beats_left - 1
            state[_LINES_SENT] = lines_sent + 1
            state[BUS_BEAT] += 1
    elif not state[_RUNNING]:
        cause = _DRAIN if state[_SENT_ALL] else _CONTROL
    elif sent < valued:
        chunk = chunks[sent]
        count = 0 if chunk[OUTSIDE] else lines[sent]
        group = chunk[GROUP]
        if count == 0 or lines_there > lines_sent:
            taking_slot = state[BUS_VALID] and state[BUS_FIRST] and chunks[state[BUS_CHUNK], GROUP] == group
            if taking_slot or not slot_free >> group & 1:
                cause = _SLOT
            elif chunk[FIRST_CHUNK] and not row_free >> group & 1:
                cause = _ROW
            elif chunk[NEW_BLOCK] and state[_BLOCKS] == state[_ROW_BUFFERS]:
                cause = _OUTPUT
            else:
                beat = True
                state[_BLOCKS] += chunk[NEW_BLOCK]
                state[_SENT] = sent + 1
                state[_BEATS_LEFT] = max(count, 1) - 1
                state[_LINES_SENT] = lines_sent + (count > 0)
                state[BUS_CHUNK] = sent
                state[BUS_BEAT] = 0
    state[_BLOCKS] -= block_done
    state[FINISHED] = state[_SENT_ALL] and not start and (not state[FETCH_VALID] or fetch_ready)
    state[CAUSE] = _BROADCAST if beat else cause
    state[BUS_VALID] = beat
    if beat:
        state[BUS_FIRST] = state[BUS_BEAT] == 0
        state[BUS_LAST] = state[_BEATS_LEFT] == 0
        if state[BUS_LAST] and chunks[state[BUS_CHUNK], LAST_OF_LAYER]:
            state[_RUNNING], state[_SENT_ALL] = 0, 1

    # Answers, in the order of the reads.
    if response_valid:
        chunk_read = state[_EXPECTED + state[_ANSWERED] % _READS]
        state[_ANSWERED] += 1
        if chunk_read < 0:
            state[_LINES_THERE] = lines_there + 1
        else:
            state[_USABLE + chunk_read % CHUNK_QUEUE] = now + _COUNT_LATENCY

    # Fetch walk: at most FETCH_AHEAD chunks before the read walk, never behind it.
    fetch_free = not state[FETCH_VALID] or fetch_ready
    fetch = (walking and fetched < len(chunks) and fetched - taken < state[_FETCH_AHEAD]
             and (fetch_free or chunks[fetched, OUTSIDE] == 1))
    # Read walk: a chunk that is still to be fetched lets its fetch go first, unless the cache does not take it.
    read_free = not state[READ_VALID] or read_ready
    take = (walking and taken < len(chunks) and taken - sent < CHUNK_QUEUE
            and (read_free or chunks[taken, OUTSIDE] == 1) and not (fetch and fetched == taken))
    if fetch_free:
        state[FETCH_VALID] = fetch and not chunks[fetched, OUTSIDE]
        state[FETCH_CHUNK] = fetched
    state[_FETCHED] = max(fetched + fetch, taken + take)
    state[_TAKEN] = taken + take
    if read_free:
        state[READ_VALID] = 0
    if take and chunks[taken, OUTSIDE]:
        state[_USABLE + taken % CHUNK_QUEUE] = now + 1
    elif take:
        state[_USABLE + taken % CHUNK_QUEUE] = _NEVER
        state[READ_VALID], state[READ_CHUNK], state[READ_LINE] = 1, taken, 0
        state[_EXPECTED + state[_ASKED] % _READS] = taken
        state[_ASKED] += 1
    mask_read = take and not chunks[taken, OUTSIDE]

    # Value reads: of one chunk after the other, in cycles that no mask read wants.
    if valued < taken and state[_USABLE + valued % CHUNK_QUEUE] <= now:
        count = 0 if chunks[valued, OUTSIDE] else lines[valued]
        if count and read_free and not mask_read and lines_asked - lines_sent < LINE_QUEUE:
            state[_VALUE_LINE] += 1
            state[_LINES_ASKED] = lines_asked + 1
            state[READ_VALID], state[READ_CHUNK], state[READ_LINE] = 1, valued, state[_VALUE_LINE]
            state[_EXPECTED + state[_ASKED] % _READS] = -1
            state[_ASKED] += 1
        if state[_VALUE_LINE] == count:
            state[_VALUE_LINE] = 0
            state[_VALUED] = valued + 1

    if start:
        state[_FETCHED:_LAYER_END] = 0
        state[_RUNNING], state[_SENT_ALL], state[_WALK_AT] = 1, 0, now + WALK_LATENCY
    state[CYCLE] = now + 1
