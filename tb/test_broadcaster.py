"""Broadcaster against its model: every output in every cycle, over whole layers.

Plan
----
* Layers: every kind of :func:`~neuroflex.tb.layers.random_layer`, one after the other without reset.
* Masks: empty, full, one bit, a line's worth of bits exactly and one more, random densities.
* Cache: streams always ready, at random, in long pauses of fetches or reads; hits two cycles after acceptance, misses of
  up to 80 cycles, answers back to back.
* Arrays: slots and rows always free, at random, rarely; output banks given back at once, late, in bursts.
* Performance with all hits: a chunk of v lines every v + 1 cycles, chunks without values every second cycle per group
  and every cycle over groups.
* Faults: credits, rules for free bits, the order of reads, flags.
"""
import gc
import re
from collections import Counter

import numpy as np
import pytest
from numba import njit

from neuroflex.config import PRESETS
from neuroflex.formats import DESCRIPTOR_FIELDS, StallCause
from neuroflex.hdl.broadcaster import Broadcaster
from neuroflex.layouts import broadcast_layout, fetch_layout, read_layout, response_layout, settings_layout
from neuroflex.sim import broadcaster as model
from neuroflex.sim.walk import ADDRESS, CONSUME, GROUP, OUTSIDE, WALK_FIELDS, walk_chunks
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.layers import KINDS, pack_payload, random_layer

SEED = 20260102
_OBSERVED = model.CAUSE + 1
_RESPONSE_READ = _OBSERVED       # column of a trace: number of the read answered in this cycle, or -1
_START = _OBSERVED + 1
_BLOCK_DONE = _OBSERVED + 2


@njit        # not cached: a cached caller would keep an old version of the model
def play(state, trace, reads, now, begin, chunks, lines, fetch_ready, read_ready, latency, slot_free, row_free, give_back, banks):
    """Run the model through one layer against a random cache and random arrays.

    The layer starts in cycle ``begin``; returns the cycle after its end. ``reads`` collects chunk, line and cycle of the
    answer of each read, ``banks`` is {reads issued, reads answered, cycle of the last answer, output banks in use}.
    """
    while True:
        moment = now % len(latency)
        trace[now, :_OBSERVED] = state[:_OBSERVED]
        done = state[model.FINISHED] and banks[3] == 0 and banks[0] == banks[1] and now > begin + 2
        if done or now == len(trace) - 1:
            return now
        if state[model.READ_VALID] and read_ready[moment]:
            due = max(now + latency[moment], banks[2] + 1)
            reads[banks[0]] = state[model.READ_CHUNK], state[model.READ_LINE], due
            banks[0] += 1
            banks[2] = due
        answered = banks[1] < banks[0] and reads[banks[1], 2] == now
        trace[now, _RESPONSE_READ] = banks[1] if answered else -1
        banks[1] += answered
        if state[model.BUS_VALID] and state[model.BUS_FIRST] and chunks[state[model.BUS_CHUNK], model.NEW_BLOCK]:
            banks[3] += 1
        give = give_back[moment] and banks[3] > 0
        banks[3] -= give
        trace[now, _START] = now == begin
        trace[now, _BLOCK_DONE] = give
        model.broadcaster_step(state, chunks, lines, now == begin, fetch_ready[moment], read_ready[moment], answered,
                               slot_free[moment], row_free[moment], give)
        now += 1


def random_masks(rng, config, count):
    """Masks ``bool[count, chunk_bits]`` with many borders of the number of lines."""
    bits, line = config.chunk_bits, config.line_bytes
    kinds = rng.integers(6, size=count)
    ones = np.select([kinds == 0, kinds == 1, kinds == 2, kinds == 3],
                     [0, 1, line * rng.integers(1, 9, count), line * rng.integers(8, size=count) + 1],
                     rng.binomial(bits, rng.choice([0.02, 0.1, 0.3, 0.9], count)))
    order = rng.random((count, bits)).argsort(axis=1)
    return order < np.where(rng.random(count) < 0.02, bits, ones)[:, None]


def signal_levels(rng, cycles, share, stretch):
    """Random levels, high in a share of the cycles, in runs of about ``stretch`` cycles."""
    runs = rng.geometric(1 / stretch, cycles)
    return np.repeat(rng.random(cycles) < share, runs)[:cycles]


def words(bits):
    """Bool ``[n, bits]`` as the bench's words."""
    packed = np.packbits(bits, axis=1, bitorder="little")
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)
    return narrow(packed)


