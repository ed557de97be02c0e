"""Proofs on one bank of the FiberCache.

Test plan
---------
* the first cycles from reset (bounded: `DEPTH` cycles, five operations on one set), any operations at their distances, any failures
  (`replay`), any room in the write buffer; one address, chosen freely, is followed:
  a line that was never stored, or that left, is not found (so no second way of the set ever held it); a dirty line is found until it is
  consumed, passed over or evicted, and only dirty lines are evicted; whatever is read or evicted is the line stored last;
* not vacuous: the claims that the followed line is never evicted, and never read when dirty, fail.
"""
import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from neuroflex.cache_policy import set_bits, tag_bits
from neuroflex.config import ArchConfig
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.cache_bank import CacheBank, Client

pytestmark = pytest.mark.formal

SMALLEST = ArchConfig(name="formal", chunk_bits=32, ann_pes=2, snn_pes=2, laggy_adders=8, cache_banks=2, cache_ways=2,
                      cache_sets=4, pending_lines=16, write_buffer=2, address_bits=12)
DEPTH = 18


class BankContract(wiring.Component):
    """Follows one line; ``never`` names a false claim."""

    def __init__(self, never=None):
        self._never = never
        super().__init__({
            "set": In(set_bits(SMALLEST)), "tag": In(tag_bits(SMALLEST)),
            "free": In(data.StructLayout({
                "grant": 1, "client": Client, "set": set_bits(SMALLEST), "tag": tag_bits(SMALLEST), "replay": 4, "room": 1,
                "write_room": 1, "skip": 1, "demand": 1, "consume": 1, "through": 1, "fill_line": 1, "write_line": 1}))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.bank = bank = CacheBank(SMALLEST)
        free = self.free
        followed_set, followed_tag, started = Signal(set_bits(SMALLEST)), Signal(tag_bits(SMALLEST)), Signal()
        m.d.sync += [followed_set.eq(self.set), followed_tag.eq(self.tag), started.eq(1)]
        m.d.comb += [Assume(~ResetSignal()), Assume(~started | (self.set == followed_set) & (self.tag == followed_tag))]
        choice = free.grant << free.client
        m.d.comb += [
            bank.request.eq(choice), bank.grant.eq(choice), bank.replay.eq(free.replay), bank.room.eq(free.room),
            bank.write_room.eq(free.write_room), bank.fill_skip.eq(free.skip), bank.fill_demand.eq(free.demand),
            bank.consume.eq(free.consume), bank.through.eq(free.through),
            bank.fill_line.eq(free.fill_line), bank.write_line.eq(free.write_line),
            *(bank.set[client].eq(free.set) for client in Client), *(bank.tag[client].eq(free.tag) for client in Client),
        ]

        # Operations of a set keep their distance; the operation in the look-up and in the effect stage.
        granted, sets = Signal(3), [Signal(set_bits(SMALLEST), name=f"set_{age}") for age in range(3)]
        m.d.sync += [granted.eq(Cat(free.grant, granted)), sets[0].eq(free.set), sets[1].eq(sets[0]), sets[2].eq(sets[1])]
        near = [granted[age] & (sets[age] == free.set) for age in range(3)]
        allocates = (free.client == Client.FILL) | (free.client == Client.WRITE)
        m.d.comb += Assume(~(free.grant & (near[0] | near[1] | near[2] & allocates)))
        looks, acts = Signal(), Signal()
        clients = [Signal(Client, name=f"client_{stage}") for stage in ("look", "act")]
        here = [Signal(name=f"here_{stage}") for stage in ("look", "act")]
        same_set, press = Signal(), Signal()
        struck = [free.replay.bit_select(client, 1) for client in (free.client, *clients)]
        m.d.sync += [
            looks.eq(free.grant & ~struck[0]), acts.eq(looks & ~struck[1]), clients[0].eq(free.client), clients[1].eq(clients[0]),
            here[0].eq((free.set == self.set) & (free.tag == self.tag)), here[1].eq(here[0]), same_set.eq(sets[0] == self.set),
            press.eq(bank.presses),
        ]
        acting = Signal()
        m.d.comb += acting.eq(acts & ~struck[2])
        fill, read, write, fetch = (acting & (clients[1] == client) for client in Client)

        # What is known of the line: it is there for sure, it may be there (a clean one may have been replaced), it is dirty.
        sure, maybe, dirty, content = (Signal(name=name) for name in ("sure", "maybe", "dirty", "content"))
        stores_fill = fill & ~free.skip & ~press & ~bank.evicts
        stores_write = write & ~free.through & bank.done[Client.WRITE]
        ours = here[1] & acting
        left, left_line, read_line = Signal(), Signal(2), Signal(2)
        with m.If(ours & (read | fetch)):
            hit = Mux(read, bank.done[Client.READ], bank.done[Client.FETCH])
            m.d.comb += [Assert(~hit | sure | maybe), Assert(hit | ~sure), Assert(bank.read_hits == (read & hit))]
            m.d.sync += [sure.eq(hit & ~(read & free.consume)), maybe.eq(0)]
            with m.If(read & free.consume):
                m.d.sync += dirty.eq(0)
        with m.Elif(ours & write & free.through):
            with m.If(bank.done[Client.WRITE]):
                m.d.sync += [sure.eq(0), maybe.eq(0), dirty.eq(0)]
        with m.Elif(ours & write):
            m.d.comb += Assert(bank.done[Client.WRITE] | ~sure)
            with m.If(bank.done[Client.WRITE]):
                m.d.sync += [sure.eq(1), maybe.eq(0), dirty.eq(1), content.eq(free.write_line)]
        with m.Elif(ours & stores_fill & ~sure & ~maybe):
            m.d.sync += [sure.eq(1), dirty.eq(0), content.eq(free.fill_line)]
        with m.Elif(same_set & (stores_fill | stores_write) & ~dirty):
            m.d.sync += [sure.eq(0), maybe.eq(sure | maybe)]
        # The memory has the same line as a clean one here, so a fill that may or may not find it changes nothing.
        m.d.comb += Assume(~(ours & fill) | ~(sure | maybe) | dirty | (free.fill_line == content))
        with m.If(ours & stores_fill & maybe):
            m.d.sync += [sure.eq(1), maybe.eq(0)]

        evicted = Signal()
        m.d.sync += evicted.eq(bank.evicts)
        m.d.comb += left.eq(evicted & (bank.victim_set == self.set) & (bank.victim_tag == self.tag))
        with m.If(left):
            m.d.comb += Assert(sure & dirty)
            m.d.sync += [sure.eq(0), dirty.eq(0)]
        m.d.sync += [left_line.eq(Cat(left, content)), read_line.eq(Cat(ours & bank.read_hits, content))]
        late_read = Signal(2)
        m.d.sync += late_read.eq(read_line)
        m.d.comb += [Assert(~left_line[0] | (bank.line[0] == left_line[1])), Assert(~late_read[0] | (bank.line[0] == late_read[1]))]
        if self._never == "evicted":
            m.d.comb += Assert(~left)
        if self._never == "read":
            m.d.comb += Assert(~(ours & bank.read_hits & dirty))
        return m


def test_a_line_is_followed():
    prove(BankContract(), mode="bmc", depth=DEPTH)


@pytest.mark.parametrize("claim", ["evicted", "read"])
def test_not_vacuous(claim):
    with pytest.raises(ProofFailed):
        prove(BankContract(never=claim), mode="bmc", depth=DEPTH)
