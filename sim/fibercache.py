"""FiberCache: clocked model of hits, misses, replacement and timing, without the lines' contents.

A line's content is stood for by a **token**, any integer that the caller gives to a write or to a line from memory; it
comes back with responses and write requests. Callers that only want the timing pass 0.

The model states the rules of ``docs/fibercache.md`` directly: an operation is looked up in the cycle of its effect, a
victim is searched when it is needed, and operations of one set keep a distance in time that a table of the last
grants enforces.
"""
import numpy as np

from neuroflex.cache_policy import CLIENT_QUEUE, PRIORITY_MAX, age_bits
from neuroflex.sim.loops import njit

__all__ = ["cache_init", "cache_step", "data_ready", "fetch_ready", "is_busy", "is_idle", "pulses",
           "read_ready", "read_request", "response", "write_ready", "write_request"]

FILL, READ, WRITE, FETCH = range(4)

# Places in the state. Four in a row: one per client.
(NOW, HEAD, _, _, _, LEVEL, _, _, _, EARLY, _, _, _, LATE, _, _, _,
 MISSING, MISS_ADDRESS, MISS_CONSUME, SEARCHED, KNOWN, WAITING,
 ABSENT, ABSENT_ADDRESS, ABSENT_LINES, ABSENT_SEARCHED, ABSENT_KNOWN,
 RESERVED, ENTERING, BURST_ADDRESS, BURST_LINES, ENTERED, TAIL, ARRIVE,
 STAGED, STAGED_ADDRESS, STAGED_LINES, REQUEST, REQUEST_ADDRESS, REQUEST_LINES,
 BUFFERED, STORED, PUT, GET, PUTTING, PUTTING_ADDRESS, PUTTING_TOKEN,
 COMING, COMING_ADDRESS, COMING_TOKEN, RESPONSE, RESPONSE_ADDRESS, RESPONSE_TOKEN,
 FILLED, FILLED_SLOT, ANSWERED, OUTDATED, DRAINING, CLEARING, CLEAR_SET, HIT, MISS, EVICTION, ERROR,
 BANKS, SETS, WAYS, PENDING_LINES, BUFFER_LINES, LAST_GRANT, BUFFER, LINES, OLDEST, _QUEUES) = range(75)
_PENDING = _QUEUES + 4 * CLIENT_QUEUE * 3
# Fields of an operation in a queue (a fill's second field is its pending slot), of a pending line, of a line; a tag of -1 marks
# an invalid way.
ADDRESS, EXTRA, TOKEN = range(3)
COMES, KILLED = 1, 2
TAG, DIRTY, PRIORITY, AGE, LINE_TOKEN = range(5)

_ALLOCATION_DISTANCE = 4   # cycles between the grants of two operations of a set, if the second may allocate
_DISTANCE = 3              # ... if it may not


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
    sizes = (_PENDING, 3 * config.pending_lines, config.cache_banks * config.cache_sets, 2 * config.write_buffer, 5 * lines)
    start = np.cumsum(sizes)
    state = np.zeros(start[-1], np.int64)
    state[[BANKS, SETS, WAYS, PENDING_LINES, BUFFER_LINES]] = (config.cache_banks, config.cache_sets, config.cache_ways,
                                                              config.pending_lines, config.write_buffer)
    state[[LAST_GRANT, BUFFER, LINES]] = start[1:4]
    state[OLDEST] = (1 << age_bits(config)) - 1
    state[CLEARING] = 1
    state[start[1]:start[2]] = -_ALLOCATION_DISTANCE
    state[start[3]:].reshape(-1, 5)[:, TAG] = -1
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
    return r[HIT], r[MISS], r[EVICTION], r[ERROR]


@njit(cache=True)
def _is_quiet(r):
    return (r[LEVEL + FILL] + r[LEVEL + READ] + r[LEVEL + WRITE] + r[LEVEL + FETCH] + r[MISSING] + r[ABSENT] + r[ENTERING]
            + r[STAGED] + r[REQUEST] + r[RESERVED]) == 0


@njit(cache=True)
def is_idle(state):
    """``idle``."""
    r = state
    return 1 if _is_quiet(r) and r[BUFFERED] + r[COMING] + r[RESPONSE] + r[DRAINING] + r[CLEARING] == 0 else 0


# --- the lines --------------------------------------------------------------------------------------------
@njit(cache=True)
def _operation(client, place):
    """Where the operation in a place of a client's queue is."""
    return _QUEUES + (client * CLIENT_QUEUE + place % CLIENT_QUEUE) * 3


@njit(cache=True)
def _row(r, address):
    """Where the ways of an address' set are."""
    bank, index = address % r[BANKS], address // r[BANKS] % r[SETS]
    return r[LINES] + (bank * r[SETS] + index) * r[WAYS] * 5


