"""RTL of the whole accelerator against its model: every port and everything that crosses a block boundary, in every cycle.

What is compared when it counts: valid and ready always, a payload while it is valid, a line by its contents. ``docs/testing.md`` lists what
is not compared here.
"""
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numba import njit

from neuroflex import registers as regmap
from neuroflex.formats import StallCause
from neuroflex.hdl.top import probe_layout
from neuroflex.layouts import load_layout, settings_layout
from neuroflex.sim.loader import parse_load_stream
from neuroflex.sim.memory import MemoryTrace
from neuroflex.sim.network import evaluate
from neuroflex.sim.registers import RegisterModel
from neuroflex.sim.run import final_memory, job_workloads, run_arrays
from neuroflex.sim.top import FIELDS
from neuroflex.tb.accelerator import AcceleratorError, Call

__all__ = ["COMPARED", "Comparison", "compare_calls", "compare_job", "first_difference"]


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
        The first difference: cycle, signal, both values, file of the waves.
    run : neuroflex.tb.accelerator.Run
    model : neuroflex.sim.run.ModelRun
    output : int64[C, H, W]
        Levels that the RTL wrote.
    waves : Path or None
        A VCD of the cycles up to the first difference; none for a circuit that is broken on purpose.
    """

    cycles: int
    cycle_mismatches: int
    value_mismatches: int
    first: str | None
    run: object
    model: object
    output: np.ndarray
    waves: Path | None = None


# Tables of long contents; a value that is no line of a table is its own number.
_NUMBER, _LINE, _ARRIVED, _LOAD, _SETTINGS = range(-1, 4)

_STREAMS = {"own": ("address", "lines"), "own_data": ("error",), "fill_request": ("address", "lines"), "fill": ("error",), "evict": ("address",),
            "port_request": (), "port_write": (), "cache_fetch": ("address", "lines"), "cache_read": ("address", "consume"),
            "cache_write": ("address", "through")}
_ALWAYS = ("phase", "layer", "cause", "code", "invalidate", "loader_start", "clear", "run", "cache_busy", "loader_finished", "broadcaster_finished",
           "compressor_finished", "block_done", "cache_idle", "arbiter_idle", "guard_idle", "hit", "miss", "eviction", "response", "beat")
# Signal: (column of the model's record, column that says when it counts, table).
COMPARED = {
    "memory__request__valid": ("request_valid", None, _NUMBER), "memory__request__payload": ("request", "request_valid", _NUMBER),
    "memory__write_data__valid": ("write_valid", None, _NUMBER), "memory__write_data__payload": ("write_line", "write_valid", _LINE),
    "memory__read_data__ready": ("read_ready", None, _NUMBER), "memory__write_done__ready": ("one", None, _NUMBER),
    "registers_request__ready": ("register_ready", None, _NUMBER), "registers_response__valid": ("register_valid", None, _NUMBER),
    "registers_response__payload": ("register_answer", "register_valid", _NUMBER), "irq": ("irq", None, _NUMBER),
    **{name: (name, None, _NUMBER) for name in _ALWAYS}, "loader_error": ("loader_error", "loader_finished", _NUMBER),
    **{f"{name}_{side}": (f"{name}_{side}", None, _NUMBER) for name in _STREAMS for side in ("valid", "ready")},
    **{f"{name}_{member}": (f"{name}_{member}", f"{name}_valid", _NUMBER) for name, members in _STREAMS.items() for member in members},
    "own_data_line": ("own_data_line", "own_data_valid", _ARRIVED), "fill_line": ("fill_line", "fill_valid", _ARRIVED),
    "evict_line": ("evict_address", "evict_valid", _LINE), "cache_write_line": ("cache_write_address", "cache_write_valid", _LINE),
    "response_line": ("response_line", "response", _LINE), "mask": ("mask", "beat", _LINE), "line": ("line", "beat", _LINE),
    **{name: (name, "beat", _NUMBER) for name in ("group", "first_beat", "last_beat", "first_chunk", "last_chunk", "first_window", "last_window")},
    "load_valid": ("load_valid", None, _NUMBER), "load_data": ("load_beat", "load_valid", _LOAD),
    **{f"load_{name}": (f"load_{name}", "load_valid", _NUMBER) for name in ("core", "pe", "kind", "address")},
    "settings": ("layer", "prepared", _SETTINGS), "slot_free": ("slot_free", "running", _NUMBER), "row_free": ("row_free", "running", _NUMBER),
    "y_bank": ("y_bank", "y_read", _NUMBER), "y_index": ("y_index", "y_read", _NUMBER),
    **{name: (name, None, _NUMBER) for name in ("ann_matches", "snn_matches", "ann_done", "snn_done")},
}
_EXTRA = ("one", "request", "register_ready", "register_valid", "register_answer", "irq", "load_valid", "load_beat", "load_core", "load_pe",
          "load_kind", "load_address", "ann_matches", "snn_matches", "ann_done", "snn_done")
_COLUMNS = FIELDS + _EXTRA


def _words(lines):
    """Bytes of lines as 64-bit words, the lowest first: ``uint64[lines, words]``."""
    out = np.zeros((len(lines), -(-lines.shape[1] // 8) * 8), np.uint8)
    out[:, :lines.shape[1]] = lines
    return out.view("<u8")


def _as_words(numbers, bits):
    size = -(-bits // 64) * 8
    data = b"".join(number.to_bytes(size, "little") for number in numbers)
    return np.frombuffer(data, "<u8").reshape(len(numbers), size // 8).astype(np.uint64)


@lru_cache(maxsize=4)
def _constant(job):
    """What a job's memory says before it runs: first load line of each descriptor, beats on the load bus, settings."""
    config, beats, at = job.config, [], [0]
    layout, settings = settings_layout(config), []
    for tile in job.tiles:
        s = tile.settings
        beats.append(parse_load_stream(job.memory[s["load_address"]:s["load_address"] + s["load_lines"]], config, s["groups_log2"]))
        at.append(at[-1] + s["load_lines"])
        settings.append(sum(int(s[name]) << field.offset for name, field in layout))
    width = load_layout(config)["data"].width
    joined = {name: np.concatenate([np.asarray(getattr(b, name), np.int64) for b in beats]) for name in ("valid", "core", "pe", "kind", "address")}
    return (np.array(at), joined, _as_words([int(d) for b in beats for d in b.data], width), _as_words(settings, layout.size))


