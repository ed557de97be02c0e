"""FiberCache: clocked model of hits, misses, replacement and timing, without the lines' contents.

A line's content is stood for by a **token**, any integer that the caller gives to a write or to a line from memory; it
comes back with responses and write requests. Callers that only want the timing pass 0.

The model states the rules of ``docs/fibercache.md`` directly: what an operation does to its set is in
:mod:`~neuroflex.sim.cache_bank`, and operations of one set keep a distance in time that a table of the last grants enforces.
"""
import numpy as np

from neuroflex.cache_policy import CLIENT_QUEUE, WRITE_SLACK, age_bits
from neuroflex.sim.cache_bank import (
    ALLOCATION_DISTANCE,
    DIRTY,
    DISTANCE,
    FETCH,
    FILL,
    READ,
    TAG,
    WAY_WORDS,
    WRITE,
    clear,
    fetch,
    fill,
    read,
    victim,
    write,
)
from neuroflex.sim.loops import njit

__all__ = ["cache_init", "cache_step", "data_ready", "fetch_ready", "is_busy", "is_idle", "pulses",
           "read_ready", "read_request", "response", "write_ready", "write_request"]

# Places in the state. Four in a row: one per client. FRONT, EARLY, LATE: its operation that waits for the grant, is looked up, takes effect.
(NOW, HEAD, _, _, _, LEVEL, _, _, _, FRONT, _, _, _, EARLY, _, _, _, LATE, _, _, _, OUTCOME, _, _, _, WRITTEN, BEHIND, RETRIED, ROOM, PRESSED,
 MISSING, MISS_ADDRESS, MISS_CONSUME, SEARCHED, KNOWN, WAITING,
 ABSENT, ABSENT_ADDRESS, ABSENT_LINES, ABSENT_SEARCHED, ABSENT_KNOWN, FITS,
 RESERVED, ENTERING, BURST_ADDRESS, BURST_LINES, ENTERED, TAIL, ARRIVE,
 STAGED, STAGED_ADDRESS, STAGED_LINES, REQUEST, REQUEST_ADDRESS, REQUEST_LINES,
 STORED, PUT, GET, LEAVING, LEAVING_ADDRESS, LEAVING_TOKEN, PUTTING, PUTTING_ADDRESS, PUTTING_TOKEN,
 HITTING, HIT_ADDRESS, HIT_TOKEN, COMING, COMING_ADDRESS, COMING_TOKEN, RESPONSE, RESPONSE_ADDRESS, RESPONSE_TOKEN,
 ANSWERED, OUTDATED, DRAINING, CLEARING, CLEAR_SET, EVICTION, ERROR,
 BANKS, SETS, WAYS, PENDING_LINES, BUFFER_LINES, LAST_GRANT, BUFFER, LINES, OLDEST, _QUEUES) = range(90)
_PENDING = _QUEUES + 4 * CLIENT_QUEUE * 3
# Fields of an operation in a queue (a fill's second field is its pending slot), of a pending line.
ADDRESS, EXTRA, TOKEN = range(3)
COMES, KILLED = 1, 2
# Outcomes of the operation at the head of a queue, known one cycle after its effect.
NONE, DONE, AGAIN = range(3)
EVICTED, PASSED = 1, 2      # LEAVING: why a line is on its way to the write buffer


def cache_init(config):
    """State after reset: the cache is invalidating itself.

    Parameters
    ----------
    config : ArchConfig

    Returns
    -------
    int64 array
        All registers and memories in one array, changed in place by :func:`cache_step` (one array, because passing many
        to a compiled function costs more than most cycles do). In this order: single registers; the clients' queues;
        pending lines; last grant of every set; write buffer; the lines.
    """
    lines = config.cache_banks * config.cache_sets * config.cache_ways
    sizes = (_PENDING, 3 * config.pending_lines, config.cache_banks * config.cache_sets, 2 * (config.write_buffer + WRITE_SLACK),
             WAY_WORDS * lines)
    start = np.cumsum(sizes)
    state = np.zeros(start[-1], np.int64)
    state[[BANKS, SETS, WAYS, PENDING_LINES, BUFFER_LINES]] = (config.cache_banks, config.cache_sets, config.cache_ways,
                                                              config.pending_lines, config.write_buffer)
    state[[LAST_GRANT, BUFFER, LINES]] = start[1:4]
    state[OLDEST] = (1 << age_bits(config)) - 1
    state[CLEARING] = state[ROOM] = 1
    state[start[1]:start[2]] = -ALLOCATION_DISTANCE
    state[start[3]:].reshape(-1, WAY_WORDS)[:, TAG] = -1
    return state


