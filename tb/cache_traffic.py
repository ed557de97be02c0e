"""Random traffic around the FiberCache's model: clients, a memory, and an independent check of every line read."""
import numpy as np
from numba import njit

from neuroflex.sim import cache_bank as bank
from neuroflex.sim import fibercache as fc
from neuroflex.tb.bits import concat

__all__ = ["COVERAGE", "INPUTS", "OUTPUTS", "traffic", "vectors"]

INPUTS = ("fetch_valid", "fetch_address", "fetch_lines", "read_valid", "read_address", "read_consume", "write_valid",
          "write_address", "write_through", "write_token", "data_valid", "data_error", "data_token", "request_ready",
          "write_request_ready", "invalidate")
OUTPUTS = ("fetch_ready", "read_ready", "write_ready", "data_ready", "response", "response_address", "response_token",
           "request", "request_address", "request_lines", "write_request", "write_request_address",
           "write_request_token", "busy", "idle", "hit", "miss", "eviction", "error")
COVERAGE = ("hits", "misses", "misses of pending lines", "misses searched again", "misses consumed", "dirty lines consumed",
            "fetches present", "fetches pending", "bursts", "fetches tried again", "evictions by fills",
            "evictions by writes", "fills dropped: present", "fills dropped: outdated", "fills dropped: no room",
            "fills allocated", "write hits", "write allocations", "through hits", "through misses", "writes without room",
            "reads behind writes", "pending lines full", "write buffer full", "invalidations", "errors", "responses back to back")

# Knobs of a phase of traffic: chances in 1/1000, and the window of addresses.
(P_FETCH, P_READ, P_WRITE, P_THROUGH, P_CONSUME, P_DATA, P_REQUEST, P_WRITE_REQUEST, P_STREAM, P_INVALIDATE, LATENCY, SPAN,
 STRIDE, KNOBS) = range(14)


@njit
def _chance(per_mille):
    return np.random.randint(1000) < per_mille


@njit
def _address(base, span, stride, space):
    return (base + np.random.randint(span) * stride) % space


@njit
def _cover(state, cover):
    """Count what the operations about to take effect will meet."""
    r = state
    room = r[fc.ROOM]
    cover[22] += r[fc.RESERVED] == r[fc.PENDING_LINES]
    cover[23] += not room
    pressed = r[fc.PRESSED]
    for client in range(4):
        if not r[fc.LATE + client] or r[fc.OUTCOME + client] == fc.AGAIN:
            continue
        operation = fc._operation(client, r[fc.HEAD + client] + (r[fc.OUTCOME + client] == fc.DONE))
        address, extra = r[operation + fc.ADDRESS], r[operation + fc.EXTRA]
        way = bank.find(r, fc._row(r, address), r[fc.WAYS], fc._tag(r, address))
        dirty = r[bank.victim(r, fc._row(r, address), r[fc.WAYS]) + bank.DIRTY] == 1
        if client == fc.FILL:
            if r[fc._PENDING + 3 * extra + fc.KILLED]:
                cover[13] += 1
                cover[3] += r[fc.MISSING] == 1 and r[fc.WAITING] == 1 and r[fc.MISS_ADDRESS] == address
            elif way >= 0:
                cover[12] += 1
            elif r[fc.MISSING] and r[fc.MISS_ADDRESS] == address and r[fc.MISS_CONSUME]:
                cover[4] += 1
            elif not dirty:
                cover[15] += 1
            elif room:
                cover[10] += 1
            else:
                cover[14] += 1
        elif client == fc.READ:
            cover[0] += way >= 0
            cover[1] += way < 0
            cover[5] += way >= 0 and extra == 1 and r[way + bank.DIRTY] == 1
        elif client == fc.WRITE:
            if extra:
                cover[20] += not room or pressed
                cover[18] += room and not pressed and way >= 0
                cover[19] += room and not pressed and way < 0
            elif way >= 0:
                cover[16] += 1
            elif not dirty:
                cover[17] += 1
            elif room and not pressed:
                cover[11] += 1
            else:
                cover[20] += 1
        else:
            cover[6] += way >= 0
            cover[9] += way < 0 and (r[fc.EARLY + fc.FETCH] or r[fc.FRONT + fc.FETCH])
    cover[2] += r[fc.MISSING] == 1 and r[fc.SEARCHED] == 1 and r[fc.KNOWN] == 1 and r[fc.WAITING] == 0
    cover[7] += r[fc.ABSENT] == 1 and r[fc.ABSENT_SEARCHED] == 1 and r[fc.ABSENT_KNOWN] == 1
    cover[21] += r[fc.FRONT + fc.READ] == 1 and not r[fc.MISSING] and r[fc.WRITTEN] < r[fc.BEHIND]