@njit(cache=True)
def _per_pe(matches, done, clear, out):
    """Per cycle, one bit for each PE: whether it issues a match; lowest bit of its counter of outputs, which restarts after ``clear``."""
    count = np.zeros(done.shape[1], np.int64)
    for t in range(len(matches)):
        if t and clear[t - 1]:
            count[:] = 0
        first = second = 0
        for pe in range(done.shape[1]):
            count[pe] += done[t, pe]
            first |= np.int64(matches[t, pe]) << pe
            second |= (count[pe] & 1) << pe
        out[t, 0], out[t, 1] = first, second


def _registers(config, ports, rows, matches, out):
    """Register port and interrupt, from the accesses as they were made and the job as the model has it, into columns ``out``.

    Between accesses only counters grow, so that the register file's model takes few steps.
    """
    model, cycles = RegisterModel(config), len(rows)
    busy, finish, code, layer, cause = (rows[:, FIELDS.index(name)] for name in ("busy", "finish", "code", "layer", "cause"))
    events = [busy, *(busy & (cause == c) for c in StallCause), *matches,
              *(rows[:, FIELDS.index(name)] for name in ("hit", "miss", "eviction"))]
    names = [c.name for c in regmap.COUNTERS]
    sums = np.zeros((len(events), cycles + 1), np.int64)
    for total, event in zip(sums, events):      # counters are one register behind what they count
        np.cumsum(event[:-1], out=total[2:])
    last_busy = np.maximum.accumulate(np.where(busy, np.arange(cycles), -1))
    valid, payload, take = (ports[name] for name in ("registers_request__valid", "registers_request__payload", "registers_response__ready"))
    eventful = np.append(np.flatnonzero(valid | finish), cycles)
    out[:, 0], out[:, 1:] = 1, 0
    t = 0
    while t < cycles:
        if model.settled:
            ahead = int(eventful[np.searchsorted(eventful, t)])
            if ahead > t:
                out[t:ahead, 3] = model.outputs()["irq"]
                model.skip(dict(zip(names, (sums[:, ahead] - sums[:, t]).tolist())),
                           int(layer[last_busy[ahead - 1]]) if last_busy[ahead - 1] >= t else None)
                t = ahead
                continue
        shown = model.outputs()
        out[t] = shown["request__ready"], shown["response__valid"], shown["response__payload"], shown["irq"]
        access = int(payload[t])
        model.step(valid=int(valid[t]), address=access & 255, write=access >> 8 & 1, data=access >> 9, response_ready=int(take[t]),
                   busy=int(busy[t]), finish=int(finish[t]), code=int(code[t]), layer=int(layer[t]),
                   count=dict(zip(names, (sums[:, t + 1] - sums[:, t]).tolist())))
        t += 1


def _starts(ports, ready):
    """Start pulses that software asked for: ``(cycle, program)``."""
    control, program = (regmap.register(name).offset for name in ("control", "program"))
    found, current = [], 0
    for t in np.flatnonzero(ports["registers_request__valid"] & ready):
        access = int(ports["registers_request__payload"][t])
        address, data = access & 0xFC, access >> 9
        if access >> 8 & 1 and address == program:
            current = data
        if access >> 8 & 1 and address == control and data & 1:
            found.append((int(t) + 1, current))
    return found


