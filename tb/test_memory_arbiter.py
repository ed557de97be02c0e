"""MemoryArbiter against its model, and the model against the contract of its ports.

Test plan
---------
* random requests of all three clients, bursts of 1 to 9 lines and of 255, back-pressure and gaps on every stream, phases
  from idle to saturated; memories that answer at once or late; every output compared in every cycle;
* contract, checked by a reference that only sees the ports: no answer lost, doubled, reordered or sent to the wrong
  client; writes and their lines in order; a write accepted before a read of the same client goes out before it;
* requests and answers at one per cycle;
* limits: unanswered bursts full, unconfirmed writes full;
* coverage: see ``COVERAGE``, each point at least 20 times;
* faults: see ``FAULTS``, each is seen.
"""
import re

import numpy as np
import pytest
from numba import njit

from neuroflex.config import ArchConfig
from neuroflex.hdl.memory_arbiter import MemoryArbiter
from neuroflex.sim import memory_arbiter as model

from .bench import Bench, Mismatch
from .bits import concat

SEED = 20254
SMALL = ArchConfig(name="arbiter_small", chunk_bits=32, ann_pes=2, snn_pes=2, laggy_adders=8, pending_lines=16, address_bits=12)
WIDE = ArchConfig(name="arbiter_wide", chunk_bits=128, pending_lines=32)
INPUTS = ("write_valid", "write_address", "write_token", "cache_valid", "cache_address", "cache_lines", "sequencer_valid",
          "sequencer_address", "sequencer_lines", "cache_data_ready", "sequencer_data_ready", "request_ready",
          "write_data_ready", "data_valid", "data_token", "data_error", "done_valid", "done_error")
OUTPUTS = ("write_ready", "cache_ready", "sequencer_ready", "request", "request_address", "request_lines", "request_write",
           "write_data", "write_data_token", "cache_data", "cache_data_token", "cache_data_error", "sequencer_data",
           "sequencer_data_token", "sequencer_data_error", "data_ready", "idle", "read_error", "write_error")
COVERAGE = ("all three wait", "write before read", "cache before sequencer", "bursts full", "writes unconfirmed full",
            "write lines full", "client holds up the other", "answers back to back", "requests back to back", "read errors",
            "write errors", "idle", "bursts of 255")
# chances in 1/1000: write, cache, sequencer, cache data, sequencer data, request, write data, data, done; then latency
KNOBS = np.array([
    [300, 200, 200, 700, 700, 700, 700, 900, 500, 20],
    [1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1],
    [100, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 500, 4],
    [500, 500, 500, 100, 900, 900, 100, 900, 900, 4],
    [900, 300, 300, 900, 100, 900, 900, 900, 5, 4],
    [100, 1000, 300, 900, 900, 1000, 900, 30, 500, 60],
    [20, 20, 20, 500, 500, 500, 500, 500, 500, 10],
], np.int64)


@njit
def _chance(per_mille):
    return 1 if np.random.randint(1000) < per_mille else 0


