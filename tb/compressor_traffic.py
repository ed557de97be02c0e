"""Random layers for the compressor: what it is given, and what every output must be."""
import numpy as np
from numba import njit

from neuroflex.formats import pack_chunk
from neuroflex.sim.compressor import (HEAD, compressor_block_done, compressor_busy, compressor_finished, compressor_start, compressor_step, compressor_write_address,
                                      compressor_write_is_mask, compressor_write_valid, compressor_y_bank, compressor_y_index, layout_rounds)
from neuroflex.tb.bits import concat

__all__ = ["OUTPUTS", "Layer", "run_layer", "simulate"]

OUTPUTS = ("write__valid", "address", "is_mask", "block_done", "finished", "y_bank", "y_index")


@njit
def simulate(state, nonzeros, groups, ann_columns, snn_columns, banks, rates, ready, chances, outputs, ann_done, snn_done,
             issued, moved):
    """Runs a layer, from the cycle after start, with arrays that finish at random; returns the cycles it took.

    ``outputs[cycle, :]`` are those of ``OUTPUTS``; ``*_done[cycle, pe]`` are the true counts; ``issued[cycle]``; ``moved[cycle]``: the pipeline is not held.
    """
    positions = len(nonzeros)
    blocks_read = 0
    cores = (ann_columns, snn_columns)
    counts = (np.zeros(len(ann_columns), np.int64), np.zeros(len(snn_columns), np.int64))
    wrapped = (np.zeros(len(ann_columns), np.int64), np.zeros(len(snn_columns), np.int64))
    for cycle in range(len(ready)):
        outputs[cycle, 0] = compressor_write_valid(state)
        outputs[cycle, 1] = compressor_write_address(state)
        outputs[cycle, 2] = compressor_write_is_mask(state)
        outputs[cycle, 3] = compressor_block_done(state)
        outputs[cycle, 4] = compressor_finished(state)
        outputs[cycle, 5] = compressor_y_bank(state)
        outputs[cycle, 6] = compressor_y_index(state)
        if compressor_finished(state):
            return cycle
        for core in range(2):
            pes = len(cores[core])
            for pe in range(pes):
                group = pe // (pes // groups)
                total = (positions - group + groups - 1) // groups
                if (counts[core][pe] < total and counts[core][pe] < blocks_read + banks
                        and chances[cycle, core, pe] < rates[core, pe]):
                    counts[core][pe] += 1
                wrapped[core][pe] = counts[core][pe] % (2 * banks)
        ann_done[cycle], snn_done[cycle] = wrapped[0], wrapped[1]
        head = state[HEAD]
        issued[cycle] = compressor_step(state, nonzeros, ann_columns, wrapped[0], snn_columns, wrapped[1], ready[cycle])
        moved[cycle] = state[HEAD] != head
        blocks_read += outputs[cycle, 3]
    return -1


