"""The broadcaster: walks a layer, fetches ahead, reads masks and values, and sends chunks to both arrays."""
from enum import Enum

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import StallCause
from neuroflex.hdl.arithmetic import stepped
from neuroflex.hdl.walk import Walk
from neuroflex.layouts import broadcast_layout, chunk_layout, fetch_layout, read_layout, response_layout, settings_layout
from neuroflex.queues import CHUNK_QUEUE, LINE_QUEUE

__all__ = ["Broadcaster"]

_SLICE = 16       # bits counted per cycle in the first step of a popcount
_CHUNK_FLAGS = ("first_chunk", "last_chunk", "first_window", "last_window")


class _Phase(Enum):
    IDLE = 0      # no layer since reset
    RUN = 1
    SENT = 2      # the layer's last beat was handed to the bus


def _sum(values):
    """Balanced tree of additions."""
    while len(values) > 1:
        values = [sum(values[index:index + 2][1:], values[index]) for index in range(0, len(values), 2)]
    return values[0]


class Broadcaster(wiring.Component):
    """Activations from the cache to the PEs, in the order of the layer's walk (``docs/broadcaster.md``).

    Steady state with cache hits: a chunk of ``v`` value lines every ``v + 1`` cycles, an empty one inside its tensor
    every second cycle per group; the first beat of the layer is on the bus 22 cycles after ``start`` when the cache
    answers two cycles after it took a read (up to 4 value lines; 17 when the chunk is empty).

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    start : In(1)
        Begin a layer; only when no other runs.
    settings : In(settings_layout(config))
        The layer; has to stay as it is from ``start`` to ``finished``.
    fetch : Out(stream of fetch_layout(config))
        Chunks that will be read soon.
    read : Out(stream of read_layout(config))
        Lines needed now.
    response : In(response_layout(config))
        Answers to the reads, in order; room for them is kept.
    broadcast : Out(broadcast_layout(config))
        The bus to both arrays; ``broadcast.valid`` is a beat.
    slot_free, row_free : In(config.max_groups)
        Both arrays' bits ANDed: the group's PEs can take a chunk, a row. They count beats of the bus up to the cycle before.
    block_done : In(1)
        Pulse: an output bank was freed by the compressor.
    finished : Out(1)
        High when the layer's last beat was on the bus and no fetch waits for the cache any more, until the next ``start``.
    cause : Out(StallCause)
        BROADCAST in the cycle of a beat, else why there is none: CONTROL before the first layer, MEMORY, SLOT, ROW, OUTPUT
        while one runs (the first of these that applies), DRAIN after it.

    Raises
    ------
    TypeError
        When ``config`` is no ArchConfig.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1),
            "settings": In(settings_layout(config)),
            "fetch": Out(stream.Signature(fetch_layout(config))),
            "read": Out(stream.Signature(read_layout(config))),
            "response": In(response_layout(config)),
            "broadcast": Out(broadcast_layout(config)),
            "slot_free": In(config.max_groups),
            "row_free": In(config.max_groups),
            "block_done": In(1),
            "finished": Out(1),
            "cause": Out(StallCause),
        })

    @property
    def config(self):
        return self._config

    def elaborate(self, platform):
        m = Module()
        fetch_walk = m.submodules.fetch_walk = Walk(config=self.config)
        read_walk = m.submodules.read_walk = Walk(config=self.config)
        for walk in (fetch_walk, read_walk):
            m.d.comb += [walk.start.eq(self.start), walk.settings.eq(self.settings)]

        take = Signal()            # the read walk's chunk enters the chunk queue
        fetching = self._fetch(m, fetch_walk.o_chunk, take)
        queue = _ChunkQueue(m, self.config, read_walk.o_chunk.payload, take)
        lines = self._read(m, read_walk.o_chunk, queue, take, fetching)
        self._send(m, queue, lines)
        return m

    def _fetch(self, m, walk, take):
        """Hands chunks to the cache ahead of the reads; returns whether reads have to let the fetch go first."""
        # A fetch that the cache does not take never holds up reads: they pass it, and the fetch walk with them.
        ahead = Signal(range(self.config.fetch_ahead + 1))
        level = Signal(init=1)     # both walks are at the same chunk; a register, for reads wait for it
        fetch_free = Signal()
        fetch_step = Signal()
        m.d.comb += [
            fetch_free.eq(~self.fetch.valid | self.fetch.ready),
            fetch_step.eq(walk.valid & (ahead != self.config.fetch_ahead) & (fetch_free | walk.payload.outside)),
            walk.ready.eq(fetch_step | (level & take)),
        ]
        passed = Signal()          # the read walk follows
        m.d.comb += passed.eq(take & ~level)
        m.d.sync += ahead.eq(stepped(ahead, fetch_step, passed))
        with m.If(fetch_step & ~passed):
            m.d.sync += level.eq(0)
        with m.Elif(passed & ~fetch_step):
            m.d.sync += level.eq(ahead == 1)
        with m.If(fetch_free):
            m.d.sync += [
                self.fetch.valid.eq(fetch_step & ~walk.payload.outside),
                self.fetch.payload.address.eq(walk.payload.address),
                self.fetch.payload.lines.eq(self.settings.fetch_lines),
            ]
        return level & fetch_step

    def _read(self, m, walk, queue, take, fetching):
        """Issues mask and value reads and sorts the answers; returns the queue of value lines."""
        reserved = Signal(range(LINE_QUEUE + 1))     # lines asked for or in the line queue
        line_queue = _LineQueue(m, self.config)
        read_free = Signal()
        mask_wanted = Signal()     # the mask of the walk's chunk comes next; whether the cache takes a read is known later
        value_wanted = Signal()
        mask_read = Signal()
        value_read = Signal()
        number = Signal(3)         # value line within its chunk
        last_line = Signal()
        m.d.comb += [
            read_free.eq(~self.read.valid | self.read.ready),
            take.eq(walk.valid & queue.room & (read_free | walk.payload.outside) & ~fetching),
            walk.ready.eq(take),
            mask_wanted.eq(walk.valid & queue.room & ~walk.payload.outside & ~fetching),
            value_wanted.eq(queue.value_there & (queue.value_lines != 0) & (reserved != LINE_QUEUE) & ~mask_wanted),
            mask_read.eq(mask_wanted & read_free), value_read.eq(value_wanted & read_free),
            last_line.eq(number + 1 == queue.value_lines),
            queue.value_pass.eq(queue.value_there & ((queue.value_lines == 0) | (value_read & last_line))),
        ]
        with m.If(value_read):
            m.d.sync += number.eq(Mux(last_line, 0, number + 1))
        m.d.sync += reserved.eq(stepped(reserved, value_read, line_queue.pop))
        with m.If(read_free):
            m.d.sync += self.read.valid.eq(mask_read | value_read)
            with m.If(mask_read):
                m.d.sync += [self.read.payload.address.eq(walk.payload.address),
                             self.read.payload.consume.eq(walk.payload.consume)]
            with m.Else():
                m.d.sync += [self.read.payload.address.eq(queue.value_address + number + 1),
                             self.read.payload.consume.eq(queue.value_consume)]

        # What the answers will be, in order: a mask and the entry it belongs to, or a value line.
        answer = data.StructLayout({"is_mask": 1, "entry": range(CHUNK_QUEUE)})
        expected = m.submodules.expected = memory.Memory(shape=answer, depth=2 * LINE_QUEUE, init=[])
        write = expected.write_port()
        read = expected.read_port(domain="comb")
        m.d.comb += [write.en.eq(mask_read | value_read), write.data.is_mask.eq(mask_read), write.data.entry.eq(queue.tail)]
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)
        m.d.sync += read.addr.eq(read.addr + self.response.valid)
        m.d.comb += [
            line_queue.push.eq(self.response.valid & ~read.data.is_mask),
            line_queue.push_line.eq(self.response.line),
            queue.mask_valid.eq(self.response.valid & read.data.is_mask),
            queue.mask_entry.eq(read.data.entry),
            queue.mask.eq(self.response.line),
        ]
        return line_queue

    def _send(self, m, queue, lines):
        """Decides on a beat per cycle and keeps the bus's registers."""
        bus = self.broadcast
        head = queue.head_flags
        beats_left = Signal(4)     # of the chunk that is being sent
        blocks = Signal(range(self.config.row_buffers + 1))   # output banks in use
        phase = Signal(_Phase)
        layer_ends = Signal()      # the chunk being sent is the layer's last
        empty = Signal()
        between = Signal(init=1)   # no beat of the chunk is left: a register, for it begins the longest paths
        available = Signal()
        slot_ok = Signal()
        row_ok = Signal()
        bank_ok = Signal()
        first = Signal()
        following = Signal()
        last_beat = Signal()
        ends = Signal()
        m.d.comb += [
            empty.eq(queue.head_lines == 0),
            available.eq(queue.head_there & (empty | lines.there)),
            # The free bits do not know of the beat that is on the bus now: if it takes a slot of this group, wait.
            slot_ok.eq(self.slot_free.bit_select(head.group, 1) & ~(bus.valid & bus.first_beat & (bus.group == head.group))),
            row_ok.eq(~head.first_chunk | self.row_free.bit_select(head.group, 1)),
            bank_ok.eq(~head.new_block | (blocks != self.config.row_buffers)),
            first.eq(between & available & slot_ok & row_ok & bank_ok),
            following.eq(~between & lines.there),
            last_beat.eq(Mux(between, queue.head_lines <= 1, beats_left == 1)),
            ends.eq(last_beat & Mux(between, head.last_of_layer, layer_ends)),
            queue.head_pop.eq(first),
            lines.pop.eq(following | (first & ~empty)),
        ]
        m.d.sync += [bus.valid.eq(first | following), blocks.eq(stepped(blocks, first & head.new_block, self.block_done))]
        with m.If(first | following):
            m.d.sync += [between.eq(last_beat), bus.first_beat.eq(first), bus.last_beat.eq(last_beat),
                         bus.line.eq(Mux(between & empty, 0, lines.line))]
        with m.If(first):
            m.d.sync += [bus.group.eq(head.group), bus.mask.eq(queue.head_mask), layer_ends.eq(head.last_of_layer),
                         beats_left.eq(Mux(empty, 0, queue.head_lines - 1))]
            m.d.sync += [bus[name].eq(head[name]) for name in _CHUNK_FLAGS]
        with m.Elif(following):
            m.d.sync += beats_left.eq(beats_left - 1)

        with m.If(self.start):
            m.d.sync += phase.eq(_Phase.RUN)
        with m.Elif((first | following) & ends):
            m.d.sync += phase.eq(_Phase.SENT)
        m.d.sync += self.finished.eq((phase == _Phase.SENT) & ~self.start & (~self.fetch.valid | self.fetch.ready))

        with m.If(first | following):
            m.d.sync += self.cause.eq(StallCause.BROADCAST)
        with m.Elif(phase == _Phase.IDLE):
            m.d.sync += self.cause.eq(StallCause.CONTROL)
        with m.Elif(phase == _Phase.SENT):
            m.d.sync += self.cause.eq(StallCause.DRAIN)
        with m.Elif(~between | ~available):
            m.d.sync += self.cause.eq(StallCause.MEMORY)
        with m.Elif(~slot_ok):
            m.d.sync += self.cause.eq(StallCause.SLOT)
        with m.Elif(~row_ok):
            m.d.sync += self.cause.eq(StallCause.ROW)
        with m.Else():
            m.d.sync += self.cause.eq(StallCause.OUTPUT)


