"""Loader against its model: every output in every cycle.

Test plan
---------
* Random streams one after another: both cores, group counts, odd and even column counts, one to many chunks, empty and
  full masks, slices full to the last line, records without values, records in any order; memory with random readiness,
  latency and gaps, and without any.
* Malformed streams of every kind of ``DAMAGE``, the damage anywhere in the stream, between good streams: the status, that no beat
  comes from the bad line on, that all lines asked for are taken, and that the next stream loads.
* Coverage: each kind of damage and of beat, streams of more than one burst, errors while bursts are outstanding; thresholds.
* Faults: those of ``FAULTS`` must be reported.
"""
import collections
import gc
import re
import time

import numpy as np
import pytest
from numba import njit

from neuroflex.compiler.load_stream import LoadStreamError, PeRecord, pack_records, record_lines, unpack_load_stream
from neuroflex.config import PRESETS, ArchConfig
from neuroflex.eda import lint, to_verilog
from neuroflex.formats import LOAD_BURST, Core, LoadKind, Status, column_record_lines, most_levels
from neuroflex.hdl.loader import LOADER_LATENCY, Loader
from neuroflex.sim.loader import (LATENCY, loader_beat_line, loader_busy, loader_error, loader_finished, loader_init,
                                  loader_request_address, loader_request_lines, loader_request_valid, loader_start, loader_step,
                                  parse_load_stream)
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat, words_of

NARROW = ArchConfig(name="narrow", chunk_bits=32, ann_pes=4, snn_pes=2, columns_per_pe=4, value_lines=32, mask_pairs=16,
                    laggy_adders=8, address_bits=16, cache_sets=32)
MIDDLE = ArchConfig(name="middle", chunk_bits=64, ann_pes=2, snn_pes=8, columns_per_pe=8, value_lines=32, mask_pairs=32,
                    address_bits=20)
WIDE = PRESETS["paper"].replace(name="wide", mask_pairs=64, value_lines=64)

DAMAGE = {
    "magic": Status.BAD_LOAD_RECORD, "core": Status.BAD_LOAD_RECORD, "pe": Status.BAD_LOAD_RECORD,
    "no columns": Status.BAD_LOAD_RECORD, "many columns": Status.BAD_LOAD_RECORD, "no pairs": Status.BAD_LOAD_LENGTH,
    "many pairs": Status.BAD_LOAD_LENGTH, "half a chunk": Status.BAD_LOAD_LENGTH, "many lines": Status.BAD_LOAD_LENGTH,
    "few lines": Status.BAD_LOAD_LENGTH, "phantom": Status.BAD_LOAD_RECORD, "cut": Status.BAD_LOAD_LENGTH,
    "no theta": Status.BAD_LOAD_RECORD, "wide theta": Status.BAD_LOAD_RECORD, "no levels": Status.BAD_LOAD_RECORD,
    "many levels": Status.BAD_LOAD_RECORD, "PE twice": Status.BAD_LOAD_RECORD,
    "too long": Status.BAD_LOAD_RECORD, "empty": Status.BAD_LOAD_LENGTH, "bus": Status.BUS_ERROR,
}


