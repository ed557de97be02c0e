"""PE arrays of both cores against their model: every output in every cycle.

Plan: layers of random columns per PE (none, one, odd, the most) on two and four PEs in one to all groups; every PE has its own slice, beats of the
other core's load pass by; chunks and rows back to back and with gaps, as soon as the slowest PE of a group allows, or later; groups at
work on different rows; pooling windows; outputs read all the time at random addresses. With two weight banks a layer is loaded while the one
before is at work, and swapped in when both are through. Library and cocotb engines.
Coverage: counted in :class:`~neuroflex.tb.array_traffic.Layers`, with thresholds. Faults: edits of the Verilog must be noticed.
"""
import re

import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.pe_array import PeArray
from neuroflex.tb.array_traffic import compare_array
from neuroflex.tb.bench import Mismatch

SMALL = PRESETS["tiny"].replace(name="array", columns_per_pe=8, ann_pes=2, snn_pes=2)
FOUR = SMALL.replace(name="four", ann_pes=4, snn_pes=4)
DOUBLE = SMALL.replace(name="double", weight_banks=2)
DOUBLES = {"ann": DOUBLE, "snn": DOUBLE, "serial": DOUBLE.replace(snn_pe="serial")}
CORES = {"ann": Core.ANN, "snn": Core.SNN}


def run(config, core, seed, layers, **options):
    compare_array(PeArray(config, CORES[core]), f"{core}_array", config, CORES[core], seed, layers, **options)


@pytest.mark.parametrize("core", CORES)
def test_array(core):
    run(SMALL, core, 1, 100)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.long) if kind == "serial" else kind for kind in DOUBLES])
def test_two_weight_banks(kind):
    run(DOUBLES[kind], "snn" if kind == "serial" else kind, 4, 100)


def test_array_under_cocotb():
    run(SMALL, "ann", 2, 3, covers=False, engine="cocotb")


@pytest.mark.parametrize("core, fault", [
    ("ann", ("== number_1", "== number_0")),                                       # a PE takes its neighbour's slice
    pytest.param("snn", (", busy };", ", 1'h0 };"), marks=pytest.mark.long)])     # idle while PE 0 works
def test_fault_is_seen(core, fault):
    with pytest.raises(Mismatch):
        run(SMALL, core, 3, 6, covers=False, verilog_edit=lambda text: text.replace(*fault))


@pytest.mark.parametrize("memory", ["pairs", *(pytest.param(memory, marks=pytest.mark.long) for memory in ("weights", "parameters"))])
def test_unswapped_bank_is_seen(memory):
    """A memory of a PE is always read from the same bank."""
    with pytest.raises(Mismatch):
        run(DOUBLE, "ann", 5, 6, covers=False, verilog_edit=lambda text: re.sub(rf"({memory}\[\{{ )weight_bank", r"\g<1>1'h0", text, count=1))


@pytest.mark.long
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("config", [SMALL, FOUR], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(2))
def test_array_seeds(core, config, seed):
    run(config, core, 10 + seed, 200)