class _ChunkQueue:
    """Ring of chunks, from their mask read (``tail``) over their value reads (``value_*``) to their first beat (``head_*``).

    Part of the broadcaster's module. A mask that comes back is stored at once and its value lines are counted in two
    steps: the chunk can be used from the third cycle after the answer.
    """

    def __init__(self, m, config, chunk, push):
        self.tail = Signal(range(CHUNK_QUEUE), name="chunk_tail")
        self.room = Signal(name="chunk_room", init=1)
        self.mask_valid = Signal()
        self.mask_entry = Signal(range(CHUNK_QUEUE))
        self.mask = Signal(config.chunk_bits)
        self.value_there = Signal()
        self.value_pass = Signal()
        self.head_there = Signal()
        self.head_pop = Signal()

        value = Signal(range(CHUNK_QUEUE), name="chunk_value")
        head = Signal(range(CHUNK_QUEUE), name="chunk_head")
        behind = Signal(range(CHUNK_QUEUE), init=1, name="chunk_behind")  # the one after the head
        held = Signal(range(CHUNK_QUEUE + 1), name="chunks_held")
        unread = Signal(range(CHUNK_QUEUE + 1), name="chunks_unread")     # before or in their value reads
        unsent = Signal(range(CHUNK_QUEUE + 1), name="chunks_unsent")     # behind them
        ready = Signal(CHUNK_QUEUE, name="chunks_ready")                  # mask and number of lines are there
        m.d.comb += [
            self.value_there.eq((unread != 0) & ready.bit_select(value, 1)),
            self.head_there.eq(unsent != 0),
        ]
        with m.If(push):
            m.d.sync += self.tail.eq(self.tail + 1)
        with m.If(self.value_pass):
            m.d.sync += value.eq(value + 1)
        with m.If(self.head_pop):
            m.d.sync += [head.eq(head + 1), behind.eq(behind + 1)]
        m.d.sync += [held.eq(stepped(held, push, self.head_pop)), unread.eq(stepped(unread, push, self.value_pass)),
                     unsent.eq(stepped(unsent, self.value_pass, self.head_pop))]

        with m.If(push & ~self.head_pop):
            m.d.sync += self.room.eq(held != CHUNK_QUEUE - 1)
        with m.Elif(self.head_pop & ~push):
            m.d.sync += self.room.eq(1)

        def ring(name, shape, *readers):
            store = m.submodules[name] = memory.Memory(shape=shape, depth=CHUNK_QUEUE, init=[])
            ports = []
            for reader in readers:
                ports.append(store.read_port(domain="comb"))
                m.d.comb += ports[-1].addr.eq(reader)
            return store.write_port(), *(port.data for port in ports)

        described = ("address", "consume", "outside")
        request_layout = data.StructLayout({name: chunk_layout(config)[name].shape for name in described})
        flag_layout = data.StructLayout({name: field.shape for name, field in chunk_layout(config)
                                         if name not in ("address", "consume", "source")})
        request_write, request = ring("chunk_requests", request_layout, value)
        flag_write, head_flags = ring("chunk_flags", flag_layout, head)
        behind_flag_write, behind_flags = ring("behind_flags", flag_layout, behind)
        for port in (request_write, flag_write, behind_flag_write):
            m.d.comb += [port.en.eq(push), port.addr.eq(self.tail)]
            m.d.comb += [port.data[name].eq(chunk[name]) for name, _ in port.data.shape()]
        self.value_address = request.address
        self.value_consume = request.consume

        # The mask, and how many lines of values it stands for.
        slices = [self.mask[bit:bit + _SLICE] for bit in range(0, config.chunk_bits, _SLICE)]
        mask_write, head_mask = ring("chunk_masks", config.chunk_bits, head)
        count_write, value_lines, head_lines = ring("chunk_lines", 4, value, head)
        behind_count_write, behind_lines = ring("behind_lines", 4, behind)
        m.d.comb += [mask_write.en.eq(self.mask_valid), mask_write.addr.eq(self.mask_entry), mask_write.data.eq(self.mask)]
        answered = Signal(name="count_valid")
        entry = Signal(range(CHUNK_QUEUE), name="count_entry")
        mask = Signal(config.chunk_bits, name="count_mask")
        m.d.sync += [answered.eq(self.mask_valid), entry.eq(self.mask_entry), mask.eq(self.mask)]
        counted = Signal(name="counted_valid")
        counted_entry = Signal(range(CHUNK_QUEUE), name="counted_entry")
        counts = [Signal(range(_SLICE + 1), name=f"count{index}") for index in range(len(slices))]
        m.d.sync += [counted.eq(answered), counted_entry.eq(entry)]
        m.d.sync += [count.eq(_sum(list(mask[index * _SLICE:(index + 1) * _SLICE]))) for index, count in enumerate(counts)]
        lines = (_sum(counts) + (config.line_bytes - 1)) >> (config.line_bytes.bit_length() - 1)
        for port in (count_write, behind_count_write):
            m.d.comb += [port.en.eq(counted), port.addr.eq(counted_entry), port.data.eq(lines)]
        with m.If(counted):
            m.d.sync += ready.bit_select(counted_entry, 1).eq(1)
        with m.If(push):
            m.d.sync += ready.bit_select(self.tail, 1).eq(chunk.outside)

        # A chunk outside its tensor was not read: what the memories hold for it is of another one.
        self.value_lines = Mux(request.outside, 0, value_lines)
        # What decides on a beat stands in registers: the head, or the chunk behind it when the head goes. Both were written a cycle before
        # the head can be there. Memories of their own for the second, or synthesis makes one port of both and its address waits for the choice.
        self.head_flags, self.head_lines = Signal(flag_layout, name="head_flags"), Signal(4, name="head_lines")
        m.d.sync += [self.head_flags.eq(Mux(self.head_pop, behind_flags, head_flags)),
                     self.head_lines.eq(Mux(self.head_pop, Mux(behind_flags.outside, 0, behind_lines), Mux(head_flags.outside, 0, head_lines)))]
        self.head_mask = Mux(self.head_flags.outside, 0, head_mask)


class _LineQueue:
    """Ring of value lines between the cache's answers and the bus; part of the broadcaster's module."""

    def __init__(self, m, config):
        self.push = Signal(name="line_push")
        self.push_line = Signal(config.chunk_bits)
        self.pop = Signal(name="line_pop")
        self.there = Signal(name="line_there")
        self.level = Signal(range(LINE_QUEUE + 1), name="lines_held")
        store = m.submodules.line_queue = memory.Memory(shape=config.chunk_bits, depth=LINE_QUEUE, init=[])
        write = store.write_port()
        read = store.read_port(domain="comb")
        with m.If(self.push):
            m.d.sync += write.addr.eq(write.addr + 1)
        with m.If(self.pop):
            m.d.sync += read.addr.eq(read.addr + 1)
        m.d.sync += self.level.eq(stepped(self.level, self.push, self.pop))
        m.d.comb += [write.en.eq(self.push), write.data.eq(self.push_line), self.there.eq(self.level != 0)]
        self.line = read.data
