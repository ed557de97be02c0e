"""SNN processing element with serial addition against its event model and the functional values; every output in every cycle.

Plan: one PE, whose group is one of two; layers of random columns (one, odd, the most), of 1 to the most input levels, chunks and rows back to back and
with gaps, pooling windows, empty and full chunks, extreme weights and thresholds. Traffic as soon as the documented rules allow, or later; outputs
are read all the time at random addresses. Values: levels come from a plain matrix product and QCFS, so a lost or surplus addition, a wrong offset,
bank or forwarding shows up in ``y``; ``matching`` shows every addition.
Several PEs, with groups: ``tb/test_pe_array.py``'s traffic on an array of such PEs.
Coverage: counted in :class:`~neuroflex.tb.array_traffic.Layers`, each point with its threshold. Faults: edits of the Verilog must be noticed.
The model's recurrence over whole pairs is checked against one over single matches with an engine that is held.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.serial_pe import SerialPe
from neuroflex.sim.join import FIRST_MATCH, scan_ahead
from neuroflex.sim.numerics import pascif, qcfs
from neuroflex.sim.serial_pe import ADD_LATENCY, WAITING, addition_cycles, new_serial_state, serial_chunk
from neuroflex.tb.array_traffic import compare_pe
from neuroflex.tb.bench import Mismatch
from neuroflex.tb.faults import within

TINY = PRESETS["tiny"].replace(snn_pe="serial")
CONFIGS = {
    "tiny": TINY,
    "fifteen levels": PRESETS["small"].replace(snn_pe="serial", snn_levels=15, snn_acc_bits=24, columns_per_pe=8, neuron_steps=1),
    "one level": TINY.replace(snn_levels=1, slots=2, row_buffers=2),
    "wide": TINY.replace(chunk_bits=128, laggy_adders=32, snn_levels=4, slots=8, columns_per_pe=32),
}


def run(config, seed, layers, **options):
    compare_pe(SerialPe(config), "serial_pe", config, Core.SNN, seed, layers, **options)


@pytest.mark.parametrize("name", [name if name == "tiny" else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS])
def test_matches_model(name):
    run(CONFIGS[name], 1, 60)


def test_cocotb():
    run(TINY, 2, 2, covers=False, engine="cocotb")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CONFIGS)
def test_many_seeds(name, seed):
    run(CONFIGS[name], 10 + seed, 200)


FAULTS = {
    "the engine is never held": within("serial_pe", r"\.hold\([^)]*\)", ".hold(1'h0)"),
    "a level adds once only": within("serial_pe", r"assign through = (\w+) & \w+;", r"assign through = \1;"),
    "a level's prefix count is off by one": within("serial_pe_level_prefix", r"  count <= (\w+);", r"  count <= \1 + 1'h1;"),
    "a chunk retires when the engine is through": within("serial_pe_front_end", r"finished \+ pair_through", "finished + pair_done"),
    "a sum is not emptied": within("serial_pe_sums", r"  written <= (\w+);", r"  written <= written | \1;"),
}


@pytest.mark.parametrize("fault", [fault if number < 1 else pytest.param(fault, marks=pytest.mark.long) for number, fault in enumerate(FAULTS)])
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        run(TINY, 3, 20, covers=False, verilog_edit=FAULTS[fault])


def random_matches(rng, count):
    """Cycles from which matches of pairs are there for the engine, and their levels."""
    pairs = np.sort(rng.integers(0, rng.choice([1, 3, 30]) * count // 4 + 1, count // 4 + 1))
    available = np.sort(rng.choice(pairs, count))
    return available, rng.integers(1, rng.choice([1, 2, 4, 15]) + 1, count)


def test_the_adder_does_not_see_that_the_engine_is_held():
    """Match by match: an addition follows the one before at once, or comes as soon as the engine could have had the match."""
    for seed in range(200):
        available, levels = random_matches(np.random.default_rng(seed), 60)
        additions, free = [], 0
        for earliest, level in zip(available, levels):
            additions.append(max(earliest + ADD_LATENCY, free))
            free = additions[-1] + level
        assert addition_cycles(available, levels) == additions
    assert addition_cycles([0] * 20, [1] * 20, waiting=WAITING - 1) != addition_cycles([0] * 20, [1] * 20), "WAITING is larger than it has to be"


@pytest.mark.parametrize("levels", [1, 3])
def test_a_chunk_takes_the_larger_of_pairs_and_additions(levels):
    """One addition per cycle in the steady state, whatever the levels: checked on the model, which the circuit equals."""
    rng = np.random.default_rng(levels)
    state, first, ahead = new_serial_state(1)[0], np.zeros(8, np.int64), int(scan_ahead(16, 16))
    total, retired = 0, 0
    for _ in range(200):
        additions = levels * rng.integers(2, 9, 8)
        _, retired = serial_chunk(state, 0, 8, ahead, False, additions, first)
        total += max(int(additions.sum()), 8)
    assert total <= retired <= total + FIRST_MATCH + ADD_LATENCY + 2


def test_the_whole_sum_in_the_first_step_is_enough():
    """PASC-IF with T1 = 1 equals QCFS: the theorem that the PE stands on."""
    rng = np.random.default_rng(7)
    for _ in range(300):
        levels, theta = rng.integers(1, 16, 40), rng.integers(1, rng.choice([3, 500, 100_000]), 40)
        z, bias = rng.integers(-200_000, 200_000, 40) // rng.choice([1, 100]), rng.integers(-40_000, 40_000, 40) // rng.choice([1, 100])
        assert np.array_equal(pascif(z[None], bias, theta, levels), qcfs(z, bias, theta, levels))
