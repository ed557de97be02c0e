"""Column sums against sums in NumPy, the output in every cycle.

Plan
----
* Additions back to back to the same and to other addresses, with selections from none to all sums.
* Takes of addresses with and without additions, and as soon as the latency allows after the last one; an
  address starts again from 0 after a take.
* Extreme weights, and enough of them to wrap a narrow sum around.
* One sum (pseudo accumulator) and several (corrections), with common registers and with their own; 10,000 additions and more each.
* Faults: the first addition adds to what was left, a selection is ignored.
"""
import gc
import re

import numpy as np
import pytest

from neuroflex.hdl.sums import ColumnSums
from neuroflex.sim.sums import ADD_LATENCY, column_sums
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat
from neuroflex.tb.coverage import Coverage

SEED = 20260301
SHAPES = {"pseudo": dict(depth=32, acc_bits=12, sums=1), "corrections": dict(depth=8, acc_bits=20, sums=7),
          "two": dict(depth=64, acc_bits=22, sums=2), "apart": dict(depth=64, acc_bits=20, sums=3, apart=True)}


def check(shape, *, cycles, seed, verilog_edit=None, engine="library"):
    depth, acc_bits, sums = shape["depth"], shape["acc_bits"], shape["sums"]
    rng = np.random.default_rng(seed)
    add = rng.random(cycles) < np.repeat(rng.choice([0.3, 1.0], cycles // 50 + 1), 50)[:cycles]
    hot = np.repeat(rng.integers(depth, size=cycles // 8 + 1), 8)[:cycles]
    address = np.where(rng.random(cycles) < 0.6, hot, rng.integers(depth, size=cycles))
    weight = rng.choice([-128, 127, 1, -1, *rng.integers(-128, 128, 12)], cycles)
    select = rng.random((cycles, sums)) < rng.choice([0, 0.5, 1], (cycles, 1))
    take, take_address = rng.random(cycles) < 0.3, rng.integers(depth, size=cycles)
    # Often the address whose last addition has just come through.
    latest = np.r_[np.zeros(ADD_LATENCY, np.int64), address[:-ADD_LATENCY]]
    take_address = np.where(rng.random(cycles) < 0.5, latest, take_address)
    for back in range(ADD_LATENCY):
        take &= ~(np.r_[np.zeros(back, bool), add[:cycles - back]] & (np.r_[np.zeros(back, np.int64), address[:cycles - back]] == take_address))
    values = column_sums(add.astype(np.int64), address, weight, select, take.astype(np.int64), take_address, depth, acc_bits)

    bits = (depth - 1).bit_length()
    packed = sum(select[:, i].astype(np.int64) << i for i in range(sums))
    stimulus = {"add": concat((add, 1), (address, bits), (weight & 255, 8), (packed, sums)), "take": concat((take, 1), (take_address, bits))}
    expected = {"taken": concat(*((values[:, i] & (1 << acc_bits) - 1, acc_bits) for i in range(sums)))}
    Bench(ColumnSums(**shape), "column_sums", verilog_edit=verilog_edit).run(stimulus, expected, seed=seed, engine=engine)

    coverage = Coverage("sums")
    follows = add & np.r_[False, add[:-1]] & (address == np.r_[0, address[:-1]])
    recent = np.r_[np.zeros(ADD_LATENCY, bool), add[:-ADD_LATENCY]] & (latest == take_address)
    shown = values[1:] * take[:-1, None]
    coverage.add(additions=add, same_address_again=follows, none_selected=add & ~select.any(1), all_selected=add & select.all(1),
                 take_at_once=take & recent, take_nothing=take[:-1] & ~shown.any(1), negative=shown < 0, positive=shown > 0)
    return coverage


@pytest.mark.parametrize("name", list(SHAPES))
def test_matches_model(name):
    coverage = check(SHAPES[name], cycles=20_000, seed=SEED)
    coverage.require(200)
    assert coverage.hits["additions"] >= 10_000


@pytest.mark.long
def test_cocotb():
    check(SHAPES["two"], cycles=500, seed=SEED + 1, engine="cocotb")


FAULTS = {
    "the first addition adds to what was left": lambda v: re.sub(r"first <= .*;", "first <= 0;", v),
    "a selection is ignored": lambda v: re.sub(r"select <= .*;", "select <= ~7'h0;", v),
}


APART_FAULTS = {
    "a sum sees the additions of others": lambda v: re.sub(r"assign needed_1 = [^;]*;", "assign needed_1 = needed_0;", v),
    "the first addition of a sum that is not selected leaves what was there": lambda v: re.sub(r"assign needed_2 = ([^;]*);", r"assign needed_2 = \1 & add[16];", v),
}


@pytest.mark.parametrize("fault", list(APART_FAULTS))
def test_fault_is_seen_with_sums_apart(fault):
    with pytest.raises(Mismatch):
        check(SHAPES["apart"], cycles=500, seed=SEED, verilog_edit=APART_FAULTS[fault])


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        check(SHAPES["corrections"], cycles=500, seed=SEED, verilog_edit=FAULTS[fault])


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refusals():
    with pytest.raises(ValueError, match="depth must be a power of two, not 12"):
        ColumnSums(depth=12, acc_bits=20, sums=1)
    with pytest.raises(ValueError, match="sums must be at least 1, not 0"):
        ColumnSums(depth=8, acc_bits=20, sums=0)
    with pytest.raises(TypeError, match="acc_bits must be an integer, not '20'"):
        ColumnSums(depth=8, acc_bits="20", sums=1)
    gc.collect()   # the refused components go while the warning that they were never used is ignored
