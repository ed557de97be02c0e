"""FiberCache: clocked model of hits, misses, replacement and timing, without the lines' contents.

A line's content is stood for by a **token**, any integer that the caller gives to a write or to a line from memory; it
comes back with responses and write requests. Callers that only want the timing pass 0.

The model states the rules of ``docs/fibercache.md`` directly: an operation is looked up in the cycle of its effect, a
victim is searched when it is needed, and operations of one set keep a distance in time that a table of the last
grants enforces.
"""
from typing import NamedTuple

import numpy as np
from numba import njit

from neuroflex.cache_policy import CLIENT_QUEUE, PRIORITY_MAX, age_bits

__all__ = ["CacheState", "cache_init", "cache_step", "data_ready", "fetch_ready", "is_busy", "is_idle", "pulses",
           "read_ready", "read_request", "response", "write_ready", "write_request"]

FILL, READ, WRITE, FETCH = range(4)

# Places in CacheState.scalars. Four in a row: one per client.
(NOW, HEAD, _, _, _, LEVEL, _, _, _, EARLY, _, _, _, LATE, _, _, _,
 MISSING, MISS_ADDRESS, MISS_CONSUME, SEARCHED, KNOWN, WAITING,
 ABSENT, ABSENT_ADDRESS, ABSENT_LINES, ABSENT_SEARCHED, ABSENT_KNOWN,
 RESERVED, ENTERING, BURST_ADDRESS, BURST_LINES, ENTERED, TAIL, ARRIVE,
 STAGED, STAGED_ADDRESS, STAGED_LINES, REQUEST, REQUEST_ADDRESS, REQUEST_LINES,
 BUFFERED, STORED, PUT, GET, PUTTING, PUTTING_ADDRESS, PUTTING_TOKEN,
 COMING, COMING_ADDRESS, COMING_TOKEN, RESPONSE, RESPONSE_ADDRESS, RESPONSE_TOKEN,
 FILLED, FILLED_SLOT, ANSWERED, OUTDATED, DRAINING, CLEARING, CLEAR_SET, HIT, MISS, EVICTION, ERROR,
 BANKS, SETS, WAYS, OLDEST, _COUNT) = range(70)

_ALLOCATION_DISTANCE = 4   # cycles between the grants of two operations of a set, if the second may allocate
_DISTANCE = 2              # ... if it may not


class CacheState(NamedTuple):
    """Registers and memories of the cache: int64 arrays, changed in place by :func:`cache_step`.

    Attributes
    ----------
    scalars : (n,)
        Single registers and the sizes.
    queues : (4 clients, CLIENT_QUEUE, 3)
        Operations: address; lines, consume or through; token. A fill's second field is its pending slot.
    tags, dirty, priority, age, token : (banks, sets, ways)
        The lines; a tag of -1 marks an invalid way.
    last_grant : (banks, sets)
        Cycle of the last grant.
    pending : (pending_lines, 3)
        Address, whether it is on its way, whether it is outdated.
    buffer : (write_buffer, 2)
        Address and token of lines to be written.
    """

    scalars: np.ndarray
    queues: np.ndarray
    tags: np.ndarray
    dirty: np.ndarray
    priority: np.ndarray
    age: np.ndarray
    token: np.ndarray
    last_grant: np.ndarray
    pending: np.ndarray
    buffer: np.ndarray


def cache_init(config):
    """State after reset: the cache is invalidating itself.

    Parameters
    ----------
    config : ArchConfig

    Returns
    -------
    CacheState
    """
    shape = config.cache_banks, config.cache_sets, config.cache_ways
    scalars = np.zeros(_COUNT, np.int64)
    scalars[[BANKS, SETS, WAYS]] = shape
    scalars[OLDEST] = (1 << age_bits(config)) - 1
    scalars[CLEARING] = 1
    return CacheState(scalars, np.zeros((4, CLIENT_QUEUE, 3), np.int64), np.full(shape, -1, np.int64),
                      *(np.zeros(shape, np.int64) for _ in range(4)), np.full(shape[:2], -_ALLOCATION_DISTANCE, np.int64),
                      np.zeros((config.pending_lines, 3), np.int64), np.zeros((config.write_buffer, 2), np.int64))


