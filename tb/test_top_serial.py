"""NeuroFlex with SNN PEs that add serially: RTL in a closed loop against the cycle model, every observable signal in every cycle.

Plan, all of it in the long run (``tb/test_top_binary.py`` has the default run, of kinds that add bit by bit): random networks under all policies and kinds of
memory, with up to the most input levels and with one, on a small configuration and on larger ones of 64 and 128 bits per chunk. What is compared, and how, is in ``tb/test_top.py``. Levels at the end are those of
the other kind of SNN PE, and of ANN PEs. Coverage: the points in ``POINTS``, counted as there, with thresholds.
Faults: an addition that is lost in one PE must be seen.
"""
import pytest

from neuroflex.config import PRESETS
from neuroflex.flow import POLICIES
from neuroflex.tb.accelerator import AcceleratorError, RtlAccelerator
from neuroflex.tb.compare import compare_job
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.faults import within
from neuroflex.tb.networks import memory_of, random_job
from neuroflex.tb.test_top import count_points, same

SEED = 20_27
SMALL = PRESETS["tiny"].replace(name="serial", snn_pe="serial", snn_levels=6, columns_per_pe=8, row_buffers=2)
LONG = {
    "tiny": PRESETS["tiny"].replace(name="serial_tiny", snn_pe="serial"),
    "64 bits, 15 levels": PRESETS["small"].replace(name="serial_small", snn_pe="serial", snn_levels=15, snn_acc_bits=26, slots=2, columns_per_pe=8, neuron_steps=3),
    "128 bits, 4 levels": PRESETS["small"].replace(name="serial_wide", snn_pe="serial", chunk_bits=128, ann_pes=2, snn_pes=2, snn_levels=4, slots=8, laggy_adders=32),
}
POINTS = {"groups": 2, "pool": 2, "residual": 2, "both cores in a layer": 2, "snn only": 2, "one level in": 1, "many levels out": 2, "empty chunk": 2,
          "slot stall": 2, "drain": 2}


def check(config, cases, *, wanted=POINTS, least=500, **limits):
    """Random networks, the last of them with one level; RTL = model in every cycle, and ``least`` additions of SNN columns in each, in the mean."""
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
    assert additions > least * cases, f"{additions} additions in {cases} networks"
    short = {point: coverage.hits.get(point, 0) for point, least in wanted.items() if coverage.hits.get(point, 0) < least}
    assert not short, f"hit less often than {wanted}: {short}"


@pytest.mark.long
def test_random_networks():
    check(SMALL, 8)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_more_configurations(name):
    check(LONG[name], 20, size=8, channels=40)


@pytest.mark.long
def test_fault_is_seen():
    """An addition is lost in a PE: the wait for the adder ends a cycle early at level 3."""
    accelerator = RtlAccelerator(SMALL, quick=True, verilog_edit=within("snn_array_pe_1", r"assign through = (\w+) & (\w+);", r"assign through = \1 & (\2 | added == 1);"))
    for case in range(4):
        job, tensor = random_job(SEED + case, SMALL, policy="all_snn")
        try:
            first = compare_job(accelerator, job, tensor, memory=memory_of(SEED + case)).first
        except AcceleratorError as error:
            first = error.first
        if first:
            return
    pytest.fail("nobody saw that an addition is lost")
