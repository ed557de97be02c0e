"""SNN processing element against its event model and the arithmetic of one column, every output in every cycle.

Plan
----
* Layers one after another on one PE: clear, load, rows of chunks; 1 input level (no corrections) to the most, odd and even
  numbers of columns, one column, none at all, all of them.
* Chunks: random, empty, full, one bit, skewed, tails; levels all ones, all at the top, random. Beats with and without gaps;
  chunks as early as ``slot_free`` and ``row_free`` allow, or late.
* Laggy units from one cycle to 16: matches wait in the speculation FIFO or run straight through.
* Max pooling over several convolution rows; output banks read at random addresses in every cycle.
* Functional coverage with thresholds, and faults that must be seen.
"""
import numpy as np
import pytest

from neuroflex.config import PRESETS
from neuroflex.formats import Core
from neuroflex.hdl.snn_pe import SnnPe
from neuroflex.sim.laggy import DONE_LATENCY
from neuroflex.sim.join import ENGINE_FREE, scan_ahead
from neuroflex.sim.numerics import arrivals, pascif, pseudo_corrections, qcfs
from neuroflex.sim.pascif import pascif_costs
from neuroflex.sim.snn_pe import DRAIN_LATENCY, MATCH_TO_PUSH, RELEASE_LATENCY, new_snn_state, snn_chunk, snn_row
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage
from neuroflex.tb.faults import within
from neuroflex.tb.pe_traffic import Chunk, Timeline, held, last_write, random_levels, random_slice

SEED = 20260214
CONFIGS = {
    "tiny": PRESETS["tiny"],
    "slow laggy unit": PRESETS["small"].replace(laggy_adders=4, snn_levels=15, slots=4, columns_per_pe=8),
    "two slots, no corrections": PRESETS["tiny"].replace(snn_levels=1, slots=2, row_buffers=2),
    "one-cycle laggy unit": PRESETS["tiny"].replace(laggy_adders=32, snn_levels=4, slots=8, columns_per_pe=32, neuron_steps=1),
}


