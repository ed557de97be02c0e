"""NeuroFlex with two weight banks: RTL in a closed loop against the cycle model, every observable signal in every cycle.

Plan
----
Stimuli: random networks under all policies and kinds of memory, with tiles that are shorter and longer than the load of the next one; SNN PEs of several
kinds; the digits network. Memory errors on a descriptor, on a load stream and on activations while a layer runs and the next one is loaded,
and on a write; a descriptor that is wrong, a load stream that is wrong, behind a layer that runs; soft resets in mid-overlap; a memory that falls silent there.
Checks: as in ``tb/test_top.py``: all signals in every cycle, levels at the end, for jobs that fail too; the status with the number of the descriptor. After resets, silence
and wrong load streams: the status, and that a good job runs afterwards.
Coverage: ``POINTS``, counted as in ``tb/test_top.py`` and here, with thresholds.
Faults: a weight bank that is not swapped, columns that are loaded and lost. (A layer that does not wait for the one before: ``tb/test_sequencer.py``.)
"""
from dataclasses import replace

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.flow import POLICIES, compile_network
from neuroflex.formats import Status, descriptor_lines, pack_descriptor
from neuroflex.hdl.sequencer import Phase
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate, quantise
from neuroflex.sim.sequencer import LOAD, RECEIVE, REQUEST, RUN
from neuroflex.sim.top import FIELDS
from neuroflex.tb.accelerator import AcceleratorError, Call, RtlAccelerator
from neuroflex.tb.compare import compare_calls, compare_job
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.faults import within
from neuroflex.tb.networks import CORNERS, MEMORIES, memory_of, random_job
from neuroflex.tb.test_top import count_points, digits, same
from neuroflex.tb.test_top_errors import recovers, silent

SEED = 20_28
SMALL = PRESETS["tiny"].replace(name="double", weight_banks=2, columns_per_pe=8, row_buffers=2)
LONG = {
    "tiny": PRESETS["tiny"].replace(name="overlap_tiny", weight_banks=2),
    **{kind: PRESETS["tiny"].replace(name=f"overlap_{kind}", weight_banks=2, snn_pe=kind, snn_levels=6, columns_per_pe=8) for kind in ("serial", "dual_prefix")},
    "least": CORNERS["least"].replace(name="overlap_least", weight_banks=2),
    "groups": CORNERS["groups"].replace(name="overlap_groups", weight_banks=2),
    "64 bits": PRESETS["small"].replace(name="overlap_small", weight_banks=2, slots=2, columns_per_pe=8, fetch_ahead=4),
}
# Situations, and in how many jobs of `check` at least.
POINTS = {"groups": 2, "pool": 2, "residual": 2, "tiles": 1, "both cores in a layer": 2, "ann only": 1, "snn only": 1, "empty chunk": 2, "drain": 2,
          "loaded before the end": 4, "loaded after the end": 4, "cache and loader at memory": 4, "beats of both buses at once": 4, "groups change": 2}


@pytest.fixture(scope="module")
def accelerator():
    return RtlAccelerator(SMALL, quick=True)


def columns(done):
    return {name: done.model.record.rows[:done.cycles, i] for i, name in enumerate(FIELDS)}


def overlaps(rows):
    """Cycles in which a layer runs and the next one is loaded."""
    return (rows["phase"] == LOAD) & (rows["running"] == 1)


def count_overlap(coverage, job, done):
    rows = columns(done)
    both, ends = overlaps(rows), np.diff(rows["running"], append=0) == -1
    for name, met in {
            "loaded before the end": (ends & (rows["phase"] == RUN)).any(), "loaded after the end": (ends & (rows["phase"] == LOAD)).any(),
            "cache and loader at memory": (both & (rows["fill_valid"] == 1)).any(), "beats of both buses at once": (both & (rows["beat"] == 1) & (rows["load_line"] >= 0)).any(),
            "groups change": len({tile.groups_log2 for tile in job.tiles}) > 1}.items():
        coverage.hit(name, bool(met))