def random_columns(rng, config, pes, groups, none):
    """Columns of a core's PEs: not increasing within a group, the same in all groups."""
    width = pes // groups
    if none:
        return np.zeros(pes, np.int64)
    most = int(rng.choice([1, 2, 3, config.columns_per_pe // 2, config.columns_per_pe], p=[0.1, 0.1, 0.1, 0.2, 0.5]))
    fewest = int(rng.choice([0, max(0, most - 1), most], p=[0.3, 0.2, 0.5]))
    columns = np.sort(rng.integers(fewest, most + 1, width))[::-1]
    columns[0] = most
    return np.tile(columns, groups)


class Layer:
    """A random layer: settings, columns, levels in every lane, and the lines that must be written; levels up to 127, or up to ``top``, q as likely as 0.6^q."""

    def __init__(self, rng, config, cover, *, top=None):
        self.config = config
        groups_log2 = int(rng.integers(0, config.max_groups.bit_length()))
        self.groups = groups = 1 << groups_log2
        none = rng.integers(6)
        self.columns = [random_columns(rng, config, pes, groups, none == core)
                        for core, pes in enumerate((config.ann_pes, config.snn_pes))]
        rounds = [int(columns.max()) for columns in self.columns]
        self.rounds = layout_rounds(config, groups_log2, *rounds)
        height, width = (int(n) for n in rng.integers(1, 9, 2))
        positions = height * width
        chunks = -(-(self.rounds[-1][2] + self.rounds[-1][3]) // config.chunk_bits)
        first_chunk = int(rng.integers(0, 3))
        self.settings = dict(
            out_base=int(rng.integers(0, 1 << config.address_bits)), out_height=height, out_width=width,
            out_chunks=chunks + first_chunk + int(rng.integers(0, 2)), out_first_chunk=first_chunk, groups_log2=groups_log2,
            ann_rounds=rounds[0], snn_rounds=rounds[1], to_memory=int(rng.integers(2)))

        density = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], p=[0.1, 0.2, 0.3, 0.1, 0.3])
        dense = np.zeros((positions, chunks * config.chunk_bits), np.int64)
        self.levels = np.zeros((positions, len(self.rounds), config.lanes), np.int64)
        for index, (core, column, at, lanes) in enumerate(self.rounds):
            drawn = rng.integers(1, 128, (positions, lanes)) if top is None else np.minimum(rng.geometric(0.4, (positions, lanes)), top)
            levels = drawn * (rng.random((positions, lanes)) < density)
            levels *= self.columns[core][:lanes] > column
            self.levels[:, index, :lanes] = dense[:, at:at + lanes] = levels
        self.nonzeros = (self.levels != 0).sum(axis=2)

        mask = (1 << config.address_bits) - 1
        self.lines = {}
        for position in range(positions):
            for chunk in range(chunks):
                address = self.settings["out_base"] + (position * self.settings["out_chunks"] + first_chunk + chunk) * 9
                packed = pack_chunk(dense[position, chunk * config.chunk_bits:][:config.chunk_bits], config)
                for i, line in enumerate(packed):
                    self.lines[(address + i) & mask] = line
        assert len(self.lines) == sum(len(pack_chunk(c, config)) for c in dense.reshape(-1, config.chunk_bits))
        ends = [at + lanes for _, _, at, lanes in self.rounds]
        cover["layer"] += 1
        cover[f"groups {groups}"] += 1
        cover["one core only"] += 0 in rounds
        cover["last block is partial"] += positions % groups != 0
        cover["gap before the SNN rounds"] += any(start[2] != end for start, end in zip(self.rounds[1:], ends))
        cover["several chunks"] += chunks > 1
        cover["PE without columns"] += any((c == 0).any() and c.any() for c in self.columns)
        cover["empty layer"] += not self.nonzeros.any()
        cover["full mask"] += bool((dense.reshape(-1, config.chunk_bits) != 0).all(axis=1).any())
        cover["rounds"] += positions * len(self.rounds)


def run_layer(rng, layer, state, cover, *, quiet=False):
    """Stimulus and expectation of a layer, from its start pulse to ``finished``, and in how many cycles its pipeline moves.

    Where the compressor must not look there is garbage, or with ``quiet`` what was there before, as with real arrays.
    """
    config, settings = layer.config, layer.settings
    before = [compressor_y_bank(state), compressor_y_index(state)]
    compressor_start(state, settings["out_base"], settings["out_height"] * settings["out_width"], settings["out_chunks"],
                     settings["out_first_chunk"], settings["groups_log2"], settings["ann_rounds"], settings["snn_rounds"])
    most = 400 + 60 * layer.nonzeros.size + 400 * len(layer.nonzeros)
    pes = config.lanes
    rates = np.full((2, pes), rng.choice([0.02, 0.3, 1.0])) * rng.choice([0.3, 1.0], (2, pes))
    ready = (rng.random(most) < rng.choice([0.15, 0.6, 1.0])).astype(np.int64)
    outputs = np.zeros((most, len(OUTPUTS)), np.int64)
    ann_done, snn_done = (np.zeros((most, n), np.int64) for n in (config.ann_pes, config.snn_pes))
    issued, moved = np.zeros((2, most), np.int64)
    cycles = simulate(state, layer.nonzeros, layer.groups, *layer.columns, config.row_buffers, rates, ready,
                      rng.random((most, 2, pes)), outputs, ann_done, snn_done, issued, moved)
    assert cycles > 0, f"not finished after {most} cycles"
    assert not compressor_busy(state)
    out, ready, issued = (np.concatenate([a[:1], a[:cycles + 1]]) for a in (outputs, ready, issued))
    out[0] = [0, 0, 0, 0, 0, *before]
    issued[0] = 0

    # The arrays' levels in the cycle after each round that is read; garbage everywhere else.
    y = {}
    reads = np.flatnonzero(issued) + 1
    positions, rounds = layer.nonzeros.shape
    assert len(reads) == positions * rounds
    position, index = np.divmod(np.arange(len(reads)), rounds)
    for core, (name, count) in enumerate((("ann", config.ann_pes), ("snn", config.snn_pes))):
        values, shown = rng.integers(0, 128, (len(out), count)), np.zeros((len(out), count), bool)
        width = count // layer.groups
        of_core = np.array([r[0] == core for r in layer.rounds])[index]
        column = np.array([r[1] for r in layer.rounds])[index]
        for lane in range(width):
            pe = position % layer.groups * width + lane
            real = of_core & (layer.columns[core][pe] > column)
            values[reads[real], pe[real]] = layer.levels[position, index, lane][real]
            shown[reads[real], pe[real]] = True
        if quiet:
            values = np.take_along_axis(values, np.maximum.accumulate(np.where(shown, np.arange(len(out))[:, None], 0), axis=0), axis=0)
        y[name] = concat(*((values[:, pe], 7) for pe in range(count)))

    bits = (2 * config.row_buffers - 1).bit_length()
    column_bits = config.columns_per_pe.bit_length()
    stimulus = {name: np.full(len(out), value) for name, value in settings.items()}
    stimulus |= {"start": np.arange(len(out)) == 0, "write__ready": ready}
    for core, (name, done) in enumerate((("ann", ann_done), ("snn", snn_done))):
        done = np.concatenate([np.zeros_like(done[:1]), done[:cycles + 1]])
        idle = layer.columns[core] == 0
        done[:, idle] = 0 if quiet else rng.integers(0, 2 * config.row_buffers, (len(done), idle.sum()))
        stimulus[f"{name}_done"] = concat(*((done[:, pe], bits) for pe in range(done.shape[1])))
        stimulus[f"{name}_columns"] = concat(*((np.full(len(out), n), column_bits) for n in layer.columns[core]))
        stimulus[f"{name}_y"] = y[name]

    valid = out[:, 0] == 1
    line = np.zeros((len(out), config.line_bytes), np.uint8)
    for cycle in np.flatnonzero(valid):
        line[cycle] = layer.lines[out[cycle, 1]]
    written = out[valid & (ready == 1), 1]
    assert sorted(written) == sorted(layer.lines), "each line is written once"
    words = line.view("<u4").astype(np.int64)
    expected = {name: out[:, i] for i, name in enumerate(OUTPUTS) if name not in ("address", "is_mask")}
    expected["write__payload"] = concat(
        (out[:, 1], config.address_bits), *((words[:, i], 32) for i in range(words.shape[1])),
        (np.full(len(out), settings["to_memory"]), 1))

    cover["issue in every cycle of a position and the next"] += bool(len(reads) > rounds and (np.diff(reads) == 1)[:rounds].all())
    cover["arrays are waited for"] += int(np.diff(reads).max(initial=0) > 20)
    cover["stalled by the cache"] += bool(((out[:, 0] == 1) & (ready == 0)).any())
    runs = np.diff(np.flatnonzero(np.diff(np.r_[0, (valid & (ready == 1)).astype(int), 0])))[::2]
    cover["three lines or more in a row"] += int((runs >= 3).sum())
    return stimulus, expected, int(moved.sum())
