"""SNN processing element that adds levels bit by bit against its event model and the functional values; every output in every cycle.

Plan: as in ``tb/test_binary_pe.py``, without laggy units. Values: levels come from a plain matrix product and QCFS.
Coverage: counted in :class:`~neuroflex.tb.array_traffic.Layers`, each point with its threshold: matches of one bit and of several, columns that wait for their weighted
sum, and sums that wait for the neuron. Faults: edits of the Verilog must be noticed.
A chunk takes as long as on an ANN PE.
"""
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.radix_pe import RadixPe
from neuroflex.tb.array_traffic import compare_pe
from neuroflex.tb.bench import Mismatch
from neuroflex.tb.faults import within

TINY = PRESETS["tiny"].replace(snn_pe="radix")
CONFIGS = {
    "tiny": TINY,
    "fifteen levels": PRESETS["small"].replace(snn_pe="radix", snn_levels=15, columns_per_pe=8, neuron_steps=1),
    "one level": TINY.replace(snn_levels=1, slots=2, row_buffers=2),
    "wide": TINY.replace(chunk_bits=128, laggy_adders=32, snn_levels=4, slots=8, columns_per_pe=32, neuron_steps=3),
}


def run(config, seed, layers, **options):
    compare_pe(RadixPe(config), "radix_pe", config, Core.SNN, seed, layers, **options)


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
    "the highest bit is left out": within("radix_pe", r"highest_bit = 2'h3;", "highest_bit = 2'h2;"),
    "a level's prefix count is off by one": within("radix_pe_level_prefix", r"  count <= (\w+);", r"  count <= \1 + 1'h1;"),
    "additions of a bit are lost": within("radix_pe_sums", r"assign needed_1 = [^;]*;", "assign needed_1 = 1'h0;"),
    "the first addition adds to what was left": within("radix_pe_sums", r"  first_0 <= \w+;", "  first_0 <= 0;"),
    "a row is drained a cycle early": within("radix_pe", r"(_\w+_) = drain_4;", r"\1 = drain_3;"),
}


@pytest.mark.parametrize("fault", [fault if number < 1 else pytest.param(fault, marks=pytest.mark.long) for number, fault in enumerate(FAULTS)])
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        run(TINY, 3, 20, covers=False, verilog_edit=FAULTS[fault])
