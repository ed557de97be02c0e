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
import numpy as np
import pytest
from numba import njit

from neuroflex.config import PRESETS
from neuroflex.formats import DESCRIPTOR_FIELDS, StallCause
from neuroflex.hdl.broadcaster import Broadcaster
from neuroflex.hdl.layouts import broadcast_layout, fetch_layout, read_layout, response_layout, settings_layout
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

    A layer starts in cycle ``begin``. Returns the cycle after its end. ``reads`` collects chunk and line of each read and the cycle of its answer, ``banks``
    is {reads issued, reads answered, cycle of the last answer due, output banks in use}.
    """
    while True:
        trace[now, :_OBSERVED] = state[:_OBSERVED]
        done = state[model.FINISHED] and banks[3] == 0 and banks[0] == banks[1] and now > begin + 2
        if done or now == len(trace) - 1:
            return now
        if state[model.READ_VALID] and read_ready[now]:
            due = max(now + latency[now], banks[2] + 1)
            reads[banks[0]] = state[model.READ_CHUNK], state[model.READ_LINE], due
            banks[0] += 1
            banks[2] = due
        answered = banks[1] < banks[0] and reads[banks[1], 2] == now
        trace[now, _RESPONSE_READ] = banks[1] if answered else -1
        banks[1] += answered
        if state[model.BUS_VALID] and state[model.BUS_FIRST] and chunks[state[model.BUS_CHUNK], model.NEW_BLOCK]:
            banks[3] += 1
        give = give_back[now] and banks[3] > 0
        banks[3] -= give
        trace[now, _START] = now == begin
        trace[now, _BLOCK_DONE] = give
        model.broadcaster_step(state, chunks, lines, now == begin, fetch_ready[now], read_ready[now], answered,
                               slot_free[now], row_free[now], give)
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
    return packed[:, 0] if packed.shape[1] == 1 else packed


class Run:
    """Stimuli and expectations of some layers in a row."""

    def __init__(self, config, rng, layers, *, style="random", masks=None):
        self.config = config
        limit = 4000 + sum(len(walk_chunks(layer, config=config)) for layer in layers) * 400
        groups = config.max_groups
        state = model.broadcaster_init(config)
        trace = np.zeros((limit, _OBSERVED + 3), np.int64)
        banks = np.zeros(4, np.int64)
        reads = np.zeros((limit, 3), np.int64)
        environment = self._environment(rng, limit, style, groups)
        self.slot_free, self.row_free = environment[3:5]
        self.stimulus = {name: [] for name in ("start", "settings", "response", "block_done")}
        expected = {name: [] for name in ("fetch__payload", "read__payload", "broadcast")}
        now, answered = 0, 0
        held = None
        for layer in layers:
            table = walk_chunks(layer, config=config)
            mask = random_masks(rng, config, len(table)) if masks is None else masks(len(table))
            mask[table[:, OUTSIDE] == 1] = False
            lines = -(-mask.sum(axis=1) // config.line_bytes)
            values = rng.random((len(table), 8, config.chunk_bits)) < 0.5
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
        self.stimulus |= {"fetch__ready": environment[0][:now], "read__ready": environment[1][:now],
                          "slot_free": environment[3][:now], "row_free": environment[4][:now]}
        self.expected = {name: np.concatenate(parts) for name, parts in expected.items()}
        self.expected |= {"fetch__valid": self.trace[:, model.FETCH_VALID], "read__valid": self.trace[:, model.READ_VALID],
                          "finished": self.trace[:, model.FINISHED], "cause": self.trace[:, model.CAUSE]}
        self.where = {"fetch__payload": self.trace[:, model.FETCH_VALID] == 1,
                      "read__payload": self.trace[:, model.READ_VALID] == 1}
        self.reads = reads[:banks[0]]

    def _environment(self, rng, limit, style, groups):
        """Ready of fetches and reads, latency of answers, free bits of slots and rows, output banks given back."""
        full = (1 << groups) - 1
        if style == "free":
            one = np.ones(limit, np.int64)
            return one, one, 2 * one, full * one, full * one, one
        fetch = signal_levels(rng, limit, rng.choice([0.05, 0.5, 1]), rng.choice([1, 3, 100]))
        read = signal_levels(rng, limit, rng.choice([0.3, 0.7, 1]), rng.choice([1, 3, 30]))
        misses = rng.random(limit) < rng.choice([0, 0.02, 0.3])
        latency = np.where(misses, rng.integers(3, 80, limit), 2)

        def free_bits():
            share, stretch = rng.choice([0.1, 0.7, 1]), rng.choice([1, 5, 30])
            return sum(signal_levels(rng, limit, share, stretch).astype(np.int64) << group for group in range(groups))
        give = signal_levels(rng, limit, rng.choice([0.02, 0.3, 1]), rng.choice([1, 4]))
        return tuple(np.asarray(values, np.int64) for values in (fetch, read, latency, free_bits(), free_bits(), give))

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
        line = values[chunk, beat] & mask[chunk].any(axis=1)[:, None]
        sent = pack_payload(layout, valid=1, first_beat=part[beats, model.BUS_FIRST], last_beat=part[beats, model.BUS_LAST],
                            mask=words(mask[chunk]), line=words(line), **flags).reshape(len(chunk), -1)
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
        data = np.where((line == 0)[:, None], mask[chunk], values[chunk, line - 1]) & valid[:, None]
        self.stimulus["response"].append(pack_payload(response_layout(config), valid=valid, line=words(data)))


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_random_layers(preset):
    config = PRESETS[preset]
    rng = np.random.default_rng(SEED)
    bench = Bench(Broadcaster(config=config), "broadcaster")
    for number in range(4):
        layers = [random_layer(rng, config, kind, most=600) for kind in rng.permutation(KINDS)]
        run = Run(config, rng, layers)
        bench.run(run.stimulus, run.expected, run.where, seed=SEED)
        print(number, len(run.trace), (run.trace[:, model.BUS_VALID] & run.trace[:, model.BUS_FIRST]).sum())