def check(accelerator, cases, *, wanted=POINTS, **limits):
    """Random networks; RTL = model in every cycle."""
    config, cycles = accelerator.config, 0
    coverage, shared = Coverage(f"top, {config.name}"), 0
    for case in range(cases):
        seed = SEED + case
        job, tensor = random_job(seed, config, policy=list(POLICIES)[case % len(POLICIES)], **limits)
        memory = memory_of(case)
        done = same(accelerator, job, tensor, memory, f"{config.name}, network {seed}")
        count_points(coverage, job, tensor, memory, done)
        count_overlap(coverage, job, done)
        shared += int(overlaps(columns(done)).sum())
        cycles += done.cycles
    print(f"{config.name}: seed {SEED}, {cases} networks, {cycles} cycles compared, {shared} of them with a layer that runs and one that is loaded; {coverage.hits}")
    assert shared > 50 * cases
    short = {point: coverage.hits.get(point, 0) for point, least in wanted.items() if coverage.hits.get(point, 0) < least}
    assert not short, f"hit less often than {wanted}: {short}"


def test_random_networks(accelerator):
    check(accelerator, 12)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_more_configurations(name):
    limits = {"least": {"size": 6, "channels": 12}, "groups": {"size": 16, "channels": 3}}.get(name, {"size": 8, "channels": 40})
    check(RtlAccelerator(LONG[name], quick=True), 12, wanted={"loaded before the end": 1, "loaded after the end": 1}, **limits)


def test_digits(accelerator):
    """A digit: equal, and in fewer cycles than with one bank."""
    network = digits()
    tensor = quantise(network.input, network.examples.test_images[:1])[0]
    job = compile_network(network, SMALL)
    done = same(accelerator, job, tensor, MemoryTrace.constant(30), "digits")
    assert done.run.counters["cycles_load"] < 0.2 * sum(tile.settings["load_lines"] for tile in job.tiles)


@pytest.fixture(scope="module")
def good():
    """A job of several tiles that run for long, and its input."""
    return random_job(SEED + 15, SMALL, policy="balanced", layers=4, size=8, channels=24)


TRACE = MemoryTrace.constant(7)


@pytest.fixture(scope="module")
def clean(accelerator, good):
    return columns(same(accelerator, *good, TRACE, "without errors"))


def fails(accelerator, good, status, layer, *, memory=TRACE, lines=None):
    """The job ends with this status at this descriptor, and RTL = model in every cycle."""
    job, tensor = good
    done = compare_calls(accelerator, job, tensor, [Call(program=job.program)], memory=memory, lines=lines)
    assert done.cycle_mismatches == 0, done.first
    assert (done.run.status, done.run.layer) == (done.model.status, layer) == (status, layer), (done.run.status, done.run.layer)
    return columns(done)


def descriptor_of(tile, **changes):
    """Lines of a tile's descriptor, some fields changed."""
    words = pack_descriptor(**{name: value for name, value in tile.settings.items() if name != "checksum"} | changes)
    return words.view(np.uint8).reshape(descriptor_lines(SMALL), -1)


def pick(mask, count):
    """Some of the cycles in which it is so, the first and the last among them."""
    found = np.flatnonzero(mask)
    assert len(found) >= count, f"only {len(found)} such cycles"
    return found[np.linspace(0, len(found) - 1, count).astype(int)]


def test_memory_errors(accelerator, good, clean):
    """Error answers on lines of the next layer's descriptor and load, of the running layer, and on writes, while both are under way."""
    running, arrives = clean["running"] == 1, (clean["own_data_valid"] & clean["own_data_ready"]) == 1
    for t in [*pick(running & arrives & (clean["phase"] == LOAD), 5), *pick(running & arrives & (clean["phase"] == RECEIVE), 3)]:
        rows = fails(accelerator, good, Status.BUS_ERROR, clean["layer"][t] + 1, memory=replace(TRACE, error_line=int(clean["own_data_line"][t])))
        assert rows["layer"][-20] == clean["layer"][t] + 1
    fills = (clean["fill_valid"] & clean["fill_ready"] & running) == 1
    for t in [*pick(fills & (clean["phase"] == LOAD), 4), *pick(fills, 2)]:
        fails(accelerator, good, Status.BUS_ERROR, clean["layer"][t], memory=replace(TRACE, error_line=int(clean["fill_line"][t])))


