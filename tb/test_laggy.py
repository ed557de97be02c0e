"""Laggy prefix sum against counting in NumPy.

Plan
----
* Every output in every cycle: ready and done around jobs with random gaps, the answer in the cycle after each query; the
  counts within a group two cycles after each match.
* Masks: random densities, empty, full, one bit at either end of a group, and skewed ones (all bits in one group, or in
  the top half of every group), where a unit whose lanes are not combined gives wrong sums.
* One adder per group of several sizes, from 4 adders to as many as bits (one group: the table is all zero).
* Queries at random positions, in the first cycle allowed, back to back, and while the next job runs.
* Faults: table written one entry too far, a group counted wrong, a match counted wrong.
"""
import gc
import re

import numpy as np
import pytest

from neuroflex.hdl.laggy import GroupPrefix, LaggyPrefix
from neuroflex.sim.laggy import GROUP_LATENCY, QUERY_LATENCY, laggy_cycles, mask_offsets
from neuroflex.tb.bench import Bench, Mismatch

SEED = 20260101
SHAPES = [(32, 8, 4), (64, 16, 2), (128, 32, 4), (32, 32, 2)]


def random_mask(rng, bits, adders):
    kind = rng.integers(7)
    mask = rng.random(bits) < rng.choice([0.02, 0.1, 0.3, 0.7, 0.98])
    if kind == 0:
        mask[:] = False
    elif kind == 1:
        mask[:] = True
    elif kind == 2:                       # a single bit, often at the border of a group
        mask[:] = False
        mask[(rng.integers(bits // adders) * adders + rng.choice([0, adders - 1, adders // 2])) % bits] = True
    elif kind == 3:                       # everything in one group
        group = rng.integers(bits // adders)
        mask[:] = False
        mask[group * adders:(group + 1) * adders] = True
    elif kind == 4:                       # the upper lanes only
        mask &= np.arange(bits) % adders >= adders // 2
    elif kind == 5:                       # the first half only, or the second
        mask &= (np.arange(bits) < bits // 2) == bool(rng.integers(2))
    return mask, kind


def pack(masks):
    """Bool masks (..., bits) as little-endian uint64 words."""
    packed = np.packbits(masks, axis=-1, bitorder="little")
    padding = -packed.shape[-1] % 8
    words = np.ascontiguousarray(np.pad(packed, [(0, 0)] * (packed.ndim - 1) + [(0, padding)])).view(np.uint64)
    return words[:, 0] if words.shape[1] == 1 else words


def scenario(rng, *, bits, adders, slots, jobs):
    """Stimuli of a run, expected outputs, and coverage counts."""
    cycles = bits // adders
    gaps = rng.choice([0, 0, 0, 1, cycles, 3 * cycles], jobs)
    queries = rng.choice([0, 1, 2, cycles, 70], jobs, p=[0.15, 0.15, 0.25, 0.25, 0.2])
    offer, accept, done = np.zeros(jobs, np.int64), np.zeros(jobs, np.int64), np.zeros(jobs, np.int64)
    query_time = 0
    released = np.zeros(jobs, np.int64)   # first cycle in which the job's slot may be used again
    asked = []
    for k in range(jobs):
        ready = max(accept[k - 1] + 1 if k else 1, released[k - slots] if k >= slots else 0)
        offer[k] = ready + gaps[k]
        accept[:k + 1], done[:k + 1] = laggy_cycles(offer[:k + 1], cycles)
        query_time = max(query_time, done[k])
        for _ in range(queries[k]):
            query_time += int(rng.random() < 0.2)
            asked.append((query_time, k))
            query_time += 1
        released[k] = max(query_time, done[k]) + 1
    total = int(max(query_time, done[-1])) + 10
    masks, kinds = zip(*(random_mask(rng, bits, adders) for _ in range(jobs)))
    masks = np.array(masks)
    offsets = mask_offsets(masks)

    stimulus = {name: np.zeros(total, np.int64) for name in
                ("job__valid", "job__payload", "query__valid", "query__slot", "query__group", "query__below")}
    shown = rng.random((total, bits)) < 0.5                # without meaning outside the cycles of a job
    ready, done_bits, mask_slot = np.ones(total, np.int64), np.zeros(total, np.int64), np.zeros(total, np.int64)
    for k in range(jobs):
        slot = k % slots
        stimulus["job__valid"][offer[k]:accept[k] + 1] = 1
        stimulus["job__payload"][offer[k]:accept[k] + 1] = slot
        ready[accept[k] + 1:accept[k] + cycles] = 0
        shown[accept[k] + 1:accept[k] + cycles + 1] = masks[k]
        mask_slot[accept[k] + 1:] = slot
        done_bits[accept[k] + 1:] &= ~(1 << slot)
        done_bits[done[k]:] |= 1 << slot
    valid, offset, slot = (np.zeros(total, np.int64) for _ in range(3))
    for time, k in asked:
        position = rng.integers(bits)
        stimulus["query__valid"][time], stimulus["query__slot"][time] = 1, k % slots
        first = position // adders * adders
        stimulus["query__group"][time], stimulus["query__below"][time] = position // adders, masks[k, first:position].sum()
        answer = time + QUERY_LATENCY
        valid[answer], slot[answer:], offset[answer:] = 1, k % slots, offsets[k, position]
    stimulus["mask"] = pack(shown)
    expected = {"job__ready": ready, "mask_slot": mask_slot, "done": done_bits,
                "answer__valid": valid, "answer__slot": slot, "answer__offset": offset}
    times = np.array([time for time, _ in asked])
    coverage = {
        "queries": len(asked), "jobs": jobs,
        "back-to-back jobs": int((np.diff(accept) == cycles).sum()),
        "job waited": int((accept > offer).sum()),
        "query in the first cycle of done": int(np.isin(done, times).sum()),
        "back-to-back queries": int((np.diff(times) == 1).sum()),
        "query while counting": int(sum(np.any((times > a) & (times <= a + cycles)) for a in accept)),
        **{f"mask kind {kind}": kinds.count(kind) for kind in range(7)},
    }
    return stimulus, expected, coverage


def check(shape, *, jobs, seed, engine="library", verilog_edit=None):
    bits, adders, slots = shape
    bench = Bench(LaggyPrefix(chunk_bits=bits, adders=adders, slots=slots), "laggy", verilog_edit=verilog_edit)
    stimulus, expected, coverage = scenario(np.random.default_rng(seed), bits=bits, adders=adders, slots=slots, jobs=jobs)
    bench.run(stimulus, expected, engine=engine, seed=seed)
    return coverage


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_model(shape):
    coverage = check(shape, jobs=900, seed=SEED)
    # With as many adders as bits a job takes one cycle, and none can wait.
    few = {name: count for name, count in coverage.items() if count < 20 and not (shape[0] == shape[1] and "waited" in name)}
    assert not few, f"seed {SEED}: covered too seldom: {few}"
    assert coverage["queries"] >= 10_000


def check_groups(shape, *, queries, seed, verilog_edit=None):
    """GroupPrefix alone: matches in random cycles, any mask and position."""
    bits, adders, _ = shape
    rng = np.random.default_rng(seed)
    total = queries * 5 // 4
    valid = rng.random(total) < 0.8
    masks = np.array([random_mask(rng, bits, adders)[0] for _ in range(total)])
    position = rng.integers(bits, size=total)
    group = position // adders
    below = mask_offsets(masks)[np.arange(total), position] - mask_offsets(masks)[np.arange(total), group * adders]
    latest = np.maximum.accumulate(np.where(valid, np.arange(total), -1))   # answers hold until the next
    late = np.r_[np.full(GROUP_LATENCY, -1), latest[:-GROUP_LATENCY]]
    bench = Bench(GroupPrefix(chunk_bits=bits, adders=adders), "group_prefix", verilog_edit=verilog_edit)
    bench.run({"valid": valid, "mask": pack(masks), "position": position},
              {"group": np.where(late < 0, 0, group[late]), "below": np.where(late < 0, 0, below[late])}, seed=seed)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_group_prefix(shape):
    check_groups(shape, queries=4_000, seed=SEED)


def test_group_prefix_fault_is_seen():
    with pytest.raises(Mismatch):
        check_groups(SHAPES[0], queries=100, seed=SEED, verilog_edit=lambda v: re.sub(r"^( *below <= )", r"\1 1 ^ ", v, flags=re.MULTILINE))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES + [(256, 16, 8), (128, 4, 2)], ids=lambda shape: "x".join(map(str, shape)))
def test_many_seeds(shape, seed):
    assert check(shape, jobs=3_000, seed=SEED + 10 + seed)["queries"] >= 30_000


@pytest.mark.long
def test_cocotb():
    check(SHAPES[0], jobs=40, seed=SEED + 1, engine="cocotb")


FAULTS = {
    "table one entry off": lambda v: re.sub(r"(bases\[)(.*?)(\] <=)", r"\1\2 + 1'h1\3", v),
    "a group's count is one too many": lambda v: v.replace("count <= ", "count <= 1 + "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        check(SHAPES[0], jobs=60, seed=SEED, verilog_edit=FAULTS[fault])


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize(("changed", "error"), [
    ({"chunk_bits": 48}, "chunk_bits must be a power of two of at least 2, not 48"),
    ({"adders": 128}, "adders = 128 must not exceed chunk_bits = 64"),
    ({"slots": 1}, "slots must be a power of two of at least 2, not 1"),
])
def test_refuses(changed, error):
    with pytest.raises(ValueError, match=error):
        LaggyPrefix(**{"chunk_bits": 64, "adders": 16, "slots": 4} | changed)
    gc.collect()   # the refused component goes while the warning that it was never used is ignored