@njit(cache=True)
def _tag(r, address):
    return address // (r[BANKS] * r[SETS])


@njit(cache=True)
def _find(r, address):
    """Where the line at an address is; -1: not in the cache."""
    row, tag = _row(r, address), _tag(r, address)
    for line in range(row, row + 5 * r[WAYS], 5):
        if r[line + TAG] == tag:
            return line
    return -1


@njit(cache=True)
def _victim(r, address):
    """An invalid way; else the lowest priority, then the oldest, then the lowest way."""
    best = _row(r, address)
    for line in range(best, best + 5 * r[WAYS], 5):
        if r[line + TAG] < 0:
            return line
        lower = r[line + PRIORITY] - r[best + PRIORITY]
        if lower < 0 or lower == 0 and r[line + AGE] > r[best + AGE]:
            best = line
    return best


@njit(cache=True)
def _drop(r, line):
    r[line + TAG] = -1
    r[line + DIRTY] = 0


@njit(cache=True)
def _allocate(r, line, address, dirty, priority, token):
    row = _row(r, address)
    for other in range(row, row + 5 * r[WAYS], 5):
        r[other + AGE] = min(r[other + AGE] + 1, r[OLDEST])
    r[line + TAG], r[line + DIRTY], r[line + PRIORITY], r[line + AGE] = _tag(r, address), dirty, priority, 0
    r[line + LINE_TOKEN] = token


@njit(cache=True)
def _evict(r, line, address):
    """Dirty line of the set of ``address`` to the write buffer: it gets there in the next cycle."""
    places = r[BANKS] * r[SETS]
    _buffer(r, r[line + TAG] * places + address % places, r[line + LINE_TOKEN])
    r[EVICTION] = 1
    _drop(r, line)


@njit(cache=True)
def _buffer(r, address, token):
    r[PUTTING], r[PUTTING_ADDRESS], r[PUTTING_TOKEN] = 1, address, token
    r[BUFFERED] += 1


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
    """The clients (a bit each) whose next operation starts in this cycle: one per bank, in order of priority."""
    granted = 0
    claimed = 0
    for client in range(4):
        issued = r[EARLY + client] + r[LATE + client]
        if (r[LEVEL + client] == issued or client == READ and r[MISSING] or client == WRITE and r[STAGED]
                or client == FETCH and r[ABSENT]):
            continue
        address = r[_operation(client, r[HEAD + client] + issued)]
        if client == READ:      # a read waits for all writes to its line that were accepted before it
            behind = False
            for i in range(r[LEVEL + WRITE]):
                behind |= r[_operation(WRITE, r[HEAD + WRITE] + i)] == address
            if behind:
                continue
        bank, index = address % r[BANKS], address // r[BANKS] % r[SETS]
        if claimed >> bank & 1:
            continue
        claimed |= 1 << bank
        last = r[LAST_GRANT] + bank * r[SETS] + index
        distance = _ALLOCATION_DISTANCE if client == FILL or client == WRITE else _DISTANCE
        if r[NOW] - r[last] >= distance:
            r[last] = r[NOW]
            granted |= 1 << client
    return granted


@njit(cache=True)
def _fill(r, address, slot, token, room):
    """Effect of a fill: 1 done, 0 again. The read that waits for it goes on in the next cycle."""
    killed = r[_PENDING + 3 * slot + KILLED]
    wanted = r[MISSING] == 1 and r[MISS_ADDRESS] == address
    demand = wanted and not killed
    if not killed and not (demand and r[MISS_CONSUME]) and _find(r, address) < 0:
        victim = _victim(r, address)
        if r[victim + DIRTY] == 0:
            _allocate(r, victim, address, 0, 0 if demand else 1, token)
        elif room:
            _evict(r, victim, address)
            return 0
    r[FILLED], r[FILLED_SLOT] = 1, slot
    r[ANSWERED], r[OUTDATED] = demand, wanted and killed
    if demand:
        r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN] = 1, address, token
    return 1


@njit(cache=True)
def _write(r, address, through, token, room):
    """Effect of a write: 1 done, 0 again."""
    line = _find(r, address)
    if through:
        if not room:
            return 0
        _buffer(r, address, token)
        if line >= 0:
            _drop(r, line)
    elif line >= 0:
        r[line + DIRTY], r[line + AGE], r[line + LINE_TOKEN] = 1, 0, token
    else:
        victim = _victim(r, address)
        if r[victim + DIRTY]:
            if room:
                _evict(r, victim, address)
            return 0
        _allocate(r, victim, address, 1, 0, token)
    return 1


@njit(cache=True)
def _read(r, address, consume):
    """Effect of a read: 1 hit, 0 miss."""
    line = _find(r, address)
    if line < 0:
        r[MISS], r[MISSING], r[MISS_ADDRESS], r[MISS_CONSUME] = 1, 1, address, consume
        return 0
    r[HIT], r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN] = 1, 1, address, r[line + LINE_TOKEN]
    r[line + AGE] = 0
    r[line + PRIORITY] = max(r[line + PRIORITY] - 1, 0)
    if consume:
        _drop(r, line)
    return 1


