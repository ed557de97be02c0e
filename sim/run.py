"""A whole job on the cycle model: functional values first, then time."""
from dataclasses import dataclass

import numpy as np

from neuroflex.formats import DESCRIPTOR_WORDS, StallCause, Status, descriptor_lines
from neuroflex.registers import COUNTERS, WATCHDOG
from neuroflex.sim import broadcaster, sequencer, top
from neuroflex.compiler.lower import dense_rows, occupied, spine_levels, tensor_lines
from neuroflex.sim.network import evaluate
from neuroflex.sim.workload import tile_workload

__all__ = ["PATIENCE", "START_CYCLE", "Deadlock", "ModelRun", "final_memory", "job_workloads", "run_arrays", "simulate_job"]

START_CYCLE = 5      # of the start pulse: three register writes, two cycles each
PATIENCE = WATCHDOG   # cycles without a move: the circuit's watchdog after reset


class Deadlock(RuntimeError):
    """A job in which nothing moves any more; the message says where it is and what it waits for.

    The circuit's watchdog ends such a job with ``Status.WATCHDOG``, unless it is off.
    """


@dataclass(frozen=True, eq=False)
class ModelRun:
    """What the model says of a job.

    Attributes
    ----------
    status : Status
    layers, counters, output
        As in :class:`neuroflex.flow.Result`.
    traffic : int64[descriptors, len(neuroflex.sim.energy.TRAFFIC)]
        What FiberCache and compressor did in each descriptor.
    finished_at : int
        Cycle (0 is the first after reset) in which the sequencer reports.
    record : neuroflex.sim.top.Recorder
        Empty unless the run was traced.
    """

    status: Status
    layers: np.ndarray
    traffic: np.ndarray
    counters: dict
    output: np.ndarray
    finished_at: int
    record: top.Recorder


def job_workloads(job, trace, image=0):
    """Workloads of a job's tiles for one image of a functional `Trace`, as the cycle model wants them."""
    config, network = job.config, job.network
    arrays, held, owner = [], None, None
    for tile in job.tiles:
        layer = network.layer(tile.layer)
        if layer is not owner:      # a layer's tiles follow each other
            held, owner = dense_rows(layer, job.placements, config) != 0, layer
        rows = held[:, :, tile.columns]
        sources = []
        for source in layer.sources:
            place = job.placements[source.tensor]
            sources.append((place.base, spine_levels(trace.tensor(source.tensor)[image], place, config).reshape(-1, config.chunk_bits)))
        out = occupied(trace.tensor(tile.layer)[image], job.placements[tile.layer], config)
        first = tile.first_chunk * config.chunk_bits
        workload = tile_workload(tile, rows, sources, out[:, first:first + tile.chunks * config.chunk_bits],
                                 layer.levels[tile.columns].astype(np.int64), config)
        arrays.append(top.tile_arrays(workload, tile.settings, config))
    return arrays


def final_memory(job, trace, image=0):
    """Every line's content once it was written: ``uint8[lines, line_bytes]``. Each is written at most once per job."""
    memory = job.memory.copy()
    parts = {part for concat in job.network.concats for part in concat.parts}     # written with their concatenation
    for name, place in job.placements.items():
        if name in parts:
            continue
        lines = tensor_lines(trace.tensor(name)[image], place, job.config)
        memory[place.base:place.base + len(lines)] = lines
    return memory


def simulate_job(job, tensor, memory_trace, *, cycles=0):
    """Run a job from reset on.

    Parameters
    ----------
    job : neuroflex.compiler.lower.Job
    tensor : uint8[C, H, W]
        Input levels.
    memory_trace : neuroflex.sim.memory.MemoryTrace
    cycles : int
        Record that many cycles, and do not stop before them.

    Returns
    -------
    ModelRun

    Raises
    ------
    Deadlock
        When nothing has moved for ``PATIENCE`` cycles.
    """
    config = job.config
    trace = evaluate(job.network, np.asarray(tensor)[None], quantised=True)
    arrays = job_workloads(job, trace)
    return run_arrays(job, arrays, memory_trace, trace.output[0].astype(np.int64), cycles=cycles)