@njit     # not cached: Numba's cache does not notice changes of the model
def traffic(state, cycles, knobs, space, seed, sabotage):
    """Drive the model for some cycles, changing the kind of traffic every few hundred.

    The clients keep to the cache's contract: no write to a line that is consumed by a read on its way, no read of a
    line after its consumption and before it is written again. The memory lets requests take effect in the cycle
    that accepts them, reads before writes (the order that is worst for the cache).

    Parameters
    ----------
    state : int64 array, from `cache_init`
    cycles : int
    knobs : int64[phases, KNOBS]
    space : int
        Number of line addresses.
    seed : int
    sabotage : int
        If not 0, the model's dirty bits are cleared every so many cycles, to see the check fail.

    Returns
    -------
    inputs : int64[cycles, len(INPUTS)]
    outputs : int64[cycles, len(OUTPUTS)]
        Tokens: ``address`` for what memory holds at first, ``space + n`` for a write first offered in cycle n.
    cover : int64[len(COVERAGE)]
    verdict : int64[4]
        Cycle of the first wrong line (-1: none), responses checked, the longest time from the acceptance of a read to
        its response, reads not answered in the end.
    """
    np.random.seed(seed)
    ins = np.zeros((cycles, 16), np.int64)
    outs = np.zeros((cycles, 19), np.int64)
    cover = np.zeros(27, np.int64)
    verdict = np.array([-1, 0, 0, 0])

    memory = np.arange(space)
    truth = np.arange(space)           # token a read accepted now must return; -1 after a consumption
    written_to = np.full(cycles, -1)   # address of the write first offered in each cycle
    consuming = np.zeros(space, np.int64)
    expected = np.zeros((64, 5), np.int64)     # reads on their way: address, oldest and newest right token, cycle, consume
    expected_head, expected_count = 0, 0
    beats = np.zeros((1024, 2), np.int64)      # lines on their way from memory: token, cycle from which it may come
    beat_head, beat_count = 0, 0

    fetch_on = read_on = write_on = data_on = 0
    fetch_address = fetch_lines = read_address = read_consume = write_address = write_through = write_token = 0
    data_error = 0
    fetch_next = read_next = write_next = 0
    quiet_wish = 0
    repair = -1
    phase = 0
    base = 0
    last_response = 0
    for now in range(cycles):
        if now % 400 == 0:
            phase = np.random.randint(len(knobs))
            base = np.random.randint(space)
        k = knobs[phase]

        # --- outputs of this cycle
        response, response_address, response_token = fc.response(state)
        request, request_address, request_lines = fc.read_request(state)
        write_request, write_request_address, write_request_token = fc.write_request(state)
        hit, miss, eviction, error = fc.pulses(state)
        out = (fc.fetch_ready(state), fc.read_ready(state), fc.write_ready(state), fc.data_ready(state), response,
               response_address, response_token, request, request_address, request_lines, write_request,
               write_request_address, write_request_token, fc.is_busy(state), fc.is_idle(state), hit, miss, eviction, error)
        for i in range(19):
            outs[now, i] = out[i]
        idle = out[14]
        cover[25] += error
        cover[26] += response and last_response
        last_response = response
        if response:
            address, token, other, since, consumed = expected[expected_head]
            right = response_token == token or (token < response_token <= other and written_to[response_token - space] == address)
            if expected_count == 0 or response_address != address or not right:
                if verdict[0] < 0:
                    verdict[0] = now
            else:
                verdict[1] += 1
                verdict[2] = max(verdict[2], now - since)
            consuming[address] -= consumed
            expected_head = (expected_head + 1) % 64
            expected_count -= 1

        # --- invalidation: only while no client offers anything, then wait for idle
        invalidate = 0
        if quiet_wish == 0 and k[P_INVALIDATE] and np.random.randint(10000) < k[P_INVALIDATE]:
            quiet_wish = 1
        if quiet_wish == 1 and not (fetch_on or read_on or write_on):
            invalidate = 1
            quiet_wish = 2
            cover[24] += 1
        elif quiet_wish == 2 and idle and not out[13]:
            quiet_wish = 0
            truth[:] = memory

        # --- clients
        if not quiet_wish:
            if not fetch_on and _chance(k[P_FETCH]):
                fetch_on = 1
                ahead = (read_next + 3 + np.random.randint(6)) % space
                fetch_next = ahead if _chance(k[P_STREAM]) else _address(base, k[SPAN], k[STRIDE], space)
                fetch_address = fetch_next
                fetch_lines = min(1 + np.random.randint(9), space - fetch_address) if _chance(800) else 1
            if not read_on and _chance(k[P_READ]):
                follow = read_next + 1 if (read_next - base) % space + 1 < k[SPAN] else base
                read_next = follow % space if _chance(k[P_STREAM]) else _address(base, k[SPAN], k[STRIDE], space)
                if truth[read_next] < 0:
                    repair = read_next
                elif expected_count < 60:
                    consume = 1 if _chance(k[P_CONSUME]) else 0
                    if not (consume and write_on and write_address == read_next):
                        read_on, read_address, read_consume = 1, read_next, consume
            if not write_on and (_chance(k[P_WRITE]) or repair >= 0):
                write_next = (write_next + 1) % space if _chance(k[P_STREAM]) else _address(base, k[SPAN], k[STRIDE], space)
                if repair >= 0:     # a line that was consumed comes back to life only by a write
                    write_next, repair = repair, -1
                if not consuming[write_next] and not (read_on and read_consume and read_address == write_next):
                    write_on, write_address, write_token = 1, write_next, space + now
                    write_through = 1 if _chance(k[P_THROUGH]) else 0

        # --- memory
        if not data_on and beat_count and beats[beat_head, 1] <= now and _chance(k[P_DATA]):
            data_on = 1
            data_error = 1 if _chance(20) else 0
        data_token = beats[beat_head, 0]
        request_ready = 1 if _chance(k[P_REQUEST]) and beat_count < 900 else 0
        write_request_ready = 1 if _chance(k[P_WRITE_REQUEST]) else 0

        ins[now, 0], ins[now, 1], ins[now, 2] = fetch_on, fetch_address, fetch_lines
        ins[now, 3], ins[now, 4], ins[now, 5] = read_on, read_address, read_consume
        ins[now, 6], ins[now, 7], ins[now, 8], ins[now, 9] = write_on, write_address, write_through, write_token
        ins[now, 10], ins[now, 11], ins[now, 12] = data_on, data_error, data_token
        ins[now, 13], ins[now, 14], ins[now, 15] = request_ready, write_request_ready, invalidate
        _cover(state, cover)
        if sabotage and now % sabotage == 0:
            for line in range(state[fc.LINES], len(state), bank.WAY_WORDS):
                state[line + bank.DIRTY] = 0
        fc.cache_step(state, fetch_on, fetch_address, fetch_lines, read_on, read_address, read_consume, write_on,
                      write_address, write_through, write_token, data_on, data_error, data_token, request_ready,
                      write_request_ready, invalidate)

        # --- what was handed over
        if request and request_ready:
            cover[8] += request_lines > 1
            for i in range(request_lines):
                place = (beat_head + beat_count) % 1024
                beats[place, 0] = memory[(request_address + i) % space]
                beats[place, 1] = now + 1 + np.random.randint(k[LATENCY])
                beat_count += 1
        if write_request and write_request_ready:
            memory[write_request_address] = write_request_token
        if data_on and out[3]:
            data_on = 0
            beat_head = (beat_head + 1) % 1024
            beat_count -= 1
        if fetch_on and out[0]:
            fetch_on = 0
        if write_on and out[2]:
            write_on = 0
            truth[write_address] = write_token
            written_to[write_token - space] = write_address
            for i in range(expected_count):     # a read under way may return the old or the new line
                if expected[(expected_head + i) % 64, 0] == write_address:
                    expected[(expected_head + i) % 64, 2] = write_token
        if read_on and out[1]:
            read_on = 0
            place = (expected_head + expected_count) % 64
            expected[place, 0], expected[place, 1], expected[place, 2] = read_address, truth[read_address], -1
            expected[place, 3], expected[place, 4] = now, read_consume
            expected_count += 1
            if read_consume:
                consuming[read_address] += 1
                truth[read_address] = -1
    verdict[3] = expected_count
    return ins, outs, cover, verdict


