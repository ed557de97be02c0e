"""Proofs on the loader: what it asks for, and that it always ends.

Test plan
---------
* Requests, all cycles (PDR): an offered burst stays as it is until taken; all bursts together are the lines of the stream, in
  order, none before its start and none beyond; a burst has 1 to ``LOAD_BURST`` lines.
* End, the first 18 cycles from reset, a whole record: ``finished`` comes once for each start and only when nothing is on offer or owed, and, without an
  error, all lines were asked for; ``error`` is one of the four codes and stays from then on.
* Progress, the first 40 cycles, enough for streams of up to seven lines: with a memory that takes a burst within two cycles and sends
  an owed line within two, every stream, whatever it says, ends within four cycles for each line and ten.
* Beats, the first 18 cycles: none before a line was asked for; each within its slice, no threshold of 0.
* Reached within 18 cycles: a stream that ends well, one that ends with an error before its last line, a second stream, every kind of beat.
* A circuit that asks for a line too many is refused.

Lengths have 4 bits and bursts 2 lines here, so that their sums stay small; the circuit takes both from the same constants. Where the
number of ones does not matter it is any number: the adders would be most of the proof.
"""
import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.config import ArchConfig
from neuroflex.formal import ProofFailed, prove
from neuroflex.formats import LoadKind, Status
from neuroflex.hdl import loader
from neuroflex.layouts import read_data_layout

pytestmark = pytest.mark.formal

SMALLEST = ArchConfig(name="formal", chunk_bits=32, ann_pes=2, snn_pes=2, columns_per_pe=2, value_lines=16, mask_pairs=16, laggy_adders=8,
                      cache_banks=2, cache_ways=2, cache_sets=4, address_bits=12)
LENGTH_BITS, BURST = 4, 2
OVERHEAD = 2 + loader.LOADER_LATENCY + 3      # cycles of a stream besides its lines: first burst, last line, finished


@pytest.fixture(autouse=True)
def small_lengths(monkeypatch):
    monkeypatch.setattr(loader, "_LENGTH_BITS", LENGTH_BITS)
    monkeypatch.setattr(loader, "LOAD_BURST", BURST)


class AnyCount(loader.LineCounter):
    """The stages of the counter; a count is some bits of its line, which are nothing else in a mask."""

    def elaborate(self, platform):
        m = Module()
        line = Signal.like(self.counted)
        first, second = Signal.like(line), Signal.like(line)
        m.d.comb += [line.valid.eq(self.valid), line.line.eq(self.line), line.error.eq(self.error),
                     line.ones.eq(self.line[-len(line.ones):])]
        m.d.sync += [first.eq(line), second.eq(first), self.counted.eq(second)]
        return m


@pytest.fixture
def any_count(monkeypatch):
    monkeypatch.setattr(loader, "LineCounter", AnyCount)


