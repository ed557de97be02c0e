"""Compressor: takes the finished outputs of both arrays, packs them into fibers and writes them to the cache."""
from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import CHUNK_LINES, LEVEL_BITS, Core
from neuroflex.hdl.arithmetic import times
from neuroflex.hdl.compaction import COMPACTION_STAGES, Compaction, compacted_layout
from neuroflex.layouts import settings_layout, write_layout

__all__ = ["COMPRESSOR_LATENCY", "COMPRESSOR_SETTINGS", "Compressor", "LinePacker", "RoundWalk", "round_layout"]

COMPRESSOR_LATENCY = COMPACTION_STAGES + 2   # from the cycle in which a round is asked for to that of its first line
COMPRESSOR_SETTINGS = ("out_base", "out_height", "out_width", "out_chunks", "out_first_chunk", "groups_log2", "ann_rounds",
                       "snn_rounds", "to_memory")


def _settings(config, *names):
    layout = settings_layout(config)
    return {name: In(layout[name].shape) for name in names}


def _arrays(config, members):
    """The same inputs from both arrays."""
    return {f"{core}_{name}": In(data.ArrayLayout(shape, pes))
            for core, pes in (("ann", config.ann_pes), ("snn", config.snn_pes)) for name, shape in members.items()}


def round_layout(config):
    """A round on its way: where its levels come from and where they go.

    Members
    -------
    valid
        This is a round, not a bubble.
    core, group
        Core and PE group that give it.
    has
        Bit i: PE i of the core is in the group and has a column in this round.
    offset
        Position of its first lane within the chunk.
    closing, last_chunk, last
        Last round of its chunk; of its position; of the layer.
    """
    return data.StructLayout({
        "valid": 1, "core": Core, "group": range(max(config.max_groups, 2)), "has": config.lanes,
        "offset": range(config.chunk_bits), "closing": 1, "last_chunk": 1, "last": 1})


