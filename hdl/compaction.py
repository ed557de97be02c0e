"""Compaction: nonzero levels of a round to the front, turned to where the line being filled continues."""
from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import LEVEL_BITS

__all__ = ["COMPACTION_STAGES", "Compaction", "compacted_layout"]

COMPACTION_STAGES = 6

_BLOCK = 4   # lanes whose zeros are counted by look-up; the blocks' counts are added in the next stage


def compacted_layout(config):
    """What the compaction gives for each round.

    Members
    -------
    valid
        This is a round, not a bubble.
    levels
        ``line_bytes`` levels; the round's first nonzero level is at byte ``fill``, the others follow, round the end
        to byte 0. All other bytes are zero.
    above
        Bit i: byte i belongs to the line being filled (``i >= fill``), not to the next one.
    full, rest
        The line being filled is full with this round; the round closes a chunk and leaves a part of a line.
    mask
        Nonzero bits of the round, at their place among ``lanes`` positions.
    segment
        One-hot: which ``lanes`` positions of the chunk.
    closing, last_chunk, last
        Last round of its chunk; of its position; of the layer.
    """
    return data.StructLayout({
        "valid": 1, "levels": data.ArrayLayout(LEVEL_BITS, config.line_bytes), "above": config.line_bytes,
        "full": 1, "rest": 1, "mask": config.lanes, "segment": config.chunk_bits // config.lanes,
        "closing": 1, "last_chunk": 1, "last": 1})


def _rotate_up(items, amount):
    """Items moved ``amount`` places to the back, round the end."""
    for bit in range(len(amount)):
        turned = items[-(1 << bit):] + items[:-(1 << bit)]
        items = [Mux(amount[bit], there, here) for here, there in zip(items, turned)]
    return items


