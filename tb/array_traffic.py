"""Layers for a PE array, or for a PE alone: stimuli as early as the rules allow or later, and what every output must be."""
from collections import Counter

import numpy as np

from neuroflex.formats import LEVEL_BITS, Core
from neuroflex.sim.binary_pe import bit_count
from neuroflex.sim.numerics import qcfs
from neuroflex.sim.pascif import pascif_costs
from neuroflex.sim.pe_array import PeArray
from neuroflex.sim.serial_pe import WAITING
from neuroflex.tb.bench import Bench
from neuroflex.tb.bits import concat
from neuroflex.tb.pe_traffic import Chunk, Slice, Timeline, random_levels, random_slice

__all__ = ["Layers", "compare_array", "compare_pe"]

_BITWISE = ("binary", "radix")      # kinds of SNN PE that add bit by bit


class Layers:
    """Layers one after another on an array: what is sent, and what every output must be.

    Values come from a plain matrix product and QCFS, which both cores must equal, so a wrong offset, bank or forwarding shows up in ``y``.

    Parameters
    ----------
    config : ArchConfig
    core : Core
    seed : int
    layers : int
    single : bool
        Always as many groups as PEs, so that the first PE is a group of its own.
    """

    def __init__(self, config, core, seed, layers, *, single=False):
        self.config, self.core, self.rng = config, Core(core), np.random.default_rng([seed, config.chunk_bits])
        self.model = PeArray(config, core)
        self.timeline, self.cover = Timeline(config), Counter()
        self.cycle, self._single = 0, single
        self.clears, self.swaps, self.load_groups = [], [], []      # load_groups: (cycle, groups_log2)
        self.settings = []                        # (cycle, groups_log2, levels_in)
        rng, most, pes = self.rng, config.columns_per_pe, len(self.model.pes)
        for index in range(layers):
            columns = sorted((int(rng.choice([0, 1, 2, 3, most // 2 + 1, most - 1, most])) for _ in range(pes)), reverse=True)
            columns[0] = columns[0] or 1
            self.layer(rows=int(rng.integers(1, 14)), windows=int(rng.choice([1, 1, 2, 4])), chunks=int(rng.integers(1, 7)),
                       density=rng.choice([0.03, 0.15, 0.5]), columns=columns, slow=index % 3 == 2)

    def layer(self, *, rows, windows, chunks, density, columns, slow, weight_density=None, groups_log2=None, top=None):
        """One layer: load, then ``rows`` pooled outputs of ``windows`` convolution rows of ``chunks`` chunks.

        With two weight banks it is loaded while the layer before is at work, from any cycle on after that one began.

        ``density`` is that of activations, and of weights where they have none of their own. Returns the cycle after the load, the
        slices of a group's PEs, and the chunks that were sent.
        """
        config, rng, model = self.config, self.rng, self.model
        if groups_log2 is None:
            groups_log2 = config.max_groups.bit_length() - 1 if self._single else int(rng.integers(config.max_groups.bit_length()))
        if top is None:
            top = int(rng.integers(1, config.snn_levels + 1)) if self.core == Core.SNN else int(rng.choice([1, 4, 127]))
        groups = 1 << groups_log2
        overlap = config.overlap
        begin = int(rng.integers(self.swaps[-1] + 1 if self.swaps else 0, self.cycle + 1)) if overlap else self.cycle
        self.clears.append(begin)
        self.load_groups.append((begin, groups_log2))
        cycle = begin + 1
        slices, loads = [], []
        for number in range(len(model.pes) >> groups_log2):
            count = columns[number]
            slice_ = random_slice(rng, config, columns=max(count, 1), chunks=chunks, snn=self.core == Core.SNN,
                                  density=density if weight_density is None else weight_density)
            if self.core == Core.SNN:
                slice_.theta = np.where(rng.random(slice_.columns) < 0.5, rng.integers(20, 900, slice_.columns), slice_.theta)
            if not count:
                slices.append(Slice(np.zeros((chunks, 0, config.chunk_bits), np.int64), *np.zeros((3, 0), np.int64)))
                continue
            slices.append(slice_)
            loads.append((cycle, number, count, slice_.levels))
            cycle = self.timeline.load(cycle, slice_, core=self.core, pe=number)
            if rng.random() < 0.2:       # the other core's load is not for this one
                cycle = self.timeline.load(cycle, slice_, core=Core.ANN if self.core == Core.SNN else Core.SNN, pe=number)
        start = begin
        if overlap:
            self.cover["loaded before the end"] += cycle < self.cycle
            self.cover["loaded at work and after"] += begin < self.cycle < cycle
            start = max(cycle, self.cycle)
            self.swaps.append(start)
            cycle = start + 1
        self.settings.append((start, groups_log2, top))
        model.layer(start, groups_log2=groups_log2, levels_in=top)
        for at, *loaded_pe in loads:
            model.load(start if overlap else at, *loaded_pe)
        self.cover["several PEs loaded"] += sum(slice_.columns > 0 for slice_ in slices) > 1
        self.cover["several groups"] += groups > 1
        self.cover["a PE without columns"] += not all(slice_.columns for slice_ in slices)

        loaded, sent = cycle, []
        slot_free, row_free, done = ([[] for _ in range(groups)] for _ in range(3))
        sums = [None] * groups
        order = [(block, window, chunk, group) for block in range(-(-rows // groups)) for window in range(windows)
                 for chunk in range(chunks) for group in range(min(groups, rows - block * groups))]
        for block, window, index, group in order:
            chunk = Chunk(index, random_levels(rng, config, density, top), group, index == 0, index == chunks - 1,
                          window == 0, window == windows - 1)
            sent.append(chunk)
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
            if index == 0:
                sums[group] = [np.zeros(slice_.columns, np.int64) for slice_ in slices]
            slot, row = self._chunk(chunk, slices, sums[group])
            slot_free[group].append(slot)
            if chunk.last_chunk:
                row_free[group].append(row)
                if chunk.last_window:
                    done[group].append(row)
        finished = [cycle, *(events[-1] for events in (*slot_free, *row_free, *done) if events)]
        self.cycle = max(finished) + int(rng.integers(2, 12))
        return loaded, slices, sent

    def _chunk(self, chunk, slices, sums):
        """One chunk in all PEs of its group."""
        cover = self.cover
        for total, slice_ in zip(sums, slices):
            total += slice_.weights[chunk.index] @ chunk.levels
        levels = None
        if chunk.last_chunk:
            levels = [qcfs(z, slice_.bias, slice_.theta, slice_.levels) for z, slice_ in zip(sums, slices)]
            for z, y, slice_ in zip(sums, levels, slices):
                cover["silent column"] += int((y == 0).sum())
                cover["clipped column"] += int((y == slice_.levels).sum())
                cover["column between"] += int(((y > 0) & (y < slice_.levels)).sum())
                cover["no product in a column"] += int((z == 0).sum())
                cover["max of a window"] += 0 if chunk.first_window else len(y)
        cover["joins"] += sum(slice_.columns for slice_ in slices)
        cover["empty chunk"] += chunk.empty
        cover["full chunk"] += bool(chunk.mask.all())
        serial = self.core == Core.SNN and self.config.snn_pe == "serial"
        counts = [slice_.match_counts(chunk.index, chunk.levels if serial else chunk.mask) for slice_ in slices]
        if serial:
            for slice_, additions in zip(slices, counts):
                matches = slice_.match_counts(chunk.index, chunk.mask)
                cover["engine held"] += int(((matches > 2 * WAITING) & (additions > 2 * matches)).sum())
                cover["one addition a match"] += int(((additions == matches) & (matches > 0)).sum())
        if self.core == Core.SNN and self.config.snn_pe in _BITWISE:
            self._cover_bits(chunk, slices)
        return self.model.chunk(
            chunk.group, chunk.beats, counts, empty=chunk.empty,
            first_chunk=chunk.first_chunk, last_chunk=chunk.last_chunk, first_window=chunk.first_window, last_window=chunk.last_window,
            levels=levels)

    def _cover_bits(self, chunk, slices):
        """Coverage of PEs that add bit by bit: bits of what they add for a match, and which of two stages a column waits for."""
        cover, top = self.cover, self.settings[-1][2]
        for slice_ in slices:
            met = (slice_.weights[chunk.index] != 0) & chunk.mask
            added = met * (chunk.levels if self.config.snn_pe == "radix" else top - chunk.levels)
            several = np.bitwise_count(added)
            cover["match without a bit"] += int((met & (added == 0)).sum())
            cover["match of one bit"] += int((several == 1).sum())
            cover["match of several bits"] += int((several > 1).sum())
            if chunk.last_chunk:
                neuron = pascif_costs(np.ones(slice_.columns, np.int64), slice_.levels, self.config.neuron_steps)[1]
                cover["the sum takes longer"] += int((bit_count(top) > neuron).sum())
                cover["the neuron takes longer"] += int((bit_count(top) < neuron).sum())

    def arrays(self):
        """Stimuli of an array, by port, and the model's outputs."""
        config, rng, cycles = self.config, self.rng, self.cycle
        clear, groups_log2, levels_in, swap, load_groups_log2 = np.zeros((5, cycles), np.int64)
        clear[self.clears] = 1
        swap[self.swaps] = 1
        for since, groups in self.load_groups:
            load_groups_log2[since:] = groups
        for since, groups, levels in self.settings:
            groups_log2[since:], levels_in[since:] = groups, levels
        if self.core == Core.ANN:
            levels_in = rng.integers(0, 16, cycles)      # not used
        y_bank, y_index = rng.integers(0, config.row_buffers, cycles), rng.integers(0, config.columns_per_pe, cycles)
        stimulus = {"bus": self.timeline.bus(cycles), "load": self.timeline.load_bus(cycles), "clear": clear,
                    "groups_log2": groups_log2, "levels_in": levels_in, "y_bank": y_bank, "y_index": y_index}
        if config.overlap:
            stimulus |= {"swap": swap, "load_groups_log2": load_groups_log2}
        return stimulus, self.model.outputs(cycles, y_bank, y_index)

    def require(self, least):
        """Fail when a coverage point was hit too seldom; those of several PEs count less, and not at all for a single one."""
        points = ("waits for slot", "waits for row", "empty chunk", "full chunk", "silent column",
                  "clipped column", "no product in a column", "max of a window")
        points += ("column between",) if self.core == Core.ANN or self.config.snn_levels > 1 else ()
        if self.core == Core.SNN and self.config.snn_pe == "serial":
            points += ("one addition a match", *(["engine held"] if self.config.snn_levels > 1 else []))     # one level is one addition
        if self.core == Core.SNN and self.config.snn_pe in _BITWISE and self.config.snn_levels > 3:
            points += ("match of one bit", "match of several bits", "the sum takes longer")
            points += ("the neuron takes longer",) if self.config.snn_levels - 1 > self.config.neuron_steps else ()     # else one cycle, as the shortest sum
            points += () if self.config.snn_pe == "radix" else ("match without a bit",)
        if self.config.overlap:
            short = {point: self.cover[point] for point in ("loaded before the end", "loaded at work and after") if self.cover[point] < 10}
            assert not short, f"covered too seldom: {short}"
        array = () if self._single else ("several PEs loaded", "several groups", "a PE without columns", "waits for output")
        few = {point: self.cover[point] for point in points if self.cover[point] < least}
        few |= {point: self.cover[point] for point in array if self.cover[point] < 10}
        assert not few, f"covered too seldom: {few}"
        assert self.cover["joins"] >= 10_000


def compare_pe(component, name, config, core, seed, layers, *, covers=True, verilog_edit=None, **options):
    """Compare the first PE of a core, alone and in a group of its own, with the model of the array: every output in every cycle.

    Parameters
    ----------
    component : wiring.Component
        The PE.
    name : str
        Of its top module.
    config, core, seed, layers
        As for `Layers`.
    covers : bool
        Whether coverage is required.
    verilog_edit, **options
        Of :class:`~neuroflex.tb.bench.Bench`, and of its ``run``.
    """
    print("seed", seed)
    traffic = Layers(config, core, seed, layers, single=True)
    stimulus, outputs = traffic.arrays()
    for unused in ("groups_log2", "load_groups_log2"):
        stimulus.pop(unused, None)
    stimulus["group"] = np.zeros(traffic.cycle, np.int64)
    stimulus["load_here"] = np.zeros(traffic.cycle, np.int64)
    for cycle, target, pe, *_ in traffic.timeline.loads:
        stimulus["load_here"][cycle] = target == core and pe == 0
    expected = {name: outputs[name][0] for name in ("slot_free", "row_free", "enabled", "columns", "done", "y", "matching", "busy")}
    assert expected["matching"].max() <= 1, "the model makes two matches, or additions, in one cycle"
    Bench(component, name, verilog_edit=verilog_edit).run(stimulus, expected, seed=seed, **options)
    if covers:
        traffic.require(30)


def compare_array(component, name, config, core, seed, layers, *, covers=True, verilog_edit=None, **options):
    """Compare the array of a core with its model: every output in every cycle. Parameters as for :func:`compare_pe`."""
    print("seed", seed)
    traffic = Layers(config, core, seed, layers)
    stimulus, outputs = traffic.arrays()
    width = {"slot_free": 1, "row_free": 1, "enabled": 1, "columns": config.columns_per_pe.bit_length(),
             "done": (2 * config.row_buffers - 1).bit_length(), "y": LEVEL_BITS, "matching": 1}
    expected = {name: concat(*((row, width[name]) for row in rows)) for name, rows in outputs.items() if name in width}
    assert outputs["matching"].max() <= 1, "the model makes two matches, or additions, in one cycle"
    Bench(component, name, verilog_edit=verilog_edit).run(stimulus, expected | {"idle": outputs["idle"]}, seed=seed, **options)
    if covers:
        traffic.require(30)