@njit(cache=True)
def _fetch(r, address, lines, absent):
    """Effect of a fetch: 1 done, 0 again. ``absent``: the one before is still being requested."""
    line = _find(r, address)
    if line >= 0:
        r[line + AGE] = 0
        r[line + PRIORITY] = min(r[line + PRIORITY] + 1, PRIORITY_MAX)
        return 1
    if absent:
        return 0
    r[ABSENT], r[ABSENT_ADDRESS], r[ABSENT_LINES] = 1, address, lines
    return 1


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
        r[KNOWN] = _coming(r, miss_address)
    if absent:
        r[ABSENT_KNOWN] = _coming(r, absent_address)

    granted = _grants(r)

    # Responses and lines for the write buffer move on.
    r[RESPONSE], r[RESPONSE_ADDRESS], r[RESPONSE_TOKEN] = r[COMING], r[COMING_ADDRESS], r[COMING_TOKEN]
    r[COMING] = 0
    r[PUTTING] = 0
    r[FILLED], r[ANSWERED], r[OUTDATED] = 0, 0, 0
    if r[STORED] and write_request_ready:
        r[GET] = (r[GET] + 1) % r[BUFFER_LINES]
        r[STORED] -= 1
        r[BUFFERED] -= 1

    # Effects of the operations granted two cycles ago.
    room = buffered < r[BUFFER_LINES]
    pressed = r[LATE + FILL] == 1 and r[_victim(r, r[_operation(FILL, r[HEAD + FILL])]) + DIRTY] == 1
    for client in range(4):
        head = r[HEAD + client]
        outcome = 1
        if r[LATE + client]:
            operation = _operation(client, head)
            address, extra, token = r[operation + ADDRESS], r[operation + EXTRA], r[operation + TOKEN]
            if client == FILL:
                outcome = _fill(r, address, extra, token, room)
            elif client == READ:
                outcome = _read(r, address, extra)
            elif client == WRITE:
                outcome = _write(r, address, extra, token, room and not pressed)
            else:
                outcome = _fetch(r, address, extra, absent)
            if outcome:
                r[HEAD + client] = (head + 1) % CLIENT_QUEUE
                r[LEVEL + client] -= 1
        r[LATE + client] = r[EARLY + client] if outcome else 0
        r[EARLY + client] = granted >> client & 1 if outcome else 0

    # The demand miss.
    wants = missing and searched and not known and not waiting
    free = not entering and not staged
    grant_miss = wants and free and reserved < r[PENDING_LINES]
    if missing and (grant_miss or searched and known and not waiting):
        r[WAITING] = 1
    if waiting and outdated:    # the pending line was not to be used: search again
        r[WAITING], r[SEARCHED] = 0, 0
    if filled:
        r[_PENDING + 3 * filled_slot + COMES] = 0
        r[RESERVED] -= 1
    if answered:
        r[MISSING], r[SEARCHED], r[WAITING] = 0, 0, 0
        r[HEAD + READ] = (r[HEAD + READ] + 1) % CLIENT_QUEUE
        r[LEVEL + READ] -= 1

    # The absent fetch.
    grant_fetch = absent and absent_searched and not absent_known and free and not wants and reserved + absent_lines <= r[PENDING_LINES]
    if grant_fetch or absent and absent_searched and absent_known:
        r[ABSENT], r[ABSENT_SEARCHED] = 0, 0

    # Lines written to memory outdate the same lines on their way from memory.
    if putting:
        entry = r[BUFFER] + 2 * r[PUT]
        r[entry], r[entry + 1] = putting_address, putting_token
        r[PUT] = (r[PUT] + 1) % r[BUFFER_LINES]
        r[STORED] += 1
        for slot in range(_PENDING, _PENDING + 3 * r[PENDING_LINES], 3):
            if r[slot] == putting_address:
                r[slot + KILLED] = 1

    # Bursts: reserve, enter line by line, request when all writes are out.
    if r[REQUEST] and request_ready:
        r[REQUEST] = 0
    if staged and buffered == 0 and not r[REQUEST]:
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
            for line in range(row, row + 5 * r[WAYS], 5):
                r[line + TAG], r[line + DIRTY], r[line + PRIORITY], r[line + AGE] = -1, 0, 0, 0
        r[CLEAR_SET] += 1
        if r[CLEAR_SET] == r[SETS]:
            r[CLEAR_SET] = 0
            r[CLEARING] = 0
    if r[DRAINING] and quiet:
        r[DRAINING], r[CLEARING] = 0, 1
    if invalidate and not busy:
        r[DRAINING] = 1
    r[NOW] += 1
