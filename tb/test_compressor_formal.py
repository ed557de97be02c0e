"""Proofs on the compressor: where it writes, that an offer stays, and that no output is read before it is there.

Test plan
---------
* Stream, all cycles (PDR): an offered line stays as it is until taken, whatever else happens.
* Area: every line of a layer is in its place: chunk after chunk of the tile, value lines from the first on and then the mask, at most
  eight and one; so none beyond the output tensor, and none after the last chunk's mask.
* Credit: a block is given back only when every PE of the first group that has columns has finished an output for it.
* Reached within the same cycles: a chunk's third line, a second position, the end of a layer of two positions, a line that waits; in the narrow case a
  second chunk.
* A circuit that does not wait for one of the cores is refused.

Area and credit are bounded: all runs of the first `DEPTH` cycles from reset, with any levels, columns, finishing times and readiness of the cache, and layers of up to 2 x 2
positions, 16 rounds and three chunks that the sequencer would accept. A position's second chunk comes later, in cycle 17: the first `NARROW_DEPTH` cycles are
searched for one position of two chunks, with PEs that finish as soon as they may and all have the same level in a cycle.
"""
import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from neuroflex.config import ArchConfig
from neuroflex.formal import ProofFailed, prove
from neuroflex.formats import CHUNK_LINES
from neuroflex.hdl import compaction, compressor

pytestmark = pytest.mark.formal

SMALLEST = ArchConfig(name="formal", chunk_bits=32, ann_pes=4, snn_pes=4, columns_per_pe=16, row_buffers=2, laggy_adders=8, cache_banks=2,
                      cache_ways=2, cache_sets=4, address_bits=12)
SETTINGS = {"out_base": SMALLEST.address_bits, "out_height": 2, "out_width": 2, "out_chunks": 2, "out_first_chunk": 2, "groups_log2": 1,
            "ann_rounds": 4, "snn_rounds": 4, "to_memory": 1}

DEPTH, NARROW_DEPTH = 13, 20


@pytest.fixture(autouse=True)
def levels_of_one_bit(monkeypatch):
    """Only whether a level is zero steers anything."""
    for module in (compaction, compressor):
        monkeypatch.setattr(module, "LEVEL_BITS", 1)