def run_arrays(job, arrays, memory_trace, output, *, cycles=0, memory=None, starts=None):
    """As :func:`simulate_job`, with the workloads at hand.

    Parameters
    ----------
    job, memory_trace, cycles
        As there.
    arrays : list of TileArrays
    output : int64[C, H, W]
    memory : uint8[lines, line_bytes], optional
        When it holds more descriptors than the job's own.
    starts : list of (int, int), optional
        Start pulses: cycle, and line address of the program: the job's, or one that begins with something else than a
        layer. Those that come while a job runs are ignored. One job, ``START_CYCLE`` after reset, by default.
    """
    config = job.config
    memory = job.memory if memory is None else memory
    per = descriptor_lines(config)
    state = top.top_init(config, len(job.tiles) + 1)
    record = top.recorder(config, cycles)
    numbers = top.top_numbers(config)
    patterns = (memory_trace.request_ready, memory_trace.write_ready, memory_trace.read_go)

    def advance(tile, coming, verdict, start_at, program):
        moved = None
        while True:
            ended = top.top_advance(state, tile, coming.settings, numbers, verdict, start_at, program, patterns, memory_trace.latency, memory_trace.answer_latency,
                                    memory_trace.error_line, memory_trace.error_write, record,
                                    cycles or state.scalars[top.NOW] + PATIENCE, 0)
            if ended or cycles:
                return ended
            before, moved = moved, top.moves(state)
            if np.array_equal(before, moved) and state.sequencer[sequencer.PHASE] != sequencer.IDLE:
                raise Deadlock(_where(job, state))

    tile = coming = arrays[0]
    ended = 2
    for start_at, program in [(START_CYCLE, job.program)] if starts is None else starts:
        if start_at <= state.scalars[top.NOW]:      # the sequencer was still at work when software wrote
            continue
        ended, address = 1, program
        while ended == 1:
            words = memory[address:address + per].reshape(-1).view(np.uint32)[:DESCRIPTOR_WORDS]
            verdict = int(sequencer.check_descriptor(words, config))
            if verdict == Status.NONE:
                coming = arrays[(address - job.program) // per]
            if not config.overlap:
                tile = coming
            ended = advance(tile, coming, verdict, start_at, program)
            tile = coming       # handed over
            address += per
        if ended == 0:
            break
    if cycles and ended == 2:
        advance(tile, coming, 0, -1, 0)
    r = state.scalars
    counters = dict.fromkeys((c.name for c in COUNTERS), 0)
    sums = state.layers.sum(axis=0)
    counters |= {f"cycles_{cause.name.lower()}": int(sums[cause]) for cause in StallCause}
    counters |= {"cycles": int(r[top.BUSY_CYCLES]), "matches_ann": int(sums[len(StallCause)]), "matches_snn": int(sums[len(StallCause) + 1]),
                 "cache_hits": int(r[top.HITS]), "cache_misses": int(r[top.MISSES]), "cache_evictions": int(r[top.EVICTIONS])}
    return ModelRun(status=Status(int(r[top.CODE])), layers=state.layers, traffic=state.traffic, counters=counters, output=output,
                    finished_at=int(r[top.FINISHED_AT]), record=record)


def _where(job, state):
    """Words for where a job stands."""
    number = int(state.sequencer[sequencer.LAYER])
    phase = int(state.sequencer[sequencer.PHASE])
    layer = f"layer {job.tiles[number].layer!r} (descriptor {number})" if number < len(job.tiles) else "the end of the program"
    if state.sequencer[sequencer.RUNNING]:
        cause = StallCause(int(sequencer.sequencer_cause(state.sequencer, state.broadcaster[broadcaster.CAUSE])))
        waits = {StallCause.MEMORY: "for activations from cache or memory", StallCause.SLOT: "for a free slot of a PE",
                 StallCause.ROW: "for a free row buffer of a PE", StallCause.OUTPUT: "for the compressor to free an output bank",
                 StallCause.DRAIN: "for outputs of the PEs, or for the compressor to write them"}.get(cause, f"in {cause.name}")
    else:
        waits = {sequencer.INVALIDATE: "for the cache to invalidate itself", sequencer.REQUEST: "to ask for a descriptor",
                 sequencer.RECEIVE: "for a descriptor from memory", sequencer.LOAD: "for the load stream from memory",
                 sequencer.FINISH: "for writes to reach memory"}.get(phase, f"in phase {phase} of the sequencer")
    return (f"deadlock in {layer}: nothing has moved for {PATIENCE:,} cycles, up to cycle {int(state.scalars[top.NOW]):,}; waiting {waits}. "
            "The circuit's watchdog would end the job with Status.WATCHDOG: are the program image and its workload of the same network?")
