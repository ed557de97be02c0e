"""The memory port as an AXI4 master."""
from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi_bus import axi_burst_layout, axi_read_signature, axi_write_signature, check_parameters
from neuroflex.hdl.axi_read import AxiRead
from neuroflex.hdl.axi_split import AxiSplit
from neuroflex.hdl.axi_write import AxiWrite
from neuroflex.hdl.memory_guard import memory_port

__all__ = ["AxiMaster"]


class _Windows:
    """Windows of the unanswered bursts of one direction, oldest first; within a module."""

    def __init__(self, m, name, bits, depth, done):
        self.window = Array(Signal(bits, name=f"{name}_window_{i}") for i in range(depth))
        self.here = Signal(depth, name=f"{name}_here")
        self.head, self.tail = Signal(range(depth), name=f"{name}_head"), Signal(range(depth), name=f"{name}_tail")
        self.leaving = Signal(depth, name=f"{name}_leaving")       # the one that was answered
        self.add = Signal(name=f"{name}_add")
        adding = Signal(depth, name=f"{name}_adding")
        m.d.comb += [self.leaving.eq(done << self.head), adding.eq(self.add << self.tail)]
        m.d.sync += [self.here.eq(self.here & ~self.leaving | adding), self.head.eq(self.head + done), self.tail.eq(self.tail + self.add)]

    @property
    def room(self):
        return ~self.here.all()

    def same(self, window):
        """Which of them have this window."""
        return Cat(entry == window for entry in self.window) & self.here & ~self.leaving


class AxiMaster(wiring.Component):
    """Bursts of both directions, with the order that the memory port promises.

    A burst is held until every unanswered burst of the other direction in the same window has been answered. Those of its own direction are in order
    on the bus, since all have the same ID.

    Timing: AR or AW is out 5 cycles after its request was taken, if nothing is in the way; one burst per two cycles.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig

    Members
    -------
    memory : In(memory_port)
    program_page, tensor_page, tensor_line : In(32)
        See :class:`AxiSplit`.
    read, write : Out
        The channels of the AXI4 bus.
    """

    def __init__(self, *, config, axi):
        self._config, self._axi = check_parameters(config, axi)
        super().__init__({
            "memory": In(memory_port(config)),
            "program_page": In(32), "tensor_page": In(32), "tensor_line": In(32),
            "read": Out(axi_read_signature(axi)), "write": Out(axi_write_signature(axi)),
        })

    def elaborate(self, platform):
        m = Module()
        config, axi = self._config, self._axi
        m.submodules.split = split = AxiSplit(config=config, axi=axi)
        m.submodules.reader = reader = AxiRead(config=config, axi=axi)
        m.submodules.writer = writer = AxiWrite(config=config, axi=axi)
        wiring.connect(m, wiring.flipped(self.memory.request), split.request)
        wiring.connect(m, wiring.flipped(self.memory.write_data), writer.write_data)
        wiring.connect(m, reader.read_data, wiring.flipped(self.memory.read_data))
        wiring.connect(m, writer.write_done, wiring.flipped(self.memory.write_done))
        wiring.connect(m, reader.bus, wiring.flipped(self.read))
        wiring.connect(m, writer.bus, wiring.flipped(self.write))
        m.d.comb += [getattr(split, name).eq(getattr(self, name)) for name in ("program_page", "tensor_page", "tensor_line")]

        held = Signal()
        waits = Signal(max(axi.reads, axi.writes))      # bursts of the other direction to be answered first
        burst = Signal(axi_burst_layout(config, axi))
        window_zeros = axi.burst_bytes.bit_length() - 1
        bits = axi.address_bits - window_zeros
        reads = _Windows(m, "reads", bits, axi.reads, reader.done)
        writes = _Windows(m, "writes", bits, axi.writes, writer.done)
        following = split.burst.payload
        m.d.comb += [
            split.burst.ready.eq(~held), reader.burst.payload.eq(burst), writer.burst.payload.eq(burst),
            reader.burst.valid.eq(held & ~burst.write & (waits == 0) & reads.room),
            writer.burst.valid.eq(held & burst.write & (waits == 0) & writes.room),
            reads.add.eq(reader.burst.valid & reader.burst.ready), writes.add.eq(writer.burst.valid & writer.burst.ready),
        ]
        with m.If(~held):
            window = following.address[window_zeros:]
            m.d.sync += [held.eq(split.burst.valid), burst.eq(following), waits.eq(Mux(following.write, reads.same(window), writes.same(window)))]
        with m.Else():
            m.d.sync += waits.eq(waits & ~Mux(burst.write, reads.leaving, writes.leaving))
        with m.If(reads.add | writes.add):
            m.d.sync += held.eq(0)
        for windows in (reads, writes):
            with m.If(windows.add):
                m.d.sync += windows.window[windows.tail].eq(burst.address[window_zeros:])
        return m