def vectors(config, ins, outs, seed, *, lines=None, base=0):
    """Stimulus, expectation and where it holds, for the bench; a token becomes a line of its own: a random one, or that of ``lines``, uint64[tokens, words].

    ``base`` is added to all addresses: a multiple of banks × sets, which changes nothing for the model.
    """
    rng = np.random.default_rng(seed)
    words = -(-config.chunk_bits // 64)
    if lines is None:
        lines = rng.integers(0, 1 << min(config.chunk_bits, 63), ((1 << config.address_bits) + len(ins), words)).astype(np.uint64)

    def line(tokens):
        return lines[tokens] if words > 1 else lines[tokens, 0]

    i = dict(zip(INPUTS, ins.T, strict=True))
    o = dict(zip(OUTPUTS, outs.T, strict=True))
    for ports in (i, o):
        ports |= {name: values + base for name, values in ports.items() if name.endswith("_address")}
    a, c = config.address_bits, config.chunk_bits
    answers = line(o["response_token"] * o["response"])
    answers[o["response"] == 0] = 0
    stimulus = {
        "fetch__valid": i["fetch_valid"], "fetch__payload": concat((i["fetch_address"], a), (i["fetch_lines"], 4)),
        "read__valid": i["read_valid"], "read__payload": concat((i["read_address"], a), (i["read_consume"], 1)),
        "write__valid": i["write_valid"],
        "write__payload": concat((i["write_address"], a), (line(i["write_token"]), c), (i["write_through"], 1)),
        "read_data__valid": i["data_valid"], "read_data__payload": concat((line(i["data_token"]), c), (i["data_error"], 1)),
        "read_request__ready": i["request_ready"], "write_request__ready": i["write_request_ready"],
        "invalidate": i["invalidate"],
    }
    expected = {
        "fetch__ready": o["fetch_ready"], "read__ready": o["read_ready"], "write__ready": o["write_ready"],
        "read_data__ready": o["data_ready"],
        "response": concat((o["response"], 1), (answers, c)),
        "read_request__valid": o["request"],
        "read_request__payload": concat((o["request_address"], a), (o["request_lines"], 8)),
        "write_request__valid": o["write_request"],
        "write_request__payload": concat((o["write_request_address"], a), (line(o["write_request_token"]), c)),
        **{name: o[name] for name in ("busy", "idle", "hit", "miss", "eviction", "error")},
    }
    where = {"read_request__payload": o["request"] == 1,
             "write_request__payload": o["write_request"] == 1}
    return stimulus, expected, where
