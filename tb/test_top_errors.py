"""NeuroFlex: programs that are wrong, memory that fails, resets at any time; a good job runs right after each of them.

Plan
----
Stimuli: descriptors with every kind of wrong field and a good checksum, flipped bits, load streams that are too short, too long, or
hold a wrong record, error answers to descriptor, load and activation reads and to writes (in the middle and at the end of a layer and of
the job), a memory that stops answering, soft resets spread over a whole job and shortly after its start.
Checks: the status code, that the job ends, and that a good job started afterwards without a reset gives the levels of the functional
network, in memory that held something else wherever the job writes. Runs with error answers are compared with the model in every cycle, the good
job after them included.
Coverage: every :class:`Status` is asked for by name below; `WRITE_ERRORS` and `STRUCK` say when error answers come and resets strike.
Faults: error answers to writes that are lost, a soft reset that does not reach the core or one of its blocks.
"""
from dataclasses import replace

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Status, descriptor_lines, pack_descriptor
from neuroflex.hdl.sequencer import Phase
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.top import FIELDS
from neuroflex.tb.accelerator import AcceleratorError, Call, RtlAccelerator
from neuroflex.tb.compare import compare_calls
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.faults import within
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


def spoiled(job, memory):
    """Memory with random contents in every tensor that the job writes."""
    memory = memory.copy()
    for name, place in job.placements.items():
        if name != job.network.input.name:
            lines = memory[place.base:place.base + place.lines]
            lines[:] = np.random.default_rng(SEED).integers(0, 256, lines.shape)
    return memory


def recovers(accelerator, good, memory, calls, trace=None, pause=0):
    """Run the calls and then the good job, whose results are not in memory before; the codes of the calls, and in which phases resets struck."""
    job, _, want = good
    before = spoiled(job, memory)
    assert (job.output(before) != want).any()
    statuses, phases, after = accelerator.run_calls(memory, [*calls, Call(program=job.program, pause=pause, lines=before)], trace=trace)
    assert statuses[-1] == Status.DONE
    np.testing.assert_array_equal(job.output(after), want)
    return statuses[:-1], phases[:-1]


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
    assert recovers(accelerator, good, memory, calls)[0] == want


