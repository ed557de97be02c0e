"""NeuroFlex with SNN PEs that add bit by bit: RTL in a closed loop against the cycle model, every observable signal in every cycle.

Plan, coverage and thresholds are those of ``tb/test_top_serial.py``, for PEs that correct in binary and for those that read levels first; in the long run on larger
configurations of 64 and 128 bits per chunk, too. Faults: a bit of the weighted sums that is left out in one PE must be seen.
"""
import pytest

from neuroflex.config import PRESETS
from neuroflex.tb.accelerator import AcceleratorError, RtlAccelerator
from neuroflex.tb.compare import compare_job
from neuroflex.tb.faults import within
from neuroflex.tb.networks import memory_of, random_job
from neuroflex.tb.test_top_serial import SEED, check

SMALL = PRESETS["tiny"].replace(snn_levels=6, columns_per_pe=8, row_buffers=2)
LONG = {
    "tiny": PRESETS["tiny"],
    "64 bits, 15 levels": PRESETS["small"].replace(snn_levels=15, slots=2, columns_per_pe=8, neuron_steps=3),
    "128 bits, 4 levels": PRESETS["small"].replace(chunk_bits=128, ann_pes=2, snn_pes=2, snn_levels=4, slots=8, laggy_adders=32),
}
KINDS = ("binary", "radix")


@pytest.mark.parametrize("kind", [pytest.param("binary", marks=pytest.mark.long), "radix"])
def test_random_networks(kind):
    check(SMALL.replace(name=kind, snn_pe=kind), 8, least=400)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LONG)
def test_more_configurations(name, kind):
    check(LONG[name].replace(name=f"{kind}_{list(LONG).index(name)}", snn_pe=kind), 20, least=400, size=8, channels=40)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_fault_is_seen(kind):
    """A PE leaves the highest bit of its sums out."""
    config = SMALL.replace(name=kind, snn_pe=kind)
    accelerator = RtlAccelerator(config, quick=True, verilog_edit=within("snn_array_pe_1", r"highest_bit = 2'h2;", "highest_bit = 2'h1;"))
    for case in range(4):
        job, tensor = random_job(SEED + case, config, policy="all_snn")
        try:
            first = compare_job(accelerator, job, tensor, memory=memory_of(SEED + case)).first
        except AcceleratorError as error:
            first = error.first
        if first:
            return
    pytest.fail("nobody saw that a bit is left out")