def _expected(job, model, ports, cycles):
    """The columns ``_COLUMNS`` of all cycles, int64."""
    config, rows = job.config, model.record.rows[:cycles]
    out = np.empty((cycles, len(_COLUMNS)), np.int64)
    out[:, :len(FIELDS)] = rows
    at = {name: len(FIELDS) + i for i, name in enumerate(_EXTRA)}
    field = {name: rows[:, i] for i, name in enumerate(FIELDS)}
    out[:, at["one"]] = 1
    out[:, at["request"]] = (field["request_address"] | field["request_lines"] << config.address_bits
                             | field["request_write"] << (config.address_bits + 8))
    first, beats, _, _ = _constant(job)
    line = np.where(field["load_line"] >= 0, first[np.minimum(field["load_layer"], len(first) - 1)] + field["load_line"], 0)
    out[:, at["load_beat"]] = line
    for name in ("valid", "core", "pe", "kind", "address"):
        out[:, at[f"load_{name}"]] = beats[name][line]
    out[:, at["load_valid"]] &= field["load_line"] >= 0
    record, pair = model.record, np.empty((cycles, 2), np.int64)
    for core in ("ann", "snn"):
        _per_pe(getattr(record, f"{core}_matches")[:cycles], getattr(record, f"{core}_done")[:cycles], field["run" if config.overlap else "clear"], pair)
        out[:, at[f"{core}_matches"]], out[:, at[f"{core}_done"]] = pair.T
    matches = [getattr(record, f"{core}_matches")[:cycles].sum(axis=1, dtype=np.int64) for core in ("ann", "snn")]
    _registers(config, ports, rows, matches, out[:, at["register_ready"]:at["irq"] + 1])
    return out


