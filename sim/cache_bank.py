"""One bank of the FiberCache: what an operation does to the set of its line, and a clocked model of the bank by itself.

A set is a **row** of an int64 array: five words per way, from a given index on. A line's content is stood for by a token, any integer. An
operation is looked up in the cycle of its effect and a victim searched when it is needed; that is right as long as operations of a
set keep their distance, which the circuit needs for its pipeline.
"""
import numpy as np

from neuroflex.cache_policy import PRIORITY_MAX, age_bits
from neuroflex.sim.loops import njit

__all__ = ["AGE", "ALLOCATION_DISTANCE", "DIRTY", "DISTANCE", "FETCH", "FILL", "PRIORITY", "READ", "TAG", "TOKEN", "WAY_WORDS",
           "WRITE", "bank_init", "bank_step", "clear", "fetch", "fill", "find", "read", "victim", "write"]

FILL, READ, WRITE, FETCH = range(4)        # clients, in the order of priority
TAG, DIRTY, PRIORITY, AGE, TOKEN = range(5)
WAY_WORDS = 5
EMPTY = -1                 # tag of an invalid way

DISTANCE = 3               # cycles between the grants of two operations of a set ...
ALLOCATION_DISTANCE = 4    # ... if the second may allocate (fill, write)


@njit(cache=True)
def find(r, row, ways, tag):
    """Where the way with this tag is; -1: none."""
    for way in range(row, row + WAY_WORDS * ways, WAY_WORDS):
        if r[way + TAG] == tag:
            return way
    return -1


@njit(cache=True)
def victim(r, row, ways):
    """An invalid way; else the lowest priority, then the oldest, then the lowest way."""
    best = row
    for way in range(row, row + WAY_WORDS * ways, WAY_WORDS):
        if r[way + TAG] == EMPTY:
            return way
        lower = r[way + PRIORITY] - r[best + PRIORITY]
        if lower < 0 or lower == 0 and r[way + AGE] > r[best + AGE]:
            best = way
    return best


@njit(cache=True)
def _drop(r, way):
    r[way + TAG] = EMPTY
    r[way + DIRTY] = 0


@njit(cache=True)
def _evict(r, way):
    tag, token = r[way + TAG], r[way + TOKEN]
    _drop(r, way)
    return tag, token


@njit(cache=True)
def _allocate(r, row, ways, oldest, way, tag, dirty, priority, token):
    for other in range(row, row + WAY_WORDS * ways, WAY_WORDS):
        r[other + AGE] = min(r[other + AGE] + 1, oldest)
    r[way + TAG], r[way + DIRTY], r[way + PRIORITY], r[way + AGE], r[way + TOKEN] = tag, dirty, priority, 0, token


@njit(cache=True)
def fill(r, row, ways, oldest, tag, token, skip, demand, room):
    """A line from memory: ``(done, tag, token)``, the last two of the line that leaves for the write buffer (-1, 0: none).

    ``skip``: do not store it. ``demand``: a read waits for it. ``room``: the write buffer takes a line; if it does not, and the line would
    need a dirty one's place, it is dropped.
    """
    if not skip and find(r, row, ways, tag) < 0:
        way = victim(r, row, ways)
        if r[way + DIRTY] == 0:
            _allocate(r, row, ways, oldest, way, tag, 0, 0 if demand else 1, token)
        elif room:
            gone, gone_token = _evict(r, way)
            return 0, gone, gone_token
    return 1, EMPTY, 0


@njit(cache=True)
def read(r, row, ways, tag, consume):
    """``(hit, token)``."""
    way = find(r, row, ways, tag)
    if way < 0:
        return 0, 0
    token = r[way + TOKEN]
    r[way + AGE] = 0
    r[way + PRIORITY] = max(r[way + PRIORITY] - 1, 0)
    if consume:
        _drop(r, way)
    return 1, token


@njit(cache=True)
def write(r, row, ways, oldest, tag, token, through, room):
    """``(done, tag, token)``, the last two of a line that had to make room (-1, 0: none). A line passed through is not among them."""
    way = find(r, row, ways, tag)
    if through:
        if room and way >= 0:
            _drop(r, way)
        return room, EMPTY, 0
    if way >= 0:
        r[way + DIRTY], r[way + AGE], r[way + TOKEN] = 1, 0, token
        return 1, EMPTY, 0
    way = victim(r, row, ways)
    if r[way + DIRTY] == 0:
        _allocate(r, row, ways, oldest, way, tag, 1, 0, token)
        return 1, EMPTY, 0
    if room:
        gone, gone_token = _evict(r, way)
        return 0, gone, gone_token
    return 0, EMPTY, 0


