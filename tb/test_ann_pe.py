"""ANN PEs, alone and as an array, against their event model and the functional values; every output in every cycle.

Plan: layers of random columns per PE (none, one, odd, the most), 1 to all groups, chunks and rows back to back and with
gaps, pooling windows, empty and full chunks, INT8 extremes, levels of 1 and 127, thresholds of 1 and the largest. The
traffic is sent as soon as the documented rules allow, or later; the outputs are read all the time at random addresses.
Values: sums and levels come from a plain matrix product, so a wrong offset, bank or forwarding shows up in ``y``.
Coverage: counted in :class:`Layers`, each point with its threshold. Faults: edits of the Verilog must be noticed.
"""
from collections import Counter

import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.ann_pe import AnnPe
from neuroflex.hdl.pe_array import PeArray
from neuroflex.sim.ann_pe import AnnPes
from neuroflex.sim.numerics import qcfs
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.bits import concat
from neuroflex.tb.pe_traffic import Chunk, Slice, Timeline, held, last_write, random_levels, random_slice

TINY = PRESETS["tiny"]
FOUR = TINY.replace(name="four", ann_pes=4, snn_pes=4)
WIDE = TINY.replace(name="wide", chunk_bits=128, laggy_adders=32, ann_acc_bits=28)


class Layers:
    """Layers one after another on an array: what is sent, and what every output must be."""

    def __init__(self, config, seed):
        self.config, self.rng = config, np.random.default_rng([seed, config.chunk_bits])
        self.pes = config.ann_pes
        self.timeline, self.cover = Timeline(config), Counter()
        self.cycle = 0
        self.clears, self.groups_log2, self.columns = [], [(0, 0)], [(0, [0] * self.pes)]
        self.held_slots = [([], []) for _ in range(self.pes)]      # cycles in which slots are taken, given back
        self.held_rows = [([], []) for _ in range(self.pes)]
        self.matches = [[] for _ in range(self.pes)]               # (first cycle, count)
        self.done = [[] for _ in range(self.pes)]                  # cycles in which `done` goes up
        self.writes = [[] for _ in range(self.pes)]                # (cycle, bank, column, value)
        self.pooled = [None] * self.pes                            # levels so far of the pooled output in work

    def layer(self, *, rows, windows, chunks, density, columns, slow):
        """One layer: load, then ``rows`` pooled outputs of ``windows`` convolution rows of ``chunks`` chunks."""
        config, rng = self.config, self.rng
        groups_log2 = int(rng.integers(config.max_groups.bit_length()))
        groups, per_group = 1 << groups_log2, self.pes >> groups_log2
        self.clears.append(self.cycle)
        self.groups_log2.append((self.cycle, groups_log2))
        self.columns.append((self.cycle + 1, [0] * self.pes))
        cycle = self.cycle + 1
        slices, loaded = [], [0] * self.pes
        for number in range(per_group):
            count = int(columns[number % len(columns)])
            slices.append(random_slice(rng, config, columns=count, chunks=chunks, density=density) if count else
                          Slice(np.zeros((chunks, 0, config.chunk_bits), np.int64), *np.zeros((3, 0), np.int64)))
            if not count:
                continue
            before, cycle = cycle, self.timeline.load(cycle, slices[number], pe=number)
            for group in range(groups):
                loaded[group * per_group + number] = count
            self.columns.append((before + 1, list(loaded)))
            cycle = self.timeline.load(cycle, slices[number], core=Core.SNN, pe=number) if rng.random() < 0.2 else cycle
        model = AnnPes(loaded, [slices[pe % per_group].levels for pe in range(self.pes)], config.columns_per_pe)

        slot_free, row_free, done = ([[] for _ in range(groups)] for _ in range(3))
        sums = [None] * groups
        order = [(block, window, chunk, group) for block in range(-(-rows // groups)) for window in range(windows)
                 for chunk in range(chunks) for group in range(min(groups, rows - block * groups))]
        levels_top = int(rng.choice([1, 4, 127]))
        for block, window, index, group in order:
            chunk = Chunk(index, random_levels(rng, config, density, levels_top), group, index == 0, index == chunks - 1,
                          window == 0, window == windows - 1)
            waits = {"slot": slot_free[group][-config.slots] if len(slot_free[group]) >= config.slots else 0, "row": 0, "output": 0}
            if index == 0 and len(row_free[group]) >= config.row_buffers:
                waits["row"] = row_free[group][-config.row_buffers]
            if index == 0 and window == 0 and block >= config.row_buffers:
                waits["output"] = max(done[g][block - config.row_buffers] for g in range(groups))
            earliest = max(cycle, *waits.values())
            for cause, until in waits.items():
                self.cover[f"waits for {cause}"] += until == earliest > cycle
            gaps = rng.integers(0, 4, 8) if slow else np.zeros(8, np.int64)
            cycle = self.timeline.send(chunk, earliest + (int(rng.integers(40)) if slow and rng.random() < 0.2 else 0), gaps)
            self._chunk(model, slices, chunk, group, per_group, block, sums, slot_free, row_free, done)
        finished = [cycle, *(events[-1] for events in (*slot_free, *row_free, *done) if events)]
        self.cycle = max(finished) + int(rng.integers(2, 12))

    def _chunk(self, model, slices, chunk, group, per_group, block, sums, slot_free, row_free, done):
        """One chunk in all PEs of its group."""
        config = self.config
        first_pe, stop_pe = group * per_group, (group + 1) * per_group
        matches = np.zeros((self.pes, config.pairs_per_pe), np.int64)
        for pe in range(first_pe, stop_pe):
            counts = slices[pe - first_pe].match_counts(chunk.index, chunk.mask)
            matches[pe, :len(counts)] = counts
        slot, row = model.chunk(first_pe, stop_pe, chunk.beats[-1], chunk.empty, chunk.last_chunk, matches)
        slot_free[group].append(slot)
        if chunk.first_chunk:
            sums[group] = [np.zeros(slice_.columns, np.int64) for slice_ in slices]
        if chunk.last_chunk:
            row_free[group].append(row)
            if chunk.last_window:
                done[group].append(row)
        cover = self.cover
        cover["joins"] += int(model.columns[first_pe:stop_pe].sum())
        cover["empty chunk"] += chunk.empty
        cover["full chunk"] += bool(chunk.mask.all())
        for pe in np.flatnonzero(model.columns[first_pe:stop_pe]) + first_pe:
            _, _, free, freed = model.events[pe]
            self.held_slots[pe][0].append(chunk.beats[0] + 1)
            self.held_slots[pe][1].append(free)
            if chunk.first_chunk:
                self.held_rows[pe][0].append(chunk.beats[0] + 1)
            some = np.flatnonzero(matches[pe])
            self.matches[pe] += zip(model.first[pe, some], matches[pe, some])
            slice_ = slices[pe - first_pe]
            sums[group][pe - first_pe] += slice_.weights[chunk.index] @ chunk.levels
            if chunk.last_chunk:
                self.held_rows[pe][1].append(freed)
                z = sums[group][pe - first_pe]
                y = qcfs(z, slice_.bias, slice_.theta, slice_.levels)
                cover["silent column"] += int((y == 0).sum())
                cover["clipped column"] += int((y == slice_.levels).sum())
                cover["column between"] += int(((y > 0) & (y < slice_.levels)).sum())
                cover["no product in a column"] += int((z == 0).sum())
                bank = block % config.row_buffers
                for column, (at, value) in enumerate(zip(model.written[pe], y)):
                    if not chunk.first_window:
                        cover["max of a window"] += 1
                        value = max(value, self.pooled[pe][column])
                    self.writes[pe].append((at, bank, column, value))
                self.pooled[pe] = [value for *_, value in self.writes[pe][-len(y):]]
                if chunk.last_window:
                    self.done[pe].append(freed)

    def arrays(self):
        """Stimulus and expected arrays for the bench."""
        config, rng, cycles = self.config, self.rng, self.cycle
        columns = np.zeros((self.pes, cycles), np.int64)
        for since, values in self.columns:
            columns[:, since:] = np.array(values)[:, None]
        groups_log2 = np.zeros(cycles, np.int64)
        for since, value in self.groups_log2:
            groups_log2[since:] = value
        clear = np.zeros(cycles, np.int64)
        clear[self.clears] = 1
        y_bank, y_index = rng.integers(0, config.row_buffers, cycles), rng.integers(0, config.columns_per_pe, cycles)
        stimulus = {"bus": self.timeline.bus(cycles), "load": self.timeline.load_bus(cycles), "clear": clear,
                    "groups_log2": groups_log2, "levels_in": rng.integers(0, 16, cycles), "y_bank": y_bank, "y_index": y_index}

        slot_free, row_free = np.full((2, config.max_groups, cycles), True)
        matching, done, y = np.zeros((3, self.pes, cycles), np.int64)
        idle = np.full(cycles, True)
        done_range = 2 * config.row_buffers
        for pe in range(self.pes):
            slots, rows = held(cycles, *self.held_slots[pe]), held(cycles, *self.held_rows[pe])
            group = pe // (self.pes >> groups_log2)
            for g in range(config.max_groups):
                slot_free[g] &= (group != g) | (slots < config.slots)
                row_free[g] &= (group != g) | (rows < config.row_buffers)
            idle &= (slots == 0) & (rows == 0)
            for first, count in self.matches[pe]:
                assert not matching[pe, first:first + count].any(), "the model issues two matches in one cycle"
                matching[pe, first:first + count] = 1
            for at in self.done[pe]:
                done[pe, at:] += 1
            for at in self.clears:
                done[pe, at + 1:] -= done[pe, at]
            writes = np.array(self.writes[pe], np.int64).reshape(-1, 4).T
            seen = last_write(writes[0], writes[1] * config.columns_per_pe + writes[2], y_bank * config.columns_per_pe + y_index)
            level = np.append(writes[3], 0)[seen] * (y_index < columns[pe])
            y[pe, 1:] = level[:-1]

        def per_pe(values, bits):
            return concat(*((row, bits) for row in values))

        expected = {
            "slot_free": concat(*((bit, 1) for bit in slot_free)), "row_free": concat(*((bit, 1) for bit in row_free)),
            "enabled": per_pe(columns > 0, 1), "columns": per_pe(columns, config.columns_per_pe.bit_length()),
            "done": per_pe(done % done_range, (done_range - 1).bit_length()), "y": per_pe(y, 7),
            "matching": per_pe(matching, 1), "idle": idle,
        }
        return stimulus, expected


def layers_of(config, seed, count):
    """A run of ``count`` random layers."""
    print("seed", seed)
    layers = Layers(config, seed)
    rng = layers.rng
    most = config.columns_per_pe
    for index in range(count):
        columns = sorted((int(rng.choice([0, 1, 2, 3, most // 2 + 1, most - 1, most])) for _ in range(layers.pes)), reverse=True)
        columns[0] = columns[0] or 1
        layers.layer(rows=int(rng.integers(1, 14)), windows=int(rng.choice([1, 1, 2, 4])), chunks=int(rng.integers(1, 7)),
                     density=rng.choice([0.03, 0.15, 0.5]), columns=columns, slow=index % 3 == 2)
    return layers


def run(config, seed, count, *, covers=True, **options):
    layers = layers_of(config, seed, count)
    stimulus, expected = layers.arrays()
    edit = options.pop("verilog_edit", None)
    Bench(PeArray(config, Core.ANN), "ann_array", verilog_edit=edit).run(stimulus, expected, seed=seed, **options)
    if covers:
        cover = layers.cover
        assert cover["joins"] >= 10_000
        for point in ("waits for slot", "waits for row", "waits for output", "empty chunk", "full chunk", "silent column",
                      "clipped column", "column between", "no product in a column", "max of a window"):
            assert cover[point] >= 30, f"{point}: {cover[point]} times, wanted 30"


def test_array():
    run(TINY, 1, 60)


@pytest.mark.long
def test_array_under_cocotb():
    run(TINY, 2, 8, covers=False, engine="cocotb")


@pytest.mark.parametrize("columns", [1, 4, 9, 16])
def test_a_chunk_takes_the_larger_of_pairs_and_matches(columns):
    """Chunks that arrive early enough leave no bubble: checked on the model, which the circuit equals."""
    rng = np.random.default_rng(columns)
    pes, pairs = AnnPes([columns], [[8] * columns], 16), -(-columns // 2)
    for most in (0, 40):
        begin = pes.state[0, :2].max()
        matches = rng.integers(most // 2, most + 1, (200, 1, 8)) * (np.arange(8) < pairs)
        for chunk in matches:
            pes.chunk(0, 1, 0, False, False, chunk)
        cycles = pes.events[0, 1] - max(begin, 0)
        assert cycles - 12 <= np.maximum(matches.sum(axis=(1, 2)), pairs).sum() <= cycles


@pytest.mark.long
def test_forgotten_sum_is_noticed():
    with pytest.raises(Mismatch, match="y"):
        run(TINY, 3, 6, covers=False, verilog_edit=lambda text: text.replace("= written | ", "= written ^ "))


def test_early_row_end_is_noticed(monkeypatch):
    monkeypatch.setattr(AnnPe, "DRAIN_DELAY", 4)
    with pytest.raises(Mismatch):
        run(TINY, 3, 6, covers=False)


@pytest.mark.parametrize("config", [TINY, FOUR, WIDE], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.long
def test_array_seeds(config, seed):
    run(config, 10 + seed, 300)
