"""A first-in first-out queue between two streams."""
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.hdl.arithmetic import stepped

__all__ = ["StreamFIFO"]


class StreamFIFO(wiring.Component):
    """Queue whose outputs depend on registers only: it decouples the blocks on its two sides.

    Timing: an entry accepted in cycle t is on offer from t + 1; one entry in and one out per cycle while it is neither
    full nor empty. ``i.ready`` is low while it holds ``depth`` entries, also in a cycle in which one leaves.

    Parameters
    ----------
    shape : shape-like
        Of the payload.
    depth : int
        Entries, a power of two, at least 2.

    Members
    -------
    i, o : streams
    level : Out
        Entries held.
    """

    def __init__(self, *, shape, depth):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two from 2 on, not {depth!r}")
        self._shape, self._depth = shape, depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "level": Out(range(depth + 1))})

    @property
    def depth(self):
        return self._depth

    def elaborate(self, platform):
        m = Module()
        m.submodules.storage = storage = memory.Memory(shape=self._shape, depth=self._depth, init=[])
        write, read = storage.write_port(), storage.read_port(domain="comb")
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(self.level != self._depth), self.o.valid.eq(self.level != 0), self.o.payload.eq(read.data),
            push.eq(self.i.valid & self.i.ready), pop.eq(self.o.valid & self.o.ready),
            write.en.eq(push), write.data.eq(self.i.payload),
        ]
        m.d.sync += self.level.eq(stepped(self.level, push, pop))
        with m.If(push):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(pop):
            m.d.sync += read.addr.eq(read.addr + 1)
        return m