@njit(cache=True)
def _differences(trace, expected, fields, tables, wrong, first):
    """Mark the cycles that differ; number of the first signal that does, and its cycle, in ``first``."""
    for t in range(len(trace)):
        for f in range(len(fields)):
            start, width, column, where, table = fields[f]
            if where >= 0 and expected[t, where] == 0:
                continue
            value = expected[t, column]
            differs = False
            for word in range((width + 63) // 64):
                bits = min(width - 64 * word, 64)
                at, shift = (start + 64 * word) // 64, (start + 64 * word) % 64
                got = trace[t, at] >> np.uint64(shift)
                if shift + bits > 64:
                    got |= trace[t, at + 1] << np.uint64(64 - shift)
                if bits < 64:
                    got &= (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
                want = np.uint64(value) if table < 0 else (np.uint64(0) if value < 0 else tables[table][value, word])
                if bits < 64:
                    want &= (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
                differs |= got != want
            if differs:
                wrong[t] = True
                if first[0] < 0:
                    first[0], first[1] = t, f


def _fields(accelerator):
    """Place of each signal of ``COMPARED`` in the trace, its columns, and its table: int64[n, 5]."""
    places = accelerator.bench._trace.places
    probe, start = probe_layout(accelerator.config), places["probe"][0]
    out = []
    for name, (column, where, table) in COMPARED.items():
        bit, width = places[name][:2] if name in places else (start + probe[name].offset, probe[name].width)
        out.append((bit, width, _COLUMNS.index(column), -1 if where is None else _COLUMNS.index(where), table))
    return np.array(out, np.int64)


def _describe(trace, expected, field, tables, name, t):
    start, width, column, _, table = (int(x) for x in field)
    mask = (1 << width) - 1
    got = int.from_bytes(trace[t].astype("<u8").tobytes(), "little") >> start & mask
    value = int(expected[t, column])
    want = value & mask if table < 0 else 0 if value < 0 else int.from_bytes(tables[table][value].astype("<u8").tobytes(), "little") & mask
    return f"cycle {t}: {name} is {got:#x}, the model says {want:#x}"


def compare_job(accelerator, job, tensor, *, memory=None):
    """Run a job from reset on RTL and model and compare them.

    Every cycle from reset to the last register access: the signals ``COMPARED``. At a difference the run is made again, traced, and the waves
    of the 200 cycles before are written to ``build/waves``; that takes another build of the simulator, the first time.

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
    return compare_calls(accelerator, job, tensor, [Call(program=job.program)], memory=memory)


def compare_calls(accelerator, job, tensor, calls, *, memory=None, lines=None, take=None):
    """Run calls of a job one after the other without reset, with all their register accesses, on RTL and model and compare them.

    Parameters
    ----------
    accelerator, job, tensor, memory
        As for :func:`compare_job`.
    calls : list of Call
        Of the job's program, or of one that begins with something else than a layer; without soft reset or watchdog.
    lines : uint8[n, line_bytes], optional
        Memory with more in it than the job's.
    take : bool[period], optional
        Whether software takes a register's answer in cycle ``t % period``; always by default.

    Returns
    -------
    Comparison
        Its ``run`` has the status, layer and counters of the last call.

    Raises
    ------
    AcceleratorError
        When the RTL left memory or did not end; ``first`` is the first difference up to there.
    """
    memory = memory or MemoryTrace.constant()
    trace = evaluate(job.network, np.asarray(tensor)[None], quantised=True)
    want = trace.output[0].astype(np.int64)
    arrays = job_workloads(job, trace)
    lines = job.with_input(tensor) if lines is None else lines
    untraced = run_arrays(job, arrays, memory, want, memory=lines)    # jumps over still cycles, a traced run does not
    whole = run_arrays(job, arrays, replace(memory, error_line=-1, error_write=-1), want)
    error = None
    try:
        run = accelerator.run(lines, calls=calls, trace=memory, take=take, layers=len(job.tiles) + 1, record=True,
                              most=(whole.finished_at + 8192) * len(calls))
        seen, shown = run.stim, run.trace
    except AcceleratorError as broken:
        error, (seen, shown) = broken, broken.recorded
    cycles = len(shown)
    inputs = accelerator.bench._stim.unpack(seen, ["registers_request__valid", "registers_request__payload", "registers_response__ready",
                                                       "memory__read_data__valid", "memory__read_data__payload"])
    ready = accelerator.bench._trace.unpack(shown, ["registers_request__ready"])["registers_request__ready"]
    model = run_arrays(job, arrays, memory, want, cycles=cycles, memory=lines, starts=_starts(inputs, ready))
    expected = _expected(job, model, inputs, cycles)
    moved = (inputs["memory__read_data__valid"] == 1) & (model.record.rows[:, FIELDS.index("read_ready")] == 1)
    contents = final_memory(job, trace)
    _, _, loads, settings = _constant(job)
    arrived = np.atleast_2d(inputs["memory__read_data__payload"].T).T[moved].view(np.uint64)
    # The model may have got more lines than RTL that went astray.
    most = 1 + max(int(model.record.rows[:, FIELDS.index(name)].max(initial=-1)) for name in ("fill_line", "own_data_line"))
    arrived = np.pad(arrived, ((0, max(0, most - len(arrived))), (0, 0)))
    tables = tuple(np.ascontiguousarray(table) for table in (_words(contents), arrived, loads, settings))
    fields, wrong, first = _fields(accelerator), np.zeros(cycles, np.bool_), np.array([-1, -1])
    _differences(shown, expected, fields, tables, wrong, first)
    text = waves = None
    if first[0] >= 0:
        text = _describe(shown, expected, fields[first[1]], tables, list(COMPARED)[first[1]], int(first[0]))
        waves = accelerator.bench.write_waves(seen, int(first[0]))
        if waves:
            text += f"; waves: {waves}"
    if error is not None:
        raise AcceleratorError(str(error), first=text)
    if text is None and len(calls) == 1:
        text = _totals(run, model, untraced)
    output = job.output(run.memory)
    return Comparison(cycles=cycles, cycle_mismatches=int(wrong.sum()) + (text is not None and first[0] < 0),
                      value_mismatches=int((output != want).sum()), first=text, run=run, model=model, output=output, waves=waves)


def _totals(run, model, untraced):
    """What is not a signal: counters, sums per layer and status, with and without the model's jumps."""
    if run.counters != model.counters or run.status != model.status or not np.array_equal(run.layers, model.layers):
        return f"counters, sums per layer or status differ: RTL {run.status.name} {run.counters}, model {model.status.name} {model.counters}"
    if ((untraced.finished_at, untraced.status, untraced.counters) != (model.finished_at, model.status, model.counters)
            or not np.array_equal(untraced.layers, model.layers)):
        return f"the model with jumps ends in cycle {untraced.finished_at}, {untraced.counters}; without in {model.finished_at}, {model.counters}"
    return None


def first_difference(accelerator, jobs):
    """The first difference that some job shows on a circuit with a fault in it, or ``None``.

    That the circuit breaks off, or never ends, is not enough: a signal must differ from the model's.

    Parameters
    ----------
    accelerator : RtlAccelerator
    jobs : iterable of (job, levels, memory)

    Raises
    ------
    AssertionError
        When a job fails though no signal differs.
    """
    for job, tensor, memory in jobs:
        try:
            first = compare_job(accelerator, job, tensor, memory=memory).first
        except AcceleratorError as error:       # the fault made it ask for a line that is not there, or wait for ever
            first = error.first
            assert first, f"no signal differs, but {error}"
        if first:
            print(first)
            return first
    return None
