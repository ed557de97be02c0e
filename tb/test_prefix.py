"""Prefix count and priority encoder against their models.

Plan: random masks of all densities; skewed ones (everything in the first or last group, alternating, one bit, all but
one bit, full); every position; the prefix pipeline gets a new query in every cycle. Coverage: every position with every
kind of mask. Fault: a comparison that is off by one group must be noticed.
"""
import gc

import numpy as np
import pytest

from neuroflex.hdl.prefix import FastPrefix, PriorityEncoder
from neuroflex.sim.prefix import FAST_PREFIX_LATENCY, lowest_bit, prefix_count
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.pe_traffic import bits_to_int, words

SEED = 20


def random_masks(rng, count, bits):
    """Masks ``bool[count, bits]`` and their kind, ``int[count]``."""
    kind = rng.integers(0, 7, count)
    uniform = rng.random((count, bits))
    place = np.arange(bits)
    masks = uniform < rng.random((count, 1))
    masks[kind == 1] &= place < bits // 8
    masks[kind == 2] &= place >= bits - bits // 8
    masks[kind == 3] = place % 2 == 1
    masks[kind == 4] = uniform[kind == 4] == uniform[kind == 4].max(axis=1, keepdims=True)
    masks[kind == 5] = uniform[kind == 5] != uniform[kind == 5].max(axis=1, keepdims=True)
    masks[kind == 6] = True
    return masks, kind


def run_prefix(bits, count, engine="library", verilog_edit=None):
    print("seed", SEED)
    rng = np.random.default_rng([SEED, bits])
    masks, kind = random_masks(rng, count, bits)
    position = rng.permutation(np.arange(count) % bits)
    expected = np.zeros(count + FAST_PREFIX_LATENCY, np.int64)
    expected[FAST_PREFIX_LATENCY:] = prefix_count(masks, position)
    stimulus = {"mask": words(map(bits_to_int, masks), bits), "position": position}
    Bench(FastPrefix(bits=bits), "fast_prefix", verilog_edit=verilog_edit).run(stimulus, {"count": expected[:count]}, seed=SEED, engine=engine)
    covered = np.zeros((bits, 7), bool)
    covered[position, kind] = True
    assert covered.mean() > 0.95


@pytest.mark.parametrize("bits,engine", [(32, "cocotb"), (128, "library")])
def test_fast_prefix(bits, engine):
    run_prefix(bits, 10_000, engine)


def test_fast_prefix_notices_a_fault():
    with pytest.raises(Mismatch):
        run_prefix(32, 2_000, verilog_edit=lambda text: text.replace("position[2:0] > 3'h5", "position[2:0] > 3'h6"))


@pytest.mark.parametrize("bits", [32, 128])
def test_priority_encoder(bits):
    print("seed", SEED)
    rng = np.random.default_rng([SEED, bits, 1])
    masks, _ = random_masks(rng, 10_000, bits)
    masks = masks[masks.any(axis=1)]
    position, rest = lowest_bit(masks)
    Bench(PriorityEncoder(bits=bits), "priority_encoder").run(
        {"mask": words(map(bits_to_int, masks), bits)},
        {"position": position, "rest": words(map(bits_to_int, rest), bits)}, seed=SEED)
    assert len(np.unique(position)) == bits


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_widths():
    with pytest.raises(TypeError, match="bits must be an integer, not '32'"):
        FastPrefix(bits="32")
    with pytest.raises(ValueError, match="bits must be a power of two and at least 16, not 24"):
        PriorityEncoder(bits=24)
    gc.collect()  # the refused components go now, while the warning that they were never used is ignored
