"""CacheBank against its model, by itself.

Test plan
---------
* random operations of all clients on few sets and tags, at the smallest distances allowed and at random ones, requests that are
  not granted, failures (``replay``) that strike each stage, write buffer with and without room, fills to be skipped and awaited,
  consuming reads, writes passed through, sets cleared in mid-life; every output compared in every cycle, `line` and the victim's address
  in the cycles in which they count;
* phases: balanced; one set; only writes (dirty victims); fetches and reads (priorities at both ends); no room;
* 2 ways x 4 sets and 16 ways x 4 sets (all rounds of the victim search);
* coverage: ``COVERAGE``, each point at least 20 times;
* faults: the victim's dirty bit, the order of victims, consumption, the age of a line, a killed operation: each is seen.
"""
import re

import numpy as np
import pytest
from numba import njit

from neuroflex.cache_policy import PRIORITY_MAX, set_bits, tag_bits
from neuroflex.config import ArchConfig
from neuroflex.hdl.cache_bank import CacheBank
from neuroflex.sim import cache_bank as model

from .bench import Bench, Mismatch
from .bits import concat
from .coverage import Coverage

SEED = 7719
FEW_WAYS = ArchConfig(name="few_ways", chunk_bits=32, ann_pes=2, snn_pes=2, laggy_adders=8, cache_banks=2, cache_ways=2,
                      cache_sets=4, pending_lines=16, write_buffer=2, address_bits=12)
MANY_WAYS = FEW_WAYS.replace(name="many_ways", cache_ways=16)
COVERAGE = ("fill stored", "fill present", "fill skipped", "fill awaited", "fill evicts", "fill dropped without room",
            "read hit", "read miss", "dirty line consumed", "priority at its least", "write hit", "write allocated", "write evicts",
            "write without room", "passed through present", "passed through absent", "passed through without room",
            "fetch hit", "fetch miss", "priority at its most", "killed when granted", "killed in look-up", "killed in effect",
            "allocation at its distance", "other at its distance", "set cleared", "request not granted", "presses", "invalid way chosen",
            "clean victim", "oldest way at its most")
# Chances in 1/1000: fill read write fetch nothing | replay room skip demand consume through | sets, tags
PHASES = np.array([
    [250, 250, 250, 150, 100, 20, 800, 100, 200, 200, 200, 4, 24],
    [300, 300, 300, 100, 0, 50, 900, 50, 200, 50, 50, 1, 20],
    [200, 50, 700, 0, 50, 20, 700, 0, 0, 0, 50, 2, 40],
    [100, 400, 50, 400, 50, 0, 1000, 0, 100, 0, 0, 3, 6],
    [300, 100, 500, 50, 50, 50, 50, 100, 200, 100, 300, 2, 32],
], np.int64)
REPLAY, ROOM, SKIP, DEMAND, CONSUME, THROUGH, SETS, TAGS = range(5, 13)
INPUTS = ("request", "grant", "replay", "room", "write_room", "fill_skip", "fill_demand", "consume", "through", "clear", "clear_set")
OUTPUTS = ("done", "evicts", "read_hits", "presses", "line", "victim_tag", "victim_set")


@njit
def _chance(per_mille):
    return np.random.randint(1000) < per_mille


@njit
def _cover(state, rows, ways, oldest, client, index, tag, room, write_room, skip, demand, consume, through, cover):
    """Count what an operation that is about to take effect will meet."""
    row = rows + index * ways * model.WAY_WORDS
    way, victim = model.find(state, row, ways, tag), model.victim(state, row, ways)
    dirty, empty = state[victim + model.DIRTY] == 1, state[victim + model.TAG] < 0
    allocates = way < 0 and not dirty and (client == model.FILL and not skip or client == model.WRITE and not through)
    cover[28] += allocates and empty
    cover[29] += allocates and not empty
    cover[30] += allocates and not empty and state[victim + model.AGE] == oldest
    if client == model.FILL:
        cover[3] += demand and allocates
        if skip:
            cover[2] += 1
        elif way >= 0:
            cover[1] += 1
        elif not dirty:
            cover[0] += 1
        else:
            cover[4 if room else 5] += 1
    elif client == model.READ:
        cover[6 if way >= 0 else 7] += 1
        if way >= 0:
            cover[8] += consume and state[way + model.DIRTY] == 1
            cover[9] += state[way + model.PRIORITY] == 0
    elif client == model.WRITE:
        if through:
            cover[16 if not write_room else 14 if way >= 0 else 15] += 1
        elif way >= 0:
            cover[10] += 1
        elif not dirty:
            cover[11] += 1
        else:
            cover[12 if write_room else 13] += 1
    else:
        cover[17 if way >= 0 else 18] += 1
        cover[19] += way >= 0 and state[way + model.PRIORITY] == PRIORITY_MAX


