"""FiberCache against its model, and the model against a plain memory.

Test plan
---------
* phases of random traffic on every client with back-pressure and gaps on every stream, memories from instant to slow;
  scattered, sequential, single-set (thrashing) and single-line addresses; consume, through, bursts of 1 to 9 lines;
  invalidation in mid-life; every output compared in every cycle;
* coherence: every line read is the one last written or passed on at its address, whatever cache and memory did, by a
  reference that knows nothing of sets, ways or the write buffer;
* progress: every read is answered, and within a bound;
* a stream of hits runs at one line per cycle with READ_LATENCY;
* smallest cache (2 banks x 2 ways x 4 sets), more ways than banks, the tiny preset;
* coverage: see ``COVERAGE`` in `cache_traffic`, each point at least 20 times for each shape, 200 times in each long run;
* faults: lost dirty bit, wrong victim, a stale line kept, a priority that does not fall: each is seen.
"""
import re

import numpy as np
import pytest

from neuroflex.cache_policy import CLIENT_QUEUE, READ_LATENCY
from neuroflex.config import PRESETS, ArchConfig
from neuroflex.hdl.fibercache import FiberCache
from neuroflex.sim import fibercache as model

from .bench import Bench, Mismatch
from .cache_traffic import COVERAGE, INPUTS, OUTPUTS, traffic, vectors

SEED = 20253
SMALLEST = ArchConfig(name="smallest", chunk_bits=32, ann_pes=2, snn_pes=2, laggy_adders=8, cache_banks=2, cache_ways=2,
                      cache_sets=4, pending_lines=16, write_buffer=2, address_bits=12)
WIDE = SMALLEST.replace(name="wide", cache_ways=8, cache_sets=4, pending_lines=32, write_buffer=4)
SMALL = PRESETS["tiny"].replace(name="small_cache", cache_sets=32)     # small enough for its traffic to reach every corner
# fetch read write through consume data request write_request stream invalidate(/10000) latency span stride
KNOBS = np.array([
    [300, 500, 300, 100, 200, 700, 700, 700, 300, 4, 12, 64, 1],
    [100, 900, 100, 50, 100, 950, 900, 900, 900, 0, 8, 64, 1],
    [400, 600, 600, 100, 50, 900, 900, 200, 0, 2, 30, 12, 8],       # one set, slow writes
    [200, 700, 500, 300, 100, 600, 500, 500, 0, 2, 60, 3, 1],       # a few lines
    [900, 300, 300, 0, 50, 300, 900, 500, 700, 0, 40, 200, 1],      # fetches beyond the memory's rate
    [300, 300, 900, 30, 50, 800, 800, 50, 500, 0, 20, 100, 1],      # writes beyond the memory's rate
    [0, 1000, 0, 0, 0, 1000, 1000, 1000, 1000, 0, 1, 10, 1],        # hits at full rate
    [0, 1000, 100, 0, 100, 1000, 1000, 1000, 300, 0, 4, 12, 1],
    [300, 300, 300, 400, 300, 500, 500, 300, 0, 20, 40, 8, 8],
], np.int64)


def generate(config, cycles, seed):
    space = 1 << config.address_bits
    ins, outs, cover, verdict = traffic(model.cache_init(config), cycles, KNOBS, space, seed, 0)
    first_wrong, answered, longest, left = verdict.tolist()
    assert first_wrong < 0, f"cycle {first_wrong}: the model returned a wrong line (seed {seed})"
    print(f"seed {seed}: {answered} reads answered, the longest after {longest} cycles")
    assert left <= CLIENT_QUEUE + 4 and longest < 4000
    return ins, outs, cover


def require(cover, least):
    low = [f"{name}: {count}" for name, count in zip(COVERAGE, cover, strict=True) if count < least]
    assert not low, f"coverage below {least}: {', '.join(low)}"


def compare(bench, config, cycles, seed, engine="library"):
    ins, outs, cover = generate(config, cycles, seed)
    stimulus, expected, where = vectors(config, ins, outs, seed)
    bench.run(stimulus, expected, where, engine=engine, seed=seed)
    return cover


@pytest.fixture(scope="module")
def smallest():
    return Bench(FiberCache(SMALLEST), "fibercache")


