"""NeuroFlex with the kinds of SNN PE that are not the default: RTL in a closed loop against the cycle model, every observable signal in every cycle.

Plan: random networks under all policies and kinds of memory, with up to the most input levels and with one, on a small configuration, of PEs that speculate and correct in the default
run and of the others in the long one; there on larger ones of 64 and 128 bits per chunk, too. What is compared, and how, is in ``tb/test_top.py``. Levels at the end are those of the other
kinds of SNN PE, and of ANN PEs. Coverage: the points in ``POINTS``, counted as there, with thresholds.
Faults: what one PE adds wrong must be seen, one fault for each kind.
"""
import pytest

from neuroflex.config import PRESETS, SNN_PES
from neuroflex.flow import POLICIES
from neuroflex.tb.accelerator import RtlAccelerator
from neuroflex.tb.compare import first_difference
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.faults import within
from neuroflex.tb.networks import memory_of, random_job
from neuroflex.tb.test_top import count_points, same

SEED = 20_27
SMALL = PRESETS["tiny"].replace(snn_levels=6, columns_per_pe=8, row_buffers=2)
LONG = {
    "tiny": PRESETS["tiny"],
    "64 bits, 15 levels": PRESETS["small"].replace(snn_levels=15, snn_acc_bits=26, slots=2, columns_per_pe=8, neuron_steps=3),
    "128 bits, 4 levels": PRESETS["small"].replace(chunk_bits=128, ann_pes=2, snn_pes=2, snn_levels=4, slots=8, laggy_adders=32),
}
# Additions or matches per network, in the mean: a level q adds q times in a serial PE.
LEAST = {"dual_prefix": 400, "serial": 500, "binary": 400, "radix": 400}
POINTS = {"groups": 2, "pool": 2, "residual": 2, "both cores in a layer": 2, "snn only": 2, "one level in": 1, "many levels out": 2, "empty chunk": 2,
          "slot stall": 2, "drain": 2}


def check(config, cases, **limits):
    """Random networks, the last of them with one level; RTL = model in every cycle, and ``LEAST`` additions of SNN columns in each, in the mean."""
    accelerator, coverage, additions, cycles = RtlAccelerator(config, quick=True), Coverage(f"top, {config.name}"), 0, 0
    policies = ("all_snn", "hybrid", "random", "all_snn", *POLICIES)
    for case in range(cases):
        seed = SEED + case
        levels = {"snn_levels": 1} if case == cases - 1 else {}
        job, tensor = random_job(seed, config, policy=policies[case % len(policies)], **levels, **limits)
        memory = memory_of(seed)
        done = same(accelerator, job, tensor, memory, f"{config.name}, network {seed}")
        count_points(coverage, job, tensor, memory, done)
        additions += done.run.counters["matches_snn"]
        cycles += done.cycles
    print(f"{config.name}: seed {SEED}, {cases} networks, {cycles} cycles, {additions} additions compared, 0 mismatches; {coverage.hits}")
    assert additions > LEAST[config.snn_pe] * cases, f"{additions} additions in {cases} networks"
    short = {point: coverage.hits.get(point, 0) for point, least in POINTS.items() if coverage.hits.get(point, 0) < least}
    assert not short, f"hit less often than {POINTS}: {short}"


@pytest.mark.parametrize("kind", [kind if kind == "dual_prefix" else pytest.param(kind, marks=pytest.mark.long) for kind in SNN_PES])
def test_random_networks(kind):
    check(SMALL.replace(name=kind, snn_pe=kind), 8)


@pytest.mark.long
@pytest.mark.parametrize("kind", SNN_PES)
@pytest.mark.parametrize("name", LONG)
def test_more_configurations(name, kind):
    check(LONG[name].replace(name=f"{kind}_{list(LONG).index(name)}", snn_pe=kind), 20, size=8, channels=40)


FAULTS = {
    "dual_prefix": ("a correction is not added", within("snn_array_pe_1_corrections", r"select\[2\] \? weight", "1'h0 ? weight")),
    "serial": ("the wait for the adder ends early", within("snn_array_pe_1", r"assign through = (\w+) & (\w+);", r"assign through = \1 & (\2 | added == 1);")),
    "binary": ("the highest bit is left out", within("snn_array_pe_1", r"highest_bit = 2'h2;", "highest_bit = 2'h1;")),
    "radix": ("the highest bit is left out", within("snn_array_pe_1", r"highest_bit = 2'h2;", "highest_bit = 2'h1;")),
}


@pytest.mark.long
@pytest.mark.parametrize("kind", SNN_PES)
def test_fault_is_seen(kind):
    config = SMALL.replace(name=kind, snn_pe=kind)
    fault, edit = FAULTS[kind]
    jobs = [(*random_job(SEED + case, config, policy="all_snn"), memory_of(SEED + case)) for case in range(4)]
    assert first_difference(RtlAccelerator(config, quick=True, verilog_edit=edit), jobs), f"nobody saw that {fault}"
