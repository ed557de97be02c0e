"""Sequencer against its model.

Plan: whole jobs of random descriptors, good and malformed in every way of ``check_descriptor``: a field out of range, tensors and load
streams that end at the last line of memory or beyond, output sizes that do not follow from the sources; loader errors; memory errors on
descriptors, while running and at the end; programs at the end of memory and beyond; slow memory, cache, loader and cores; watchdog at
every phase, moved while a job runs; jobs back to back. The same with two weight banks, where a descriptor is fetched, checked and loaded while the
layer before runs: either may be through first, both may fail. A verdict forced to zero and a phase that does not wait must fail.
"""
import re
from functools import lru_cache

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import CHUNK_LINES, DESCRIPTOR_FIELDS, Opcode, StallCause, Status, descriptor_checksum, descriptor_lines, pack_descriptor
from neuroflex.hdl.sequencer import Phase, Sequencer
from neuroflex.layouts import settings_layout
from neuroflex.sim import sequencer as model
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage

CONFIG = PRESETS["tiny"]
POINTS = (*(f"status {s.name}" for s in Status if s), *(f"phase {p.name}" for p in Phase), "loader error", "run error", "final error", "error with the last answer", "watchdog moved",
          "watchdog in RUN", "watchdog in LOAD", "watchdog in REQUEST", "two layers", *(f"cause {c.name}" for c in StallCause),
          "layer", "end", "broken", "flip", "random", *(f"odd {s.name}" for s in (Status.BAD_SOURCE, Status.BAD_OUTPUT, Status.BAD_LOAD_LENGTH)))
DOUBLE = CONFIG.replace(name="double", weight_banks=2)
OVERLAP = ("loaded before the run's end", "loaded after the run's end", "end waits for the run", "program's end waits for the run", "wrong descriptor waits for the run",
           "wrong load waits for the run", "error while running, and wrong descriptor", "error while running, load under way", "error while running, load not begun",
           "error on a descriptor while running", "watchdog while running and loading", "late error while nothing runs")


def below(rng, least, most):
    """From ``least`` to ``most``, small ones as often as large ones."""
    return min(most, int(least * (most / least) ** rng.random()))


def space(config):
    """Lines of memory."""
    return 1 << config.address_bits


def fitted(rng, config, height, width, chunks=None):
    """Chunks per spine and base of a tensor that lies within memory, often at its end."""
    room = space(config) // (height * width * CHUNK_LINES)
    chunks = below(rng, 1, min(room, (1 << 12) - 1)) if chunks is None else chunks
    last = space(config) - height * width * chunks * CHUNK_LINES
    return chunks, last if rng.random() < 0.2 else int(rng.integers(0, last + 1))


def good_descriptor(rng, config):
    """Field values of a random layer that can run."""
    lines = space(config)
    size, pool = [below(rng, 1, 200) if rng.random() < 0.9 else 1 for _ in range(2)], rng.integers(1, 8, 2)
    load_lines = below(rng, 1, lines - 1)
    d = {"opcode": Opcode.LAYER, "load_address": rng.choice([lines - load_lines, rng.integers(0, lines - load_lines + 1)]),
         "load_lines": load_lines, "out_height": size[0], "out_width": size[1],
         "pool_h": pool[0], "pool_w": pool[1], "groups_log2": rng.integers(0, config.max_groups.bit_length()),
         "fetch_lines": rng.integers(1, 10), "ann_rounds": rng.integers(0, config.columns_per_pe + 1),
         "snn_rounds": rng.integers(1, config.columns_per_pe + 1), "levels_in": rng.integers(1, config.snn_levels + 1),
         "consume0": rng.integers(2), "consume1": rng.integers(2), "to_memory": rng.integers(2)}
    sources = 1 + int(rng.integers(2))
    for i in range(sources):
        while True:     # a source of which this output comes; the last rows and columns may be too few for another
            kernel, stride = rng.integers(1, 8, 2), int(rng.integers(1, 8))
            pad = int(rng.integers(0, kernel.min()))
            step = stride * pool
            height, width = (int(n) for n in size * step - stride + kernel - 2 * pad + rng.choice([0 * step, step - 1, rng.integers(0, step)]))
            if height > 0 and width > 0 and height * width * CHUNK_LINES <= lines:
                break
            if stride == 1:
                return good_descriptor(rng, config)
        chunks, base = fitted(rng, config, height, width)
        d |= {f"source{i}_{k}": v for k, v in {"base": base, "height": height, "width": width, "chunks": chunks, "kernel_h": kernel[0],
              "kernel_w": kernel[1], "stride": stride, "pad": pad, "repeat": rng.integers(1, 16)}.items()}
    if sources == 1:    # what an absent source says does not matter
        d |= {f"source1_{k}": rng.integers(0, 16) for k in ("chunks", "kernel_h", "kernel_w", "stride", "pad", "repeat")}
        d |= {"source1_height": 0, "source1_width": rng.integers(0, 1 << 16), "source1_base": rng.integers(0, 1 << 32)}
    first = int(rng.integers(0, 4))
    chunks = model.output_chunks(int(d["ann_rounds"]), int(d["snn_rounds"]), int(d["groups_log2"]), config) + first + int(rng.integers(0, 2))
    if size[0] * size[1] * chunks * CHUNK_LINES > lines:
        return good_descriptor(rng, config)
    return d | {"out_first_chunk": first, "out_chunks": chunks, "out_base": fitted(rng, config, *size, chunks)[1]}