def test_random_traffic(smallest):
    cover = sum(compare(smallest, SMALLEST, 150_000, SEED + i) for i in range(2))
    require(cover, 20)


@pytest.mark.parametrize("config", [WIDE, SMALL], ids=lambda config: config.name)
def test_other_shapes(config):
    require(compare(Bench(FiberCache(config), "fibercache"), config, 150_000, SEED), 20)


FAULTS = {
    "a victim's dirty bit is lost": (r"victim_dirty <= \w+;", "victim_dirty <= 1'h0;"),
    "the wrong way goes": (r"\? candidate_1 : candidate_0;", "? candidate_0 : candidate_1;"),
    "an outdated line from memory is kept": (r"assign killed = [^;]+;", "assign killed = 1'h0;"),
    "a read overtakes a write": (r"assign behind_write = [^;]+;", "assign behind_write = 1'h0;"),
    "lines are not consumed": (r"assign drop = [^;]+;", "assign drop = write_drops;"),
    "operations behind one that failed go on": (r"\.replay\(again\)", ".replay(4'h0)"),
    "what was granted a cycle ago in the same set is forgotten": (r"read_beside <= \w+;", "read_beside <= 4'h0;"),
    "what was granted before that in the same set is forgotten": (r"write_before <= \w+;", "write_before <= 1'h0;"),
    "operations are accepted when there is no place": (r"i_stream__ready <= \w+;", "i_stream__ready <= 1'h1;"),
    "only the first way is looked at": (r"assign hit = \| (\w+);", r"assign hit = \1[0];"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault):
    pattern, text = FAULTS[fault]
    bench = Bench(FiberCache(SMALLEST), "fibercache", verilog_edit=lambda verilog: re.sub(pattern, text, verilog))
    with pytest.raises(Mismatch):
        compare(bench, SMALLEST, 20_000, SEED)


def test_the_reference_sees_lost_lines():
    """Dirty bits that vanish from the model's state make it return lines that were never the last written."""
    *_, verdict = traffic(model.cache_init(SMALLEST), 20_000, KNOBS, 1 << SMALLEST.address_bits, SEED, 500)
    assert verdict[0] >= 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_long(smallest, seed):
    require(compare(smallest, SMALLEST, 2_000_000, 1000 + seed), 200)


def test_under_cocotb(smallest):
    compare(smallest, SMALLEST, 3_000, SEED, engine="cocotb")


def test_hits_run_at_one_line_per_cycle(smallest):
    """After a first pass over 8 consecutive lines, reads of them are answered every cycle, READ_LATENCY later."""
    config, lines, cycles = SMALLEST, 8, 200
    state = model.cache_init(config)
    ins, outs = np.zeros((cycles, len(INPUTS)), np.int64), np.zeros((cycles, len(OUTPUTS)), np.int64)
    fields = {name: INPUTS.index(name) for name in INPUTS}
    accepted = 0
    for now in range(cycles):
        outs[now, :4] = (model.fetch_ready(state), model.read_ready(state), model.write_ready(state), model.data_ready(state))
        outs[now, 4:7], outs[now, 7:10] = model.response(state), model.read_request(state)
        outs[now, 10:13] = model.write_request(state)
        outs[now, 13:] = (model.is_busy(state), model.is_idle(state), *model.pulses(state))
        if now < 60:        # write the lines, then read them round and round
            ins[now, fields["write_valid"]] = now < lines + 5 and accepted < lines
            ins[now, fields["write_address"]] = ins[now, fields["write_token"]] = accepted
            accepted += ins[now, fields["write_valid"]] and outs[now, OUTPUTS.index("write_ready")]
        else:
            ins[now, fields["read_valid"]], ins[now, fields["read_address"]] = 1, now % lines
        model.cache_step(state, *ins[now].tolist())
    assert accepted == lines
    response = outs[:, OUTPUTS.index("response")]
    assert not response[:60 + READ_LATENCY].any() and response[60 + READ_LATENCY:].all()
    assert outs[60:, OUTPUTS.index("read_ready")].all() and not outs[:, OUTPUTS.index("miss")].any()
    smallest.run(*vectors(config, ins, outs, SEED), seed=SEED)
