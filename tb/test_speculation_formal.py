"""The speculation FIFO cannot overflow, whatever the chunks: a proof at a small size.

The environment is as free as the circuits around it: the laggy unit takes a chunk every ``laggy_cycles`` cycles or later, when
the slot's last chunk has left, and counts it within its latency; matches come one per cycle at most, in the order
of the chunks, ``push_delay`` cycles or more after their chunk was taken. Proved for all time:

* never more entries than ``bound``, and so never more than ``depth``;
* a match leaves only when its chunk is counted, in the order of arrival, none is lost and none twice (a tracked match);
* a chunk's end leaves after its matches.

That the proof is not empty is shown by three properties that must fail: the bound is reached, the tracked match leaves, and
one cycle less push delay overruns the bound.
"""
import pytest
from amaranth import Module, Signal
from amaranth.hdl import Assert
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.laggy import LaggyPrefix
from neuroflex.hdl.speculation import Speculation

CONFIG = PRESETS["tiny"].replace(laggy_adders=16, slots=2, columns_per_pe=2, row_buffers=2)   # 2 + 2 cycles
PUSH_DELAY = 2


class Contract(wiring.Component):
    """Speculation FIFO in its environment, with one of the properties named above.

    Members
    -------
    start, push, end, early : In(1)
        Free choices of the environment, taken when they are allowed.
    track : In(1)
        Marks the match that is followed; the first mark counts.
    """

    def __init__(self, prove_property, *, push_delay=PUSH_DELAY):
        self._property, self._push_delay = prove_property, push_delay
        super().__init__({name: In(1) for name in ("start", "push", "end", "early", "track")})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Speculation(CONFIG, push_delay=PUSH_DELAY)
        latency = CONFIG.laggy_cycles + LaggyPrefix.DONE_LATENCY
        since_start = Signal(range(latency + 1), init=latency)
        start_slot, push_slot = Signal(name="start_slot"), Signal(name="push_slot")
        held = [Signal(name=f"held_{slot}") for slot in range(2)]        # chunk between laggy unit and its end
        coming = [Signal(name=f"coming_{slot}") for slot in range(2)]    # its end has not come yet
        age = [Signal(range(latency + 1), name=f"age_{slot}") for slot in range(2)]
        counted = [Signal(name=f"counted_{slot}") for slot in range(2)]
        starting, pushing, ending, ready = Signal(name="starting"), Signal(name="pushing"), Signal(name="ending"), Signal(name="ready")

        m.d.sync += since_start.eq(since_start + (since_start != latency))
        for slot in range(2):
            m.d.sync += age[slot].eq(age[slot] + (age[slot] != latency))
            with m.If(self.early | (age[slot] == latency - 1)):          # `done` from `latency` on, or before
                m.d.sync += counted[slot].eq(1)
            with m.If(dut.ended.valid & (dut.ended.slot == slot)):
                m.d.sync += held[slot].eq(0)
            with m.If(starting & (start_slot == slot)):
                m.d.sync += [held[slot].eq(1), coming[slot].eq(1), age[slot].eq(1), counted[slot].eq(0)]
            with m.If(ending & (push_slot == slot)):
                m.d.sync += coming[slot].eq(0)
            with m.If(push_slot == slot):
                m.d.comb += ready.eq(coming[slot] & (age[slot] >= self._push_delay))
            with m.If(start_slot == slot):
                m.d.comb += starting.eq(self.start & ~held[slot] & (since_start >= CONFIG.laggy_cycles))
            m.d.comb += dut.done[slot].eq(counted[slot])
        with m.If(starting):
            m.d.sync += [start_slot.eq(~start_slot), since_start.eq(1)]
        with m.If(ending):
            m.d.sync += push_slot.eq(~push_slot)
        mark = Signal()
        m.d.comb += [
            pushing.eq(self.push & ready), ending.eq(self.end & ready),
            dut.match.valid.eq(pushing), dut.match.slot.eq(push_slot), dut.match.below.eq(mark),
            dut.chunk_end.valid.eq(ending), dut.chunk_end.slot.eq(push_slot),
        ]

        # Entries after the cycle before: those that came, less those whose query is out.
        entries = Signal(range(2 * dut.depth))
        waiting = Signal(range(2 * dut.depth))
        m.d.comb += waiting.eq(entries - dut.query.valid)
        m.d.sync += entries.eq(entries + pushing - dut.query.valid)

        # The tracked match: `before` it there are so many in the FIFO.
        tracking, seen = Signal(), Signal()
        before = Signal(range(2 * dut.depth))
        due = Signal()
        m.d.comb += [mark.eq(self.track & pushing & ~tracking & ~seen), due.eq(tracking & dut.query.valid & (before == 0))]
        with m.If(mark):
            m.d.sync += [tracking.eq(1), before.eq(waiting)]
        with m.Elif(due):
            m.d.sync += [tracking.eq(0), seen.eq(1)]
        with m.Elif(tracking & dut.query.valid):
            m.d.sync += before.eq(before - 1)

        open_in_slot = [Signal(range(2 * dut.depth), name=f"open_{slot}") for slot in range(2)]
        early_end, uncounted = Signal(), Signal()
        counted_before = Signal(2)
        for slot in range(2):
            m.d.sync += [counted_before[slot].eq(counted[slot]),
                         open_in_slot[slot].eq(open_in_slot[slot] + (pushing & (push_slot == slot)) - (dut.query.valid & (dut.query.slot == slot)))]
            with m.If(dut.ended.valid & (dut.ended.slot == slot) & (open_in_slot[slot] != 0) & ~(dut.query.valid & (open_in_slot[slot] == 1))):
                m.d.comb += early_end.eq(1)
            with m.If(dut.query.valid & (dut.query.slot == slot) & ~counted_before[slot]):
                m.d.comb += uncounted.eq(1)

        m.d.comb += Assert({
            "contract": (waiting <= dut.bound) & ~early_end & ~uncounted & (~dut.query.valid | (dut.query.below[0] == due)),
            "bound is not reached": waiting != dut.bound,
            "tracked match stays": ~due,
        }[self._property])
        return m


@pytest.mark.formal
def test_contract():
    prove(Contract("contract"))


@pytest.mark.formal
@pytest.mark.parametrize("claim", ["bound is not reached", "tracked match stays"])
def test_not_empty(claim):
    with pytest.raises(ProofFailed):
        prove(Contract(claim), mode="bmc", depth=30)


@pytest.mark.formal
def test_bound_needs_the_push_delay():
    with pytest.raises(ProofFailed):
        prove(Contract("contract", push_delay=PUSH_DELAY - 1), mode="bmc", depth=30)