def random_record(rng, config, core, pe, columns=None):
    """A record that fits a slice; sometimes it fills it to the last value line."""
    columns = int(rng.choice([1, 2, 3, config.columns_per_pe - 1, config.columns_per_pe])) if columns is None else columns
    pairs = -(-columns // 2)
    chunks = int(rng.integers(1, config.mask_pairs // pairs + 1))
    if rng.random() < 0.5:
        chunks = min(chunks, 3)
    positions = chunks * config.chunk_bits
    room = config.value_lines * config.line_bytes
    share = rng.choice([0.0, 0.1, 0.5, 1.0], p=[0.1, 0.3, 0.3, 0.3]) * min(1.0, room / (columns * positions))
    weights = rng.integers(1, 128, (columns, positions)) * rng.choice([-1, 1], (columns, positions))
    keep = np.zeros(columns * positions, bool)
    keep[rng.permutation(keep.size)[:int(share * keep.size)]] = True
    most, top = most_levels(core, config), (1 << config.theta_bits) - 1
    return PeRecord(core, pe, weights * keep.reshape(weights.shape),
                    np.where(rng.random(columns) < 0.3, rng.choice([1, most], columns), rng.integers(1, most + 1, columns)),
                    rng.integers(-1 << 31, 1 << 31, columns),
                    np.where(rng.random(columns) < 0.3, rng.choice([1, top], columns), rng.integers(1, top + 1, columns)))


def random_records(rng, config, groups_log2, most=6):
    slots = [(core, pe) for core, pes in ((Core.ANN, config.ann_pes), (Core.SNN, config.snn_pes))
             for pe in range(pes >> groups_log2)]
    chosen = rng.permutation(len(slots))[:int(rng.integers(1, most + 1))]
    return [random_record(rng, config, *slots[i]) for i in chosen]


def damaged(rng, config, groups_log2, kind):
    """A stream with one thing wrong, and the status that it gives."""
    records = random_records(rng, config, groups_log2, most=3)
    at = int(rng.integers(len(records)))
    if kind in ("half a chunk", "phantom"):      # need an odd column count beyond one, so an odd pair count can be half a chunk
        old = records[at]
        columns = 3
        records[at] = random_record(rng, config, old.core, old.pe, columns)
    lines = pack_records(records, config, groups_log2)
    start = sum(record_lines(record, config)[0] for record in records[:at])
    columns = len(records[at].weights)
    masks = start + 2 + columns * column_record_lines(config)
    _, pairs, value_lines = record_lines(records[at], config)
    pes = (config.snn_pes if records[at].core == Core.SNN else config.ann_pes) >> groups_log2

    def parameter(word, value):                  # theta, bias, levels of a column of the record
        first = start + 2 + int(rng.integers(columns)) * column_record_lines(config)
        lines[first:first + column_record_lines(config)].reshape(-1)[4 * word:4 * word + 4] = np.frombuffer(value.to_bytes(4, "little"), np.uint8)

    def sizes(pairs, values):
        lines[start + 1, :4] = pairs & 255, pairs >> 8, values & 255, values >> 8

    match kind:
        case "magic":
            lines[start, 3] ^= 1 << rng.integers(8)
        case "core":
            lines[start, 0] = rng.integers(2, 256)
        case "pe":
            lines[start, 1] = rng.integers(pes, 256)
        case "no columns":
            lines[start, 2] = 0
        case "many columns":
            lines[start, 2] = rng.integers(config.columns_per_pe + 1, 256)
        case "no pairs":
            sizes(0, value_lines)
        case "many pairs":
            sizes(int(rng.integers(config.mask_pairs + 1, 65536)), value_lines)
        case "many lines":
            sizes(pairs, int(rng.integers(config.value_lines + 1, 65536)))
        case "half a chunk":                     # the mask that is left over is zeroed, to be no phantom and no value
            lines[masks + 2 * pairs - 2:masks + 2 * pairs] = 0
            lines = np.delete(lines, [masks + 2 * pairs - 2, masks + 2 * pairs - 1], axis=0)
            sizes(pairs - 1, value_lines)
        case "few lines":
            if value_lines == 0:
                lines[masks, 0] = 1
            else:
                sizes(pairs, value_lines - 1)
                lines = np.delete(lines, masks + 2 * pairs, axis=0)
        case "phantom":
            lines[masks + 4 * rng.integers(pairs // 2) + 3, rng.integers(config.line_bytes)] |= 1 << rng.integers(8)
        case "no theta":
            parameter(0, 0)
        case "wide theta":
            parameter(0, (1 << int(rng.integers(config.theta_bits, 32))) | int(rng.integers(1 << 31)))
        case "no levels":
            parameter(2, 0)
        case "many levels":
            most = most_levels(records[at].core, config)
            parameter(2, int(rng.choice([most + 1, 1 << int(rng.integers(8, 32)) | 1, int(rng.integers(most + 1, 1 << 32))])))
        case "PE twice":                         # the first record's PE again, the record itself in order
            lines = np.concatenate([lines, pack_records([random_record(rng, config, records[at].core, records[at].pe)], config, groups_log2)])
        case "cut":
            whole = np.cumsum([record_lines(record, config)[0] for record in records])
            lines = lines[:rng.choice(np.setdiff1d(np.arange(1, len(lines)), whole))]
        case "too long":
            lines = np.concatenate([lines, np.zeros((int(rng.integers(1, 200)), config.line_bytes), np.uint8)])
        case "empty":
            lines = lines[:0]
    return lines


@njit
def simulate(state, ready, chances, pace, delay, bus_error, outputs, inputs):
    """Runs a load from the cycle after start, with a memory that answers at random; returns the cycles it took.

    ``outputs[cycle]``: request valid, address, lines, beat line, finished, error; ``inputs[cycle]``: data valid, error, line.
    """
    taken = np.zeros(len(ready) + 1, np.int64)     # lines asked for up to each cycle
    sent = 0
    for cycle in range(len(ready)):
        outputs[cycle, 0] = loader_request_valid(state)
        outputs[cycle, 1] = loader_request_address(state)
        outputs[cycle, 2] = loader_request_lines(state)
        outputs[cycle, 3] = loader_beat_line(state)
        outputs[cycle, 4] = loader_finished(state)
        outputs[cycle, 5] = loader_error(state)
        if loader_finished(state):
            return cycle
        taken[cycle + 1] = taken[cycle] + outputs[cycle, 0] * ready[cycle] * outputs[cycle, 2]
        valid = cycle >= delay and taken[cycle - delay] > sent and chances[cycle] < pace
        inputs[cycle, 0] = valid
        inputs[cycle, 1] = valid and sent == bus_error
        inputs[cycle, 2] = sent
        loader_step(state, ready[cycle], inputs[cycle, 0], inputs[cycle, 1])
        sent += valid
    return -1


class Stream:
    """Stimuli and expectation of streams one after another on one loader."""

    def __init__(self, config, seed):
        self.config, self.rng = config, np.random.default_rng(seed)
        self.state = loader_init(config)
        self.cover = collections.Counter()
        self.parts = []
        self.beat = (0, 0, 0, 0, 0)      # the load bus keeps its last beat

    def load(self, damage=None):
        rng, config = self.rng, self.config
        groups_log2 = int(rng.integers(config.max_groups.bit_length()))
        if damage in (None, "bus"):
            lines = pack_records(random_records(rng, config, groups_log2), config, groups_log2)
        else:
            lines = damaged(rng, config, groups_log2, damage)
        beats = parse_load_stream(lines, config, groups_log2)
        bus_error = int(rng.integers(len(lines))) if damage == "bus" else -1
        address = int(rng.integers(1 << config.address_bits))
        last_error = loader_error(self.state)
        loader_start(self.state, address, len(lines), beats.fault_line, beats.fault)

        pace, delay = rng.choice([0.2, 0.7, 1.0]), int(rng.choice([0, 3, 40]))
        most = 400 + delay + 12 * len(lines)
        ready = (rng.random(most) < rng.choice([0.1, 1.0])).astype(np.int64)
        outputs, inputs = np.zeros((most, 6), np.int64), np.zeros((most, 3), np.int64)
        cycles = simulate(self.state, ready, rng.random(most), pace, delay, bus_error, outputs, inputs)
        assert cycles > 0, f"not finished after {most} cycles"
        assert not loader_busy(self.state)
        status = loader_error(self.state)
        assert status == (DAMAGE[damage] if damage else Status.NONE), (damage, status, beats.fault_line)
        assert damage or inputs[:cycles, 0].sum() == len(lines)

        cycles += 2     # with the cycle of the start pulse in front
        outputs, inputs, ready = (np.concatenate([a[:1], a[:cycles - 1]]) for a in (outputs, inputs, ready))
        outputs[0], inputs[0] = [0, 0, 0, -1, 0, last_error], 0
        start = np.arange(cycles) == 0
        data = np.zeros((cycles, config.line_bytes), np.uint8)
        came = inputs[:, 0] == 1
        data[came] = lines[inputs[came, 2]]
        data[~came] = rng.integers(0, 256, ((~came).sum(), config.line_bytes))
        words = data.view("<u4").astype(np.int64)
        settings = {"address": address, "lines": len(lines), "groups_log2": groups_log2}
        stimulus = {name: np.full(cycles, value) for name, value in settings.items()}
        stimulus |= {"start": start, "request__ready": ready, "read_data__valid": inputs[:, 0],
                     "read_data__payload": concat(*((words[:, i], 32) for i in range(words.shape[1])), (inputs[:, 1], 1))}
        expected = {"request__valid": outputs[:, 0], "finished": outputs[:, 4], "error": outputs[:, 5],
                    "read_data__ready": np.ones(cycles, np.int64),
                    "request__payload": concat((outputs[:, 1], config.address_bits), (outputs[:, 2], 8)),
                    "load": self._load_bus(beats, outputs[:, 3])}
        self.parts.append((stimulus, expected))

        self.cover["lines"] += int(came.sum())
        self.cover[f"damage {damage}"] += 1
        self.cover["error while lines are outstanding"] += bool(status and (np.flatnonzero(came)[-1:] > outputs[:, 5].argmax()).any())
        self.cover["several bursts"] += len(lines) > LOAD_BURST
        self.cover["one line per cycle"] += bool(not damage and np.ptp(np.flatnonzero(came)) + 1 == len(lines) > 20)
        for kind in LoadKind:
            self.cover[kind.name] += int((beats.kind[beats.valid] == kind).sum())

    def _load_bus(self, beats, lines):
        config = self.config
        count = words_of(width := max(2 * config.chunk_bits + 2 * config.value_base_bits, 72))
        valid = np.zeros(len(lines), np.int64)
        held = []
        for cycle, line in enumerate(lines):
            if line >= 0 and beats.valid[line]:
                valid[cycle] = 1
                self.beat = tuple(int(f[line]) for f in (beats.core, beats.pe, beats.kind, beats.address)) + (beats.data[line],)
            held.append(self.beat)
        data = np.array([[(beat[4] >> 64 * i) & (1 << 64) - 1 for i in range(count)] for beat in held], np.uint64)
        core, pe, kind, address = np.array([beat[:4] for beat in held]).T
        return concat((valid, 1), (core, 1), (pe, (config.lanes - 1).bit_length()), (kind, 2),
                      (address, (max(config.value_lines, config.mask_pairs, config.columns_per_pe) - 1).bit_length()), (data, width))

    def arrays(self):
        return tuple({name: np.concatenate([part[side][name] for part in self.parts]) for name in self.parts[0][side]}
                     for side in range(2))


def stimuli(config, seed, good, rounds_of_damage, thresholds):
    """Streams in random order: stimulus, expectation, payload cycles; fails when coverage is short of a threshold."""
    stream = Stream(config, seed)
    plan = [None] * good + list(DAMAGE) * rounds_of_damage
    for i in stream.rng.permutation(len(plan)):
        stream.load(plan[i])
    print(f"seed {seed}, {config.name}: {dict(stream.cover)}")
    short = {point: (stream.cover[point], least) for point, least in thresholds.items() if stream.cover[point] < least}
    assert not short, f"coverage (found, least): {short}"
    stimulus, expected = stream.arrays()
    return stimulus, expected, {"request__payload": expected["request__valid"] == 1}


def check(config, seed, good, rounds_of_damage, engine="library", thresholds={}):
    Bench(Loader(config=config), "loader").run(*stimuli(config, seed, good, rounds_of_damage, thresholds), engine=engine, seed=seed)


THRESHOLDS = {"lines": 10_000, "several bursts": 10, "one line per cycle": 5, "error while lines are outstanding": 10,
              **{f"damage {kind}": 3 for kind in DAMAGE}, **{kind.name: 200 for kind in LoadKind}}


@pytest.mark.parametrize("config", [NARROW, MIDDLE, WIDE], ids=lambda config: config.name)
def test_random_streams(config):
    check(config, 21, 80, 3, thresholds=THRESHOLDS)


def test_cocotb():
    check(NARROW, 22, 4, 1, engine="cocotb")


@pytest.mark.long
@pytest.mark.parametrize("config", [*PRESETS.values(), NARROW, MIDDLE], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(200, 203))
def test_many_streams(config, seed):
    check(config, seed, 60, 10)


def test_timing():
    """First request 2 cycles after start, a beat LOADER_LATENCY after its line, ``finished`` 6 after the last line."""
    assert LATENCY == LOADER_LATENCY
    state = loader_init(NARROW)
    loader_start(state, 0, 200, -1, 0)
    outputs, inputs = np.zeros((400, 6), np.int64), np.zeros((400, 3), np.int64)
    cycles = simulate(state, np.ones(400, np.int64), np.zeros(400), 1.0, 0, -1, outputs, inputs)
    outputs = outputs[:cycles]
    arrived = np.flatnonzero(inputs[:, 0])
    assert outputs[:, 0].argmax() == 2 - 1       # the arrays begin in the cycle after start
    assert (np.flatnonzero(outputs[:, 3] >= 0)[1:] - arrived[1:] == LATENCY).all()
    assert len(arrived) == 200 and np.ptp(arrived) == 199
    assert cycles == arrived[-1] + 6


def test_model_speed():
    """The model is to be stepped in every cycle of a job."""
    state = loader_init(NARROW)
    count = 200_000
    outputs, inputs = np.zeros((count, 6), np.int64), np.zeros((count, 3), np.int64)
    ready, chances = np.ones(count, np.int64), np.zeros(count)
    loader_start(state, 0, 100, -1, 0)
    simulate(state, ready, chances, 1.0, 0, -1, outputs, inputs)
    loader_start(state, 0, count - 100, -1, 0)
    begin = time.process_time()
    cycles = simulate(state, ready, chances, 1.0, 0, -1, outputs, inputs)
    took = (time.process_time() - begin) / cycles * 1e9
    print(f"{took:.1f} ns per cycle")
    assert took < 200        # several times the goal: the machine may be busy


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "bus"])
def test_decoder_refuses_the_same(kind):
    """The host's decoder names the line and the status that the loader would report."""
    rng = np.random.default_rng(23)
    for _ in range(10):
        groups_log2 = int(rng.integers(NARROW.max_groups.bit_length()))
        lines = damaged(rng, NARROW, groups_log2, kind)
        beats = parse_load_stream(lines, NARROW, groups_log2)
        with pytest.raises(LoadStreamError) as refused:
            unpack_load_stream(lines, NARROW, groups_log2)
        assert (refused.value.line, refused.value.status) == (beats.fault_line, beats.fault)


FAULTS = {
    "value bases stay zero": (r"base <= \w+;", "base <= 0;"),
    "chunks are not counted in pairs": (r"pair <= \w+;", "pair <= 0;"),
    "lines on their way are forgotten": (r"arrived <= \S+;", "arrived <= asked;"),
    "the last burst is as long as the others": (r"assign more = [^;]+;", "assign more = 1'h1;"),
    "wrong addresses after the first burst": (r"next_address <= (\w+);", r"next_address <= start ? \1 : next_address;"),
}


@pytest.mark.parametrize("fault", [fault if i == 0 else pytest.param(fault, marks=pytest.mark.long)
                                   for i, fault in enumerate(FAULTS)])
def test_fault_is_seen(fault):
    stimulus, expected, where = stimuli(NARROW, 24, 10, 1, {})
    bench = Bench(Loader(config=NARROW), "loader", verilog_edit=lambda text: re.sub(*FAULTS[fault], text))
    with pytest.raises(Mismatch):
        bench.run(stimulus, expected, where)


def test_verilog_has_no_warnings():
    assert lint(to_verilog(Loader(config=NARROW), "loader"), "loader") == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::amaranth.hdl.UnusedElaboratable")
def test_config_is_checked():
    with pytest.raises(TypeError, match="config must be an ArchConfig, not 'x'"):
        Loader(config="x")
    gc.collect()   # the refused component goes while the warning that it was never used is ignored
