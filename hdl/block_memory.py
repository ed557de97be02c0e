"""Local memory: the accelerator's memory port served from block RAM, which a host reads and writes too."""
from amaranth.hdl import Array, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.hdl.memory_guard import memory_port
from neuroflex.hdl.uart_bridge import local_request, local_response
from neuroflex.layouts import read_data_layout

__all__ = ["BlockMemory"]

READ_QUEUE = 4      # three cycles from issue to offer: one line per cycle
BANK_LINES = 16_384    # as deep as a block RAM of the ECP5 can be


class BlockMemory(wiring.Component):
    """``depth`` lines of block RAM behind the memory port and a host port of 32-bit words.

    One request at a time, the host's first. Lines from ``depth`` on do not exist: reads of them carry the error flag, requests that write any are answered with an
    error and write only those that exist.

    Timing: of a read request taken in cycle t the lines are on offer from t + 4 on, one per cycle; the next request is taken in the cycle after the last line was
    asked of the RAM. Of a write request taken in t, lines are taken from t + 1 on, one per cycle, and the answer is on offer in the cycle after the
    last. A host access taken in t while the memory is idle is answered in t + 5; accesses by the accelerator wait meanwhile.

    Parameters
    ----------
    config : ArchConfig
    depth : int
        Lines: a power of two, 16 to ``2**address_bits``.

    Members
    -------
    memory : In(memory_port)
    host_request, host_response : streams
        :func:`~neuroflex.hdl.uart_bridge.local_request`, :func:`~neuroflex.hdl.uart_bridge.local_response`.
    """

    def __init__(self, *, config, depth):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        if not isinstance(depth, int) or depth & (depth - 1) or not 16 <= depth <= 1 << config.address_bits:
            raise ValueError(f"depth must be a power of two from 16 to 2**address_bits = {1 << config.address_bits} lines, not {depth!r}")
        self._config, self._depth = config, depth
        super().__init__({"memory": In(memory_port(config)), "host_request": In(stream.Signature(local_request())),
                          "host_response": Out(stream.Signature(local_response()))})

    def elaborate(self, platform):
        m = Module()
        config = self._config
        words, place_bits = config.chunk_bits // 32, (self._depth - 1).bit_length()
        word_bits = 2 + (words - 1).bit_length()        # of a byte address, within a line
        m.submodules.queue = queue = StreamFIFO(shape=read_data_layout(config), depth=READ_QUEUE)

        address, left, failed = Signal(config.address_bits), Signal(8), Signal()
        outside = address[place_bits:].any()
        waiting, wanted = Signal(), Signal(local_request())
        host_outside = wanted.address[word_bits + place_bits:].any()
        answered, answer = Signal(), Signal(local_response())

        # RAM: address registers before it, a register behind it. Banks have registers of their own: to choose between RAM and register would take too long.
        bank_bits = (min(self._depth, BANK_LINES) - 1).bit_length()
        put, put_address, put_line = Signal(words), Signal(place_bits), Signal(config.chunk_bits)
        bank, issued_bank, arrived_bank = address[bank_bits:place_bits], Signal(max(place_bits - bank_bits, 1)), Signal(max(place_bits - bank_bits, 1))
        lines = []
        for number in range(1 << place_bits - bank_bits):
            m.submodules[f"lines_{number}"] = ram = memory.Memory(shape=data.ArrayLayout(unsigned(32), words), depth=1 << bank_bits, init=[])
            write, read = ram.write_port(granularity=1), ram.read_port()
            lines.append(Signal(config.chunk_bits, name=f"line_{number}"))
            m.d.comb += [write.addr.eq(put_address), write.data.eq(put_line), write.en.eq(Mux(put_address[bank_bits:] == number, put, 0)),
                         read.addr.eq(address), read.en.eq(1)]
            m.d.sync += lines[number].eq(read.data)
        issue = Signal()
        issued, issued_outside = Signal(), Signal()
        arrived, arrived_outside, captured = Signal(), Signal(), Signal(config.chunk_bits)
        outstanding = Signal(range(READ_QUEUE + 1))
        taken = Signal()
        m.d.comb += [
            captured.eq(Array(lines)[arrived_bank]), queue.i.valid.eq(arrived), queue.i.payload.line.eq(captured), queue.i.payload.error.eq(arrived_outside),
            taken.eq(self.memory.read_data.valid & self.memory.read_data.ready),
        ]
        m.d.sync += [
            issued.eq(issue), issued_outside.eq(outside), arrived.eq(issued), arrived_outside.eq(issued_outside),
            issued_bank.eq(bank), arrived_bank.eq(issued_bank),
            outstanding.eq(outstanding + issue - taken), put.eq(0),
        ]
        wiring.connect(m, queue.o, wiring.flipped(self.memory.read_data))

        m.d.comb += [self.host_request.ready.eq(~waiting & ~answered), self.host_response.valid.eq(answered), self.host_response.payload.eq(answer)]
        with m.If(self.host_request.valid & self.host_request.ready):
            m.d.sync += [waiting.eq(1), wanted.eq(self.host_request.payload)]
        with m.If(self.host_response.ready):
            m.d.sync += answered.eq(0)

        request, write_data = self.memory.request, self.memory.write_data
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += request.ready.eq(~waiting)
                m.d.sync += failed.eq(0)
                with m.If(waiting):
                    m.d.sync += address.eq(wanted.address[word_bits:])
                    m.next = "HOST"
                with m.Elif(request.valid):
                    m.d.sync += [address.eq(request.payload.address), left.eq(request.payload.lines)]
                    m.next = "READ"
                    with m.If(request.payload.write):
                        m.next = "WRITE"
            with m.State("READ"):
                with m.If(outstanding != READ_QUEUE):
                    m.d.comb += issue.eq(1)
                    m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "IDLE"
            with m.State("WRITE"):
                m.d.comb += write_data.ready.eq(1)
                with m.If(write_data.valid):
                    m.d.sync += [put_address.eq(address), put_line.eq(write_data.payload), put.eq(Mux(outside, 0, (1 << words) - 1)),
                                 failed.eq(failed | outside), address.eq(address + 1), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += [self.memory.write_done.valid.eq(1), self.memory.write_done.payload.error.eq(failed)]
                with m.If(self.memory.write_done.ready):
                    m.next = "IDLE"
            with m.State("HOST"):
                chosen = wanted.address[2:word_bits] if words > 1 else 0
                m.d.sync += [put_address.eq(address), put_line.eq(wanted.data.replicate(words))]
                with m.If(wanted.write & ~host_outside):
                    m.d.sync += put.eq(1 << chosen)
                m.next = "HOST_RAM"
            with m.State("HOST_RAM"):
                m.next = "HOST_ANSWER"
            with m.State("HOST_ANSWER"):
                found = captured.word_select(wanted.address[2:word_bits], 32) if words > 1 else captured
                m.d.sync += [answered.eq(1), waiting.eq(0), answer.error.eq(host_outside),
                             answer.data.eq(Mux(wanted.write | host_outside, 0, found))]
                m.next = "IDLE"
        return m
