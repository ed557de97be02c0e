"""SNN processing element with corrections in binary against its event model and the functional values; every output in every cycle.

Plan: one PE, whose group is one of two; layers of random columns (one, odd, the most), of 1 to the most input levels, chunks and rows back to back and
with gaps, pooling windows, empty and full chunks, extreme weights and thresholds; laggy units from one cycle to 16. Traffic as soon as the documented rules allow, or
later; outputs are read all the time at random addresses. Values: levels come from a plain matrix product and QCFS, so a lost bit, a wrong weight of a bit, offset or
bank shows up in ``y``.
Coverage: counted in :class:`~neuroflex.tb.array_traffic.Layers`, each point with its threshold: matches that lack nothing, one bit and several, columns
that wait for their weighted sum, and sums that wait for the neuron. Faults: edits of the Verilog must be noticed.
The widths that hold the sums are reached, and no narrower ones would do.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.binary_pe import BinaryPe
from neuroflex.sim.binary_pe import bit_count
from neuroflex.tb.array_traffic import compare_pe
from neuroflex.tb.bench import Mismatch
from neuroflex.tb.faults import within
from neuroflex.widths import signed_bits, weighted_bits

TINY = PRESETS["tiny"].replace(snn_pe="binary")
CONFIGS = {
    "tiny": TINY,
    "fifteen levels, slow laggy unit": PRESETS["small"].replace(snn_pe="binary", snn_levels=15, laggy_adders=4, columns_per_pe=8, neuron_steps=1),
    "one level": TINY.replace(snn_levels=1, slots=2, row_buffers=2),
    "five levels, one-cycle laggy unit": TINY.replace(snn_levels=5, laggy_adders=32, slots=8, columns_per_pe=32, neuron_steps=3),
}


def run(config, seed, layers, **options):
    compare_pe(BinaryPe(config), "binary_pe", config, Core.SNN, seed, layers, **options)


@pytest.mark.parametrize("name", [name if name == "tiny" else pytest.param(name, marks=pytest.mark.long) for name in CONFIGS])
def test_matches_model(name):
    run(CONFIGS[name], 1, 60)


@pytest.mark.long
def test_cocotb():
    run(TINY, 2, 2, covers=False, engine="cocotb")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CONFIGS)
def test_many_seeds(name, seed):
    run(CONFIGS[name], 10 + seed, 150)


FAULTS = {
    "a column's sum begins before the neuron has the one before": within("binary_pe", r"assign (_\w+_) = weighing & _\w+_;", r"assign \1 = weighing;"),
    "a sum begins with the one before": within("binary_pe", r"weighing_begun \? weighed_sum : \S+;", "weighed_sum;"),
    "the highest bit is left out": within("binary_pe", r"highest_bit = 2'h3;", "highest_bit = 2'h2;"),
    "corrections of a bit are lost": within("binary_pe_corrections", r"assign needed_1 = [^;]*;", "assign needed_1 = 1'h0;"),
    "a sum is not emptied": within("binary_pe_corrections", r"  written <= (\w+);", r"  written <= written | \1;"),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        run(TINY, 3, 60, covers=False, verilog_edit=FAULTS[fault])


@pytest.mark.parametrize("levels", range(1, 16))
def test_widths(levels):
    """All that Horner's rule goes through, over every level and the largest sums of weights either way, fits; one bit less would not."""
    config = TINY.replace(snn_levels=levels)
    weights, most = (1 << config.snn_acc_bits - 1) - 1, 0
    for level in range(1, levels + 1):          # all inputs of the column alike: the extreme of what the proof bounds
        for number, sums in ((level, [weights * (level >> bit & 1) for bit in range(4)]),
                             (level, [weights * (levels >> bit & 1) - weights * (levels - level >> bit & 1) for bit in range(4)])):
            total = 0
            for bit in reversed(range(bit_count(levels))):
                total = 2 * total + sums[bit]
                most = max(most, abs(total))
            assert total == number * weights
    assert signed_bits(-most - levels, most) == weighted_bits(config), "the smallest sum of weights is one less than the largest"