def broken_fields(config):
    """Values that a field must not have: all of them, or the ends of what it could say."""
    lines, rounds, levels, groups = space(config), config.columns_per_pe + 1, config.snn_levels + 1, config.max_groups.bit_length()
    return {"opcode": (0, 3, 255), "version": (0, 2), "source0_height": (0,), "source0_width": (0,), "source1_chunks": (0,), "source0_kernel_h": (0, 8, 15),
            "source1_kernel_w": (0, 9), "source0_stride": (0, 8), "source0_pad": (7, 15), "source0_repeat": (0,), "source0_base": (lines, 1 << 31),
            "out_height": (0,), "out_width": (0,), "out_chunks": (0,), "pool_h": (0, 8), "pool_w": (0, 15), "groups_log2": (groups, 15), "fetch_lines": (0, 10),
            "out_base": (lines,), "ann_rounds": (rounds, 255), "snn_rounds": (rounds, 255), "levels_in": (0, levels, 15), "load_lines": (0, lines),
            "load_address": (lines,), "out_first_chunk": (4095,)}


TENSORS = ("source0", "source1", "out")
ODD = ("one line too far", "far too far", "huge", "load too far", "larger", "smaller", "another source")


def odd(rng, config, kind):
    """Field values, each of them possible, that do not go together."""
    d, memory = good_descriptor(rng, config), space(config)
    tensor = rng.choice([t for t in TENSORS if d[f"{t}_height"]])
    lines = d[f"{tensor}_height"] * d[f"{tensor}_width"] * d[f"{tensor}_chunks"] * CHUNK_LINES
    size = rng.choice(["height", "width"])
    match kind:
        case "one line too far":
            d[f"{tensor}_base"] = memory - lines + 1
        case "far too far":
            d[f"{tensor}_base"] = rng.integers(memory - lines + 1, memory)
        case "huge":
            d |= {f"{tensor}_height": rng.integers(1 << 15, 1 << 16), f"{tensor}_width": rng.integers(1 << 15, 1 << 16),
                  f"{tensor}_chunks": rng.choice([d[f"{tensor}_chunks"], 4095])}
        case "load too far":
            d["load_address"] = rng.integers(memory - d["load_lines"] + 1, memory + 1)
        case "larger":
            d[f"out_{size}"] += 1
        case "smaller":
            d[f"out_{size}"] += 1 if d[f"out_{size}"] == 1 else -1
        case "another source":
            d[f"source0_{size}"] += d["source0_stride"] * d[f"pool_{size[0]}"]
    return d


