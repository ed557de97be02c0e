"""NeuroFlex: programs that are wrong, memory that fails, resets at any time; a good job runs right after each of them.

Plan
----
Stimuli: descriptors with every kind of wrong field and a good checksum, flipped bits, load streams that are too short, too long, or
hold a wrong record, error answers to descriptor, load and activation reads, a memory that stops answering, soft resets spread over a
whole job and shortly after its start.
Checks: the status code, that the job ends, and that a good job started afterwards without a reset gives the levels of the functional
network.
Coverage: every :class:`Status` is asked for by name below.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Status, descriptor_lines, pack_descriptor
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.tb.accelerator import Call, RtlAccelerator
from neuroflex.tb.networks import random_job

SEED = 2058
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def accelerator():
    return RtlAccelerator(TINY)


@pytest.fixture(scope="module")
def good():
    """A job of several layers, its memory and its output."""
    job, tensor = random_job(SEED, TINY, policy="balanced", layers=3, size=6, channels=20)
    return job, job.with_input(tensor), evaluate(job.network, tensor[None], quantised=True).output[0]


def with_program(job, memory, **changes):
    """Memory with a copy of the first descriptor behind it, some fields changed, and the copy's address."""
    settings = {name: value for name, value in job.tiles[0].settings.items() if name != "checksum"}
    words = pack_descriptor(**settings | changes)
    lines = words.view(np.uint8).reshape(descriptor_lines(job.config), -1)
    return np.concatenate([memory, lines]), len(memory)


def recovers(accelerator, good, memory, calls, trace=None, pause=0):
    """Run the calls and then the good job; the codes of the calls."""
    job, _, want = good
    statuses, after = accelerator.run_calls(memory, [*calls, Call(program=job.program, pause=pause)], trace=trace)
    assert statuses[-1] == Status.DONE
    np.testing.assert_array_equal(job.output(after), want)
    return list(statuses[:-1])


WRONG = {
    Status.BAD_OPCODE: [{"opcode": 0}, {"opcode": 3}, {"opcode": 255}, {"version": 0}, {"version": 2}],
    Status.BAD_SOURCE: [{"source0_height": 0}, {"source0_width": 0}, {"source0_chunks": 0}, {"source0_kernel_h": 0}, {"source0_kernel_w": 8},
                        {"source0_stride": 0}, {"source0_stride": 8}, {"source0_pad": 7}, {"source0_repeat": 0},
                        {"source0_base": 1 << TINY.address_bits}, {"source1_height": 2, "source1_width": 0},
                        {"source0_base": (1 << TINY.address_bits) - 1}, {"source0_height": 65535, "source0_width": 65535}],
    Status.BAD_OUTPUT: [{"out_height": 0}, {"out_width": 0}, {"out_chunks": 0}, {"pool_h": 0}, {"pool_w": 8}, {"groups_log2": 2},
                        {"fetch_lines": 0}, {"fetch_lines": 10}, {"out_base": 1 << TINY.address_bits}, {"ann_rounds": TINY.columns_per_pe + 1},
                        {"snn_rounds": TINY.columns_per_pe + 1}, {"ann_rounds": 0, "snn_rounds": 0}, {"levels_in": TINY.snn_levels + 1},
                        {"ann_rounds": 1, "snn_rounds": 1, "levels_in": 0}, {"out_first_chunk": 4095},
                        {"out_base": (1 << TINY.address_bits) - 1}, {"out_height": 5000}, {"out_height": 1}, {"out_width": 7}, {"source0_stride": 7}],
    Status.BAD_LOAD_LENGTH: [{"load_lines": 0}, {"load_lines": 1 << TINY.address_bits}, {"load_address": 1 << 31},
                             {"load_address": (1 << TINY.address_bits) - 1}],
}


def test_wrong_descriptors(accelerator, good):
    """One wrong field at a time; several jobs in one run, and a good one at the end."""
    job, memory, _ = good
    want, calls = [], []
    for status, cases in WRONG.items():
        for changes in cases:
            memory, program = with_program(job, memory, **changes)
            calls.append(Call(program=program))
            want.append(status)
    for beyond in ((1 << TINY.address_bits) - descriptor_lines(TINY) + 1, (1 << TINY.address_bits) + job.program, 1 << 31):
        calls.append(Call(program=beyond))
        want.append(Status.BAD_PROGRAM)
    assert recovers(accelerator, good, memory, calls) == want