@njit(cache=True)
def fetch(r, row, ways, tag):
    """1 if the line is there: it becomes more precious."""
    way = find(r, row, ways, tag)
    if way < 0:
        return 0
    r[way + AGE] = 0
    r[way + PRIORITY] = min(r[way + PRIORITY] + 1, PRIORITY_MAX)
    return 1


@njit(cache=True)
def clear(r, row, ways):
    """Forget all lines."""
    for way in range(row, row + WAY_WORDS * ways, WAY_WORDS):
        r[way + TAG], r[way + DIRTY], r[way + PRIORITY], r[way + AGE] = EMPTY, 0, 0, 0


# --- the bank by itself, in clock cycles -------------------------------------------------------------------
(_LOOK, _LOOK_SET, _LOOK_TAG, _ACT, _ACT_SET, _ACT_TAG, _GONE_TAG, _GONE_SET, _NEXT_TOKEN, _LINE_TOKEN,
 _WAYS, _OLDEST, _ROWS) = range(13)


def bank_init(config):
    """State after :func:`bank_step` has cleared all sets, int64 array: registers, then the rows of the sets."""
    state = np.zeros(_ROWS + WAY_WORDS * config.cache_ways * config.cache_sets, np.int64)
    state[[_LOOK, _ACT, _GONE_TAG, _GONE_SET, _NEXT_TOKEN, _LINE_TOKEN]] = -1
    state[[_WAYS, _OLDEST]] = config.cache_ways, (1 << age_bits(config)) - 1
    state[_ROWS:].reshape(-1, WAY_WORDS)[:, TAG] = EMPTY
    return state


@njit(cache=True)
def bank_step(state, client, index, tag, replay, room, write_room, skip, demand, consume, through, fill_token, write_token, clear_set, out):
    """One cycle: what the bank shows in it, then its next state.

    Parameters
    ----------
    state : int64 array, from :func:`bank_init`
        Changed in place.
    client, index, tag : int
        Operation granted in this cycle, the set and tag of its line; client -1: none.
    replay : int
        One bit per client.
    room, write_room, skip, demand, consume, through, fill_token, write_token : int
        Inputs for the operation in the effect stage.
    clear_set : int
        Set to be cleared; -1: none.
    out : int64[8]
        Filled with what the bank shows: done, evicts, read_hits, presses, token of line, victim_tag, victim_set (the last three -1 where it does not
        matter); and with the client in effect (-1: none).
    """
    r = state
    ways, width = r[_WAYS], WAY_WORDS * r[_WAYS]
    out[3] = r[_LOOK] == FILL and not replay >> FILL & 1 and r[victim(r, _ROWS + r[_LOOK_SET] * width, ways) + DIRTY] == 1
    out[4], out[5], out[6] = r[_LINE_TOKEN], r[_GONE_TAG], r[_GONE_SET]
    r[_LINE_TOKEN] = r[_NEXT_TOKEN]
    r[_NEXT_TOKEN] = r[_GONE_TAG] = r[_GONE_SET] = -1

    acting = r[_ACT] if r[_ACT] >= 0 and not replay >> r[_ACT] & 1 else -1
    row = _ROWS + r[_ACT_SET] * width
    done, hit, gone, gone_token = 0, 0, EMPTY, 0
    if acting == FILL:
        done, gone, gone_token = fill(r, row, ways, r[_OLDEST], r[_ACT_TAG], fill_token, skip, demand, room)
    elif acting == READ:
        hit, token = read(r, row, ways, r[_ACT_TAG], consume)
        done = hit
        if hit:
            r[_NEXT_TOKEN] = token
    elif acting == WRITE:
        done, gone, gone_token = write(r, row, ways, r[_OLDEST], r[_ACT_TAG], write_token, through, write_room)
    elif acting == FETCH:
        done = fetch(r, row, ways, r[_ACT_TAG])
    if gone >= 0:
        r[_NEXT_TOKEN], r[_GONE_TAG], r[_GONE_SET] = gone_token, gone, r[_ACT_SET]
    out[0], out[1], out[2], out[7] = done << max(acting, 0), gone >= 0, hit, acting

    if clear_set >= 0:
        clear(r, _ROWS + clear_set * width, ways)
    r[_ACT] = r[_LOOK] if r[_LOOK] >= 0 and not replay >> r[_LOOK] & 1 else -1
    r[_ACT_SET], r[_ACT_TAG] = r[_LOOK_SET], r[_LOOK_TAG]
    r[_LOOK] = client if client >= 0 and not replay >> client & 1 else -1
    r[_LOOK_SET], r[_LOOK_TAG] = index, tag