# --- outputs: functions of the state ---------------------------------------------------------------------
@njit(cache=True)
def is_busy(state):
    """An invalidation is under way (``busy``)."""
    r = state.scalars
    return r[DRAINING] + r[CLEARING]


@njit(cache=True)
def fetch_ready(state):
    """``fetch.ready``."""
    return 1 if state.scalars[LEVEL + FETCH] < CLIENT_QUEUE and not is_busy(state) else 0


@njit(cache=True)
def read_ready(state):
    """``read.ready``."""
    return 1 if state.scalars[LEVEL + READ] < CLIENT_QUEUE and not is_busy(state) else 0


@njit(cache=True)
def write_ready(state):
    """``write.ready``."""
    return 1 if state.scalars[LEVEL + WRITE] < CLIENT_QUEUE and not is_busy(state) else 0


@njit(cache=True)
def data_ready(state):
    """``read_data.ready``."""
    return 1 if state.scalars[LEVEL + FILL] < CLIENT_QUEUE else 0


@njit(cache=True)
def response(state):
    """``response``: valid, and the address and the token of the line."""
    r = state.scalars
    return r[RESPONSE], r[RESPONSE_ADDRESS], r[RESPONSE_TOKEN]


@njit(cache=True)
def read_request(state):
    """``read_request``: valid, address, lines."""
    r = state.scalars
    return r[REQUEST], r[REQUEST_ADDRESS], r[REQUEST_LINES]


@njit(cache=True)
def write_request(state):
    """``write_request``: valid, address, token of the line."""
    r = state.scalars
    if r[STORED] == 0:
        return 0, 0, 0
    return 1, state.buffer[r[GET], 0], state.buffer[r[GET], 1]


@njit(cache=True)
def pulses(state):
    """``hit``, ``miss``, ``eviction``, ``error``."""
    r = state.scalars
    return r[HIT], r[MISS], r[EVICTION], r[ERROR]


@njit(cache=True)
def _is_quiet(r):
    return (r[LEVEL + FILL] + r[LEVEL + READ] + r[LEVEL + WRITE] + r[LEVEL + FETCH] + r[MISSING] + r[ABSENT] + r[ENTERING]
            + r[STAGED] + r[REQUEST] + r[RESERVED]) == 0


@njit(cache=True)
def is_idle(state):
    """``idle``."""
    r = state.scalars
    return 1 if _is_quiet(r) and r[BUFFERED] + r[COMING] + r[RESPONSE] + r[DRAINING] + r[CLEARING] == 0 else 0


# --- the lines --------------------------------------------------------------------------------------------
@njit(cache=True)
def _place(state, address):
    """Bank, set and tag of an address, and the way that holds it (-1: none)."""
    r = state.scalars
    bank = address % r[BANKS]
    index = address // r[BANKS] % r[SETS]
    tag = address // r[BANKS] // r[SETS]
    for way in range(r[WAYS]):
        if state.tags[bank, index, way] == tag:
            return bank, index, tag, way
    return bank, index, tag, -1


@njit(cache=True)
def _victim(state, bank, index):
    """An invalid way; else the lowest priority, then the oldest, then the lowest way."""
    best = 0
    for way in range(state.scalars[WAYS]):
        if state.tags[bank, index, way] < 0:
            return way
        lower = state.priority[bank, index, way] - state.priority[bank, index, best]
        if lower < 0 or lower == 0 and state.age[bank, index, way] > state.age[bank, index, best]:
            best = way
    return best


@njit(cache=True)
def _finds_dirty_victim(state, address):
    bank, index, _, _ = _place(state, address)
    return state.dirty[bank, index, _victim(state, bank, index)] == 1


@njit(cache=True)
def _drop(state, bank, index, way):
    state.tags[bank, index, way] = -1
    state.dirty[bank, index, way] = 0


@njit(cache=True)
def _allocate(state, bank, index, way, tag, dirty, priority, token):
    for other in range(state.scalars[WAYS]):
        state.age[bank, index, other] = min(state.age[bank, index, other] + 1, state.scalars[OLDEST])
    state.tags[bank, index, way] = tag
    state.dirty[bank, index, way] = dirty
    state.priority[bank, index, way] = priority
    state.age[bank, index, way] = 0
    state.token[bank, index, way] = token