class LoaderContract(wiring.Component):
    """Any streams, one after another, from a memory that answers what it was asked, in order.

    ``claim`` chooses what is asserted: "requests", "end", "progress", "beats" or "reached".
    """

    def __init__(self, claim, circuit=None):
        self._claim, self._circuit = claim, circuit or loader.Loader
        super().__init__({"start": In(1), "address": In(SMALLEST.address_bits), "lines": In(LENGTH_BITS), "groups_log2": In(1),
                          "take": In(1), "answer": In(1), "content": In(read_data_layout(SMALLEST))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.loader = block = self._circuit(config=SMALLEST)
        running = Signal()
        address, lines, groups_log2 = Signal(len(self.address)), Signal(LENGTH_BITS), Signal(1)
        asked, owed = Signal(LENGTH_BITS + 2), Signal(LENGTH_BITS + 2)
        request, taken = block.request, Signal()
        m.d.comb += [
            Assume(~ResetSignal()), Assume(~(self.start & running)), Assume(~self.answer | (owed != 0)),
            block.start.eq(self.start), block.address.eq(Mux(self.start, self.address, address)),
            block.lines.eq(Mux(self.start, self.lines, lines)), block.groups_log2.eq(Mux(self.start, self.groups_log2, groups_log2)),
            request.ready.eq(self.take), block.read_data.valid.eq(self.answer), block.read_data.payload.eq(self.content),
            taken.eq(request.valid & request.ready),
        ]
        count = Mux(taken, request.payload.lines, 0)
        m.d.sync += [asked.eq(asked + count), owed.eq(owed + count - self.answer)]
        with m.If(self.start):
            m.d.sync += [running.eq(1), address.eq(self.address), lines.eq(self.lines), groups_log2.eq(self.groups_log2), asked.eq(0)]
        with m.Elif(block.finished):
            m.d.sync += running.eq(0)
        getattr(self, f"_{self._claim}")(m, block, running, address, lines, asked, owed)
        return m

    def _requests(self, m, block, running, address, lines, asked, owed):
        request = block.request
        held, before = Signal(), Signal.like(request.payload)
        m.d.sync += [held.eq(request.valid & ~request.ready), before.eq(request.payload)]
        m.d.comb += [
            Assert(~held | request.valid & (request.payload == before)),
            Assert(~request.valid | running & (request.payload.address == (address + asked)[:len(address)])),
            Assert(~request.valid | (asked + request.payload.lines <= lines)),
            Assert(~request.valid | (request.payload.lines != 0) & (request.payload.lines <= BURST)),
        ]

    def _end(self, m, block, running, address, lines, asked, owed):
        ended, error = Signal(), Signal(8)
        with m.If(block.finished):
            m.d.sync += [ended.eq(1), error.eq(block.error)]
        with m.If(self.start):
            m.d.sync += ended.eq(0)
        m.d.comb += [
            Assert(~block.finished | running & ~block.request.valid & (owed == 0)),
            Assert(~block.finished | (block.error != Status.NONE) | (asked == lines)),
            Assert((block.error == Status.NONE) | (block.error == Status.BAD_LOAD_RECORD) | (block.error == Status.BAD_LOAD_LENGTH)
                   | (block.error == Status.BUS_ERROR)),
            Assert(~ended | (block.error == error)),
        ]

    def _progress(self, m, block, running, address, lines, asked, owed):
        waited, silent, time = Signal(), Signal(), Signal(8)
        m.d.sync += [waited.eq(block.request.valid & ~self.take), silent.eq((owed != 0) & ~self.answer)]
        m.d.sync += time.eq(Mux(running, time + 1, 0))
        m.d.comb += [Assume(~waited | self.take), Assume(~silent | self.answer), Assert(time <= OVERHEAD + 4 * lines)]

    def _beats(self, m, block, running, address, lines, asked, owed):
        load = block.load
        m.d.comb += [
            Assert(~load.valid | running & (asked != 0)),
            Assert(~load.valid | (load.kind != LoadKind.COLUMNS) | (load.address == 0) & (load.data != 0) & (load.data <= SMALLEST.columns_per_pe)),
            Assert(~load.valid | (load.kind != LoadKind.PARAMETER) | (load.address < SMALLEST.columns_per_pe) & (load.data[:32] != 0)),
            Assert(~load.valid | (load.kind != LoadKind.MASKS) | (load.address < SMALLEST.mask_pairs)),
            Assert(~load.valid | (load.kind != LoadKind.VALUES) | (load.address < SMALLEST.value_lines)),
            Assert(~load.valid | (load.pe < SMALLEST.ann_pes)),
        ]

    def _reached(self, m, block, running, address, lines, asked, owed):
        streams = Signal(2)
        m.d.sync += streams.eq(streams + self.start)
        m.d.comb += [
            Cover(block.finished & (block.error == Status.NONE) & (lines > BURST)),
            Cover(block.finished & (block.error == Status.BAD_LOAD_RECORD) & (asked < lines)),
            Cover(block.finished & (block.error == Status.BUS_ERROR)),
            Cover(block.finished & (streams == 2)),
            *(Cover(block.load.valid & (block.load.kind == kind)) for kind in LoadKind),
        ]


class AsksTooMuch(loader.Loader):
    """Starts with a line more than the stream has."""

    def elaborate(self, platform):
        lines, self.lines = self.lines, self.lines + 1
        try:
            return super().elaborate(platform)
        finally:
            self.lines = lines


def test_requests_are_those_of_the_stream():
    prove(LoaderContract("requests"))


def test_finished_means_finished(any_count):
    prove(LoaderContract("end"), mode="bmc", depth=18)


def test_every_stream_ends():
    prove(LoaderContract("progress"), mode="bmc", depth=40)


def test_beats_stay_within_the_slices(any_count):
    prove(LoaderContract("beats"), mode="bmc", depth=18)


def test_reached():
    prove(LoaderContract("reached"), mode="cover", depth=18)


def test_mutant_is_refused():
    with pytest.raises(ProofFailed):
        prove(LoaderContract("requests", AsksTooMuch), mode="bmc", depth=20)
