"""Proofs on the broadcaster's queues: every answer of the cache has room, for any walk, cache and arrays.

Test plan
---------
* Room: the line queue is never written when full nor read when empty, whatever the walks describe, whenever the cache takes
  reads and answers (in order, never more than it was asked), whenever slots, rows and output banks are free.
* Streams: an offered read stays as it is until taken.
* Not vacuous: with one credit more than the queue has places, the same claim fails.

Bounded: all runs of 16 cycles from reset, with queues of two chunks and two lines and free descriptions in place of the
walks. The weaker claim of the last point fails in cycle 9, so 16 cycles are enough to fill the queues.
"""
import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl import broadcaster
from neuroflex.layouts import chunk_layout, settings_layout

pytestmark = pytest.mark.formal


class FreeWalk(wiring.Component):
    """Any descriptions at any time: it takes them from the bits of the settings, which may change in every cycle."""

    def __init__(self, *, config):
        super().__init__({"start": In(1), "settings": In(settings_layout(config)),
                          "o_chunk": Out(stream.Signature(chunk_layout(config)))})

    def elaborate(self, platform):
        m = Module()
        bits = self.settings.as_value()
        size = len(self.o_chunk.payload.as_value())
        m.d.comb += [self.o_chunk.payload.eq(bits[:size]), self.o_chunk.valid.eq(bits[size])]
        return m


class Checked(broadcaster.Broadcaster):
    """The broadcaster with the claims and a cache that answers what it was asked."""

    capacity = 2

    def _read(self, m, *arguments):
        lines = super()._read(m, *arguments)
        asked = Signal(4)
        taken = self.read.valid & self.read.ready
        m.d.sync += asked.eq(asked + taken - self.response.valid)
        held = Signal()
        before = Signal.like(self.read.payload)
        m.d.sync += [held.eq(self.read.valid & ~self.read.ready), before.eq(self.read.payload)]
        m.d.comb += [
            Assume(~ResetSignal()),
            Assume(~self.response.valid | (asked != 0)),
            Assert(~(lines.push & (lines.level == self.capacity))),
            Assert(~(lines.pop & (lines.level == 0))),
            Assert(asked <= 2 + self.capacity),
            Assert(Mux(held, self.read.valid & (self.read.payload == before), 1)),
        ]
        return lines


class Free(wiring.Component):
    """All inputs of a broadcaster free; a top module of proofs has no outputs."""

    def __init__(self, block):
        self.block = block
        super().__init__({"__".join(path): In(Value.cast(value).shape())
                          for path, member, value in block.signature.flatten(block) if member.flow is In})

    def elaborate(self, platform):
        m = Module()
        m.submodules.block = self.block
        for path, member, value in self.block.signature.flatten(self.block):
            if member.flow is In:
                m.d.comb += Value.cast(value).eq(getattr(self, "__".join(path)))
        return m


@pytest.fixture
def small_queues(monkeypatch):
    monkeypatch.setattr(broadcaster, "Walk", FreeWalk)
    monkeypatch.setattr(broadcaster, "CHUNK_QUEUE", 2)
    monkeypatch.setattr(broadcaster, "LINE_QUEUE", 2)


def test_every_answer_has_room(small_queues):
    prove(Free(Checked(config=PRESETS["tiny"])), mode="bmc", depth=16)


def test_claims_can_fail(small_queues):
    class TooFew(Checked):
        capacity = 1
    with pytest.raises(ProofFailed):
        prove(Free(TooFew(config=PRESETS["tiny"])), mode="bmc", depth=16)