@njit(cache=True)
def _evict(state, bank, index, way):
    """Dirty line to the write buffer: it gets there in the next cycle."""
    r = state.scalars
    _buffer(r, (state.tags[bank, index, way] * r[SETS] + index) * r[BANKS] + bank, state.token[bank, index, way])
    r[EVICTION] = 1
    _drop(state, bank, index, way)


@njit(cache=True)
def _buffer(r, address, token):
    r[PUTTING], r[PUTTING_ADDRESS], r[PUTTING_TOKEN] = 1, address, token
    r[BUFFERED] += 1


@njit(cache=True)
def _coming(state, address):
    """A line is on its way from memory and not outdated."""
    for slot in range(len(state.pending)):
        if state.pending[slot, 0] == address and state.pending[slot, 1] == 1 and state.pending[slot, 2] == 0:
            return 1
    return 0


# --- one cycle --------------------------------------------------------------------------------------------
@njit(cache=True)
def _grants(state):
    """The clients (a bit each) whose next operation starts in this cycle: one per bank, in order of priority."""
    r, queues = state.scalars, state.queues
    granted = 0
    claimed = 0
    for client in range(4):
        issued = r[EARLY + client] + r[LATE + client]
        if (r[LEVEL + client] == issued or client == READ and r[MISSING] or client == WRITE and r[STAGED]
                or client == FETCH and r[ABSENT]):
            continue
        address = queues[client, (r[HEAD + client] + issued) % CLIENT_QUEUE, 0]
        if client == READ:      # a read waits for all writes to its line that were accepted before it
            behind = False
            for i in range(r[LEVEL + WRITE]):
                behind |= queues[WRITE, (r[HEAD + WRITE] + i) % CLIENT_QUEUE, 0] == address
            if behind:
                continue
        bank, index = address % r[BANKS], address // r[BANKS] % r[SETS]
        if claimed >> bank & 1:
            continue
        claimed |= 1 << bank
        distance = _ALLOCATION_DISTANCE if client == FILL or client == WRITE else _DISTANCE
        if r[NOW] - state.last_grant[bank, index] >= distance:
            state.last_grant[bank, index] = r[NOW]
            granted |= 1 << client
    return granted


@njit(cache=True)
def _fill(state, address, slot, token, room):
    """Effect of a fill: 1 done, 0 again. The read that waits for it goes on in the next cycle."""
    r = state.scalars
    killed = state.pending[slot, 2]
    wanted = r[MISSING] == 1 and r[MISS_ADDRESS] == address
    demand = wanted and not killed
    bank, index, tag, way = _place(state, address)
    if way < 0 and not killed and not (demand and r[MISS_CONSUME]):
        victim = _victim(state, bank, index)
        if state.dirty[bank, index, victim] == 0:
            _allocate(state, bank, index, victim, tag, 0, 0 if demand else 1, token)
        elif room:
            _evict(state, bank, index, victim)
            return 0
    r[FILLED], r[FILLED_SLOT] = 1, slot
    r[ANSWERED], r[OUTDATED] = demand, wanted and killed
    if demand:
        r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN] = 1, address, token
    return 1


@njit(cache=True)
def _write(state, address, through, token, room):
    """Effect of a write: 1 done, 0 again."""
    bank, index, tag, way = _place(state, address)
    if through:
        if not room:
            return 0
        _buffer(state.scalars, address, token)
        if way >= 0:
            _drop(state, bank, index, way)
    elif way >= 0:
        state.dirty[bank, index, way] = 1
        state.age[bank, index, way] = 0
        state.token[bank, index, way] = token
    else:
        victim = _victim(state, bank, index)
        if state.dirty[bank, index, victim]:
            if room:
                _evict(state, bank, index, victim)
            return 0
        _allocate(state, bank, index, victim, tag, 1, 0, token)
    return 1


@njit(cache=True)
def _read(state, address, consume):
    """Effect of a read: 1 hit, 0 miss."""
    r = state.scalars
    bank, index, tag, way = _place(state, address)
    if way < 0:
        r[MISS], r[MISSING], r[MISS_ADDRESS], r[MISS_CONSUME] = 1, 1, address, consume
        return 0
    r[HIT], r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN] = 1, 1, address, state.token[bank, index, way]
    state.age[bank, index, way] = 0
    state.priority[bank, index, way] = max(state.priority[bank, index, way] - 1, 0)
    if consume:
        _drop(state, bank, index, way)
    return 1