# --- outputs: functions of the state ---------------------------------------------------------------------
@njit(cache=True)
def is_busy(state):
    """An invalidation is under way (``busy``)."""
    r = state
    return r[DRAINING] + r[CLEARING]


@njit(cache=True)
def fetch_ready(state):
    """``fetch.ready``."""
    return 1 if state[LEVEL + FETCH] < CLIENT_QUEUE and not is_busy(state) else 0


@njit(cache=True)
def read_ready(state):
    """``read.ready``."""
    return 1 if state[LEVEL + READ] < CLIENT_QUEUE and not is_busy(state) else 0


@njit(cache=True)
def write_ready(state):
    """``write.ready``."""
    return 1 if state[LEVEL + WRITE] < CLIENT_QUEUE and not is_busy(state) else 0


@njit(cache=True)
def data_ready(state):
    """``read_data.ready``."""
    return 1 if state[LEVEL + FILL] < CLIENT_QUEUE else 0


@njit(cache=True)
def response(state):
    """``response``: valid, and the address and the token of the line."""
    r = state
    return r[RESPONSE], r[RESPONSE_ADDRESS], r[RESPONSE_TOKEN]


@njit(cache=True)
def read_request(state):
    """``read_request``: valid, address, lines."""
    r = state
    return r[REQUEST], r[REQUEST_ADDRESS], r[REQUEST_LINES]


@njit(cache=True)
def write_request(state):
    """``write_request``: valid, address, token of the line."""
    if state[STORED] == 0:
        return 0, 0, 0
    entry = state[BUFFER] + 2 * state[GET]
    return 1, state[entry], state[entry + 1]


@njit(cache=True)
def pulses(state):
    """``hit``, ``miss``, ``eviction``, ``error``."""
    r = state
    return 1 if r[OUTCOME + READ] == DONE else 0, 1 if r[OUTCOME + READ] == AGAIN else 0, r[EVICTION], r[ERROR]


@njit(cache=True)
def _is_quiet(r):
    return (r[LEVEL + FILL] + r[LEVEL + READ] + r[LEVEL + WRITE] + r[LEVEL + FETCH] + r[MISSING] + r[ABSENT] + r[ENTERING]
            + r[STAGED] + r[REQUEST] + r[RESERVED]) == 0


@njit(cache=True)
def is_idle(state):
    """``idle``."""
    r = state
    return 1 if _is_quiet(r) and r[STORED] + r[PUTTING] + r[COMING] + r[RESPONSE] + r[DRAINING] + r[CLEARING] == 0 else 0


# --- the lines --------------------------------------------------------------------------------------------
@njit(cache=True)
def _operation(client, place):
    """Where the operation in a place of a client's queue is."""
    return _QUEUES + (client * CLIENT_QUEUE + place % CLIENT_QUEUE) * 3


@njit(cache=True)
def _row(r, address):
    """Where the ways of an address' set are."""
    bank, index = address % r[BANKS], address // r[BANKS] % r[SETS]
    return r[LINES] + (bank * r[SETS] + index) * r[WAYS] * WAY_WORDS


@njit(cache=True)
def _tag(r, address):
    return address // (r[BANKS] * r[SETS])


@njit(cache=True)
def _leave(r, why, address, token):
    """A line to the write buffer: it is stored there two cycles later."""
    r[LEAVING], r[LEAVING_ADDRESS], r[LEAVING_TOKEN] = why, address, token


@njit(cache=True)
def _evict(r, address, gone, token):
    """The line with the tag ``gone`` of the set of ``address`` leaves; -1: none."""
    if gone >= 0:
        places = r[BANKS] * r[SETS]
        _leave(r, EVICTED, gone * places + address % places, token)


@njit(cache=True)
def _coming(r, address):
    """A line is on its way from memory and not outdated."""
    for slot in range(_PENDING, _PENDING + 3 * r[PENDING_LINES], 3):
        if r[slot] == address and r[slot + COMES] == 1 and r[slot + KILLED] == 0:
            return 1
    return 0