class CompressorContract(wiring.Component):
    """One layer after another with the same settings, chosen freely; ``claim`` is "stream", "lines" or "reached".

    ``narrow``: one position, two chunks; all PEs finish an output as soon as they may, all with the same level in a cycle.
    """

    def __init__(self, claim, narrow=False):
        self._claim, self._narrow = claim, narrow
        pes = SMALLEST.lanes
        super().__init__({
            "start": In(1), "ready": In(1), "finish": In(2 * pes), "settings": In(data.StructLayout(SETTINGS)),
            "columns": In(data.ArrayLayout(2, 2 * pes)), "levels": In(data.ArrayLayout(1, 2 * pes))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.compressor = block = compressor.Compressor(config=SMALLEST)
        settings, pes = self.settings, SMALLEST.lanes
        kept, kept_columns, begun = Signal.like(settings), Signal.like(self.columns), Signal()
        m.d.sync += [kept.eq(settings), kept_columns.eq(self.columns), begun.eq(1)]
        running = Signal()
        space = 1 << SMALLEST.address_bits
        positions = settings.out_height * settings.out_width
        chunks = Signal(2)
        m.d.comb += chunks.eq((((settings.ann_rounds + settings.snn_rounds) << 2 >> settings.groups_log2) + 31)[5:])
        m.d.comb += [
            Assume(~ResetSignal()), Assume(~begun | (settings == kept) & (self.columns == kept_columns)), Assume(~(self.start & running)),
            # What the sequencer has checked.
            Assume((positions != 0) & (settings.ann_rounds + settings.snn_rounds != 0) & (settings.ann_rounds <= 8) & (settings.snn_rounds <= 8)),
            Assume(settings.out_first_chunk + chunks <= settings.out_chunks),
            Assume(settings.out_base + positions * settings.out_chunks * CHUNK_LINES <= space),
            block.start.eq(self.start), block.write.ready.eq(self.ready),
            *(getattr(block, name).eq(settings[name]) for name in SETTINGS),
        ]
        if self._narrow:
            m.d.comb += [Assume(positions == 1), Assume(settings.groups_log2 == 0), Assume(settings.ann_rounds == 8), Assume(settings.snn_rounds == 1),
                         Assume(settings.to_memory == 0), Assume(self.finish.all()), Assume(self.levels.as_value().all() | ~self.levels.as_value().any())]
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(block.finished):
            m.d.sync += running.eq(0)

        # The arrays: each PE is at most row_buffers outputs ahead.
        early = []
        for number in range(2 * pes):
            core, pe = ("ann", "snn")[number // pes], number % pes
            done, ahead = Signal(2, name=f"done_{number}"), Signal(3, name=f"ahead_{number}")
            finishes = Signal(name=f"finishes_{number}")
            m.d.comb += [finishes.eq(self.finish[number] & running & (ahead < SMALLEST.row_buffers)),
                         getattr(block, f"{core}_done")[pe].eq(done), getattr(block, f"{core}_columns")[pe].eq(self.columns[number]),
                         getattr(block, f"{core}_y")[pe].eq(self.levels[number])]
            with m.If(self.start):
                m.d.sync += [done.eq(0), ahead.eq(0)]
            with m.Else():
                m.d.sync += [done.eq(done + finishes), ahead.eq(ahead + finishes - (block.block_done & (ahead != 0)))]
            in_first = (settings.groups_log2 == 0) | (pe < pes // 2)
            early.append(block.block_done & in_first & (self.columns[number] != 0) & (ahead == 0))

        # Where the next line belongs.
        write = block.write
        chunk_address, spine = Signal(SMALLEST.address_bits + 1), Signal(SMALLEST.address_bits + 1)
        line, chunk, position = Signal(4), Signal(2), Signal(3)
        offset = (write.payload.address - chunk_address)[:SMALLEST.address_bits]
        first = settings.out_base + settings.out_first_chunk * CHUNK_LINES
        held, before = Signal(), Signal.like(write.payload)
        m.d.sync += [held.eq(write.valid & ~write.ready), before.eq(write.payload)]
        with m.If(self.start):
            m.d.sync += [chunk_address.eq(first), spine.eq(first), line.eq(1), chunk.eq(0), position.eq(0)]
        with m.Elif(write.valid & write.ready):
            m.d.sync += line.eq(line + 1)
            with m.If(offset == 0):
                m.d.sync += [line.eq(1), chunk.eq(chunk + 1), chunk_address.eq(chunk_address + CHUNK_LINES)]
                with m.If(chunk + 1 == chunks):
                    following = spine + settings.out_chunks * CHUNK_LINES
                    m.d.sync += [chunk.eq(0), position.eq(position + 1), spine.eq(following), chunk_address.eq(following)]
        if self._claim == "stream":
            m.d.comb += [
                Assert(~held | write.valid & (write.payload == before)),
            ]
        elif self._claim == "reached" and self._narrow:
            m.d.comb += [Cover(write.valid & (chunk == 1)), Cover(held & (chunk == 1))]
        elif self._claim == "reached":
            m.d.comb += [Cover(held & (offset == 1)), Cover(block.finished & (positions == 2)),
                         Cover(write.valid & (line == 3)), Cover(block.block_done & (position == 1))]
        else:
            m.d.comb += [
                Assert(~write.valid | running & (position < positions) & (write.payload.through == settings.to_memory)),
                Assert(~write.valid | (offset == 0) | (offset == line) & (line < CHUNK_LINES)),
                Assert(~block.finished | (position == positions)),
                Assert(~Cat(early).any()),
            ]
        return m


def test_offers_are_stable():
    prove(CompressorContract("stream"))


def test_lines_and_credits():
    prove(CompressorContract("lines"), mode="bmc", depth=DEPTH)


def test_reached():
    prove(CompressorContract("reached"), mode="cover", depth=DEPTH)


def test_second_chunk():
    prove(CompressorContract("reached", narrow=True), mode="cover", depth=NARROW_DEPTH)
    prove(CompressorContract("lines", narrow=True), mode="bmc", depth=NARROW_DEPTH)


class Impatient(compressor.RoundWalk):
    """Takes no notice of the ANN core's columns, and so does not wait for its outputs."""

    def elaborate(self, platform):
        columns, self.ann_columns = self.ann_columns, Signal.like(self.ann_columns)
        try:
            return super().elaborate(platform)
        finally:
            self.ann_columns = columns


def test_mutant_is_refused(monkeypatch):
    monkeypatch.setattr(compressor, "RoundWalk", Impatient)
    with pytest.raises(ProofFailed):
        prove(CompressorContract("lines"), mode="bmc", depth=10)