@njit(cache=True)
def _fetch(state, address, lines, absent):
    """Effect of a fetch: 1 done, 0 again. ``absent``: the one before is still being requested."""
    r = state.scalars
    bank, index, tag, way = _place(state, address)
    if way >= 0:
        state.age[bank, index, way] = 0
        state.priority[bank, index, way] = min(state.priority[bank, index, way] + 1, PRIORITY_MAX)
        return 1
    if absent:
        return 0
    r[ABSENT], r[ABSENT_ADDRESS], r[ABSENT_LINES] = 1, address, lines
    return 1


@njit(cache=True)
def cache_step(state, fetch_valid, fetch_address, fetch_lines, read_valid, read_address, read_consume,
               write_valid, write_address, write_through, write_token, data_valid, data_error, data_token,
               request_ready, write_request_ready, invalidate):
    """Advance by one cycle with these inputs; all integers.

    Parameters
    ----------
    state : CacheState
        Changed in place. Read the outputs of a cycle before the step that ends it.
    write_token, data_token : int
        Stand for the contents of the line written, and of the line from memory.
    """
    r, queues, pending = state.scalars, state.queues, state.pending
    accept_data = data_valid and data_ready(state)
    accept_read = read_valid and read_ready(state)
    accept_write = write_valid and write_ready(state)
    accept_fetch = fetch_valid and fetch_ready(state)
    r[HIT], r[MISS], r[EVICTION], r[ERROR] = 0, 0, 0, 1 if accept_data and data_error else 0
    if (not (accept_data or accept_read or accept_write or accept_fetch or invalidate)) and is_idle(state):
        r[NOW] += 1
        return

    quiet = _is_quiet(r)
    busy = is_busy(state)
    buffered = r[BUFFERED]
    missing, searched, known, waiting = r[MISSING], r[SEARCHED], r[KNOWN], r[WAITING]
    absent, absent_searched, absent_known = r[ABSENT], r[ABSENT_SEARCHED], r[ABSENT_KNOWN]
    reserved, entering, staged = r[RESERVED], r[ENTERING], r[STAGED]
    putting, putting_address, putting_token = r[PUTTING], r[PUTTING_ADDRESS], r[PUTTING_TOKEN]
    filled, filled_slot, answered, outdated = r[FILLED], r[FILLED_SLOT], r[ANSWERED], r[OUTDATED]
    miss_address, absent_address, absent_lines = r[MISS_ADDRESS], r[ABSENT_ADDRESS], r[ABSENT_LINES]

    # Searches of the pending lines take a cycle: their results are registers.
    r[SEARCHED], r[ABSENT_SEARCHED] = missing, absent
    if missing and not waiting:
        r[KNOWN] = _coming(state, miss_address)
    if absent:
        r[ABSENT_KNOWN] = _coming(state, absent_address)

    granted = _grants(state)

    # Responses and lines for the write buffer move on.
    r[RESPONSE], r[RESPONSE_ADDRESS], r[RESPONSE_TOKEN] = r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN]
    r[COMING] = 0
    r[PUTTING] = 0
    r[FILLED], r[ANSWERED], r[OUTDATED] = 0, 0, 0
    if r[STORED] and write_request_ready:
        r[GET] = (r[GET] + 1) % len(state.buffer)
        r[STORED] -= 1
        r[BUFFERED] -= 1

    # Effects of the operations granted two cycles ago.
    room = buffered < len(state.buffer)
    pressed = r[LATE + FILL] == 1 and _finds_dirty_victim(state, queues[FILL, r[HEAD + FILL], 0])
    for client in range(4):
        head = r[HEAD + client]
        outcome = 1
        if r[LATE + client]:
            address, extra, token = queues[client, head, 0], queues[client, head, 1], queues[client, head, 2]
            if client == FILL:
                outcome = _fill(state, address, extra, token, room)
            elif client == READ:
                outcome = _read(state, address, extra)
            elif client == WRITE:
                outcome = _write(state, address, extra, token, room and not pressed)
            else:
                outcome = _fetch(state, address, extra, absent)
            if outcome:
                r[HEAD + client] = (head + 1) % CLIENT_QUEUE
                r[LEVEL + client] -= 1
        r[LATE + client] = r[EARLY + client] if outcome else 0
        r[EARLY + client] = granted >> client & 1 if outcome else 0

    # The demand miss.
    wants = missing and searched and not known and not waiting
    free = not entering and not staged
    grant_miss = wants and free and reserved < len(pending)
    if missing and (grant_miss or searched and known and not waiting):
        r[WAITING] = 1
    if waiting and outdated:    # the pending line was not to be used: search again
        r[WAITING], r[SEARCHED] = 0, 0
    if filled:
        pending[filled_slot, 1] = 0
        r[RESERVED] -= 1
    if answered:
        r[MISSING], r[SEARCHED], r[WAITING] = 0, 0, 0
        r[HEAD + READ] = (r[HEAD + READ] + 1) % CLIENT_QUEUE
        r[LEVEL + READ] -= 1

    # The absent fetch.
    grant_fetch = absent and absent_searched and not absent_known and free and not wants and reserved + absent_lines <= len(pending)
    if grant_fetch or absent and absent_searched and absent_known:
        r[ABSENT], r[ABSENT_SEARCHED] = 0, 0

    # Lines written to memory outdate the same lines on their way from memory.
    if putting:
        put = r[PUT]
        state.buffer[put, 0], state.buffer[put, 1] = putting_address, putting_token
        r[PUT] = (put + 1) % len(state.buffer)
        r[STORED] += 1
        for slot in range(len(pending)):
            if pending[slot, 0] == putting_address:
                pending[slot, 2] = 1

    # Bursts: reserve, enter line by line, request when all writes are out.
    if r[REQUEST] and request_ready:
        r[REQUEST] = 0
    if staged and buffered == 0 and not r[REQUEST]:
        r[STAGED] = 0
        r[REQUEST], r[REQUEST_ADDRESS], r[REQUEST_LINES] = 1, r[STAGED_ADDRESS], r[STAGED_LINES]
    if entering:
        tail = r[TAIL]
        pending[tail, 0], pending[tail, 1], pending[tail, 2] = r[BURST_ADDRESS] + r[ENTERED], 1, 0
        r[TAIL] = (tail + 1) % len(pending)
        r[ENTERED] += 1
        if r[ENTERED] == r[BURST_LINES]:
            r[ENTERING] = 0
            r[STAGED], r[STAGED_ADDRESS], r[STAGED_LINES] = 1, r[BURST_ADDRESS], r[BURST_LINES]
    if grant_miss:
        r[ENTERING], r[BURST_ADDRESS], r[BURST_LINES], r[ENTERED] = 1, miss_address, 1, 0
        r[RESERVED] += 1
    elif grant_fetch:
        r[ENTERING], r[BURST_ADDRESS], r[BURST_LINES], r[ENTERED] = 1, absent_address, absent_lines, 0
        r[RESERVED] += absent_lines

    # New operations.
    if accept_data:
        arrive = r[ARRIVE]
        _enqueue(state, FILL, pending[arrive, 0], arrive, data_token)
        r[ARRIVE] = (arrive + 1) % len(pending)
    if accept_read:
        _enqueue(state, READ, read_address, read_consume, 0)
    if accept_write:
        _enqueue(state, WRITE, write_address, write_through, write_token)
    if accept_fetch:
        _enqueue(state, FETCH, fetch_address, fetch_lines, 0)

    # Invalidation: first serve all, then one set of all banks per cycle.
    if r[CLEARING]:
        for bank in range(r[BANKS]):
            state.tags[bank, r[CLEAR_SET]] = -1
            state.dirty[bank, r[CLEAR_SET]] = 0
            state.priority[bank, r[CLEAR_SET]] = 0
            state.age[bank, r[CLEAR_SET]] = 0
        r[CLEAR_SET] += 1
        if r[CLEAR_SET] == r[SETS]:
            r[CLEAR_SET] = 0
            r[CLEARING] = 0
    if r[DRAINING] and quiet:
        r[DRAINING], r[CLEARING] = 0, 1
    if invalidate and not busy:
        r[DRAINING] = 1
    r[NOW] += 1


@njit(cache=True)
def _enqueue(state, client, address, extra, token):
    r = state.scalars
    place = (r[HEAD + client] + r[LEVEL + client]) % CLIENT_QUEUE
    state.queues[client, place, 0] = address
    state.queues[client, place, 1] = extra
    state.queues[client, place, 2] = token
    r[LEVEL + client] += 1
