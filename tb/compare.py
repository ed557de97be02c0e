"""RTL of the whole accelerator against its model: every port in every cycle, the contents of every line on the memory port.

The register port is the exception: what software reads there (status, counters) is compared after the run; its timing is the testbench of
the register file. Lines that stay within the cache are compared by address; their contents show in matches and outputs.
"""
from dataclasses import dataclass

import numpy as np

from neuroflex.hdl.top import probe_layout
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.run import final_memory, job_workloads, run_arrays
from neuroflex.sim.top import FIELDS
from neuroflex.tb.accelerator import TAIL

__all__ = ["Comparison", "compare_job", "expected_signals"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Outcome of :func:`compare_job`.

    Attributes
    ----------
    cycles, cycle_mismatches : int
        Cycles compared, and those in which some signal differs.
    value_mismatches : int
        Output levels that differ from the functional network.
    first : str or None
        The first difference: cycle, signal, both values.
    run : neuroflex.tb.accelerator.Run
    model : neuroflex.sim.run.ModelRun
    output : int64[C, H, W]
        Levels that the RTL wrote.
    """

    cycles: int
    cycle_mismatches: int
    value_mismatches: int
    first: str | None
    run: object
    model: object
    output: np.ndarray


def expected_signals(job, model, contents, cycles):
    """What the model says of the top's ports: ``{port or probe field: (values[cycles], where they count)}``."""
    config = job.config
    rows = {name: model.record.rows[:cycles, i] for i, name in enumerate(FIELDS)}
    always = np.ones(cycles, bool)
    beat, store = rows["beat"] == 1, rows["write"] == 1
    request, line = rows["request_valid"] == 1, rows["write_valid"] == 1
    payload = (rows["request_address"] | rows["request_lines"] << config.address_bits
               | rows["request_write"] << (config.address_bits + 8))
    t = np.arange(cycles)
    signals = {
        "memory__request__valid": (rows["request_valid"], always), "memory__request__payload": (payload, request),
        "memory__write_data__valid": (rows["write_valid"], always),
        "memory__write_data__payload": (_lines(contents, rows["write_line"], config), line),
        "memory__read_data__ready": (rows["read_ready"], always), "memory__write_done__ready": (always, always),
    }
    for name in ("phase", "layer", "cause", "hit", "miss", "eviction"):
        signals[f"probe.{name}"] = (rows[name], always)
    signals["probe.beat"] = (rows["beat"], always)
    signals |= {f"probe.{name}": (rows[name], beat) for name in ("group", "first_beat", "last_beat", "first_chunk", "last_chunk")}
    signals["probe.write"] = (rows["write"], always)
    signals["probe.write_address"] = (rows["write_address"], store)
    for core in ("ann", "snn"):
        weights = 1 << np.arange(getattr(config, f"{core}_pes"), dtype=np.int64)
        matches = getattr(model.record, f"{core}_matches")[:cycles].astype(np.int64)
        signals[f"probe.{core}_matches"] = (matches @ weights, always)
        counted = np.cumsum(getattr(model.record, f"{core}_done")[:cycles], axis=0, dtype=np.int64)
        # Counters start again in the cycle after a layer's clear pulse.
        cleared = np.maximum.accumulate(np.where(np.concatenate([[0], rows["clear"][:-1]]) == 1, t, 0))
        before = np.where(cleared[:, None] > 0, counted[np.maximum(cleared - 1, 0)], 0)
        signals[f"probe.{core}_done"] = (((counted - before) & 1) @ weights, always)
    signals["irq"] = (t > model.finished_at, always)
    return signals


def _lines(contents, addresses, config):
    """Lines at addresses as the bench packs them: 1-D up to 64 bits, else words."""
    data = contents[np.clip(addresses, 0, len(contents) - 1)]
    if config.chunk_bits < 64:
        return data.copy().view(f"<u{config.line_bytes}")[:, 0].astype(np.int64)
    words = data.copy().view("<u8")
    return words[:, 0] if config.chunk_bits == 64 else words


def observed_signals(accelerator, run):
    """The same signals from the RTL's trace."""
    ports = accelerator.bench._trace.unpack(run.trace)
    probe = ports.pop("probe")
    words = probe.reshape(len(probe), -1).view(np.uint64)
    out = dict(ports)
    for name, field in probe_layout(accelerator.config):
        out[f"probe.{name}"] = _bits(words, field.offset, field.width)
    return out


def _bits(words, start, width):
    values = np.zeros(len(words), np.uint64)
    for i in range(start // 64, (start + width - 1) // 64 + 1):
        shift = start - 64 * i
        values |= words[:, i] >> np.uint64(shift) if shift >= 0 else words[:, i] << np.uint64(-shift)
    return (values & np.uint64((1 << width) - 1)).astype(np.int64)


def compare_job(accelerator, job, tensor, *, memory=None):
    """Run a job on RTL and model and compare them.

    Every cycle from reset to the last register access: memory port, interrupt, sequencer, broadcast bus, matches and finished
    outputs of every PE, lines written to the cache, cache events. Payloads count where they are valid.

    Parameters
    ----------
    accelerator : RtlAccelerator
    job : neuroflex.compiler.lower.Job
    tensor : uint8[C, H, W]
    memory : MemoryTrace, optional

    Returns
    -------
    Comparison
    """
    memory = memory or MemoryTrace.constant()
    trace = evaluate(job.network, np.asarray(tensor)[None], quantised=True)
    want = trace.output[0].astype(np.int64)
    arrays = job_workloads(job, trace)
    untraced = run_arrays(job, arrays, memory, want)    # jumps over still cycles, a traced run does not
    most = untraced.finished_at + 4096
    run = accelerator.run(job.with_input(tensor), program=job.program, trace=memory, layers=len(job.tiles) + 1, record=True, most=most)
    model = run_arrays(job, arrays, memory, want, cycles=run.cycles)
    output = job.output(run.memory)
    expected = expected_signals(job, model, final_memory(job, trace), run.cycles)
    observed = observed_signals(accelerator, run)
    wrong = np.zeros(run.cycles, bool)
    first = None
    for name, (values, where) in expected.items():
        got = observed[name]
        if name == "irq":   # software clears it with its last access
            where = where.copy()
            where[-TAIL - 1:] = False
        differ = (got != np.asarray(values).astype(got.dtype)) & (where if got.ndim == 1 else where[:, None])
        differ = differ if differ.ndim == 1 else differ.any(axis=1)
        if differ.any():
            at = int(differ.argmax())
            if first is None or at < first[0]:
                first = (at, name, got[at], np.asarray(values)[at])
            wrong |= differ
    text = None if first is None else f"cycle {first[0]}: {first[1]} is {first[2]}, the model says {first[3]}"
    if text is None and (run.counters != model.counters or run.status != model.status or not np.array_equal(run.layers, model.layers)):
        text = f"counters, sums per layer or status differ: RTL {run.status.name} {run.counters}, model {model.status.name} {model.counters}"
    if text is None and ((untraced.finished_at, untraced.status, untraced.counters) != (model.finished_at, model.status, model.counters)
                         or not np.array_equal(untraced.layers, model.layers)):
        text = f"the model with jumps ends in cycle {untraced.finished_at}, {untraced.counters}; without in {model.finished_at}, {model.counters}"
    return Comparison(cycles=run.cycles, cycle_mismatches=int(wrong.sum()) + (text is not None and first is None),
                      value_mismatches=int((output != want).sum()), first=text, run=run, model=model, output=output)