def descriptor(rng, config, kind):
    """Words of a descriptor: ``layer``, ``end``, ``random`` bits, a ``flip`` of one bit, one field ``broken``, ``odd`` ones."""
    if kind == "end":
        return pack_descriptor(opcode=Opcode.END)
    values = odd(rng, config, rng.choice(ODD)) if kind == "odd" else good_descriptor(rng, config)
    if kind == "broken":
        bad = broken_fields(config)
        name = rng.choice([*bad, "opcode", "opcode", "opcode", "version"])
        values[name] = rng.choice(bad[name])
        if name.startswith("source1"):
            values["source1_height"] = 1
    words = pack_descriptor(**values)
    if kind == "flip":
        words[rng.integers(32)] ^= np.uint32(1 << rng.integers(32))
    if kind == "random":
        words = rng.integers(0, 1 << 32, 32).astype(np.uint32)
        words[0] = words[0] & ~np.uint32(0xFFFF) | np.uint32(0x101)
        words[31] = descriptor_checksum(words[:31])
    return words


def port(value, bits):
    """A port's value in the bench's form: above 64 bits a list of words."""
    return value if bits <= 64 else [value >> 64 * i & (1 << 64) - 1 for i in range(-(-bits // 64))]


def line_of(words):
    """32-bit words as one number, the lowest first."""
    return sum(int(word) << 32 * i for i, word in enumerate(words))


def settings_words(words, config):
    """The settings port's 64-bit words for a descriptor in the shift register."""
    return _settings_words(words.tobytes(), config)


@lru_cache(maxsize=64)
def _settings_words(words, config):
    fields, words = {f.name: f for f in DESCRIPTOR_FIELDS}, np.frombuffer(words, np.uint32)
    value = 0
    for name, place in settings_layout(config):
        f = fields[name]
        value |= (int(words[f.word]) >> f.lsb & (1 << f.bits) - 1) << place.offset
    return port(value, settings_layout(config).size)


def jobs(rng, cycles, coverage, broken=0.25, config=CONFIG):
    """An environment that answers the sequencer at random: arrays for the bench, and how many descriptors it gave."""
    lines, descriptors, width = descriptor_lines(config), 0, config.chunk_bits
    per_line = width // 32
    last_program = space(config) - lines
    state = model.sequencer_init()
    words = handed_over = np.zeros(32, np.uint32)
    overlap, longest = config.overlap, 60
    inputs, outputs = {}, {}
    program, watchdog, pending, wanted, verdict, layers = 0, 0, [], words, 0, 0
    loader = broadcaster = compressor = busy = -1
    previous_phase, previous_run = model.IDLE, 0
    for _ in range(cycles):
        phase = int(state[model.PHASE])
        if phase == model.IDLE:
            program = int(rng.choice([int(rng.integers(0, last_program)), last_program, last_program - lines, last_program + 1, 1 << 31],
                                     p=[0.7, 0.05, 0.15, 0.05, 0.05] if overlap else [0.8, 0.05, 0.05, 0.05, 0.05]))
            watchdog = int(rng.choice([0, 60, 400, 400]))
            layers, hang = int(rng.integers(0, 4)), int(rng.choice([-1, model.REQUEST, model.LOAD, model.RUN], p=[0.6, 0.1, 0.2, 0.1] if overlap else [0.7, 0.1, 0.1, 0.1]))
            watchdog = watchdog or 60 if hang >= 0 else watchdog   # a job that hangs for ever would end the test's variety
        elif watchdog and rng.random() < 0.01:
            watchdog = int(rng.choice([20, 60, 400]))               # also below the silence so far: it strikes at once
            coverage.hit("watchdog moved")
        if phase == model.REQUEST and previous_phase != model.REQUEST:
            kind = "end" if layers == 0 else rng.choice(["layer", "broken", "odd", "flip", "random"],
                                                           p=[1 - broken, broken / 4, broken / 2, broken / 8, broken / 8])
            layers, descriptors = layers - 1, descriptors + 1
            wanted = descriptor(rng, config, kind)
            verdict = int(model.check_descriptor(wanted, config))
            assert (verdict == Status.NONE) == (kind == "layer") or kind in ("flip", "random"), (kind, verdict)
            coverage.hit(f"{kind} {Status(verdict).name}" if kind == "odd" else kind)
            pending = list(wanted)
        if state[model.PULSE_INVALIDATE]:
            busy = int(rng.integers(1, 10))
        if state[model.PULSE_LOADER]:
            loader = int(rng.integers(1, rng.choice([30, 200]) if overlap else 30))
        busy, loader, broadcaster, compressor = busy - 1, loader - 1, broadcaster - 1, compressor - 1
        if state[model.PULSE_RUN]:
            longest = int(rng.choice([60, 250])) if overlap else 60
            compressor = int(rng.integers(1, longest))
        if previous_run:
            broadcaster = int(rng.integers(1, longest))   # until then it shows the layer before's end
        previous_run = int(state[model.PULSE_RUN])
        hung = phase == hang and not (overlap and hang == model.LOAD and not state[model.RUNNING])
        read_valid = int(phase == model.RECEIVE and rng.random() < 0.6)
        values = {
            "start": int(phase == model.IDLE and rng.random() < 0.2), "program_address": program, "watchdog": watchdog,
            "request__ready": int(rng.random() < 0.4 and not hung), "read_data__valid": read_valid,
            "read_data__payload": line_of(line := pending[:per_line] if read_valid else rng.integers(1 << 32, size=per_line)) | int(rng.random() < 0.002) << width,
            "cache_busy": int(busy > 0), "loader_finished": int(loader == 0 and not hung),
            "loader_error": int(rng.choice([0, 6, 7, 8], p=[0.85, 0.05, 0.05, 0.05])),
            "broadcaster_finished": int(broadcaster <= 0 and not hung), "compressor_finished": int(compressor == 0),
            "running_cause": int(rng.integers(2, 8)), "progress": int(rng.random() < 0.3 and not hung),
            "bus_error": int(rng.random() < (0.25 if phase == model.FINISH else 0.005 if overlap and state[model.RUNNING] and phase == model.LOAD else 0.002)), "quiet": int(rng.random() < 0.3)}
        out = {"busy": int(phase != model.IDLE), "finish": int(phase == model.RETURN), "code": int(state[model.CODE]),
               "layer": int(state[model.LAYER]), "phase": phase, "request__valid": int(phase == model.REQUEST and state[model.POINTER] <= last_program),
               "request__payload": int(state[model.POINTER]) % (1 << config.address_bits) | lines << config.address_bits, "read_data__ready": int(phase == model.RECEIVE),
               "cache_invalidate": int(state[model.PULSE_INVALIDATE]), "loader_start": int(state[model.PULSE_LOADER]),
               "loading": int(phase == model.LOAD), "clear": int(state[model.PULSE_CLEAR]), "run": int(state[model.PULSE_RUN]),
               "cause": int(model.sequencer_cause(state, values["running_cause"])), "abandon": int(state[model.PULSE_ABANDON]),
               "settings": settings_words(handed_over if overlap else words, config)}
        if overlap:
            out["load_settings"] = settings_words(words, config)
        for name, value in values.items():
            inputs.setdefault(name, []).append(port(value, width + 1) if name == "read_data__payload" else value)
        for name, value in out.items():
            outputs.setdefault(name, []).append(value)
        coverage.hit(f"phase {Phase(phase).name}")
        coverage.hit(f"cause {StallCause(out['cause']).name}", int(out["busy"]))
        if out["finish"]:
            coverage.hit(f"status {Status(out['code']).name}")
        coverage.hit("loader error", int(phase == model.LOAD and values["loader_finished"] and values["loader_error"] > 0))
        coverage.hit("run error", int(state[model.RUNNING] and values["bus_error"]))
        coverage.hit("final error", int(phase == model.FINISH and values["bus_error"] and state[model.CODE] == Status.DONE))
        coverage.hit("error with the last answer", int(phase == model.FINISH and values["bus_error"] and values["quiet"]
                                                       and state[model.CODE] == Status.DONE and not state[model.BUS_ERROR]))
        coverage.hit("two layers", int(state[model.LAYER] >= 2))
        before = state.copy()
        # The descriptor's shift register: lines come in, then the words rotate once around.
        if phase == model.RECEIVE and read_valid:
            words = np.append(words[per_line:], np.array(line, np.uint32))
            del pending[:per_line]
        elif phase == model.CHECKSUM:
            words = np.roll(words, -1)
        model.sequencer_step(state, overlap, lines, last_program, verdict, watchdog, values["start"], program, values["cache_busy"], values["request__ready"],
                             read_valid, values["read_data__payload"] >> width, values["loader_finished"], values["loader_error"],
                             values["broadcaster_finished"], values["compressor_finished"], values["progress"], values["bus_error"],
                             values["quiet"])
        if overlap:
            if state[model.PULSE_RUN]:
                handed_over = words
            count_overlap(coverage, before, state, values)
        if state[model.PULSE_ABANDON]:
            if f"watchdog in {Phase(phase).name}" in POINTS:
                coverage.hit(f"watchdog in {Phase(phase).name}")
        previous_phase = phase
    return {k: np.array(v, np.uint64) for k, v in inputs.items()}, {k: np.array(v, np.uint64) for k, v in outputs.items()}, descriptors


def count_overlap(coverage, before, after, values):
    """Points of ``OVERLAP`` in one cycle."""
    phase, code = before[model.PHASE], before[model.CODE]
    ends = before[model.RUNNING] and not after[model.RUNNING] and not after[model.PULSE_ABANDON]
    waits = phase == model.RUN and before[model.RUNNING]
    good, load = code == Status.NONE, (Status.BAD_LOAD_RECORD, Status.BAD_LOAD_LENGTH, Status.BUS_ERROR)
    loads = phase == model.LOAD
    for name, met in {
            "loaded before the run's end": ends and waits and good, "loaded after the run's end": ends and loads,
            "end waits for the run": ends and waits and code == Status.DONE, "program's end waits for the run": ends and waits and code == Status.BAD_PROGRAM,
            "wrong descriptor waits for the run": ends and waits and code in (Status.BAD_CHECKSUM, Status.BAD_OPCODE, Status.BAD_SOURCE, Status.BAD_OUTPUT),
            "wrong load waits for the run": waits and ends and code in load,
            "error while running, and wrong descriptor": after[model.PHASE] == model.FINISH and before[model.FAILED] and not good,
            "error while running, load under way": ends and after[model.FAILED] and loads,
            "error while running, load not begun": phase != model.FINISH and after[model.PHASE] == model.RUN and before[model.FAILED] and good and not loads,
            "error on a descriptor while running": phase == model.RECEIVE and before[model.RUNNING] and after[model.FETCH_ERROR],
            "watchdog while running and loading": after[model.PULSE_ABANDON] and before[model.RUNNING] and loads,
            "late error while nothing runs": loads and not before[model.RUNNING] and values["bus_error"]}.items():
        coverage.hit(name, int(bool(met)))


@pytest.mark.parametrize("engine,cycles", [("library", 40_000), ("cocotb", 3_000)])
def test_sequencer(engine, cycles):
    coverage = Coverage("sequencer", points=POINTS)
    stimulus, expected, _ = jobs(np.random.default_rng(31), cycles, coverage, broken=0.4)
    Bench(Sequencer(config=CONFIG), name="sequencer").run(stimulus, expected, engine=engine, seed=31)
    if engine == "library":
        coverage.require(3)


@pytest.mark.parametrize("engine,cycles", [("library", 60_000), pytest.param("cocotb", 3_000, marks=pytest.mark.long)])
def test_two_weight_banks(engine, cycles):
    coverage = Coverage("sequencer of two weight banks", points=(*POINTS, *OVERLAP))
    stimulus, expected, _ = jobs(np.random.default_rng(35), cycles, coverage, broken=0.3, config=DOUBLE)
    Bench(Sequencer(config=DOUBLE), name="sequencer").run(stimulus, expected, engine=engine, seed=35)
    if engine == "library":
        coverage.require(2)


class Hasty(Sequencer):
    """Hands the next layer over as soon as the broadcaster is through."""

    def _layer_ends(self, m, broadcaster_done, compressor_done):
        super()._layer_ends(m, broadcaster_done, compressor_done)
        return broadcaster_done


OVERLAP_FAULTS = {
    "the compressor is not waited for": (Hasty, None),
    "the running layer's error is lost": (Sequencer, lambda t: t.replace("failed <= ", "failed <= 1'h0 & ")),
    "an error on a descriptor is lost": (Sequencer, lambda t: t.replace("fetch_error <= ", "fetch_error <= 1'h0 & ")),
    "settings of the next layer while one runs": (Sequencer, lambda t: re.sub(r"  settings <= \S+;", "  settings <= load_settings;", t))}


@pytest.mark.parametrize("fault", [fault if i == 0 else pytest.param(fault, marks=pytest.mark.long) for i, fault in enumerate(OVERLAP_FAULTS)])
def test_faults_of_two_weight_banks_are_seen(fault):
    circuit, edit = OVERLAP_FAULTS[fault]
    stimulus, expected, _ = jobs(np.random.default_rng(36), 20_000, Coverage("sequencer", points=(*POINTS, *OVERLAP)), broken=0.4, config=DOUBLE)
    with pytest.raises(Mismatch):
        Bench(circuit(config=DOUBLE), name="sequencer", verilog_edit=edit).run(stimulus, expected, seed=36)


@pytest.mark.long
@pytest.mark.parametrize("preset,least", [("tiny", 3_000), ("small", 3_500), ("paper", 3_500)])
def test_ten_thousand_descriptors(preset, least):
    """Descriptors of 32, 16 and 8 lines: 10,000 in all."""
    config, coverage = PRESETS[preset], Coverage(f"sequencer of {preset}", points=POINTS)
    stimulus, expected, descriptors = jobs(np.random.default_rng(34), 400_000, coverage, broken=0.4, config=config)
    Bench(Sequencer(config=config), name="sequencer").run(stimulus, expected, seed=34)
    coverage.require(3)
    print(f"{preset}: {descriptors} descriptors")
    assert descriptors >= least


def test_faults_are_seen():
    stimulus, expected, _ = jobs(np.random.default_rng(32), 10_000, Coverage("sequencer", points=POINTS), broken=0.6)
    edits = {"ends of tensors are not looked at": lambda t: t.replace("tensor_lines <=", "tensor_lines <= 0 &"),
             "output sizes are not looked at": lambda t: t.replace("rest <=", "rest <= 0 &"),
             "verdict ignored": lambda t: t.replace("= bad_output;", "= 1'h0;"),
             "status swapped": lambda t: t.replace("= bad_source;", "= bad_output;"),
             "program cut": lambda t: re.sub(r"assign beyond = [^;]*;", "assign beyond = 1'h0;", t),
             "cache not waited for": lambda t: t.replace("= ~ cache_busy;", "= 1'h1;"),
             "the last answer's error is lost": lambda t: re.sub(r"(= \S+ +)\| bus_error;", r"\1;", t),
             "tail not waited for": lambda t: t.replace("if (quiet)", "if (1'h1)"),
             "watchdog only when met": lambda t: t.replace("silence >= watchdog", "silence == watchdog")}
    for name, edit in edits.items():
        with pytest.raises(Mismatch):
            Bench(Sequencer(config=CONFIG), name="sequencer", verilog_edit=edit).run(stimulus, expected, seed=32)
            pytest.fail(f"not seen: {name}")


def test_every_field_limit_is_checked():
    """The model refuses each single broken field with the status that names its part; `test_sequencer` holds the circuit to the model."""
    rng = np.random.default_rng(33)
    for name, bad in broken_fields(CONFIG).items():
        for value in bad:
            values = good_descriptor(rng, CONFIG) | {name: value}
            if name.startswith("source1"):
                values["source1_height"] = 1
            part = {"opcode": Status.BAD_OPCODE, "version": Status.BAD_OPCODE, "load": Status.BAD_LOAD_LENGTH, "source0": Status.BAD_SOURCE,
                    "source1": Status.BAD_SOURCE}.get(name.split("_")[0], Status.BAD_OUTPUT)
            assert model.check_descriptor(pack_descriptor(**values), CONFIG) == part, (name, value)
