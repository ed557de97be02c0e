"""PE arrays of both cores, of all kinds of PE, against their model: every output in every cycle.

Plan: layers of random columns per PE (none, one, odd, the most) on two and four PEs in one to all groups; every PE has its own slice, beats of the
other core's load pass by; chunks and rows back to back and with gaps, as soon as the slowest PE of a group allows, or later; groups at
work on different rows; pooling windows; outputs read all the time at random addresses. With two weight banks a layer is loaded while the one
before is at work, and swapped in when both are through. Library and cocotb engines.
Coverage: counted in :class:`~neuroflex.tb.array_traffic.Layers`, with thresholds. Faults: edits of the Verilog must be noticed.
"""
import re

import pytest

from neuroflex.config import PRESETS, SNN_PES
from neuroflex.formats import Core
from neuroflex.hdl.pe_array import PeArray
from neuroflex.tb.array_traffic import compare_array
from neuroflex.tb.bench import Mismatch

SMALL = PRESETS["tiny"].replace(name="array", columns_per_pe=8, ann_pes=2, snn_pes=2)
FOUR = SMALL.replace(name="four", ann_pes=4, snn_pes=4)
DOUBLE = SMALL.replace(name="double", weight_banks=2)
KINDS = ("ann", *SNN_PES)       # of PE
SHORT = [kind if kind in ("ann", "radix", "dual_prefix") else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]


def run(config, kind, seed, layers, **options):
    core = Core.ANN if kind == "ann" else Core.SNN
    config = config if kind == "ann" else config.replace(snn_pe=kind)
    compare_array(PeArray(config, core), f"{core.name.lower()}_array", config, core, seed, layers, **options)


@pytest.mark.parametrize("kind", SHORT)
def test_array(kind):
    run(SMALL, kind, 1, 100)


@pytest.mark.parametrize("kind", SHORT)
def test_two_weight_banks(kind):
    run(DOUBLE, kind, 4, 100)


def test_array_under_cocotb():
    run(SMALL, "ann", 2, 3, covers=False, engine="cocotb")


@pytest.mark.parametrize("kind, fault", [
    ("ann", ("== number_1", "== number_0")),                                       # a PE takes its neighbour's slice
    pytest.param("radix", (", busy };", ", 1'h0 };"), marks=pytest.mark.long)])     # idle while PE 0 works
def test_fault_is_seen(kind, fault):
    with pytest.raises(Mismatch):
        run(SMALL, kind, 3, 6, covers=False, verilog_edit=lambda text: text.replace(*fault))


@pytest.mark.parametrize("memory", ["pairs", *(pytest.param(memory, marks=pytest.mark.long) for memory in ("weights", "parameters"))])
def test_unswapped_bank_is_seen(memory):
    """A memory of a PE is always read from the same bank."""
    with pytest.raises(Mismatch):
        run(DOUBLE, "ann", 5, 6, covers=False, verilog_edit=lambda text: re.sub(rf"({memory}\[\{{ )weight_bank", r"\g<1>1'h0", text, count=1))


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [SMALL, FOUR], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(2))
def test_array_seeds(kind, config, seed):
    run(config, kind, 10 + seed, 200)