class Run:
    """A run of layers on one PE: drives the model, and collects stimuli and expected outputs."""

    def __init__(self, config, seed):
        self.config, self.rng = config, np.random.default_rng(seed)
        self.state = new_snn_state(1)[0]
        self.timeline, self.coverage = Timeline(config), Coverage("SNN PE")
        self.now = 3
        self.clears, self.column_changes, self.levels_changes = [], [], []
        self.slot_held, self.row_held = ([], []), ([], [])
        self.matching, self.done = [], []
        self.writes = []                          # (cycle, bank, column, y)
        self.joins = 0

    def layer(self, *, levels_in, columns, density, chunks, outputs, pool):
        config, rng = self.config, self.rng
        self.clears.append(self.now)
        self.column_changes.append((self.now + 1, 0))
        self.done.append((self.now + 1, 0))
        self.levels_changes.append((self.now, levels_in))
        slice_ = random_slice(rng, config, columns=max(columns, 1), chunks=chunks, density=density, snn=True)
        # Half of the columns with a threshold near their sums, so that levels between the clips are common.
        near = rng.random(max(columns, 1)) < 0.5
        slice_.theta = np.where(near, rng.integers(20, 900, max(columns, 1)), slice_.theta)
        slice_.bias = np.where(near, rng.integers(-300, 1500, max(columns, 1)), slice_.bias)
        load_start = self.now + 1 + rng.integers(3)
        self.now = load_start
        if columns:
            self.now = self.timeline.load(load_start, slice_, core=Core.SNN)
            self.column_changes.append((load_start + 1, columns))
        ahead = int(scan_ahead(columns, config.columns_per_pe))
        cost1, cost2 = pascif_costs(np.full(columns, levels_in), slice_.levels[:columns], config.neuron_steps)
        released, row_done = [], []
        first, written = np.zeros(max(slice_.pairs, 1), np.int64), np.zeros(max(columns, 1), np.int64)
        cover = self.coverage.add
        hurry = rng.random() < 0.7
        last_event = self.now
        for output in range(outputs):
            best = np.zeros(columns, np.int64)
            for window in range(pool):
                pseudo, corrections = np.zeros(columns, np.int64), np.zeros((columns, max(levels_in - 1, 0)), np.int64)
                dense = np.zeros(columns, np.int64)
                for index in range(chunks):
                    levels = random_levels(rng, config, rng.choice([0.05, density, 0.9]), top=levels_in)
                    kind = rng.integers(6)
                    levels = np.minimum(levels, 1) if kind == 0 else np.where(levels, levels_in, 0) if kind == 1 else levels
                    chunk = Chunk(index, levels, first_chunk=index == 0, last_chunk=index == chunks - 1,
                                  first_window=window == 0, last_window=window == pool - 1)
                    at = self.now if hurry else self.now + int(rng.choice([0, 0, 5, 40]))
                    wait_slot = wait_row = False
                    if columns and len(released) >= config.slots and released[-config.slots] + 1 > at:
                        at, wait_slot = released[-config.slots] + 1, True
                    if columns and index == 0 and len(row_done) >= config.row_buffers and row_done[-config.row_buffers] + 1 > at:
                        at, wait_row = row_done[-config.row_buffers] + 1, True
                    gaps = rng.choice([0, 0, 0, 1, 3], 8) if not hurry else np.zeros(8, np.int64)
                    self.now = self.timeline.send(chunk, at, gaps)
                    cover(slot_wait=wait_slot, row_wait=wait_row)
                    if not columns:
                        last_event = self.now
                        continue
                    matches = slice_.match_counts(index, chunk.mask)
                    count = 0 if chunk.empty else int(matches.sum())
                    engine_free = self.state[ENGINE_FREE]
                    taken, start, retired, left, ended = snn_chunk(
                        self.state, chunk.beats[-1], levels_in > 1, config.laggy_cycles, slice_.pairs, ahead, chunk.empty, matches, first)
                    self.matching += [(first[pair], matches[pair]) for pair in np.flatnonzero(matches)]
                    released.append(ended + RELEASE_LATENCY)
                    self.slot_held[0].append(chunk.beats[0] + 1)
                    self.slot_held[1].append(released[-1] + 1)
                    if index == 0:
                        self.row_held[0].append(chunk.beats[0] + 1)
                    w = slice_.weights[index]
                    p, c = pseudo_corrections(w, np.broadcast_to(levels, w.shape), max(levels_in, 1))
                    pseudo, dense = pseudo + p, dense + w @ levels
                    corrections = corrections + c
                    self.joins += columns
                    pushed = self.state[ENGINE_FREE] - 1 + MATCH_TO_PUSH
                    cover(chunk_without_match=not chunk.empty and count == 0, empty_chunk=chunk.empty,
                          full_mask=chunk.mask.all(), tail=not chunk.mask[-config.chunk_bits // 4:].any(),
                          levels_all_one=bool(count) and levels.max() == 1 and levels_in > 1, waited_for_laggy=bool(count) and levels_in > 1 and left > pushed + 1,
                          laggy_held_scan=taken > chunk.beats[-1] + 1, end_after_leave=bool(count) and ended == left + 1,
                          no_bubble=bool(count) and engine_free == first[np.flatnonzero(matches)[0]],
                          corrected=c.any(), single_level=levels_in == 1, top_level=levels_in == config.snn_levels)
                    last_event = max(last_event, ended)
                if not columns:
                    continue
                end = snn_row(self.state, ended + DRAIN_LATENCY, cost1, cost2, written)
                y = pascif(arrivals(pseudo, corrections), slice_.bias, slice_.theta, slice_.levels)
                assert np.array_equal(y, qcfs(dense, slice_.bias, slice_.theta, slice_.levels)), "the model contradicts the theorem"
                cover(clipped_low=y == 0, clipped_high=y == slice_.levels, between=(y > 0) & (y < slice_.levels),
                      pool_keeps=(best > y), pool_replaces=(best < y) & (window > 0))
                best = np.maximum(best, y)
                for column in range(columns):
                    self.writes.append((written[column], output % config.row_buffers, column, best[column]))
                row_done.append(end)
                self.row_held[1].append(end + 1)
                if window == pool - 1:
                    self.done.append((end + 1, (output + 1) % (2 * config.row_buffers)))
                last_event = max(last_event, end)
        cover(no_columns=columns == 0, one_column=columns == 1, odd_columns=columns % 2, all_columns=columns == config.columns_per_pe)
        self.now = max(self.now, last_event) + 3

    def finish(self):
        """Stimulus and expected arrays of the whole run."""
        config, rng, cycles = self.config, self.rng, int(self.now) + 5

        def steps(changes):
            changes = sorted(changes, key=lambda change: change[0])
            at = np.searchsorted([cycle for cycle, _ in changes], np.arange(cycles), side="right")
            return np.array([0] + [value for _, value in changes])[at]

        columns = steps(self.column_changes)
        slots, rows = held(cycles, *self.slot_held), held(cycles, *self.row_held)
        matching = np.zeros(cycles, np.int64)
        for start, length in self.matching:
            matching[start:start + length] += 1
        assert matching.max() <= 1
        y_bank, y_index = rng.integers(config.row_buffers, size=cycles), rng.integers(config.columns_per_pe, size=cycles)
        cycle, bank, column, value = np.array(self.writes, np.int64).T
        width = config.columns_per_pe
        seen = last_write(cycle, bank * width + column, y_bank * width + y_index)
        y = np.where((seen >= 0) & (y_index < columns), value[seen], 0)
        clear = np.zeros(cycles, np.int64)
        clear[self.clears] = 1
        stimulus = {"bus": self.timeline.bus(cycles), "load": self.timeline.load_bus(cycles), "load_here": np.ones(cycles, np.int64),
                    "clear": clear, "levels_in": steps(self.levels_changes), "y_bank": y_bank, "y_index": y_index}
        expected = {"y": np.r_[0, y[:-1]], "slot_free": (slots != config.slots) | (columns == 0),
                    "row_free": (rows != config.row_buffers) | (columns == 0), "enabled": columns != 0,
                    "done": steps(self.done), "columns": columns, "matching": matching, "busy": (slots != 0) | (rows != 0)}
        return stimulus, expected


def random_run(config, seed, layers):
    run = Run(config, seed)
    rng, most = run.rng, config.columns_per_pe
    for number in range(layers):
        corner = [most, 0, 1, most - 1][number] if number < 4 else rng.integers(1, most + 1)
        levels_in = [config.snn_levels, 1][number % 2] if number < 4 else int(rng.integers(1, config.snn_levels + 1))
        density = rng.choice([0.02, 0.1, 0.3, 0.7])
        pairs = -(-int(corner) // 2)
        run.layer(levels_in=levels_in, columns=int(corner), density=density, pool=int(rng.choice([1, 2, 4])),
                  chunks=int(rng.integers(1, min(12, config.mask_pairs // max(pairs, 1)) + 1)), outputs=int(rng.integers(2, 6)))
    return run


def check(config, seed, layers, *, engine="library", verilog_edit=None):
    run = random_run(config, seed, layers)
    Bench(SnnPe(config), "snn_pe", verilog_edit=verilog_edit).run(*run.finish(), engine=engine, seed=seed)
    return run


def require(run, config):
    """Fail when a coverage point that the configuration can reach was hit too seldom."""
    counts = dict(run.coverage.hits)
    once = {name: counts.pop(name) for name in ("no_columns", "one_column", "odd_columns", "all_columns", "single_level", "top_level")}
    assert min(once.values()) >= 1, once
    unreachable = set()
    if config.snn_levels == 1:
        unreachable |= {"corrected", "levels_all_one", "end_after_leave", "between"}
    if config.laggy_cycles + DONE_LATENCY <= SnnPe.PUSH_DELAY + 1 or config.snn_levels == 1:
        unreachable |= {"waited_for_laggy"}     # the laggy unit is done before the first match comes
    if config.laggy_cycles == 1 or config.snn_levels == 1:
        unreachable |= {"laggy_held_scan"}
    few = {name: count for name, count in counts.items() if count < 8 and name not in unreachable}
    assert not few, f"covered too seldom: {few} of {counts}"


@pytest.mark.parametrize("name", [name if name in ("tiny", "slow laggy unit") else pytest.param(name, marks=pytest.mark.long)
                                  for name in CONFIGS])
def test_matches_model(name):
    run = check(CONFIGS[name], SEED, 60)
    require(run, CONFIGS[name])
    assert run.joins >= 10_000, run.joins


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", list(CONFIGS) + ["paper"])
def test_many_seeds(name, seed):
    run = check(CONFIGS.get(name) or PRESETS[name], SEED + 1 + seed, 80)
    assert run.joins >= 10_000, run.joins


def test_cocotb():
    check(CONFIGS["tiny"], SEED + 100, 3, engine="cocotb")


FAULTS = {
    "laggy table off by one": within("snn_pe_laggy", r"(bases\[)(.*?)(\] <=)", r"\1\2 + 1'h1\3"),
    "a correction is lost": within("snn_pe_corrections", r"  valid <= (\w+);", r"  valid <= \1 & ~valid;"),
    "a correction goes to the step before": within("snn_pe_spikes", r"o__payload <= (\w+);", r"o__payload <= \1 << 1;"),
    "a row is drained a cycle early": within("snn_pe", r"drained <= \w+;", "drained <= drain_0;"),
}


@pytest.mark.parametrize("fault", [fault if number < 1 else pytest.param(fault, marks=pytest.mark.long)
                                   for number, fault in enumerate(FAULTS)])
def test_fault_is_seen(fault):
    with pytest.raises(Mismatch):
        check(CONFIGS["tiny"], SEED, 12, verilog_edit=FAULTS[fault])