def test_every_flipped_bit_is_a_wrong_checksum(accelerator, good):
    job, memory, _ = good
    rng = np.random.default_rng(SEED)
    per, calls = descriptor_lines(TINY), []
    for bit in rng.choice(per * TINY.chunk_bits, 60, replace=False):
        calls.append(Call(program=len(memory)))
        lines = memory[job.program:job.program + per].copy()
        lines.reshape(-1)[bit // 8] ^= 1 << bit % 8
        memory = np.concatenate([memory, lines])
    assert recovers(accelerator, good, memory, calls)[0] == [Status.BAD_CHECKSUM] * len(calls)


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
    assert recovers(accelerator, good, memory, calls)[0] == [status for _, status in cases]


def test_bus_errors(accelerator, good):
    """An error answer on a line of the descriptor, of the load stream, of activations."""
    job, memory, _ = good
    per, load = descriptor_lines(TINY), job.tiles[0].settings["load_lines"]
    for line in (0, per - 1, per, per + load - 1, per + load, per + load + 2):
        trace = replace(MemoryTrace.constant(7), error_line=line)
        assert recovers(accelerator, good, memory, [Call(program=job.program)], trace)[0] == [Status.BUS_ERROR], line


# When the error answer to a write comes, and in how many runs.
WRITE_ERRORS = {"a layer runs": 4, "a layer's first": 3, "a layer's last": 3, "a descriptor comes": 3, "a descriptor is checked": 4, "weights come": 1,
                "the job ends": 2, "the job's last": 4}


@pytest.fixture(scope="module")
def writer():
    """A job in which every layer writes to memory, its input and its output."""
    job, tensor = random_job(159, TINY, policy="all_ann", layers=2, size=20)
    return job, tensor, evaluate(job.network, tensor[None], quantised=True).output[0]


def strike(accelerator, writer, trace):
    """Compare a job with an error answer, and the good job after it, with the model in every cycle; the phase that it met."""
    job, tensor, want = writer
    memory = job.with_input(tensor)
    calls = [Call(program=job.program), Call(program=job.program, lines=spoiled(job, memory))]
    done = compare_calls(accelerator, job, tensor, calls, memory=trace, lines=memory)
    assert done.cycle_mismatches == 0, done.first
    assert done.run.status == done.model.status == Status.DONE and done.value_mismatches == 0
    assert recovers(accelerator, (job, None, want), memory, calls[:1], trace)[0] == [Status.BUS_ERROR]
    shown = accelerator.bench._stim.unpack(done.run.stim, ["memory__write_done__valid", "memory__write_done__payload"])
    at = np.flatnonzero(shown["memory__write_done__valid"] & shown["memory__write_done__payload"])
    assert len(at) == 1
    return Phase(int(done.model.record.rows[at[0], FIELDS.index("phase")]))


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.long)])
def test_bus_errors_on_writes(accelerator, writer, step):
    """The first, a middle and the last write of each layer, and answers so late that the sequencer has gone on, up to every ``step`` cycles."""
    job, tensor, _ = writer
    coverage = Coverage("write errors", points=WRITE_ERRORS)
    trace = MemoryTrace.constant(7)
    clean = compare_calls(accelerator, job, tensor, [Call(program=job.program)], memory=trace)
    assert clean.cycle_mismatches == clean.value_mismatches == 0
    layer, valid = (clean.model.record.rows[:, FIELDS.index(name)] for name in ("layer", "write_valid"))
    ready = accelerator.bench._stim.unpack(clean.run.stim, ["memory__write_data__ready"])["memory__write_data__ready"]
    writes = layer[(valid & ready) == 1]
    cases = []
    for number in range(len(job.tiles)):
        own = np.flatnonzero(writes == number)
        cases += [(own[0], "a layer's first"), (own[-1], "a layer's last")] + [(own[len(own) // 2], None)] * (number == 0 or step == 1)
    cases.append((len(writes) - 1, "the job's last"))
    late = [(int(np.flatnonzero(writes == 0)[-1]), latency) for latency in (70, 100, *range(110, 150, step), 200)]
    for number, point in cases:
        phase = strike(accelerator, writer, replace(trace, error_write=int(number)))
        if point:
            coverage.hit(point)
        count(coverage, phase)
    for number, latency in [*late, *((len(writes) - 1, latency) for latency in (60, *range(110, 130, step), 200))]:
        phase = strike(accelerator, writer, replace(trace, answer_latency=latency, error_write=number))
        coverage.hit("the job's last", number == len(writes) - 1)
        count(coverage, phase)
    short = {point: hits for point, hits in coverage.hits.items() if hits < WRITE_ERRORS[point]}
    assert not short, f"hit less often than {WRITE_ERRORS}: {short}"


def count(coverage, phase):
    for point, phases in {"a layer runs": (Phase.RUN,), "a descriptor comes": (Phase.REQUEST, Phase.RECEIVE), "weights come": (Phase.LOAD,),
                          "a descriptor is checked": (Phase.CHECKSUM, Phase.CHECK, Phase.DECIDE), "the job ends": (Phase.FINISH,)}.items():
        coverage.hit(point, phase in phases)


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
        codes, _ = recovers(accelerator, good, memory, [Call(program=job.program, watchdog=500)], silent(int(start)), pause=6000)
        assert codes[0] in (Status.WATCHDOG, Status.DONE)       # a job that needs no more reads ends well
        struck += codes[0] == Status.WATCHDOG
    assert struck >= 6


# In which phases soft resets have to strike, and in what part of their points at least: a little less than the phases' parts of the job.
STRUCK = {"a busy job": 0.8, "INVALIDATE": 0.05, "REQUEST, RECEIVE, CHECKSUM, CHECK": 0.06, "LOAD": 0.1, "RUN": 0.2}


def resets(accelerator, good, points):
    """Soft resets at any time of a job, a run for each; hits of each point of `STRUCK`, and how many runs."""
    job, memory, _ = good
    rng = np.random.default_rng(SEED)
    trace = MemoryTrace.random(rng)
    length = accelerator.run(memory, program=job.program, trace=trace).cycles
    coverage = Coverage("soft resets", points=STRUCK)
    edges = np.linspace(8, length, points + 1).astype(int)
    moments = np.concatenate([np.arange(8), rng.integers(edges[:-1], edges[1:])])      # one in each stretch
    for after in moments:
        (status,), (phase,) = recovers(accelerator, good, memory, [Call(program=job.program, reset_after=int(after))], trace, pause=3000)
        busy = phase not in (Phase.IDLE, Phase.RETURN)
        assert status == (Status.NONE if busy else Status.DONE), (after, phase)
        coverage.hit("a busy job", busy)
        for point in STRUCK:
            coverage.hit(point, phase.name in point.split(", "))
    return coverage.hits, len(moments)


@pytest.mark.parametrize("points", [24, pytest.param(400, marks=pytest.mark.long)])
def test_soft_reset_at_any_time(accelerator, good, points):
    hits, runs = resets(accelerator, good, points)
    print(f"seed {SEED}: {runs} resets, {hits}")
    few = {point: count for point, count in hits.items() if count < max(3, STRUCK[point] * runs)}
    assert not few, f"struck less often than wanted: {few} of {runs}"


def test_many_resets_in_a_row(accelerator, good):
    job, memory, _ = good
    calls = [Call(program=job.program, reset_after=50 * i, pause=2000 if i else 0) for i in range(20)]
    statuses, phases = recovers(accelerator, good, memory, calls, pause=2000)
    assert statuses == [Status.NONE] * 20 and Phase.IDLE not in phases


FAULTS = {
    "an error answer to a write is lost": within("arbiter", r"write_error <= ", "write_error <= 1'h0 & "),
    "a soft reset does not reach the core": within("guard", r"if \(abandon\)", "if (1'h0)"),
    "a soft reset does not reach the arbiter": within("core", r"(arbiter arbiter \([^;]*?)\.core_reset\(core_reset\)", r"\1.core_reset(1'h0)"),
}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault, good, writer):
    """The checks above fail with a fault in the circuit; `test_bus_errors_on_writes` and `test_soft_reset_at_any_time` pass without."""
    faulty = RtlAccelerator(TINY, verilog_edit=FAULTS[fault], quick=True)
    with pytest.raises((AssertionError, AcceleratorError)) as seen:
        if "write" in fault:
            strike(faulty, writer, replace(MemoryTrace.constant(7), error_write=57))
        else:
            resets(faulty, good, 4)
    print(f"{fault}: {str(seen.value).splitlines()[0]}")