def narrow(values):
    """Words as the bench takes them: one-dimensional when there is one."""
    return values[:, 0] if values.shape[1] == 1 else values


class Run:
    """Stimuli and expectations of some layers in a row.

    Everything is random unless ``masks`` gives the layer's masks, and ``latency`` that of a cache and arrays that are always
    ready.
    """

    def __init__(self, config, rng, layers, *, masks=None, latency=None):
        self.config = config
        limit = 4000 + sum(len(walk_chunks(layer, config=config)) for layer in layers) * 400
        groups = config.max_groups
        state = model.broadcaster_init(config)
        trace = np.zeros((limit, _OBSERVED + 3), np.int64)
        banks = np.zeros(4, np.int64)
        reads = np.zeros((limit, 3), np.int64)
        environment = self._free(groups, latency) if latency else self._environment(rng, groups)
        self.stimulus = {name: [] for name in ("start", "settings", "response", "block_done")}
        expected = {name: [] for name in ("fetch__payload", "read__payload", "broadcast")}
        now, answered = 0, 0
        held = None
        for layer in layers:
            table = walk_chunks(layer, config=config)
            mask = random_masks(rng, config, len(table)) if masks is None else masks(len(table))
            mask[table[:, OUTSIDE] == 1] = False
            lines = -(-mask.sum(axis=1) // config.line_bytes)
            values = rng.integers(1 << min(config.chunk_bits, 63), size=(len(table), 8, -(-config.chunk_bits // 64)), dtype=np.uint64)
            begin = now + int(rng.integers(1, 12))
            stop = play(state, trace, reads, now, begin, table, lines, *environment, banks)
            assert stop < limit - 1, "the layer does not end"
            part = trace[now:stop]
            self._expect(expected, part, table, layer, mask, values, held)
            held = expected["broadcast"][-1][-1:]
            self._stimulate(part, reads, layer, mask, values)
            now = stop
        self.trace = trace[:now]
        self.stimulus = {name: np.concatenate(parts) for name, parts in self.stimulus.items()}
        fetch_ready, read_ready, _, slot_free, row_free, _ = (np.resize(values, now) for values in environment)
        self.stimulus |= {"fetch__ready": fetch_ready, "read__ready": read_ready, "slot_free": slot_free, "row_free": row_free}
        self.expected = {name: np.concatenate(parts) for name, parts in expected.items()}
        self.expected |= {"fetch__valid": self.trace[:, model.FETCH_VALID], "read__valid": self.trace[:, model.READ_VALID],
                          "finished": self.trace[:, model.FINISHED], "cause": self.trace[:, model.CAUSE]}
        self.where = {"fetch__payload": self.trace[:, model.FETCH_VALID] == 1,
                      "read__payload": self.trace[:, model.READ_VALID] == 1}
        self.reads = reads[:banks[0]]

    def _free(self, groups, latency):
        """As ``_environment``, with everything ready and free."""
        one, full = np.ones(1, np.int64), np.full(1, (1 << groups) - 1)
        return one, one, latency * one, full, full, one

    def _environment(self, rng, groups):
        """Ready of fetches and reads, latency of answers, free bits of slots and rows, output banks given back; repeated."""
        limit = 1 << 15
        fetch = signal_levels(rng, limit, rng.choice([0.05, 0.5, 1]), rng.choice([1, 3, 100]))
        read = signal_levels(rng, limit, rng.choice([0.3, 0.7, 1]), rng.choice([1, 3, 30]))
        misses = rng.random(limit) < rng.choice([0, 0.02, 0.3])
        latency = np.where(misses, rng.integers(3, 80, limit), 2)

        def free_bits():
            share, stretch = rng.choice([0.1, 0.7, 1]), rng.choice([1, 5, 30])
            return sum(signal_levels(rng, limit, share, stretch).astype(np.int64) << group for group in range(groups))
        slots, rows = free_bits(), free_bits()
        give = signal_levels(rng, limit, rng.choice([0.02, 0.3, 1]), rng.choice([1, 4]))
        if rng.random() < 0.3:            # the compressor is the bottleneck
            slots = rows = np.full(limit, (1 << groups) - 1)
            give = signal_levels(rng, limit, 0.01, 1)
        return tuple(np.asarray(values, np.int64) for values in (fetch, read, latency, slots, rows, give))

    def _expect(self, expected, part, table, layer, mask, values, held):
        config = self.config
        chunk = np.minimum(part[:, model.FETCH_CHUNK], len(table) - 1)
        expected["fetch__payload"].append(pack_payload(fetch_layout(config), address=table[chunk, ADDRESS], lines=layer["fetch_lines"]))
        chunk, line = part[:, model.READ_CHUNK], part[:, model.READ_LINE]
        chunk = np.minimum(chunk, len(table) - 1)
        address = (table[chunk, ADDRESS] + line) % (1 << config.address_bits)
        expected["read__payload"].append(pack_payload(read_layout(config), address=address, consume=table[chunk, CONSUME]))
        # The bus keeps its payload between beats, over the end of a layer too.
        layout = broadcast_layout(config)
        beats = part[:, model.BUS_VALID] == 1
        chunk, beat = part[beats, model.BUS_CHUNK], part[beats, model.BUS_BEAT]
        flags = {name: table[chunk, WALK_FIELDS.index(name)]
                 for name in ("group", "first_chunk", "last_chunk", "first_window", "last_window")}
        line = values[chunk, beat] * mask[chunk].any(axis=1)[:, None].astype(np.uint64)
        sent = pack_payload(layout, valid=1, first_beat=part[beats, model.BUS_FIRST], last_beat=part[beats, model.BUS_LAST],
                            mask=words(mask[chunk]), line=narrow(line), **flags).reshape(len(chunk), -1)
        held = np.zeros_like(sent[:1]) if held is None else held
        bus = np.concatenate([held, sent])[np.cumsum(beats)]
        bus[:, 0] = bus[:, 0] & ~np.uint64(1) | beats
        expected["broadcast"].append(bus)

    def _stimulate(self, part, reads, layer, mask, values):
        config = self.config
        settings = settings_layout(config)
        packed = pack_payload(settings, **{name: np.array([layer[name]]) for name, _ in settings})
        self.stimulus["settings"].append(np.repeat(packed, len(part), axis=0))
        self.stimulus["start"].append(part[:, _START])
        self.stimulus["block_done"].append(part[:, _BLOCK_DONE])
        answer = part[:, _RESPONSE_READ]
        chunk, line, _ = reads[answer].T
        valid = answer >= 0
        data = np.where((line == 0)[:, None], words(mask).reshape(len(mask), -1)[chunk], values[chunk, line - 1])
        data = data * valid[:, None].astype(np.uint64)
        self.stimulus["response"].append(pack_payload(response_layout(config), valid=valid, line=narrow(data)))


def cover(seen, run):
    """Count what a run exercises."""
    trace = run.trace
    beats = trace[:, model.BUS_VALID] == 1
    first = beats & (trace[:, model.BUS_FIRST] == 1)
    fetched = (trace[:, model.FETCH_VALID] == 1) & (run.stimulus["fetch__ready"] == 1)
    seen["chunks"] += int(first.sum())
    seen["beats after the first"] += int((beats & ~first).sum())
    seen["chunks of 8 beats"] += int((beats & (trace[:, model.BUS_BEAT] == 7)).sum())
    seen["adjacent first beats"] += int((first[1:] & first[:-1]).sum())
    seen["overtaken fetches"] += int((run.reads[:, 1] == 0).sum() - fetched.sum())
    seen["answers after a miss"] += int((np.diff(run.reads[:, 2]) > 3).sum())
    seen["reads held up"] += int(((trace[:, model.READ_VALID] == 1) & (run.stimulus["read__ready"] == 0)).sum())
    for cause in StallCause:
        seen[cause.name] += int((trace[:, model.CAUSE] == cause).sum())


LEAST = {"chunks": 10_000, "beats after the first": 5_000, "chunks of 8 beats": 500, "adjacent first beats": 100,
         "overtaken fetches": 100, "answers after a miss": 500, "reads held up": 1000, "CONTROL": 10, "BROADCAST": 10_000,
         "MEMORY": 1000, "SLOT": 1000, "ROW": 500, "OUTPUT": 300, "DRAIN": 100}


def random_run(config, *seed, most):
    """All kinds of layers one after the other, in one of many environments."""
    rng = np.random.default_rng([SEED, *seed])
    return Run(config, rng, [random_layer(rng, config, kind, most=most) for kind in rng.permutation(KINDS)])


@pytest.mark.parametrize("preset, runs", [("small", 14), pytest.param("tiny", 40, marks=pytest.mark.long),
                                          pytest.param("paper", 40, marks=pytest.mark.long)])
def test_random_layers(preset, runs):
    config = PRESETS[preset]
    bench = Bench(Broadcaster(config=config), "broadcaster")
    seen = Counter()
    for number in range(runs):
        run = random_run(config, number, most=1200)
        cover(seen, run)
        bench.run(run.stimulus, run.expected, run.where, seed=number)
    missed = {name: (seen[name], least) for name, least in LEAST.items() if seen[name] < least}
    assert not missed, f"coverage too low: {missed}"


def test_under_cocotb():
    config = PRESETS["small"]
    run = random_run(config, 104, most=150)
    Bench(Broadcaster(config=config), "broadcaster").run(run.stimulus, run.expected, run.where, engine="cocotb", seed=104)


@pytest.mark.parametrize("latency", [2, 4])
@pytest.mark.parametrize("lines", [0, 1, 2, 5, 8])
@pytest.mark.parametrize("groups_log2", [0, 1])
def test_throughput(groups_log2, lines, latency):
    """With hits and free PEs the cache's read port is busy in every cycle: a chunk of v lines takes v + 1 cycles."""
    config = PRESETS["small"]
    layer = dict.fromkeys((field.name for field in DESCRIPTOR_FIELDS), 0) | {
        f"source0_{name}": 1 for name in ("kernel_h", "kernel_w", "stride", "repeat")} | {
        "source0_height": 16, "source0_width": 16, "source0_chunks": 3, "out_height": 16, "out_width": 16, "pool_h": 1,
        "pool_w": 1, "groups_log2": groups_log2, "fetch_lines": 9}

    def masks(count):
        return np.tile(np.arange(config.chunk_bits) < lines * config.line_bytes, (count, 1))
    run = Run(config, np.random.default_rng(SEED), [layer], masks=masks, latency=latency)
    first = np.flatnonzero(run.trace[:, model.BUS_VALID] & run.trace[:, model.BUS_FIRST])
    start = np.flatnonzero(run.stimulus["start"])[0]
    per_chunk = (first[-1] - first[50]) / (len(first) - 51)
    least = 2 if lines == 0 and groups_log2 == 0 else lines + 1
    if lines == 0 and latency > 2 and groups_log2:
        least = 1.25       # eight chunks in the queue, ten cycles
    assert per_chunk == pytest.approx(least, abs=0.02)
    if latency == 2 and lines < 5:
        assert first[0] - start == (22 if lines else 17)


FAULTS = {
    "a slot is taken twice": (r"assign slot_ok = (\w+) & \w+;", r"assign slot_ok = \1;"),
    "rows without a free buffer": (r"assign row_ok = .*;", "assign row_ok = 1'h1;"),
    "one line too many": (r"reserved != 5'h10", "reserved != 5'h11"),
    "one output bank too many": (r"blocks != 3'h4", "blocks != 3'h5"),
    "one chunk too few": (r"chunks_held != 3'h7", "chunks_held != 3'h6"),
    "one chunk too many": (r"chunk_room <= \w+;", "chunk_room <= 1'h1;"),
    "both walks seem to be at the same chunk": (r"(?<!\w)level <= \w+;", "level <= 1'h1;"),
    "the head's lines are those of the one before": (r"head_lines <= (\w+);", r"head_lines <= head_pop ? head_lines : \1;"),
    "every beat begins a chunk": (r"between <= (\w+);", r"between <= between | \1;"),
    "fetches too far ahead": (r"ahead != 4'h8", "ahead != 4'h9"),
}


@pytest.mark.parametrize("fault", [name if number == 0 else pytest.param(name, marks=pytest.mark.long)
                                   for number, name in enumerate(FAULTS)])
def test_faults_are_seen(fault):
    config = PRESETS["small"]
    pattern, replacement = FAULTS[fault]

    def edit(text):
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, f"{count} places for {pattern}"
        return text
    bench = Bench(Broadcaster(config=config), "broadcaster", verilog_edit=edit)
    with pytest.raises(Mismatch):
        for number in range(12):
            run = random_run(config, number, most=1200)
            bench.run(run.stimulus, run.expected, run.where, seed=number)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_what_is_no_configuration():
    with pytest.raises(TypeError, match="config must be an ArchConfig, not 'tiny'"):
        Broadcaster(config="tiny")
    gc.collect()   # the refused component goes while the warning that it was never used is ignored
