"""Memory guard: what the core asked of memory is finished even when the core is reset in the middle of a job."""
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.layouts import memory_request_layout, read_data_layout

__all__ = ["MemoryGuard", "memory_port"]

OWED_BITS = 16


def memory_port(config):
    """Signature of the memory port, from the core's side.

    ``request`` {address, lines, write}; ``write_data``: lines, as many as the write requests said; ``read_data`` {line, error}
    in the order of the requests; ``write_done`` {error}: one per write request. Requests take effect in order.
    """
    return wiring.Signature({
        "request": Out(stream.Signature(memory_request_layout(config))),
        "write_data": Out(stream.Signature(config.chunk_bits)),
        "read_data": In(stream.Signature(read_data_layout(config))),
        "write_done": In(stream.Signature(data.StructLayout({"error": 1}))),
    })


class MemoryGuard(wiring.Component):
    """Buffers requests and write data (two each), counts what memory still owes, and settles it after an abort.

    ``abandon`` in cycle t raises ``core_reset`` from t + 1 until nothing is owed: answers are taken and dropped, missing
    write data are sent as zero. Nothing that was shown as valid to memory is taken back.

    Timing: a request or a write beat passes with one cycle of latency, one per cycle; read data and write answers
    pass in the same cycle (they are wired through, except under reset).

    Members
    -------
    core : In(memory_port)
        Towards the core.
    memory : Out(memory_port)
        Towards memory.
    abandon : In(1)
    core_reset : Out(1)
        Resets everything but this block and the register file.
    idle : Out(1)
        Nothing is owed and nothing waits.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({"core": In(memory_port(config)), "memory": Out(memory_port(config)),
                          "abandon": In(1), "core_reset": Out(1), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.requests = requests = StreamFIFO(shape=memory_request_layout(self._config), depth=2)
        m.submodules.write_lines = write_lines = StreamFIFO(shape=self._config.chunk_bits, depth=2)
        reads, lines, answers = Signal(OWED_BITS), Signal(OWED_BITS), Signal(OWED_BITS)
        resetting = Signal()

        wiring.connect(m, requests.o, wiring.flipped(self.memory.request))
        wiring.connect(m, write_lines.o, wiring.flipped(self.memory.write_data))
        request = self.core.request
        m.d.comb += [
            requests.i.payload.eq(request.payload),
            requests.i.valid.eq(request.valid & ~resetting),
            request.ready.eq(requests.i.ready & ~resetting),
            write_lines.i.payload.eq(Mux(resetting, 0, self.core.write_data.payload)),
            write_lines.i.valid.eq(Mux(resetting, lines != 0, self.core.write_data.valid)),
            self.core.write_data.ready.eq(write_lines.i.ready & ~resetting),
            self.core.read_data.payload.eq(self.memory.read_data.payload),
            self.core.read_data.valid.eq(self.memory.read_data.valid & ~resetting),
            self.memory.read_data.ready.eq(self.core.read_data.ready | resetting),
            self.core.write_done.payload.eq(self.memory.write_done.payload),
            self.core.write_done.valid.eq(self.memory.write_done.valid & ~resetting),
            self.memory.write_done.ready.eq(self.core.write_done.ready | resetting),
        ]

        accepted = requests.i.valid & requests.i.ready
        writes = accepted & request.payload.write
        m.d.sync += [
            reads.eq(reads + Mux(accepted & ~request.payload.write, request.payload.lines, 0)
                     - (self.memory.read_data.valid & self.memory.read_data.ready)),
            lines.eq(lines + Mux(writes, request.payload.lines, 0) - (write_lines.i.valid & write_lines.i.ready)),
            answers.eq(answers + writes - (self.memory.write_done.valid & self.memory.write_done.ready)),
        ]
        m.d.comb += [
            self.idle.eq((reads == 0) & (lines == 0) & (answers == 0) & ~requests.o.valid & ~write_lines.o.valid),
            self.core_reset.eq(resetting),
        ]
        with m.If(self.abandon):
            m.d.sync += resetting.eq(1)
        with m.Elif(self.idle):
            m.d.sync += resetting.eq(0)
        return m
