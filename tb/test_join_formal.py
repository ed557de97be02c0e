"""Proofs on the join front end's bookkeeping: nothing overflows under the sender's rules, and chunks keep their tags.

Test plan
---------
* What the data decide is free: whether a pair has matches, and how long the engine works on it. So the proofs cover all masks.
* Environment: a first beat only while ``slot_free``, beats of a chunk not interleaved, ``open`` for chunks that arrived, ``slot_release`` for
  chunks that retired, each as late as it likes; columns change only while nothing is held. Asserted: the join queue, the list of scanned
  chunks and the slots never overflow; no chunk retires that was not scanned; retired slots come in order; one chunk,
  chosen freely, retires with its own flags.
* Proved for all cycles: the order, with 2 slots and 2 columns. Proved for the first 14 cycles: the space, with 4 slots and 4 columns.
* Not vacuous: within those cycles the queue does get as full as it can, one less than its size, since a pair of
  the chunks in flight is in the engine.
"""
import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.formats import LoadKind
from neuroflex.hdl.join import JoinFrontEnd
from neuroflex.layouts import broadcast_layout, load_layout

pytestmark = pytest.mark.formal

DEPTH = 14

SMALL = PRESETS["tiny"].replace(name="formal", slots=4, row_buffers=2, columns_per_pe=4, mask_pairs=16, value_lines=16)


class AnyData(JoinFrontEnd):
    """The front end without its data path: ``matched`` says whether a pair has matches, ``finish`` when the engine is through."""

    def __init__(self, config):
        super().__init__(config)
        self.matched, self.finish, self.waiting_pairs, self.scanned_end = Signal(), Signal(), Signal(8), Signal()

    def _scanner(self, *arguments):
        return super()._scanner(*arguments) | {"any0": self.matched, "any1": 0, "single0": 0, "single1": 0}

    def _queue(self, m, scanned):
        entry, valid, pop, queued, push = super()._queue(m, scanned)
        popped = Signal.like(queued)
        m.d.sync += popped.eq(popped + pop)
        m.d.comb += [self.waiting_pairs.eq((queued + push - popped)[:len(queued)]), self.scanned_end.eq(scanned["stage"].end)]
        return entry, valid, pop, queued, push

    def _engine(self, m, entry, entry_valid, pop, engine_mask, engine_slot):
        active, done = Signal(), Signal()
        finished = Signal((self.queue_depth - 1).bit_length() + 2)
        m.d.comb += [done.eq(active & self.finish), pop.eq(entry_valid & (~active | done))]
        m.d.sync += [active.eq(pop | (active & ~done)), finished.eq(finished + done)]
        return finished


class Contract(wiring.Component):
    """Environment and claims: ``space`` (no overflow) or ``order``. ``full_below`` claims that the queue never holds more pairs."""

    def __init__(self, claim, config=SMALL, full_below=None):
        self._config, self._claim, self._full_below = config, claim, full_below
        super().__init__({"bus": In(broadcast_layout(config)), "load": In(load_layout(config)), "clear": In(1), "open": In(1),
                          "slot_release": In(1), "matched": In(1), "finish": In(1), "follow": In(1)})

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.join = join = AnyData(config)
        bus, load = self.bus, self.load
        m.d.comb += [getattr(join, name).eq(getattr(self, name)) for name in
                     ("bus", "load", "clear", "open", "slot_release", "matched", "finish")]
        m.d.comb += [join.group.eq(0), join.load_here.eq(1)]

        first, inside = Signal(), Signal()
        count = range(2 * config.slots)
        held, arrived, retired, scanned = (Signal(count, name=name) for name in ("held", "arrived", "retired", "scanned"))
        m.d.comb += first.eq(bus.valid & bus.first_beat)
        m.d.sync += [
            inside.eq(Mux(bus.valid, ~bus.last_beat, inside)),
            held.eq(held + first - self.slot_release), arrived.eq(arrived + (bus.valid & bus.last_beat) - self.open),
            retired.eq(retired + join.retired.valid - self.slot_release),
            scanned.eq(scanned + join.scanned_end - join.retired.valid),
        ]
        quiet = (held == 0) & ~bus.valid
        m.d.comb += [
            Assume(~ResetSignal()), Assume(~bus.valid | (bus.group == 0)), Assume(~bus.valid | (bus.first_beat == ~inside)),
            Assume(~first | join.slot_free), Assume(~bus.valid | (join.columns != 0)),
            Assume(~self.open | (arrived != 0) | join.arrived), Assume(~self.slot_release | (retired != 0)),
            Assume(quiet | ~(load.valid | self.clear)),
            Assume(~(load.valid & (load.kind == LoadKind.COLUMNS)) | (load.data <= config.columns_per_pe)),
        ]
        if self._claim == "order":
            self._order(m, join, first)
            return m
        m.d.comb += [
            Assert(held <= config.slots), Assert(join.waiting_pairs <= (self._full_below or join.queue_depth)),
            Assert(scanned <= 4), Assert((scanned != 0) | ~join.retired.valid),
        ]
        return m

    def _order(self, m, join, first):
        """The slots of retired chunks, and the flags of the one that is followed."""
        config, bus = self._config, self.bus
        slot, send_slot = Signal(range(config.slots)), Signal(range(config.slots))
        followed, over, mine, flags = Signal(), Signal(), Signal(range(config.slots)), Signal(3)
        m.d.sync += [slot.eq(slot + join.retired.valid), send_slot.eq(send_slot + first)]
        with m.If(first & self.follow & ~followed):
            m.d.sync += [followed.eq(1), mine.eq(send_slot), flags.eq(bus.as_value()[3:6])]
        with m.If(join.retired.valid):
            m.d.comb += Assert(join.retired.slot == slot)
            with m.If(followed & ~over & (join.retired.slot == mine)):
                m.d.sync += over.eq(1)
                m.d.comb += Cover(1)
                m.d.comb += Assert(flags == join.retired.as_value()[-3:])


def test_order():
    config = SMALL.replace(slots=2, columns_per_pe=2)
    prove(Contract("order", config))
    prove(Contract("order", config), mode="cover", depth=20)     # the chunk that is followed does retire


def test_space():
    prove(Contract("space"), mode="bmc", depth=DEPTH)


def test_the_queue_gets_full():
    with pytest.raises(ProofFailed) as found:
        prove(Contract("space", full_below=SMALL.columns_per_pe - 2), mode="bmc", depth=DEPTH)
    assert found.value.cycle < DEPTH - 1
