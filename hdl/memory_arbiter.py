"""MemoryArbiter: one memory port for the cache's writes, the cache's reads and the sequencer's reads."""
from amaranth import Module, Mux, Shape, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from neuroflex.cache_policy import MAX_WRITES
from neuroflex.config import ArchConfig
from neuroflex.layouts import burst_layout, line_write_layout, memory_request_layout, read_data_layout

__all__ = ["MemoryArbiter"]


class Reader(enum.Enum, shape=1):
    """Whose burst it is."""

    CACHE = 0
    SEQUENCER = 1


class MemoryArbiter(wiring.Component):
    """Merges three clients in fixed priority: cache writes, then cache reads, then sequencer reads.

    A request passes a queue of two at its client and a queue of two at the port: it is out at the earliest two cycles
    after it was accepted, and requests follow one per cycle. A write's line goes into a queue of its own together with
    its request. Answers are routed in the order of the read requests, out at the client one cycle after they were
    accepted, one line per cycle.

    A write that was accepted before a read goes out before it. A client must take the lines that it asked for: while it
    does not, the other's lines wait behind them. Writes never wait for answers to reads.

    Parameters
    ----------
    config : ArchConfig
        ``chunk_bits``, ``address_bits`` matter, and ``pending_lines``: so many read bursts may be unanswered.

    Members
    -------
    cache_write : In(stream of :func:`~neuroflex.layouts.line_write_layout`)
    cache_request, sequencer_request : In(stream of :func:`~neuroflex.layouts.burst_layout`)
    cache_data, sequencer_data : Out(stream of :func:`~neuroflex.layouts.read_data_layout`)
    request : Out(stream of :func:`~neuroflex.layouts.memory_request_layout`)
        The memory port, with the following three.
    write_data : Out(stream of a line)
        One line for each write request, in order; offered from the same cycle on.
    read_data : In(stream of :func:`~neuroflex.layouts.read_data_layout`)
    write_done : In(stream of ``{error}``)
        One for each write request. Always taken.
    idle : Out(1)
        Nothing is queued, and every request was answered.
    read_error, write_error : Out(1)
        Pulse in the cycle after a line read, a write done, with an error was accepted.

    Raises
    ------
    TypeError
        When ``config`` is not an :class:`~neuroflex.config.ArchConfig`.
    """

    def __init__(self, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        burst, answer = stream.Signature(burst_layout(config)), stream.Signature(read_data_layout(config))
        super().__init__({
            "cache_write": In(stream.Signature(line_write_layout(config))),
            "cache_request": In(burst),
            "cache_data": Out(answer),
            "sequencer_request": In(burst),
            "sequencer_data": Out(answer),
            "request": Out(stream.Signature(memory_request_layout(config))),
            "write_data": Out(stream.Signature(config.chunk_bits)),
            "read_data": In(answer),
            "write_done": In(stream.Signature(data.StructLayout({"error": 1}))),
            "idle": Out(1),
            "read_error": Out(1),
            "write_error": Out(1),
        })

    @property
    def config(self):
        """The configuration."""
        return self._config

    def elaborate(self, platform):
        config = self._config
        m = Module()
        owner_layout = data.StructLayout({"reader": Reader, "lines": 8})

        def queue(name, shape, depth=2):
            m.submodules[name] = fifo = SyncFIFO(width=Shape.cast(shape).width, depth=depth)
            return fifo

        def accept(name, port):
            fifo = queue(name, port.payload.shape())
            m.d.comb += [fifo.w_en.eq(port.valid), fifo.w_data.eq(port.payload), port.ready.eq(fifo.w_rdy)]
            return fifo, data.View(port.payload.shape(), fifo.r_data)

        def offer(name, port):
            fifo = queue(name, port.payload.shape())
            m.d.comb += [port.valid.eq(fifo.r_rdy), Value.cast(port.payload).eq(fifo.r_data), fifo.r_en.eq(port.ready)]
            return fifo

        writes, write = accept("cache_writes", self.cache_write)
        cache_reads, cache_read = accept("cache_reads", self.cache_request)
        sequencer_reads, sequencer_read = accept("sequencer_reads", self.sequencer_request)
        requests, write_lines = offer("requests", self.request), offer("write_lines", self.write_data)
        answers = {Reader.CACHE: offer("cache_answers", self.cache_data),
                   Reader.SEQUENCER: offer("sequencer_answers", self.sequencer_data)}
        owners = queue("owners", owner_layout, config.pending_lines)

        # --- requests ---------------------------------------------------------------------------------
        unconfirmed = Signal(range(MAX_WRITES + 1))
        confirm = Signal()
        request = Signal(memory_request_layout(config))
        owner = Signal(owner_layout)
        read_room = Signal()
        m.d.comb += [
            read_room.eq(requests.w_rdy & owners.w_rdy),
            requests.w_data.eq(request), owners.w_data.eq(owner), owner.lines.eq(request.lines),
            write_lines.w_data.eq(write.line),
        ]
        # A write that cannot go yet holds up the reads too: it was accepted first.
        with m.If(writes.r_rdy):
            m.d.comb += [writes.r_en.eq(requests.w_rdy & write_lines.w_rdy & (unconfirmed != MAX_WRITES)),
                         requests.w_en.eq(writes.r_en), write_lines.w_en.eq(writes.r_en),
                         request.address.eq(write.address), request.lines.eq(1), request.write.eq(1)]
        with m.Elif(cache_reads.r_rdy):
            m.d.comb += [cache_reads.r_en.eq(read_room), requests.w_en.eq(read_room), owners.w_en.eq(read_room),
                         request.address.eq(cache_read.address), request.lines.eq(cache_read.lines)]
        with m.Elif(sequencer_reads.r_rdy):
            m.d.comb += [sequencer_reads.r_en.eq(read_room), requests.w_en.eq(read_room), owners.w_en.eq(read_room),
                         request.address.eq(sequencer_read.address), request.lines.eq(sequencer_read.lines),
                         owner.reader.eq(Reader.SEQUENCER)]

        # --- answers ----------------------------------------------------------------------------------
        current = data.View(owner_layout, owners.r_data)
        count = Signal(8)        # lines of the current burst that have come
        take = Signal()
        m.d.comb += [
            self.read_data.ready.eq(owners.r_rdy & Mux(current.reader == Reader.CACHE, answers[Reader.CACHE].w_rdy,
                                                       answers[Reader.SEQUENCER].w_rdy)),
            take.eq(self.read_data.valid & self.read_data.ready),
        ]
        for reader, fifo in answers.items():
            m.d.comb += [fifo.w_data.eq(self.read_data.payload), fifo.w_en.eq(take & (current.reader == reader))]
        with m.If(take):
            m.d.sync += count.eq(count + 1)
            with m.If(count + 1 == current.lines):
                m.d.comb += owners.r_en.eq(1)
                m.d.sync += count.eq(0)

        m.d.comb += [self.write_done.ready.eq(1), confirm.eq(self.write_done.valid)]
        m.d.sync += [
            unconfirmed.eq(unconfirmed + writes.r_en - confirm),
            self.read_error.eq(take & self.read_data.payload.error),
            self.write_error.eq(confirm & self.write_done.payload.error),
        ]
        fifos = (writes, cache_reads, sequencer_reads, requests, write_lines, owners, *answers.values())
        busy = unconfirmed != 0
        for fifo in fifos:
            busy = busy | fifo.r_rdy
        m.d.comb += self.idle.eq(~busy)
        return m
