"""ANN PE against its event model and the functional values; every output in every cycle.

Plan: one PE, whose group is one of two; layers of random columns (one, odd, the most), chunks and rows back to back and with
gaps, pooling windows, empty and full chunks, INT8 extremes, levels of 1 and 127, thresholds of 1 and the largest. The
traffic is sent as soon as the documented rules allow, or later; the outputs are read all the time at random addresses.
Values: sums and levels come from a plain matrix product, so a wrong offset, bank or forwarding shows up in ``y``.
Several PEs, with groups: ``tb/test_pe_array.py``.
Coverage: counted in :class:`~neuroflex.tb.array_traffic.Layers`, each point with its threshold. Faults: edits of the Verilog must be noticed.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.ann_pe import AnnPe
from neuroflex.sim.ann_pe import AnnPes
from neuroflex.tb.array_traffic import compare_pe
from neuroflex.tb.bench import Mismatch

TINY = PRESETS["tiny"]
WIDE = TINY.replace(name="wide", chunk_bits=128, laggy_adders=32, ann_acc_bits=28)


def run(config, seed, layers, **options):
    compare_pe(AnnPe(config), "ann_pe", config, Core.ANN, seed, layers, **options)


def test_ann_pe():
    run(TINY, 1, 60)


@pytest.mark.long
def test_ann_pe_under_cocotb():
    run(TINY, 2, 8, covers=False, engine="cocotb")


@pytest.mark.parametrize("columns", [1, 4, 9, 16])
def test_a_chunk_takes_the_larger_of_pairs_and_matches(columns):
    """Chunks that arrive early enough leave no bubble: checked on the model, which the circuit equals."""
    rng = np.random.default_rng(columns)
    pes, pairs = AnnPes([columns], [[8] * columns], 16), -(-columns // 2)
    for most in (0, 40):
        begin = pes.state[0, :2].max()
        matches = rng.integers(most // 2, most + 1, (200, 1, 8)) * (np.arange(8) < pairs)
        for chunk in matches:
            pes.chunk(0, 1, 0, False, False, chunk)
        cycles = pes.events[0, 1] - max(begin, 0)
        assert cycles - 12 <= np.maximum(matches.sum(axis=(1, 2)), pairs).sum() <= cycles


@pytest.mark.long
def test_forgotten_sum_is_noticed():
    with pytest.raises(Mismatch, match="y"):
        run(TINY, 3, 30, covers=False, verilog_edit=lambda text: text.replace("= written | ", "= written ^ "))


def test_early_row_end_is_noticed(monkeypatch):
    monkeypatch.setattr(AnnPe, "DRAIN_DELAY", 5)
    with pytest.raises(Mismatch):
        run(TINY, 3, 6, covers=False)


@pytest.mark.parametrize("config", [TINY, WIDE], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.long
def test_ann_pe_seeds(config, seed):
    run(config, 10 + seed, 300)