class RoundWalk(wiring.Component):
    """Goes through the layer's positions and their rounds, one round per cycle, as the arrays finish them.

    Members
    -------
    start : In(1)
    settings : In
        ``out_height``, ``out_width``, ``groups_log2``, ``ann_rounds``, ``snn_rounds``.
    ann_done, ann_columns, snn_done, snn_columns : In
        See :class:`Compressor`.
    advance : In(1)
        Without it everything holds.
    y_bank, y_index : Out
        What to read in the arrays.
    round : Out
        :func:`round_layout` of the round whose levels the arrays show in this cycle.
    block_done : Out(1)
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1), **_settings(config, "out_height", "out_width", "groups_log2", "ann_rounds", "snn_rounds"),
            **_arrays(config, {"done": range(2 * config.row_buffers), "columns": range(config.columns_per_pe + 1)}),
            "advance": In(1),
            "y_bank": Out(range(config.row_buffers)), "y_index": Out(range(config.columns_per_pe)),
            "round": Out(round_layout(config)), "block_done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        # Registers derived from the settings, so that the loops only compare.
        ann_last, snn_last, columns_last, rows_last = Signal(8), Signal(8), Signal(16), Signal(16)
        groups_last = Signal(range(max(config.max_groups, 2)))
        m.d.sync += [*(last.eq(Mux(rounds == 0, 0, rounds - 1)) for last, rounds in ((ann_last, self.ann_rounds), (snn_last, self.snn_rounds))),
                     columns_last.eq(self.out_width - 1), rows_last.eq(self.out_height - 1), groups_last.eq((1 << self.groups_log2) - 1)]
        active = Signal()
        begun = Signal()
        block = Signal(range(2 * config.row_buffers))
        group = Signal(range(max(config.max_groups, 2)))
        row = Signal(16)
        column = Signal(16)
        core = Signal(Core)
        index = Signal(8)
        offset = Signal(range(config.chunk_bits))

        cores = {Core.ANN: (config.ann_pes, self.ann_done, self.ann_columns),
                 Core.SNN: (config.snn_pes, self.snn_done, self.snn_columns)}
        missing = Signal()
        has = {}
        waiting = []
        for which, (pes, done, columns) in cores.items():
            members = Signal(pes, name=f"{which.name.lower()}_members")
            with m.Switch(self.groups_log2):
                for log2 in range(config.max_groups.bit_length()):
                    with m.Case(log2):
                        m.d.comb += members.eq(Cat(group == pe // (pes >> log2) for pe in range(pes)))
            waiting += [members[pe] & columns[pe].any() & (done[pe] == block) for pe in range(pes)]
            has[which] = members & Cat(columns[pe] > index for pe in range(pes))
        m.d.comb += missing.eq(Cat(waiting).any())

        # A position's chunks go on over both cores; the SNN core's first round starts at a multiple of its width.
        last_of_core = Signal()
        to_snn = Signal()
        last_round = Signal()
        following = Signal(range(config.chunk_bits + 1))
        ann_width = Signal(range(config.ann_pes + 1))
        snn_width = Signal(range(config.snn_pes + 1))
        below_snn = Signal(range(config.chunk_bits + 1))      # bits of a position below a multiple of snn_width
        m.d.comb += [
            ann_width.eq(config.ann_pes >> self.groups_log2), snn_width.eq(config.snn_pes >> self.groups_log2),
            below_snn.eq(snn_width - 1),
            last_of_core.eq(index == Mux(core == Core.ANN, ann_last, snn_last)),
            to_snn.eq((core == Core.ANN) & last_of_core & (self.snn_rounds != 0)),
            last_round.eq(last_of_core & ~to_snn),
        ]
        with m.If(to_snn):
            m.d.comb += following.eq((offset + ann_width + below_snn) & ~below_snn)
        with m.Else():
            m.d.comb += following.eq(offset + Mux(core == Core.ANN, ann_width, snn_width))

        last_column = Signal()
        last_position = Signal()
        last_group = Signal()
        issue = Signal()
        m.d.comb += [
            last_column.eq(column == columns_last),
            last_position.eq(last_column & (row == rows_last)),
            last_group.eq(group == groups_last),
            issue.eq(active & self.advance & (begun | ~missing)),
        ]
        first_core = Mux(self.ann_rounds == 0, Core.SNN, Core.ANN)
        m.d.sync += self.block_done.eq(0)
        with m.If(issue):
            m.d.sync += [begun.eq(1), index.eq(index + 1), offset.eq(following)]
            with m.If(to_snn):
                m.d.sync += [core.eq(Core.SNN), index.eq(0)]
            with m.If(last_round):
                m.d.sync += [begun.eq(0), core.eq(first_core), index.eq(0), offset.eq(0), group.eq(group + 1),
                             column.eq(Mux(last_column, 0, column + 1)), row.eq(row + last_column), active.eq(~last_position)]
                with m.If(last_group | last_position):
                    m.d.sync += [group.eq(0), block.eq(block + 1), self.block_done.eq(1)]
        with m.If(self.start):
            m.d.sync += [active.eq(1), begun.eq(0), block.eq(0), group.eq(0), row.eq(0), column.eq(0), core.eq(first_core),
                         index.eq(0), offset.eq(0)]
        with m.If(self.advance):
            m.d.sync += [
                self.round.valid.eq(issue), self.round.core.eq(core), self.round.group.eq(group),
                self.round.has.eq(Mux(core == Core.ANN, has[Core.ANN], has[Core.SNN])), self.round.offset.eq(offset),
                self.round.closing.eq(last_round | following[-1]), self.round.last_chunk.eq(last_round),
                self.round.last.eq(last_round & last_position),
            ]
        m.d.comb += [self.y_bank.eq(block), self.y_index.eq(index)]
        return m


class LinePacker(wiring.Component):
    """Collects turned rounds into value lines and masks, and writes them.

    A round that completes k lines (a full value line, the rest of a chunk's values, its mask) is followed by k cycles
    in which they are written; the last of them is already the next round's cycle.

    Members
    -------
    start : In(1)
    settings : In
        ``out_base``, ``out_chunks``, ``out_first_chunk``, ``to_memory``.
    compacted : In
        :func:`~neuroflex.hdl.compaction.compacted_layout`, taken when ``advance``.
    advance : Out(1)
        At most one line is left to write, and it goes in this cycle. Depends on ``write.ready``.
    write : stream of ``write_layout``
    finished : Out(1)
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1), **_settings(config, "out_base", "out_chunks", "out_first_chunk", "to_memory"),
            "compacted": In(compacted_layout(config)), "advance": Out(1),
            "write": Out(stream.Signature(write_layout(config))), "finished": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        lanes, line_bytes = config.lanes, config.line_bytes
        address = config.address_bits
        # lines to write, in this order
        full = Signal()
        rest = Signal()
        mask = Signal()
        full_line, part = (Signal(data.ArrayLayout(LEVEL_BITS, line_bytes), name=n) for n in ("full_line", "part"))
        mask_line = Signal(config.chunk_bits)
        full_address, rest_address, mask_address = (Signal(address, name=f"{n}_address") for n in ("full", "rest", "mask"))
        fresh = Signal()
        last = Signal()
        through = Signal()
        chunk = Signal(address)
        position = Signal(address)
        stride = Signal(address)
        lines = Signal(range(CHUNK_LINES + 1), init=1)       # of the chunk so far, with its mask
        compacted = self.compacted

        any_line = Signal()
        one_line = Signal()
        m.d.comb += [
            any_line.eq(full | rest | mask), one_line.eq(~(full & rest) & ~(full & mask) & ~(rest & mask)),
            self.advance.eq(~any_line | (one_line & self.write.ready)),
            self.write.valid.eq(any_line), self.write.payload.through.eq(through),
        ]
        with m.If(full):
            m.d.comb += [self.write.payload.address.eq(full_address), self.write.payload.line.eq(_bytes(full_line))]
        with m.Elif(rest):
            m.d.comb += [self.write.payload.address.eq(rest_address), self.write.payload.line.eq(_bytes(part))]
        with m.Else():
            m.d.comb += [self.write.payload.address.eq(mask_address), self.write.payload.line.eq(mask_line)]
        with m.If(self.write.ready):
            m.d.sync += full.eq(0)
            with m.If(~full):
                m.d.sync += rest.eq(0)
                with m.If(~rest):
                    m.d.sync += mask.eq(0)

        m.d.sync += self.finished.eq(mask & last & one_line & self.write.ready)
        with m.If(self.advance):
            m.d.sync += [full.eq(compacted.valid & compacted.full), rest.eq(compacted.valid & compacted.rest),
                         mask.eq(compacted.valid & compacted.closing)]
        with m.If(self.advance & compacted.valid):
            m.d.sync += [fresh.eq(compacted.closing), last.eq(compacted.last), lines.eq(lines + compacted.full),
                         full_address.eq(chunk + lines), rest_address.eq(chunk + (lines + compacted.full)[:4]),
                         mask_address.eq(chunk)]
            for i in range(line_bytes):
                here = compacted.levels[i] & compacted.above[i].replicate(LEVEL_BITS)
                filled = here | (part[i] & ~fresh.replicate(LEVEL_BITS))
                wrapped = compacted.levels[i] & ~compacted.above[i].replicate(LEVEL_BITS)
                m.d.sync += [full_line[i].eq(filled), part[i].eq(Mux(compacted.full, wrapped, filled))]
            for i in range(config.chunk_bits):
                new = compacted.mask[i % lanes] & compacted.segment[i // lanes]
                m.d.sync += mask_line[i].eq(new | (mask_line[i] & ~fresh))
            with m.If(compacted.closing):
                m.d.sync += [lines.eq(1), chunk.eq(chunk + CHUNK_LINES)]
                with m.If(compacted.last_chunk):
                    m.d.sync += [chunk.eq(position + stride), position.eq(position + stride)]
        with m.If(self.start):
            first = (self.out_base + times(self.out_first_chunk, CHUNK_LINES))[:address]
            m.d.sync += [through.eq(self.to_memory), fresh.eq(1), lines.eq(1), chunk.eq(first), position.eq(first),
                         stride.eq(times(self.out_chunks, CHUNK_LINES))]
        return m


def _bytes(levels):
    """Levels as the bytes of a line."""
    return Cat(Cat(level, C(0, 8 - LEVEL_BITS)) for level in levels)


class Compressor(wiring.Component):
    """Writes a layer's outputs as fibers, one round of one core per cycle; see ``docs/compressor.md``.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    start : In(1)
        Pulse: a layer begins. The settings are stable from then on until ``finished``; the arrays' ``done`` are 0.
    out_base, out_height, out_width, out_chunks, out_first_chunk, groups_log2, ann_rounds, snn_rounds, to_memory : In
        Fields of the descriptor. At least one round in all (none count as one SNN round without columns).
    ann_done, snn_done : In(array of range(2 * row_buffers))
        Per PE: pooled outputs finished, mod ``2 * row_buffers``; at most ``row_buffers`` ahead of ``block_done``.
    ann_columns, snn_columns : In(array of range(columns_per_pe + 1))
        Per PE: its columns; 0: the PE is not enabled and is not waited for.
    y_bank, y_index : Out
        Output bank and column to read in both arrays.
    ann_y, snn_y : In(array of 7 bits)
        Levels of the bank and column that were asked for in the cycle before.
    write : stream of ``write_layout``
        Lines to the cache: a chunk's value lines in order, then its mask.
    block_done : Out(1)
        Pulse: the arrays may reuse the block's output bank.
    finished : Out(1)
        Pulse in the cycle after the layer's last line was taken.

    Notes
    -----
    A round is read in a cycle when its PEs are done, and its lines appear ``COMPRESSOR_LATENCY`` = 8 cycles later.
    A round takes ``max(1, lines that it completes)`` cycles while the cache takes lines; when the cache does not,
    all stages hold.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1), **_settings(config, *COMPRESSOR_SETTINGS),
            **_arrays(config, {"done": range(2 * config.row_buffers), "columns": range(config.columns_per_pe + 1),
                               "y": LEVEL_BITS}),
            "y_bank": Out(range(config.row_buffers)), "y_index": Out(range(config.columns_per_pe)),
            "write": Out(stream.Signature(write_layout(config))),
            "block_done": Out(1), "finished": Out(1),
        })

    @property
    def config(self):
        return self._config

    def elaborate(self, platform):
        m = Module()
        config = self._config
        lanes = config.lanes
        m.submodules.walk = walk = RoundWalk(config=config)
        m.submodules.compaction = compaction = Compaction(config=config)
        m.submodules.packer = packer = LinePacker(config=config)
        for block in (walk, packer):
            m.d.comb += [getattr(block, name).eq(getattr(self, name)) for name in ("start", *COMPRESSOR_SETTINGS)
                         if hasattr(block, name)]
        m.d.comb += [getattr(walk, f"{core}_{name}").eq(getattr(self, f"{core}_{name}"))
                     for core in ("ann", "snn") for name in ("done", "columns")]
        m.d.comb += [self.y_bank.eq(walk.y_bank), self.y_index.eq(walk.y_index), self.block_done.eq(walk.block_done),
                     self.finished.eq(packer.finished), walk.advance.eq(packer.advance),
                     compaction.advance.eq(packer.advance), compaction.clear.eq(self.start),
                     packer.compacted.eq(compaction.compacted)]
        wiring.connect(m, packer.write, wiring.flipped(self.write))

        # The round's lanes: those of its core, without PEs that have no column, the group's first PE in lane 0.
        source = Signal(data.ArrayLayout(LEVEL_BITS, lanes))
        for lane in range(lanes):
            levels = [y[lane] if lane < pes else 0 for pes, y in ((config.ann_pes, self.ann_y), (config.snn_pes, self.snn_y))]
            m.d.comb += source[lane].eq(Mux(walk.round.core == Core.ANN, *levels) & walk.round.has[lane].replicate(LEVEL_BITS))
        chosen = Signal(data.ArrayLayout(LEVEL_BITS, lanes))
        for which, pes in ((Core.ANN, config.ann_pes), (Core.SNN, config.snn_pes)):
            with m.If(walk.round.core == which):
                with m.Switch(self.groups_log2):
                    for log2 in range(config.max_groups.bit_length()):
                        with m.Case(log2):
                            first = walk.round.group[:log2]
                            m.d.comb += chosen.as_value().eq(
                                source.as_value()[:LEVEL_BITS * pes].word_select(first, LEVEL_BITS * (pes >> log2)))

        # The arrays show a round for one cycle only: while the pipeline holds, it waits here.
        held = Signal(data.ArrayLayout(LEVEL_BITS, lanes))
        holds = Signal()
        m.d.sync += holds.eq(~packer.advance)
        with m.If(~packer.advance & ~holds):
            m.d.sync += held.eq(chosen)
        tags = walk.round
        m.d.comb += [
            compaction.levels.eq(Mux(holds, held, chosen)), compaction.valid.eq(tags.valid), compaction.offset.eq(tags.offset),
            compaction.closing.eq(tags.closing), compaction.last_chunk.eq(tags.last_chunk), compaction.last.eq(tags.last)]
        return m