@njit       # not cached: Numba's cache does not notice changes of the model
def traffic(state, rows, ways, sets, oldest, cycles, phases, seed):
    """Inputs, sets and tags of all clients, and what the model shows; ``rows``: where its sets begin in its state."""
    np.random.seed(seed)
    ins, places = np.zeros((cycles, 11), np.int64), np.zeros((cycles, 8), np.int64)
    outs, cover = np.zeros((cycles, 7), np.int64), np.zeros(31, np.int64)
    shown = np.zeros(8, np.int64)
    last = np.full(sets, -100)
    last_grant = -100
    stages = np.full((3, 3), -1)        # client, set, tag of the operations granted now, in look-up and in effect
    clearing = 0
    for now in range(cycles):
        k = phases[now // 500 % len(phases)]
        if not clearing and np.random.randint(700) == 0:
            clearing = 1 + np.random.randint(2 * sets)
        kind, client = np.random.randint(1000), -1
        for c in range(4):
            if kind >= 0 and kind < k[c]:
                client = c
            kind -= k[c]
        # Lower clients ask as well; clients before the one that is granted do not.
        request = 0
        for c in range(4):
            places[now, c], places[now, 4 + c] = np.random.randint(min(k[SETS], sets)), np.random.randint(k[TAGS])
            if c >= client >= 0 and (c == client or _chance(300)):
                request |= 1 << c
        index, tag = (places[now, client], places[now, 4 + client]) if client >= 0 else (0, 0)
        distance = model.ALLOCATION_DISTANCE if client == model.FILL or client == model.WRITE else model.DISTANCE
        if client >= 0 and (clearing or now - last[index] < distance or _chance(30)):
            client = -1
            cover[26] += 1
        if client >= 0:
            cover[23 if distance == model.ALLOCATION_DISTANCE else 24] += now - last[index] == distance
            last[index] = last_grant = now
        replay = 0
        for c in range(4):
            replay |= (1 if _chance(k[REPLAY]) else 0) << c
        room = 1 if _chance(k[ROOM]) else 0
        write_room = 1 if room and _chance(900) else 0
        skip, demand = 1 if _chance(k[SKIP]) else 0, 1 if _chance(k[DEMAND]) else 0
        consume, through = 1 if _chance(k[CONSUME]) else 0, 1 if _chance(k[THROUGH]) else 0
        clear = -1
        if clearing and now - last_grant >= 5:
            clear = np.random.randint(sets)
            clearing -= 1
            cover[25] += 1

        stages[0, 0], stages[0, 1], stages[0, 2] = client, index, tag
        for stage in range(3):
            acting = stages[stage, 0]
            if acting >= 0 and replay >> acting & 1:
                cover[20 + stage] += 1
                stages[stage, 0] = -1
        if stages[2, 0] >= 0:
            _cover(state, rows, ways, oldest, stages[2, 0], stages[2, 1], stages[2, 2], room, write_room, skip, demand, consume,
                   through, cover)
        stages[2], stages[1] = stages[1].copy(), stages[0].copy()

        grant = 1 << client if client >= 0 else 0
        values = (request, grant, replay, room, write_room, skip, demand, consume, through, 1 if clear >= 0 else 0, max(clear, 0))
        for i in range(11):
            ins[now, i] = values[i]
        model.bank_step(state, client, index, tag, replay, room, write_room, skip, demand, consume, through, 2 * now, 2 * now + 1,
                        clear, shown)
        outs[now] = shown[:7]
        cover[27] += shown[3]
    return ins, places, outs, cover


def compare(bench, config, cycles, seed, engine="library"):
    """Run and return the coverage."""
    print(f"seed {seed}")
    state = model.bank_init(config)
    rows = len(state) - model.WAY_WORDS * config.cache_ways * config.cache_sets
    oldest = max(config.cache_ways, 4) - 1
    ins, places, outs, cover = traffic(state, rows, config.cache_ways, config.cache_sets, oldest, cycles, PHASES, seed)
    lines = np.random.default_rng(seed).integers(0, 1 << config.chunk_bits, 2 * cycles)
    sets, tags = set_bits(config), tag_bits(config)
    stimulus = dict(zip(INPUTS, ins.T, strict=True)) | {
        "set": concat(*((places[:, c], sets) for c in range(4))), "tag": concat(*((places[:, 4 + c], tags) for c in range(4))),
        "fill_line": lines[0::2], "write_line": lines[1::2]}
    expected = dict(zip(OUTPUTS, outs.T, strict=True))
    where = {name: expected[name] >= 0 for name in ("line", "victim_tag", "victim_set")}
    expected |= {name: np.where(seen, expected[name], 0) for name, seen in where.items()}
    expected["line"] = np.where(where["line"], lines[expected["line"]], 0)
    bench.run(stimulus, expected, where, engine=engine, seed=seed)
    return cover


def require(cover, least):
    coverage = Coverage("cache_bank", COVERAGE)
    for point, count in zip(COVERAGE, cover, strict=True):
        coverage.hit(point, count)
    coverage.require(least)


@pytest.fixture(scope="module", params=[FEW_WAYS, MANY_WAYS], ids=lambda config: config.name)
def sized(request):
    return Bench(CacheBank(request.param), "cache_bank"), request.param


def test_random_operations(sized):
    bench, config = sized
    require(compare(bench, config, 200_000, SEED), 20)


def test_under_cocotb(sized):
    compare(*sized, 2_000, SEED + 1, engine="cocotb")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_long(sized, seed):
    compare(*sized, 1_000_000, 100 + seed)


FAULTS = {
    "a victim's dirty bit is lost": (r"victim_dirty <= \w+;", "victim_dirty <= 1'h0;"),
    "the wrong way goes": (r"\? candidate_1 : candidate_0;", "? candidate_0 : candidate_1;"),
    "lines are not consumed": (r"assign drop = [^;]+;", "assign drop = write_drops;"),
    "only the first way is looked at": (r"assign hit = \| (\w+);", r"assign hit = \1[0];"),
    "a killed operation takes effect": (r"assign effective = [^;]+;", "assign effective = act;"),
}


@pytest.mark.parametrize("fault", [fault if i < 2 else pytest.param(fault, marks=pytest.mark.long) for i, fault in enumerate(FAULTS)])
def test_faults_are_seen(fault):
    pattern, text = FAULTS[fault]
    bench = Bench(CacheBank(FEW_WAYS), "cache_bank", verilog_edit=lambda verilog: re.sub(pattern, text, verilog))
    with pytest.raises(Mismatch):
        compare(bench, FEW_WAYS, 20_000, SEED)