def test_every_flipped_bit_is_a_wrong_checksum(accelerator, good):
    job, memory, _ = good
    rng = np.random.default_rng(SEED)
    per, calls = descriptor_lines(TINY), []
    for bit in rng.choice(per * TINY.chunk_bits, 60, replace=False):
        calls.append(Call(program=len(memory)))
        lines = memory[job.program:job.program + per].copy()
        lines.reshape(-1)[bit // 8] ^= 1 << bit % 8
        memory = np.concatenate([memory, lines])
    assert recovers(accelerator, good, memory, calls) == [Status.BAD_CHECKSUM] * len(calls)


def test_wrong_load_streams(accelerator, good):
    job, memory, _ = good
    settings = job.tiles[0].settings
    stream = memory[settings["load_address"]:settings["load_address"] + settings["load_lines"]]
    cases = []
    for byte, value, status in ((3, 0, Status.BAD_LOAD_RECORD), (0, 2, Status.BAD_LOAD_RECORD), (1, 99, Status.BAD_LOAD_RECORD),
                                (2, TINY.columns_per_pe + 1, Status.BAD_LOAD_RECORD), (2, 0, Status.BAD_LOAD_RECORD)):
        wrong = stream.copy()
        wrong[0, byte] = value
        cases.append((wrong, status))
    for line, word, value in ((2, 0, 0), (2, 3, 1), (4, 0, 0), (4, 0, 128), (4, 3, 1)):       # theta and levels of the first column
        wrong = stream.copy()
        wrong[line] = np.where(np.arange(TINY.line_bytes) == word, value, 0 if value in (0, 128) else wrong[line])
        cases.append((wrong, Status.BAD_LOAD_RECORD))
    cases.append((np.concatenate([stream, stream]), Status.BAD_LOAD_RECORD))                 # every PE twice
    cases += [(stream[:-1], Status.BAD_LOAD_LENGTH), (stream[:1], Status.BAD_LOAD_LENGTH)]
    many = stream.copy()
    many[1, :2] = 255                                   # mask pairs beyond a slice's memory
    cases.append((many, Status.BAD_LOAD_LENGTH))
    calls = []
    for wrong, _ in cases:
        address = len(memory)
        memory, program = with_program(job, np.concatenate([memory, wrong]), load_address=address, load_lines=len(wrong))
        calls.append(Call(program=program))
    assert recovers(accelerator, good, memory, calls) == [status for _, status in cases]


def test_bus_errors(accelerator, good):
    """An error answer on a line of the descriptor, of the load stream, of activations."""
    job, memory, _ = good
    per, load = descriptor_lines(TINY), job.tiles[0].settings["load_lines"]
    steady = MemoryTrace.constant(7)
    for line in (0, per - 1, per, per + load - 1, per + load, per + load + 2):
        trace = MemoryTrace(steady.request_ready, steady.write_ready, steady.read_go, steady.latency, 7, error_line=line)
        assert recovers(accelerator, good, memory, [Call(program=job.program)], trace) == [Status.BUS_ERROR], line


def silent(start, cycles=4000, period=400_000):
    """A memory that answers no read for a long time from cycle ``start`` on."""
    go = np.ones(period, bool)
    go[start:start + cycles] = False
    on = np.ones(1, bool)
    return MemoryTrace(on, on, go, np.array([5]), 5)


def test_watchdog(accelerator, good):
    """Memory falls silent in every phase of a job; when it is back, a good job runs."""
    job, memory, _ = good
    length = accelerator.run(memory, program=job.program, trace=silent(300_000)).cycles
    struck = 0
    for start in np.linspace(8, length - 100, 12).astype(int):
        codes = recovers(accelerator, good, memory, [Call(program=job.program, watchdog=500)], silent(int(start)), pause=6000)
        assert codes[0] in (Status.WATCHDOG, Status.DONE)       # a job that needs no more reads ends well
        struck += codes[0] == Status.WATCHDOG
    assert struck >= 6


@pytest.mark.parametrize("points", [24, pytest.param(400, marks=pytest.mark.long)])
def test_soft_reset_at_any_time(accelerator, good, points):
    job, memory, _ = good
    rng = np.random.default_rng(SEED)
    trace = MemoryTrace.random(rng)
    length = accelerator.run(memory, program=job.program, trace=trace).cycles
    for after in np.unique(np.concatenate([np.arange(0, 8), rng.integers(8, length, points)])):
        recovers(accelerator, good, memory, [Call(program=job.program, reset_after=int(after))], trace, pause=3000)


def test_many_resets_in_a_row(accelerator, good):
    job, memory, _ = good
    calls = [Call(program=job.program, reset_after=50 * i, pause=2000 if i else 0) for i in range(20)]
    recovers(accelerator, good, memory, calls, pause=2000)