# --- one cycle --------------------------------------------------------------------------------------------
@njit(cache=True)
def _grants(r):
    """The clients (a bit each) whose front starts in this cycle: one per bank, in order of priority."""
    granted = 0
    claimed = 0
    for client in range(4):
        if (not r[FRONT + client] or r[OUTCOME + client] == AGAIN or client == READ and (r[MISSING] or r[WRITTEN] < r[BEHIND])
                or client == WRITE and (r[STAGED] or r[RETRIED]) or client == FETCH and r[ABSENT]):
            continue
        before = (r[OUTCOME + client] == DONE) + r[LATE + client] + r[EARLY + client]
        address = r[_operation(client, r[HEAD + client] + before)]
        bank, index = address % r[BANKS], address // r[BANKS] % r[SETS]
        if claimed >> bank & 1:
            continue
        claimed |= 1 << bank
        last = r[LAST_GRANT] + bank * r[SETS] + index
        distance = ALLOCATION_DISTANCE if client == FILL or client == WRITE else DISTANCE
        if r[NOW] - r[last] >= distance:
            r[last] = r[NOW]
            granted |= 1 << client
    return granted


@njit(cache=True)
def _fill(r, address, slot, token):
    """Effect of a fill: its outcome. The read that waits for it goes on in the next cycle."""
    killed = r[_PENDING + 3 * slot + KILLED]
    wanted = r[MISSING] == 1 and r[MISS_ADDRESS] == address
    demand = wanted and not killed
    skip = killed or demand and r[MISS_CONSUME]
    done, gone, gone_token = fill(r, _row(r, address), r[WAYS], r[OLDEST], _tag(r, address), token, skip, demand, r[ROOM])
    _evict(r, address, gone, gone_token)
    if not done:
        return AGAIN
    r[ANSWERED], r[OUTDATED] = demand, wanted and killed
    if demand:
        r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN] = 1, address, token
    return DONE


@njit(cache=True)
def _write(r, address, through, token):
    room = 1 if r[ROOM] and not r[PRESSED] else 0
    done, gone, gone_token = write(r, _row(r, address), r[WAYS], r[OLDEST], _tag(r, address), token, through, room)
    _evict(r, address, gone, gone_token)
    if done and through:
        _leave(r, PASSED, address, token)
    return DONE if done else AGAIN


@njit(cache=True)
def _read(r, address, consume):
    hit, token = read(r, _row(r, address), r[WAYS], _tag(r, address), consume)
    if hit:
        r[HITTING], r[HIT_ADDRESS], r[HIT_TOKEN] = 1, address, token
    return DONE if hit else AGAIN


@njit(cache=True)
def _effect(r, client):
    """Outcome of the client's operation that takes effect in this cycle."""
    operation = _operation(client, r[HEAD + client] + (r[OUTCOME + client] == DONE))
    address, extra, token = r[operation + ADDRESS], r[operation + EXTRA], r[operation + TOKEN]
    if client == FILL:
        return _fill(r, address, extra, token)
    if client == READ:
        return _read(r, address, extra)
    if client == WRITE:
        return _write(r, address, extra, token)
    return DONE if fetch(r, _row(r, address), r[WAYS], _tag(r, address)) else AGAIN


@njit(cache=True)
def _leave_queue(r, client):
    r[HEAD + client] = (r[HEAD + client] + 1) % CLIENT_QUEUE
    r[LEVEL + client] -= 1


@njit(cache=True)
def _advance(r, client, granted):
    """Move the client's operations on by one stage. After a failure all of them start again from the queue."""
    outcome, front, early, late = r[OUTCOME + client], r[FRONT + client], r[EARLY + client], r[LATE + client]
    failed = outcome == AGAIN
    unread = r[LEVEL + client] - (outcome == DONE) - late - early - front
    load = unread > 0 and (granted or not front)
    if load and client == READ:     # it will wait for the writes to its line that are here now
        address = r[_operation(READ, r[HEAD + READ] + r[LEVEL + READ] - unread)]
        r[BEHIND] = 0
        for i in range(r[LEVEL + WRITE]):
            if r[_operation(WRITE, r[HEAD + WRITE] + i)] == address:
                r[BEHIND] = r[WRITTEN] + i + 1
    r[OUTCOME + client] = _effect(r, client) if late and not failed else NONE
    r[LATE + client] = early and not failed
    r[EARLY + client] = granted
    r[FRONT + client] = (load or front and not granted) and not failed


