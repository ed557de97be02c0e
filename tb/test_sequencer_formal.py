"""Proof on the sequencer with two weight banks: what is handed over, when.

Test plan
---------
* All inputs are free, in all cycles: descriptors, loader, broadcaster, compressor, memory. Assumed: the loader finishes what was started and nothing else; no watchdog.
* Asserted: no layer runs before broadcaster and compressor are through with the one before, before its load has ended well, or twice; no load starts before the one before has
  ended, or between its end and its run; a layer's settings stay while it runs; the job ends only when neither a layer nor a load is under way.
* The arithmetic of the geometry check is left out: its verdicts are free.
* Not vacuous: a sequencer that hands over when only the broadcaster is through violates it.
"""
import pytest
from amaranth.hdl import Assert, Assume, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.formats import Status
from neuroflex.hdl import sequencer
from neuroflex.layouts import settings_layout

pytestmark = pytest.mark.formal

DOUBLE = PRESETS["tiny"].replace(name="formal", weight_banks=2, chunk_bits=256, laggy_adders=32)     # a descriptor is four lines
FREE = ("start", "program_address", "cache_busy", "loader_finished", "loader_error", "broadcaster_finished", "compressor_finished", "running_cause", "progress",
        "bus_error", "quiet")


class AnyGeometry(wiring.Component):
    """Verdicts that depend on bits of the descriptor which nothing else looks at."""

    def __init__(self, *, config):
        super().__init__({"settings": In(settings_layout(config)), "clear": In(1), "valid": In(1), "index": In(2), "source_wrong": wiring.Out(1), "output_wrong": wiring.Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.source_wrong.eq(self.settings.to_memory), self.output_wrong.eq(self.settings.consume0)]
        return m


class Hasty(sequencer.Sequencer):
    """Does not wait for the compressor."""

    def _layer_ends(self, m, broadcaster_done, compressor_done):
        super()._layer_ends(m, broadcaster_done, compressor_done)
        return broadcaster_done


class Contract(wiring.Component):
    def __init__(self, kind=sequencer.Sequencer):
        self._dut = kind(config=DOUBLE)
        super().__init__({**{name: self._dut.signature.members[name] for name in FREE}, "request_ready": In(1), "line_valid": In(1),
                          "line": In(self._dut.read_data.payload.shape())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.sequencer = dut = self._dut
        m.d.comb += [*(getattr(dut, name).eq(getattr(self, name)) for name in FREE), dut.watchdog.eq(0), dut.request.ready.eq(self.request_ready),
                     dut.read_data.valid.eq(self.line_valid), dut.read_data.payload.eq(self.line)]
        runs, sent, packed = Signal(), Signal(), Signal()
        with m.If(dut.run):
            m.d.sync += [runs.eq(1), sent.eq(0), packed.eq(self.compressor_finished)]
        with m.Elif(runs):
            m.d.sync += [sent.eq(sent | self.broadcaster_finished), packed.eq(packed | self.compressor_finished), runs.eq(~(sent & packed))]
        loads, loaded = Signal(), Signal()
        with m.If(self.loader_finished):
            m.d.sync += [loads.eq(0), loaded.eq(self.loader_error == Status.NONE)]
        with m.If(dut.loader_start):
            m.d.sync += loads.eq(1)
        with m.If(dut.run | dut.cache_invalidate):
            m.d.sync += loaded.eq(0)
        before, ran = Signal.like(dut.settings.groups_log2), Signal()
        m.d.sync += [before.eq(dut.settings.groups_log2), ran.eq(runs | dut.run)]
        m.d.comb += [
            Assume(~ResetSignal()), Assume(~self.loader_finished | loads),
            Assert(~(dut.run & runs)), Assert(~dut.run | (loaded & ~loads)),
            Assert(~(dut.loader_start & (loads | loaded & (dut.code == Status.NONE)))),
            Assert(~(runs & ran) | (before == dut.settings.groups_log2)),
            Assert(~dut.finish | ~(runs | loads | dut.run)),
        ]
        return m


@pytest.fixture(autouse=True)
def no_geometry(monkeypatch):
    monkeypatch.setattr(sequencer, "GeometryCheck", AnyGeometry)


def test_hand_over():
    prove(Contract())


def test_hasty_hand_over_is_found():
    with pytest.raises(ProofFailed):
        prove(Contract(Hasty))
