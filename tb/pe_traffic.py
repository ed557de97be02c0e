"""Stimuli for processing elements: slices to load, rows of chunks to broadcast, and the arrays that a bench takes."""
from dataclasses import dataclass, field

import numpy as np

from neuroflex.formats import Core, LoadKind, pack_chunk
from neuroflex.tb.bits import concat

__all__ = ["Chunk", "Slice", "Timeline", "bits_to_int", "held", "last_write", "random_levels", "random_slice", "words"]


def words(values, width):
    """Python integers of ``width`` bits as the bench's array form."""
    count = -(-width // 64)
    array = np.array([[int(value) >> 64 * i & (1 << 64) - 1 for i in range(count)] for value in values], np.uint64)
    return array if width > 64 else array.reshape(-1)


def bits_to_int(bits):
    """A bool array, lowest bit first, as an integer."""
    return int.from_bytes(np.packbits(np.asarray(bits, bool), bitorder="little").tobytes(), "little")


@dataclass
class Slice:
    """The columns of a PE: dense weights ``int64[chunks, columns, chunk_bits]`` and the neuron parameters."""

    weights: np.ndarray
    theta: np.ndarray
    bias: np.ndarray
    levels: np.ndarray

    @property
    def columns(self):
        return self.weights.shape[1]

    @property
    def pairs(self):
        return -(-self.columns // 2)

    def match_counts(self, chunk, mask):
        """Matches of each pair of columns, ``int64[max(pairs, 1)]``; with levels instead of a mask, the sums of their levels."""
        counts = ((self.weights[chunk] != 0) * mask.astype(np.int64)).sum(axis=-1)
        return np.append(counts, np.zeros(2 * max(self.pairs, 1) - len(counts), np.int64)).reshape(-1, 2).sum(axis=1)

    def load_beats(self, config):
        """``(kind, address, data)`` of the load bus."""
        c, vb = config.chunk_bits, config.value_base_bits
        yield LoadKind.COLUMNS, 0, self.columns
        for column in range(self.columns):
            yield LoadKind.PARAMETER, column, (int(self.theta[column]) | (int(self.bias[column]) & 0xFFFFFFFF) << 32
                                               | int(self.levels[column]) << 64)
        packed, address = [], 0
        for chunk in self.weights:
            padded = np.concatenate([chunk, np.zeros((2 * self.pairs - len(chunk), c), np.int64)])
            for first, second in padded.reshape(-1, 2, c):
                base1 = len(packed) + int(np.count_nonzero(first))
                base1 %= 1 << vb      # an empty last column of a full slice has no value to point to
                yield LoadKind.MASKS, address, (bits_to_int(first != 0) | bits_to_int(second != 0) << c
                                                | (len(packed) % (1 << vb)) << 2 * c | base1 << 2 * c + vb)
                packed += [int(w) & 255 for w in (*first[first != 0], *second[second != 0])]
                address += 1
        assert address <= config.mask_pairs and len(packed) <= config.value_lines * config.line_bytes, "slice overflows"
        for line in range(0, len(packed), config.line_bytes):
            yield LoadKind.VALUES, line // config.line_bytes, int.from_bytes(bytes(packed[line:line + config.line_bytes]), "little")


def random_slice(rng, config, *, columns, chunks, density, snn=False):
    """A slice with random columns; densities vary by column, and the corners (empty, full, one bit, extreme) are common."""
    c = config.chunk_bits
    per_column = np.clip(density * rng.choice([0.25, 1, 1, 2], (1, columns, 1)), 0, 1)
    weights = rng.integers(-128, 128, (chunks, columns, c)) * (rng.random((chunks, columns, c)) < per_column)
    corner = rng.random((chunks, columns))
    weights[corner < 0.1] = 0
    for chunk, column in np.argwhere((corner >= 0.1) & (corner < 0.15)):
        weights[chunk, column] = 0
        weights[chunk, column, rng.choice([0, c - 1, rng.integers(c)])] = rng.choice([-128, -1, 1, 127])
    for chunk, column in np.argwhere((corner >= 0.15) & (corner < 0.2)):      # skewed: everything at one end
        weights[chunk, column] = 0
        part = slice(0, c // 4) if rng.random() < 0.5 else slice(3 * c // 4, c)
        weights[chunk, column, part] = rng.integers(1, 128, c // 4)
    while (np.count_nonzero(weights) > config.value_lines * config.line_bytes):
        weights[rng.random(weights.shape) < 0.3] = 0
    top = min(127, config.snn_levels if snn else 127)
    theta = rng.choice([1, 2, 999, rng.integers(1, 1 << config.theta_bits), (1 << config.theta_bits) - 1, 3000, 20000, 30001], columns)
    return Slice(weights, theta, rng.integers(-40000, 40000, columns), rng.choice([1, top, rng.integers(1, top + 1), min(8, top)], columns))


def random_levels(rng, config, density, top=127):
    """Dense levels of a chunk: empty, full, single, tail, skewed or random."""
    c = config.chunk_bits
    kind = rng.random()
    levels = rng.integers(1, top + 1, c)
    if kind < 0.12:
        return levels * 0
    if kind < 0.18:
        return levels
    if kind < 0.25:
        return levels * (np.arange(c) == rng.choice([0, c - 1, rng.integers(c)]))
    if kind < 0.32:
        return levels * (np.arange(c) < rng.integers(1, c))
    if kind < 0.39:
        return levels * (np.arange(c) >= rng.integers(1, c))
    return levels * (rng.random(c) < density)


@dataclass
class Chunk:
    """A chunk to broadcast: its place in the slice, levels, flags, and the cycles of its beats once they are known."""

    index: int
    levels: np.ndarray
    group: int = 0
    first_chunk: bool = False
    last_chunk: bool = False
    first_window: bool = True
    last_window: bool = True
    beats: list = field(default_factory=list)

    @property
    def mask(self):
        return self.levels != 0

    @property
    def empty(self):
        return not self.mask.any()

    def beat_count(self, config):
        return max(1, -(-int(self.mask.sum()) // config.line_bytes))


class Timeline:
    """Collects what goes over the buses, and turns it into arrays for a bench."""

    def __init__(self, config):
        self.config, self.broadcasts, self.loads = config, [], []

    def load(self, cycle, slice_, *, core=Core.ANN, pe=0, lines=None):
        """Load a slice, one beat per cycle; returns the cycle after the last."""
        for kind, address, data in slice_.load_beats(self.config):
            self.loads.append((cycle, int(core), pe, int(kind), address, data))
            cycle += 1
        return cycle

    def send(self, chunk, cycle, gaps):
        """Place a chunk's beats, the first in ``cycle``, with a gap after each; returns the cycle after the last."""
        chunk.beats = []
        for _, gap in zip(range(chunk.beat_count(self.config)), gaps):
            chunk.beats.append(cycle)
            cycle += 1 + gap
        self.broadcasts.append(chunk)
        return chunk.beats[-1] + 1

    def bus(self, cycles):
        """Port ``bus`` (broadcast_layout)."""
        config, c = self.config, self.config.chunk_bits
        group_bits = max((config.max_groups - 1).bit_length(), 0)
        columns = {name: np.zeros(cycles, np.int64) for name in
                   ("valid", "group", "first_chunk", "last_chunk", "first_window", "last_window", "first_beat", "last_beat")}
        mask, line = [0] * cycles, [0] * cycles
        for chunk in self.broadcasts:
            packed = pack_chunk(chunk.levels, config)
            for beat, cycle in enumerate(chunk.beats):
                columns["valid"][cycle] = 1
                for name in ("group", "first_chunk", "last_chunk", "first_window", "last_window"):
                    columns[name][cycle] = getattr(chunk, name)
                columns["first_beat"][cycle] = beat == 0
                columns["last_beat"][cycle] = beat == len(chunk.beats) - 1
                mask[cycle] = int.from_bytes(packed[0].tobytes(), "little")
                if len(packed) > 1:
                    line[cycle] = int.from_bytes(packed[1 + beat].tobytes(), "little")
        fields = [(values, group_bits if name == "group" else 1) for name, values in columns.items()]
        return concat(*(f for f in fields if f[1]), (words(mask, c), c), (words(line, c), c))

    def load_bus(self, cycles):
        """Port ``load`` (load_layout)."""
        config = self.config
        data_bits = max(2 * config.chunk_bits + 2 * config.value_base_bits, 72)
        address_bits = (max(config.value_lines, config.mask_pairs, config.columns_per_pe) - 1).bit_length()
        columns, data = np.zeros((5, cycles), np.int64), [0] * cycles
        for cycle, core, pe, kind, address, value in self.loads:
            columns[:, cycle] = 1, core, pe, kind, address
            data[cycle] = value
        return concat(*zip(columns, (1, 1, max((config.lanes - 1).bit_length(), 0), 2, address_bits)), (words(data, data_bits), data_bits))


def held(cycles, starts, stops):
    """Number of things held in each cycle, each from ``start`` until before ``stop``."""
    change = np.zeros(cycles + 1, np.int64)
    np.add.at(change, np.minimum(np.asarray(starts, np.int64), cycles), 1)
    np.add.at(change, np.minimum(np.asarray(stops, np.int64), cycles), -1)
    return np.cumsum(change)[:cycles]


def last_write(write_cycle, write_address, read_address):
    """Index of the write that each cycle's read of a memory sees, -1 if none: the last one of an earlier cycle."""
    write_cycle, write_address = np.asarray(write_cycle, np.int64), np.asarray(write_address, np.int64)
    seen = np.full(len(read_address), -1, np.int64)
    for address in np.unique(read_address):
        writes, reads = np.flatnonzero(write_address == address), np.flatnonzero(read_address == address)
        if len(writes):
            order = writes[np.argsort(write_cycle[writes], kind="stable")]
            place = np.searchsorted(write_cycle[order], reads, side="left") - 1
            seen[reads] = np.where(place >= 0, order[np.maximum(place, 0)], -1)
    return seen