@njit(cache=True)
def _enqueue(r, client, address, extra, token):
    place = _operation(client, r[HEAD + client] + r[LEVEL + client])
    r[place + ADDRESS], r[place + EXTRA], r[place + TOKEN] = address, extra, token
    r[LEVEL + client] += 1


@njit(cache=True)
def cache_step(state, fetch_valid, fetch_address, fetch_lines, read_valid, read_address, read_consume,
               write_valid, write_address, write_through, write_token, data_valid, data_error, data_token,
               request_ready, write_request_ready, invalidate):
    """Advance by one cycle with these inputs; all integers.

    Parameters
    ----------
    state : int64 array, from :func:`cache_init`
        Changed in place. Read the outputs of a cycle before the step that ends it.
    write_token, data_token : int
        Stand for the contents of the line written, and of the line from memory.
    """
    r = state
    accept_data = data_valid and data_ready(state)
    accept_read = read_valid and read_ready(state)
    accept_write = write_valid and write_ready(state)
    accept_fetch = fetch_valid and fetch_ready(state)
    r[EVICTION], r[ERROR] = 0, 1 if accept_data and data_error else 0
    if (not (accept_data or accept_read or accept_write or accept_fetch or invalidate)) and is_idle(state):
        r[NOW] += 1
        return

    quiet = _is_quiet(r)
    busy = is_busy(state)
    drained = r[STORED] + r[PUTTING] == 0
    missing, searched, known, waiting = r[MISSING], r[SEARCHED], r[KNOWN], r[WAITING]
    absent, absent_searched, absent_known, fits = r[ABSENT], r[ABSENT_SEARCHED], r[ABSENT_KNOWN], r[FITS]
    reserved, entering, staged = r[RESERVED], r[ENTERING], r[STAGED]
    putting, putting_address, putting_token = r[PUTTING], r[PUTTING_ADDRESS], r[PUTTING_TOKEN]
    answered, outdated = r[ANSWERED], r[OUTDATED]
    miss_address, absent_address, absent_lines = r[MISS_ADDRESS], r[ABSENT_ADDRESS], r[ABSENT_LINES]
    outcomes = (r[OUTCOME + FILL], r[OUTCOME + READ], r[OUTCOME + WRITE], r[OUTCOME + FETCH])

    # Searches and sums take a cycle: their results are registers.
    r[SEARCHED], r[ABSENT_SEARCHED] = missing, absent
    if missing and not waiting:
        r[KNOWN] = _coming(r, miss_address)
    if absent:
        r[ABSENT_KNOWN] = _coming(r, absent_address)
    r[FITS] = reserved + absent_lines <= r[PENDING_LINES]
    room = r[STORED] + putting < r[BUFFER_LINES]
    pressed = 0
    if r[EARLY + FILL] and outcomes[FILL] != AGAIN:
        address = r[_operation(FILL, r[HEAD + FILL] + (outcomes[FILL] == DONE) + r[LATE + FILL])]
        pressed = r[victim(r, _row(r, address), r[WAYS]) + DIRTY]

    granted = _grants(r)

    # Responses and lines for the write buffer move on.
    r[RESPONSE], r[RESPONSE_ADDRESS], r[RESPONSE_TOKEN] = r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN]
    r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN] = r[HITTING], r[HIT_ADDRESS], r[HIT_TOKEN]
    r[PUTTING], r[PUTTING_ADDRESS], r[PUTTING_TOKEN] = r[LEAVING] != 0, r[LEAVING_ADDRESS], r[LEAVING_TOKEN]
    r[EVICTION] = r[LEAVING] == EVICTED
    r[HITTING], r[LEAVING] = 0, 0
    r[ANSWERED], r[OUTDATED] = 0, 0
    if r[STORED] and write_request_ready:
        r[GET] = (r[GET] + 1) % (r[BUFFER_LINES] + WRITE_SLACK)
        r[STORED] -= 1

    # Effects of the operations granted two cycles ago; outcomes of those before them.
    filled_slot = r[_operation(FILL, r[HEAD + FILL]) + EXTRA]
    missed, lost = _operation(READ, r[HEAD + READ]), _operation(FETCH, r[HEAD + FETCH])
    for client in range(4):
        _advance(r, client, granted >> client & 1)
    r[ROOM], r[PRESSED] = room, pressed
    if outcomes[FILL] == AGAIN:
        r[RETRIED] = 1
    elif granted >> FILL & 1:
        r[RETRIED] = 0
    for client in range(4):
        if outcomes[client] == DONE or client == FETCH and outcomes[client] == AGAIN:
            _leave_queue(r, client)
    r[WRITTEN] += outcomes[WRITE] == DONE

    # The demand miss.
    wants = missing and searched and not known and not waiting
    free = not entering and not staged
    grant_miss = wants and free and reserved < r[PENDING_LINES]
    if missing and (grant_miss or searched and known and not waiting):
        r[WAITING] = 1
    if waiting and outdated:    # the pending line was not to be used: search again
        r[WAITING], r[SEARCHED] = 0, 0
    if outcomes[FILL] == DONE:
        r[_PENDING + 3 * filled_slot + COMES] = 0
        r[RESERVED] -= 1
    if answered:
        r[MISSING], r[SEARCHED], r[WAITING] = 0, 0, 0
        r[FRONT + READ] = 0
        _leave_queue(r, READ)
    if outcomes[READ] == AGAIN:
        r[MISSING], r[MISS_ADDRESS], r[MISS_CONSUME] = 1, r[missed + ADDRESS], r[missed + EXTRA]

    # The absent fetch.
    grant_fetch = absent and absent_searched and not absent_known and free and not wants and fits
    if grant_fetch or absent and absent_searched and absent_known:
        r[ABSENT], r[ABSENT_SEARCHED] = 0, 0
    if outcomes[FETCH] == AGAIN:
        r[ABSENT], r[ABSENT_ADDRESS], r[ABSENT_LINES] = 1, r[lost + ADDRESS], r[lost + EXTRA]

    # Lines written to memory outdate the same lines on their way from memory.
    if putting:
        entry = r[BUFFER] + 2 * r[PUT]
        r[entry], r[entry + 1] = putting_address, putting_token
        r[PUT] = (r[PUT] + 1) % (r[BUFFER_LINES] + WRITE_SLACK)
        r[STORED] += 1
        for slot in range(_PENDING, _PENDING + 3 * r[PENDING_LINES], 3):
            if r[slot] == putting_address:
                r[slot + KILLED] = 1

    # Bursts: reserve, enter line by line, request when all writes are out.
    if r[REQUEST] and request_ready:
        r[REQUEST] = 0
    if staged and drained and not r[REQUEST]:
        r[STAGED] = 0
        r[REQUEST], r[REQUEST_ADDRESS], r[REQUEST_LINES] = 1, r[STAGED_ADDRESS], r[STAGED_LINES]
    if entering:
        slot = _PENDING + 3 * r[TAIL]
        r[slot], r[slot + COMES], r[slot + KILLED] = r[BURST_ADDRESS] + r[ENTERED], 1, 0
        r[TAIL] = (r[TAIL] + 1) % r[PENDING_LINES]
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
        _enqueue(r, FILL, r[_PENDING + 3 * arrive], arrive, data_token)
        r[ARRIVE] = (arrive + 1) % r[PENDING_LINES]
    if accept_read:
        _enqueue(r, READ, read_address, read_consume, 0)
    if accept_write:
        _enqueue(r, WRITE, write_address, write_through, write_token)
    if accept_fetch:
        _enqueue(r, FETCH, fetch_address, fetch_lines, 0)

    # Invalidation: first serve all, then one set of all banks per cycle.
    if r[CLEARING]:
        for bank in range(r[BANKS]):
            row = _row(r, r[CLEAR_SET] * r[BANKS] + bank)
            clear(r, row, r[WAYS])
        r[CLEAR_SET] += 1
        if r[CLEAR_SET] == r[SETS]:
            r[CLEAR_SET] = 0
            r[CLEARING] = 0
    if r[DRAINING] and quiet:
        r[DRAINING], r[CLEARING] = 0, 1
    if invalidate and not busy:
        r[DRAINING] = 1
    r[NOW] += 1