@njit     # not cached: Numba's cache does not notice changes of the model
def traffic(state, cycles, knobs, seed):
    """Random clients and a random memory around the model.

    Returns ``inputs``, ``outputs`` (per cycle), ``cover``, and the cycle of the first breach of the contract (-1: none).
    """
    np.random.seed(seed)
    ins, outs = np.zeros((cycles, 18), np.int64), np.zeros((cycles, 19), np.int64)
    cover = np.zeros(13, np.int64)
    breach = -1
    # Lines owed, as the ports show it: (client, number) of every line of every read request that went out.
    owed = np.zeros((8192, 3), np.int64)      # client, token, cycle from which it may come
    owed_head = owed_count = 0
    promised = np.zeros((2, 8192, 2), np.int64)    # per client: address and lines of requests not out yet
    promised_head, promised_count = np.zeros(2, np.int64), np.zeros(2, np.int64)
    answers = np.zeros((2, 8192, 2), np.int64)     # per client: token and error of lines on the way to it
    answers_head, answers_count = np.zeros(2, np.int64), np.zeros(2, np.int64)
    writes = np.zeros((8192, 2), np.int64)         # address and token
    writes_head = writes_count = lines_head = lines_count = 0
    unconfirmed = 0
    accepted_writes = sent_writes = 0
    need = np.zeros((2, 8192), np.int64)           # writes that must be out before the read

    on = np.zeros(4, np.int64)                     # write, cache, sequencer, data
    address, lines = np.zeros(3, np.int64), np.zeros(3, np.int64)
    data_error = 0
    phase = 0
    last_answer = last_request = 0
    for now in range(cycles):
        if now % 300 == 0:
            phase = np.random.randint(len(knobs))
        k = knobs[phase]
        for client in range(3):
            if not on[client] and _chance(k[client]):
                on[client] = 1
                address[client] = 2 * np.random.randint(2048) + (client == 2)      # even and odd: a read that goes out says whose it is
                lines[client] = 1 + np.random.randint(9)
                if client == 2 and np.random.randint(25) == 0:
                    lines[client] = 255
        if not on[3] and owed_count and owed[owed_head, 2] <= now and _chance(k[7]):
            on[3] = 1
            data_error = _chance(50)
        done = 1 if unconfirmed and _chance(k[8]) else 0
        row = (on[0], address[0], now, on[1], address[1], lines[1], on[2], address[2], lines[2],
               _chance(k[3]), _chance(k[4]), _chance(k[5]), _chance(k[6]), on[3], owed[owed_head, 1], data_error, done,
               done * _chance(50))
        for i in range(18):
            ins[now, i] = row[i]
        x = ins[now]

        o = outs[now]
        o[0], o[1], o[2] = model.cache_write_ready(state), model.cache_request_ready(state), model.sequencer_request_ready(state)
        o[3], o[4], o[5], o[6] = model.request(state)
        o[7], o[8] = model.write_data(state)
        o[9], o[10], o[11] = model.cache_data(state)
        o[12], o[13], o[14] = model.sequencer_data(state)
        o[15], o[16] = model.read_data_ready(state), model.is_idle(state)
        o[17], o[18] = model.errors(state)
        level = state.level
        cover[0] += level[0] > 0 and level[1] > 0 and level[2] > 0
        cover[1] += level[0] > 0 and level[1] > 0 and level[3] < 2
        cover[2] += level[0] == 0 and level[1] > 0 and level[2] > 0 and level[3] < 2
        cover[3] += level[7] == state.queues.shape[1]
        cover[4] += level[0] > 0 and state.scalars[0] == model.MAX_WRITES
        cover[5] += level[4] == 2
        cover[6] += x[13] == 1 and o[15] == 0 and owed_count > 0 and (level[5] == 0 or level[6] == 0)
        cover[9] += o[17]
        cover[10] += o[18]
        cover[11] += o[16]

        # --- the contract, from the ports alone
        good = not o[16] or owed_count + writes_count + lines_count + unconfirmed + answers_count.sum() + promised_count.sum() == 0
        if o[3] and x[11]:
            cover[8] += last_request
            if o[6]:
                good &= writes_count > 0 and o[4] == writes[writes_head, 0] and o[5] == 1
                writes_head = (writes_head + 1) % 8192
                writes_count -= 1
                sent_writes += 1
                unconfirmed += 1
            else:
                client = o[4] % 2
                place = promised_head[client]
                known = promised_count[client] > 0 and promised[client, place, 0] == o[4] and promised[client, place, 1] == o[5]
                good &= known
                if known:
                    if client == 0:
                        good &= sent_writes >= need[client, promised_head[client]]
                    promised_head[client] = (promised_head[client] + 1) % 8192
                    promised_count[client] -= 1
                    cover[12] += o[5] == 255
                    for i in range(o[5]):
                        place = (owed_head + owed_count) % 8192
                        owed[place, 0], owed[place, 1], owed[place, 2] = client, now * 256 + i, now + 1 + np.random.randint(k[9])
                        owed_count += 1
        last_request = o[3] and x[11]
        if o[7] and x[12]:
            good &= lines_count > 0 and o[8] == writes[lines_head, 1]
            lines_head = (lines_head + 1) % 8192
            lines_count -= 1
        if done:
            unconfirmed -= 1
        for c in range(2):
            if o[9 + 3 * c] and x[9 + c]:
                cover[7] += last_answer
                place = answers_head[c]
                good &= answers_count[c] > 0 and o[10 + 3 * c] == answers[c, place, 0] and o[11 + 3 * c] == answers[c, place, 1]
                answers_head[c] = (place + 1) % 8192
                answers_count[c] -= 1
        last_answer = (o[9] and x[9]) or (o[12] and x[10])
        if x[13] and o[15]:
            on[3] = 0
            c = owed[owed_head, 0]
            place = (answers_head[c] + answers_count[c]) % 8192
            answers[c, place, 0], answers[c, place, 1] = x[14], x[15]
            answers_count[c] += 1
            owed_head = (owed_head + 1) % 8192
            owed_count -= 1
        if x[0] and o[0]:
            on[0] = 0
            place = (writes_head + writes_count) % 8192
            writes[place, 0], writes[place, 1] = x[1], x[2]
            writes_count += 1
            lines_count += 1
            accepted_writes += 1
        for c in range(2):
            if on[1 + c] and o[1 + c]:
                on[1 + c] = 0
                place = (promised_head[c] + promised_count[c]) % 8192
                promised[c, place, 0], promised[c, place, 1] = address[1 + c], lines[1 + c]
                need[c, place] = accepted_writes - (1 if x[0] and o[0] else 0)
                promised_count[c] += 1
        if not good and breach < 0:
            breach = now
        model.arbiter_step(state, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], x[8], x[9], x[10], x[11], x[12], x[13],
                           x[14], x[15], x[16], x[17])
    return ins, outs, cover, breach


