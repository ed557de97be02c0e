"""Speculation FIFO against its event model, every output in every cycle.

Plan
----
* Chunks with no match to many, matches back to back and with gaps; the chunk counted early, late, or while matches come;
  ends with the last match, later, and after matches of the next chunks have come.
* The whole wait that the bound allows with a match in every cycle, so that the FIFO fills up to its bound.
* Weights two cycles after their matches, corrections three after the match left.
* Faults: a correction lost, one that uses another match's weight, an end that does not wait for its matches.
"""
import gc
import re

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.hdl.speculation import Speculation
from neuroflex.sim.laggy import DONE_LATENCY
from neuroflex.sim.speculation import APPLY_LATENCY, WEIGHT_DELAY, chunk_leaves
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.jobs import held

SEED = 20260401
CONFIGS = {"tiny": (PRESETS["tiny"], 1), "long wait": (PRESETS["small"].replace(laggy_adders=4, slots=8), 1),
           "one group": (PRESETS["tiny"].replace(laggy_adders=32, slots=2), 2)}


def chunk_times(rng, config, push_delay, chunks, bound):
    """Random chunks as events: per match (come, slot, leave), per chunk (end comes, end leaves, slot), done changes; coverage."""
    latency = config.laggy_cycles + DONE_LATENCY
    matches, ends, done_changes, coverage = [], [], [], Coverage("speculation")
    taken, left, ended, last_push, last_end = 0, -99, -99, 0, 0
    free = [0] * config.slots
    for chunk in range(chunks):
        slot = chunk % config.slots
        taken = max(taken + config.laggy_cycles, free[slot]) + int(rng.choice([0, 0, 3, 30]))
        done = taken + latency - int(rng.choice([0, 0, rng.integers(latency)]))
        count = int(rng.choice([0, 1, 2, 5, rng.integers(40)]))
        gaps = np.ones(count, np.int64) if rng.random() < 0.6 else rng.choice([1, 1, 2, 7], count)
        start = max(last_push, taken + push_delay - 1) + int(rng.choice([0, 0, 4]))
        come = (start + np.cumsum(gaps)).tolist()
        end = max([last_end + 1, taken + push_delay, *come[-1:]]) + int(rng.choice([0, 0, 0, 1, 9]))

        first_left, previous, u = None, left, left
        for p in come:
            u = max(u + 1, p + 1, done)
            first_left = u if first_left is None else first_left
            matches.append((p, slot, u))
        before = ended
        left, ended = chunk_leaves(left, ended, done, count, come[-1] if come else 0, end)
        assert not come or left == u, "the closed form is not the recurrence"
        done_changes += [(taken + 1, slot, 0), (done, slot, 1)]
        ends.append((end, ended, slot))
        coverage.add(waited=bool(come) and first_left == done > come[0] + 1, straight_through=bool(come) and left == come[-1] + 1,
                     no_match=count == 0, end_with_last_match=bool(come) and end == come[-1],
                     queued_behind=bool(come) and previous >= come[0], ends_in_a_row=ended == before + 1,
                     next_match_before_end=bool(come) and last_end >= come[0],
                     whole_wait=bool(come) and first_left - come[0] == bound)
        if bound == 1:
            del coverage.hits["waited"]   # no match can
        free[slot], last_end = ended + 1, end
        last_push = come[-1] if come else last_push
    return matches, ends, done_changes, coverage


def check(name, *, chunks, seed, verilog_edit=None, engine="library"):
    config, push_delay = CONFIGS[name]
    component = Speculation(config, push_delay=push_delay)
    bench = Bench(component, "speculation", verilog_edit=verilog_edit)
    rng = np.random.default_rng(seed)
    matches, ends, done_changes, coverage = chunk_times(rng, config, push_delay, chunks, component.bound)
    come, slot, leave = np.array(matches).T
    end, ended, end_slot = np.array(ends).T
    cycles = int(max(leave.max(), ended.max())) + APPLY_LATENCY + 3
    width = {key: (count - 1).bit_length() for key, count in
             (("slot", config.slots), ("group", max(config.laggy_cycles, 2)), ("below", config.laggy_adders),
              ("column", config.columns_per_pe), ("bank", config.row_buffers))}

    def placed(at, values):
        """Values in their cycles, noise in the others."""
        array = rng.integers(1 << 20, size=cycles)
        array[at] = values
        return array

    def valid(at):
        array = np.zeros(cycles, np.int64)
        array[at] = 1
        return array

    group, below = (rng.integers(size, size=len(come)) for size in (config.laggy_cycles, config.laggy_adders))
    weight = rng.integers(256, size=len(come))
    column, bank = (rng.integers(size, size=len(come)) for size in (config.columns_per_pe, config.row_buffers))
    flags = rng.integers(8, size=len(end))
    done = np.zeros(cycles, np.int64)
    for at, number, value in sorted(done_changes):
        done[at:] = done[at:] & ~(1 << number) | value << number

    def pack(at, *fields):
        return concat((valid(at), 1), *((placed(at, values) & (1 << bits) - 1, bits) for values, bits in fields))

    def show(at, *fields):
        return concat((valid(at), 1), *((held(at, values, cycles), bits) for values, bits in fields))

    stimulus = {
        "match": pack(come, (slot, width["slot"]), (group, width["group"]), (below, width["below"])),
        "weighted": pack(come + WEIGHT_DELAY, (weight, 8), (column, width["column"]), (bank, width["bank"])),
        "chunk_end": pack(end, (end_slot, width["slot"]), (flags, 3)),
        "done": done,
    }
    expected = {
        "query__valid": valid(leave + 1), "query__slot": held(leave + 1, slot, cycles),
        "query__group": held(leave + 1, group, cycles), "query__below": held(leave + 1, below, cycles),
        "apply": show(leave + APPLY_LATENCY, (weight, 8), (column, width["column"]), (bank, width["bank"])),
        "ended": show(ended + 1, (end_slot, width["slot"]), (flags, 3)),
    }
    bench.run(stimulus, expected, seed=seed, engine=engine)
    return coverage, len(come)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_matches_model(name):
    coverage, matches = check(name, chunks=2_000, seed=SEED)
    coverage.require(20)
    assert matches >= 10_000


@pytest.mark.long
def test_cocotb():
    check("tiny", chunks=60, seed=SEED + 1, engine="cocotb")


FAULTS = {
    "a correction is lost": lambda v: re.sub(r"left <= (.*);", r"left <= \1 + (left == 5 && \1 == 6);", v),
    "weight of another match": lambda v: re.sub(r"(= weights\[\w+)\]", r"\1 ^ 1'h1]", v),
    "an end does not wait": lambda v: re.sub(r"ends_out <= (.*);", r"ends_out <= \1 + (ends_in != ends_out && \1 == ends_out && left[1:0] == 3);", v),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        check("tiny", chunks=100, seed=SEED, verilog_edit=FAULTS[fault])


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refusals():
    with pytest.raises(ValueError, match="push_delay must be at least 1, not 0"):
        Speculation(PRESETS["tiny"], push_delay=0)
    with pytest.raises(TypeError, match="push_delay must be an integer, not '8'"):
        Speculation(PRESETS["tiny"], push_delay="8")
    gc.collect()   # the refused components go while the warning that they were never used is ignored
