"""Stream queue against its recurrence, and its contract proved.

Plan: random gaps and back-pressure at several depths and widths; full, empty, in and out at once. Contract (formal): entries leave
in the order in which they came, none lost or made up; level exact. A pointer that does not move must fail.
"""
import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.sim.fifo import fifo_times
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.coverage import Coverage


def traffic(seed, *, depth, width, entries, coverage):
    """Stimulus, expectation and where payloads count."""
    rng = np.random.default_rng(seed)
    cycles = 3 * entries
    arrival = np.cumsum(rng.integers(0, 3, entries) * (rng.random(entries) < 0.5))
    ready = np.repeat(rng.random(cycles // 50 + 1) < 0.7, 50)[:cycles] & (rng.random(cycles) < 0.8)
    accept, leave = fifo_times(arrival, ready, depth)
    values = rng.integers(0, 1 << width, entries)
    t = np.arange(cycles)
    offered = np.searchsorted(accept, t, side="left")            # first entry not accepted before t
    head = np.searchsorted(leave, t, side="left")
    held = offered - head
    following = np.minimum(offered, entries - 1)
    valid_in = (offered < entries) & (arrival[following] <= t) & (np.concatenate([[-1], accept])[offered] < t)
    stimulus = {"i__valid": valid_in, "i__payload": np.where(valid_in, values[following], 0), "o__ready": ready}
    expected = {"i__ready": held < depth, "o__valid": held > 0, "o__payload": values[np.minimum(head, entries - 1)], "level": held}
    moves_in, moves_out = valid_in & (held < depth), ready & (held > 0)
    for point, hits in (("full", held == depth), ("empty", held == 0), ("both", moves_in & moves_out), ("refused", valid_in & (held == depth)),
                        ("held back", (held > 0) & ~ready)):
        coverage.hit(point, hits.sum())
    return stimulus, expected, {"o__payload": held > 0}


POINTS = ("full", "empty", "both", "refused", "held back")


@pytest.mark.parametrize("depth,width", [(2, 8), (4, 33), (16, 12)])
def test_fifo(depth, width):
    coverage = Coverage("fifo", POINTS)
    bench = Bench(StreamFIFO(shape=width, depth=depth), name="stream_fifo")
    bench.run(*traffic(depth, depth=depth, width=width, entries=12_000, coverage=coverage), seed=depth)
    coverage.require(50)


def test_fifo_cocotb():
    bench = Bench(StreamFIFO(shape=8, depth=4), name="stream_fifo")
    bench.run(*traffic(7, depth=4, width=8, entries=300, coverage=Coverage("fifo", POINTS)), engine="cocotb", seed=7)


def test_stuck_pointer_is_seen():
    bench = Bench(StreamFIFO(shape=8, depth=4), name="stream_fifo", verilog_edit=lambda t: t.replace("level <= ", "level <= 3'h1 & ", 1))
    with pytest.raises(Mismatch):
        bench.run(*traffic(9, depth=4, width=8, entries=500, coverage=Coverage("fifo", POINTS)), seed=9)


@pytest.mark.parametrize("depth", [0, 1, 3, 2.0])
def test_refused(depth):
    with pytest.raises(ValueError, match="depth must be a power of two"):
        StreamFIFO(shape=8, depth=depth)


class Contract(wiring.Component):
    """A tracked entry: chosen by the solver, followed to the head, compared there."""

    valid: In(1)
    value: In(4)
    take: In(1)
    track: In(1)

    def __init__(self, wrong=False):
        self._wrong = wrong
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = StreamFIFO(shape=4, depth=4)
        push, pop = fifo.i.valid & fifo.i.ready, fifo.o.valid & fifo.o.ready
        level, ahead, kept = Signal(4), Signal(4), Signal(4)
        tracking = Signal()
        m.d.comb += [fifo.i.valid.eq(self.valid), fifo.i.payload.eq(self.value), fifo.o.ready.eq(self.take), Assume(~ResetSignal())]
        m.d.sync += level.eq(level + push - pop)
        with m.If(push & self.track & ~tracking):
            m.d.sync += [tracking.eq(1), kept.eq(self.value), ahead.eq(level - pop)]
        with m.Elif(tracking & pop):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += tracking.eq(0)
        m.d.comb += [Assert(level == fifo.level), Assert(level <= 4), Assert(fifo.o.valid == (level != 0)), Assert(~tracking | (ahead < level))]
        with m.If(tracking & (ahead == 0)):
            m.d.comb += Assert(fifo.o.payload == (kept ^ self._wrong))
        return m


def test_contract():
    prove(Contract())


def test_contract_can_fail():
    with pytest.raises(ProofFailed):
        prove(Contract(wrong=True))