def compare(bench, config, cycles, seed, engine="library"):
    ins, outs, cover, breach = traffic(model.arbiter_init(config), cycles, KNOBS, seed)
    assert breach < 0, f"cycle {breach}: the model breaks the contract (seed {seed})"
    print(f"seed {seed}")
    i, o = dict(zip(INPUTS, ins.T, strict=True)), dict(zip(OUTPUTS, outs.T, strict=True))
    a, c = config.address_bits, config.chunk_bits

    def line(token):        # a token becomes a line by multiplication with odd constants
        words = [(token.astype(np.uint64) + np.uint64(1)) * np.uint64(odd) for odd in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)]
        return words[0] >> np.uint64(64 - c) if c <= 64 else np.stack(words, axis=1)

    stimulus = {
        "cache_write__valid": i["write_valid"],
        "cache_write__payload": concat((i["write_address"], a), (line(i["write_token"]), c)),
        "cache_request__valid": i["cache_valid"],
        "cache_request__payload": concat((i["cache_address"], a), (i["cache_lines"], 8)),
        "sequencer_request__valid": i["sequencer_valid"],
        "sequencer_request__payload": concat((i["sequencer_address"], a), (i["sequencer_lines"], 8)),
        "cache_data__ready": i["cache_data_ready"], "sequencer_data__ready": i["sequencer_data_ready"],
        "request__ready": i["request_ready"], "write_data__ready": i["write_data_ready"],
        "read_data__valid": i["data_valid"], "read_data__payload": concat((line(i["data_token"]), c), (i["data_error"], 1)),
        "write_done__valid": i["done_valid"], "write_done__payload": i["done_error"],
    }
    expected = {
        "cache_write__ready": o["write_ready"], "cache_request__ready": o["cache_ready"],
        "sequencer_request__ready": o["sequencer_ready"],
        "request__valid": o["request"],
        "request__payload": concat((o["request_address"], a), (o["request_lines"], 8), (o["request_write"], 1)),
        "write_data__valid": o["write_data"], "write_data__payload": line(o["write_data_token"]),
        "cache_data__valid": o["cache_data"],
        "cache_data__payload": concat((line(o["cache_data_token"]), c), (o["cache_data_error"], 1)),
        "sequencer_data__valid": o["sequencer_data"],
        "sequencer_data__payload": concat((line(o["sequencer_data_token"]), c), (o["sequencer_data_error"], 1)),
        "read_data__ready": o["data_ready"], "write_done__ready": np.ones(cycles, np.int64), "idle": o["idle"],
        "read_error": o["read_error"], "write_error": o["write_error"],
    }
    where = {f"{port}__payload": o[port] == 1 for port in ("request", "write_data", "cache_data", "sequencer_data")}
    bench.run(stimulus, expected, where, engine=engine, seed=seed)
    return cover


@pytest.fixture(scope="module")
def small():
    return Bench(MemoryArbiter(SMALL), "memory_arbiter")


def test_random_traffic(small):
    cover = sum(compare(small, SMALL, 100_000, SEED + i) for i in range(2))
    low = [f"{name}: {count}" for name, count in zip(COVERAGE, cover, strict=True) if count < 20]
    assert not low, f"coverage below 20: {', '.join(low)}"


def test_wide():
    compare(Bench(MemoryArbiter(WIDE), "memory_arbiter"), WIDE, 50_000, SEED)


def test_under_cocotb(small):
    compare(small, SMALL, 3_000, SEED, engine="cocotb")


FAULTS = {
    "requests are lost when there is no room": (r"assign read_room = [^;]+;", "assign read_room = 1'h1;"),
    "all lines go to the cache": (r"(w_data\$\d+ \[0\]) = 1'h1;", r"\1 = 1'h0;"),
    "bursts are not counted": (r"count <= \w+;", "count <= 8'h00;"),
    "write errors are lost": (r"write_error <= \w+;", "write_error <= 1'h0;"),
    "too many writes unconfirmed": (r"unconfirmed != 6'h3f", "1'h1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault):
    pattern, text = FAULTS[fault]
    bench = Bench(MemoryArbiter(SMALL), "memory_arbiter", verilog_edit=lambda verilog: re.sub(pattern, text, verilog))
    with pytest.raises(Mismatch):
        compare(bench, SMALL, 50_000, SEED)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_long(small, seed):
    compare(small, SMALL, 2_000_000, 1000 + seed)
