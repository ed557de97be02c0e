"""Spike generator against its model.

Test plan
---------
* every level, also those above the number of steps, with and without gaps; outputs in every cycle (values, timing, hold);
* exhaustive for one step up to 15; library and cocotb engines;
* coverage: each level, gaps, words back to back;
* faults: a comparison moved by one and a valid that is stuck are seen.
"""
import gc

import numpy as np
import pytest

from neuroflex.hdl.spikegen import SpikeGenerator
from neuroflex.sim.numerics import thermometer
from neuroflex.sim.spikegen import LATENCY

from .bench import Bench, Mismatch
from .coverage import Coverage
from .jobs import held, pulses

SEED = 20251


def compare(bench, levels, cycles, seed, engine="library"):
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 1 << levels.bit_length(), cycles)
    valid = rng.random(cycles) < rng.choice([0.2, 1.0], cycles // 50 + 1).repeat(50)[:cycles]
    valid[-LATENCY:] = False
    when = np.flatnonzero(valid)
    words = thermometer(level[when], levels)
    bench.run({"i__valid": valid, "i__payload": level},
              {"o__valid": pulses(when + LATENCY, cycles), "o__payload": held(when + LATENCY, words, cycles)},
              engine=engine, seed=seed)
    coverage = Coverage("spike generator")
    coverage.add(back_to_back=valid[1:] & valid[:-1], gap=~valid, **{f"level_{q}": level[when] == q for q in range(levels + 1)})
    coverage.require(20)


@pytest.mark.parametrize("levels", [1, 15])
def test_equals_model(levels):
    compare(Bench(SpikeGenerator(levels=levels), "spikegen"), levels, 20_000, SEED + levels)


def test_equals_model_on_cocotb():
    compare(Bench(SpikeGenerator(levels=4), "spikegen"), 4, 2_000, SEED, engine="cocotb")


@pytest.mark.parametrize("old, new", [("> 1'h1", "> 2'h2"), pytest.param("= i__valid;", "= 1'h1;", marks=pytest.mark.long)])
def test_fault_is_seen(old, new):
    bench = Bench(SpikeGenerator(levels=4), "spikegen", verilog_edit=lambda text: text.replace(old, new, 1))
    with pytest.raises(Mismatch, match="spikegen: cycle"):
        compare(bench, 4, 2_000, SEED)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refusals():
    with pytest.raises(ValueError, match="levels must be at least 1, not 0"):
        SpikeGenerator(levels=0)
    with pytest.raises(TypeError, match="levels must be an integer, not True"):
        SpikeGenerator(levels=True)
    gc.collect()  # the refused components go now, while the warning that they were never used is ignored