def test_wrong_descriptors(accelerator, good, clean):
    """The descriptor behind a layer that runs, or the program's end, is wrong: that layer ends first. Also when it fails itself."""
    job, tensor = good
    per = descriptor_lines(SMALL)
    for number in (0, 1, len(job.tiles) - 1, len(job.tiles)):
        lines = job.with_input(tensor)
        lines[job.program + number * per + 1, 0] ^= 4
        fails(accelerator, good, Status.BAD_CHECKSUM, number, lines=lines)
    lines = job.with_input(tensor)
    lines[job.program + per:job.program + 2 * per] = descriptor_of(job.tiles[1], pool_h=0)
    rows = fails(accelerator, good, Status.BAD_OUTPUT, 1, lines=lines)
    assert ((rows["code"] == Status.BAD_OUTPUT) & (rows["running"] == 1)).sum() > 50
    first = (clean["fill_valid"] & clean["fill_ready"] & (clean["layer"] == 0) & (clean["running"] == 1)) == 1
    fails(accelerator, good, Status.BUS_ERROR, 0, memory=replace(TRACE, error_line=int(clean["fill_line"][np.flatnonzero(first)[0]])), lines=lines)


def recovered(accelerator, good, calls, memory=None, **options):
    """Statuses and phases of calls; a good job runs after them."""
    job, tensor = good
    lines = job.with_input(tensor) if memory is None else memory
    return recovers(accelerator, (job, None, evaluate(job.network, tensor[None], quantised=True).output[0]), lines, calls, **options)


def test_wrong_load_stream(accelerator, good):
    """The load stream behind a layer that runs is wrong."""
    job, tensor = good
    memory = job.with_input(tensor)
    settings = job.tiles[1].settings
    calls, per = [], descriptor_lines(SMALL)
    for line, byte in ((0, 3), (1, 1), (settings["load_lines"] - 1, None)):
        stream = memory[settings["load_address"]:settings["load_address"] + settings["load_lines"]].copy()
        if byte is None:
            stream = stream[:-1]
        else:
            stream[line, byte] ^= 255
        load, program = len(memory), len(memory) + len(stream)
        memory = np.concatenate([memory, stream, memory[job.program:job.program + per], descriptor_of(job.tiles[1], load_address=load, load_lines=len(stream))])
        calls.append(Call(program=program))
    statuses, _ = recovered(accelerator, good, calls, memory)
    assert statuses == [Status.BAD_LOAD_RECORD, Status.BAD_LOAD_LENGTH, Status.BAD_LOAD_LENGTH]


def test_soft_resets(accelerator, good, clean):
    """Resets while a layer runs and the next one is loaded, fetched or checked, and at other times."""
    start = int(np.flatnonzero(clean["busy"])[0])
    moments = pick(overlaps(clean), 8)
    moments = np.concatenate([moments, pick((clean["running"] == 1) & (clean["phase"] != LOAD), 6), pick(clean["busy"] == 1, 4)[:-1]])
    loading = 0
    for t in moments:
        (status,), (phase,) = recovered(accelerator, good, [Call(program=good[0].program, reset_after=int(t) - start)], trace=TRACE, pause=3000)
        assert status == Status.NONE, (t, phase)
        loading += phase == Phase.LOAD
    assert loading >= 6


def test_watchdog(accelerator, good, clean):
    """Memory falls silent while a layer runs and the next one is loaded, or asked for."""
    struck = 0
    for t in [*pick(overlaps(clean), 4), *pick((clean["running"] == 1) & (clean["phase"] == REQUEST), 2)]:
        codes, _ = recovered(accelerator, good, [Call(program=good[0].program, watchdog=500)], trace=silent(int(t)), pause=6000)
        assert codes[0] in (Status.WATCHDOG, Status.DONE)
        struck += codes[0] == Status.WATCHDOG
    assert struck >= 4


FAULTS = {"a PE's weight bank is not swapped": within("ann_array_pe_1_front_end", r"weight_bank <= ", "weight_bank <= 1'h0 & "),
          "a PE's loaded columns are forgotten": within("snn_array_pe_0_front_end", r"  columns <= ", "  columns <= 1'h1 & ")}


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_seen(fault, good):
    """`good` is equal in every cycle without."""
    accelerator = RtlAccelerator(SMALL, quick=True, verilog_edit=FAULTS[fault])
    try:
        first = compare_job(accelerator, *good, memory=TRACE).first
    except AcceleratorError as error:
        first = error.first
    assert first, f"nobody saw that {fault}"
    print(f"{fault}: {first}")