class Compaction(wiring.Component):
    """Rigid pipeline of six stages: take, count zeros, add the counts, move by 1 and 2, move by 4 and more, turn.

    A level moves towards lane 0 by the number of zeros in front of it, the bits of that number from the lowest on:
    in this order two levels never meet. Where the line being filled continues depends on the counts of the
    rounds before only, so that it is known before the levels are moved.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    advance : In(1)
        All stages move on; without it everything holds.
    clear : In(1)
        A layer starts: lines are filled from byte 0.
    valid, levels, offset, closing, last_chunk, last : In
        A round: one level per lane, the position of lane 0 within the chunk, and its place in the layer.
    compacted : Out
        :func:`compacted_layout`, six advances after the round.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "advance": In(1), "clear": In(1), "valid": In(1),
            "levels": In(data.ArrayLayout(LEVEL_BITS, config.lanes)), "offset": In(range(config.chunk_bits)),
            "closing": In(1), "last_chunk": In(1), "last": In(1),
            "compacted": Out(compacted_layout(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        lanes, line_bytes = config.lanes, config.line_bytes
        lane_bits = lanes.bit_length() - 1
        byte_bits = line_bytes.bit_length() - 1
        levels_layout = data.ArrayLayout(LEVEL_BITS, lanes)
        tags = data.StructLayout({"valid": 1, "closing": 1, "last_chunk": 1, "last": 1})

        def stage(number, members):
            """Registers of a stage; assign to them through ``load``, which respects ``advance``."""
            return Signal(data.StructLayout({"tags": tags, **members}), name=f"stage{number}")

        taken = stage(0, {"levels": levels_layout, "offset": range(config.chunk_bits)})
        counted = stage(1, {"levels": levels_layout, "offset": range(config.chunk_bits), "nonzero": lanes,
                            "zeros": data.ArrayLayout(range(_BLOCK), lanes)})
        summed = stage(2, {"levels": levels_layout, "offset": range(config.chunk_bits), "count": range(lanes + 1),
                           "zeros": data.ArrayLayout(range(lanes), lanes), "mask": lanes})
        near = stage(3, {"levels": levels_layout, "zeros": data.ArrayLayout(range(lanes), lanes), "mask": lanes,
                         "segment": config.chunk_bits // lanes, "fill": range(line_bytes), "full": 1, "rest": 1})
        front = stage(4, {"levels": levels_layout, "mask": lanes, "segment": config.chunk_bits // lanes,
                          "fill": range(line_bytes), "full": 1, "rest": 1})
        turned = self.compacted
        load = []

        # Stage 0: nothing but registers behind the arrays' multiplexers.
        load += [taken.tags.valid.eq(self.valid), taken.tags.closing.eq(self.closing),
                 taken.tags.last_chunk.eq(self.last_chunk), taken.tags.last.eq(self.last),
                 taken.levels.eq(self.levels), taken.offset.eq(self.offset)]

        # Stage 1: which levels are nonzero, zeros before each within its block.
        nonzero = Signal(lanes)
        m.d.comb += nonzero.eq(Cat(level.any() for level in taken.levels))
        load += [counted.tags.eq(taken.tags), counted.levels.eq(taken.levels), counted.offset.eq(taken.offset),
                 counted.nonzero.eq(nonzero)]
        for lane in range(lanes):
            first = lane - lane % _BLOCK
            load.append(counted.zeros[lane].eq(sum((~nonzero[i] for i in range(first, lane)), start=0)))

        # Stage 2: zeros before each lane and nonzero levels altogether; mask bits to their place among the lanes.
        before = 0
        for first in range(0, lanes, _BLOCK):
            inside = range(first, min(first + _BLOCK, lanes))
            load += [summed.zeros[lane].eq((before + counted.zeros[lane]) & counted.nonzero[lane].replicate(lane_bits))
                     for lane in inside]
            block = Signal(range(_BLOCK + 1), name=f"block_zeros{first // _BLOCK}")
            m.d.comb += block.eq(sum(~counted.nonzero[i] for i in inside))
            before = before + block
        load += [summed.tags.eq(counted.tags), summed.levels.eq(counted.levels), summed.offset.eq(counted.offset),
                 summed.count.eq(lanes - before),
                 summed.mask.eq(Cat(_rotate_up(list(counted.nonzero), counted.offset[:lane_bits])))]

        # Stage 3: where the line continues; levels move by the two low bits of their zeros.
        fill = Signal(range(line_bytes))
        filled = Signal(range(2 * line_bytes))
        m.d.comb += filled.eq(fill + summed.count)
        with m.If(self.advance & summed.tags.valid):
            m.d.sync += fill.eq(Mux(summed.tags.closing, 0, filled[:byte_bits]))
        with m.If(self.clear):
            m.d.sync += fill.eq(0)
        load += [near.tags.eq(summed.tags), near.mask.eq(summed.mask), near.fill.eq(fill), near.full.eq(filled[byte_bits]),
                 near.rest.eq(summed.tags.closing & filled[:byte_bits].any()),
                 near.segment.eq(1 << summed.offset[lane_bits:])]
        levels, zeros = self._move(m, summed.levels, summed.zeros, range(0, min(2, lane_bits)))
        load += [near.levels.eq(levels), near.zeros.eq(zeros)]

        # Stage 4: by the higher bits.
        levels, _ = self._move(m, near.levels, near.zeros, range(2, lane_bits))
        load += [front.levels.eq(levels), front.tags.eq(near.tags), front.mask.eq(near.mask), front.segment.eq(near.segment),
                 front.fill.eq(near.fill), front.full.eq(near.full), front.rest.eq(near.rest)]

        # Stage 5: turn to the byte where the line continues.
        wide = [front.levels[i] if i < lanes else 0 for i in range(line_bytes)]
        load += [turned.levels[i].eq(level) for i, level in enumerate(_rotate_up(wide, front.fill))]
        load += [turned.above.eq(Cat(*(front.fill <= i for i in range(line_bytes - 1)), C(1))),
                 turned.valid.eq(front.tags.valid), turned.closing.eq(front.tags.closing),
                 turned.last_chunk.eq(front.tags.last_chunk), turned.last.eq(front.tags.last),
                 turned.full.eq(front.full), turned.rest.eq(front.rest), turned.mask.eq(front.mask),
                 turned.segment.eq(front.segment)]

        with m.If(self.advance):
            m.d.sync += load
        return m

    @staticmethod
    def _move(m, levels, zeros, bits):
        """Levels and their ``zeros`` moved to the front by the given bits of ``zeros``; where there is no level, both are 0."""
        lanes = len(zeros)
        for bit in bits:
            distance = 1 << bit
            moved_levels = Signal(levels.shape(), name=f"levels_moved_by_{distance}")
            moved_zeros = Signal(zeros.shape(), name=f"zeros_moved_by_{distance}")
            for source, target in ((levels, moved_levels), (zeros, moved_zeros)):
                width = len(target[0])
                for here in range(lanes):
                    there = here + distance
                    came = source[there] & zeros[there][bit].replicate(width) if there < lanes else 0
                    m.d.comb += target[here].eq(source[here] & ~zeros[here][bit].replicate(width) | came)
            levels, zeros = moved_levels, moved_zeros
        return levels, zeros
