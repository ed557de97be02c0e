"""Proofs on the control of FiberCache and MemoryArbiter.

Test plan
---------
* `ReplayQueue`, all cycles: an operation that is followed is issued in its turn, soon, again whenever it must be, and leaves exactly once;
* `MemoryArbiter`, the first cycles from reset, any clients and any memory: a burst that is followed gets its own lines,
  all of them, and no other client ever gets one; ``idle`` only when all was answered;
* `FiberCache` with 2 banks x 2 ways x 2 sets, reads of one address and any writes, the first `CACHE_DEPTH` cycles from reset: never more
  responses than reads, ``idle`` only when they are equal and memory owes nothing, a line that was written is the line that is read.
  Within these cycles, by covers: a hit, a miss that memory answers, the eviction of a dirty line, and that of the line that is followed;
* not vacuous: the claims that none of this ever happens fail.
"""
import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, ResetSignal, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from neuroflex.cache_policy import CLIENT_QUEUE
from neuroflex.config import ArchConfig
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl import fibercache
from neuroflex.hdl.fibercache import FiberCache, ReplayQueue
from neuroflex.layouts import read_layout, write_layout
from neuroflex.hdl.memory_arbiter import MemoryArbiter

pytestmark = pytest.mark.formal

SMALLEST = ArchConfig(name="formal", chunk_bits=32, ann_pes=2, snn_pes=2, laggy_adders=8, cache_banks=2, cache_ways=2,
                      cache_sets=4, pending_lines=16, write_buffer=2, address_bits=12)
CACHE_DEPTH = 20


def _smaller_than_allowed(config, **fields):
    """A configuration that ArchConfig refuses, though the cache by itself works with it."""
    config = config.replace()
    for name, value in fields.items():
        object.__setattr__(config, name, value)
    return config


# Two sets are cleared two cycles sooner than four, four tags are enough for two ways, and there are no bursts: all of it leaves more of the
# cycles that can be searched to what happens after a miss.
CACHE = _smaller_than_allowed(SMALLEST, cache_sets=2, address_bits=4, pending_lines=2)


class QueueContract(wiring.Component):
    """One operation carries a mark; ``never`` adds the false claim that it never leaves after a second try."""

    def __init__(self, never=False):
        self._never = never
        super().__init__({name: In(1) for name in ("valid", "mark", "closes", "issue", "done", "again")})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = ReplayQueue(1)
        marked, left, tries = Signal(), Signal(), Signal(2)
        ahead = Signal(range(CLIENT_QUEUE + 1))            # operations before the marked one
        issued = Signal(range(CLIENT_QUEUE + 1))           # operations issued since the last failure and not done
        accept, mark, turn = Signal(), Signal(), Signal()
        level = Signal(range(CLIENT_QUEUE + 1))            # operations in the queue
        closed = Signal()                                  # told a cycle before
        m.d.sync += [level.eq(level + accept - self.done), closed.eq(self.closes)]
        m.d.comb += [
            Assume(~ResetSignal()),
            queue.i_stream.valid.eq(self.valid), mark.eq(self.mark & ~marked), queue.i_stream.payload.eq(mark),
            queue.closes.eq(self.closes), queue.issue.eq(self.issue), queue.done.eq(self.done), queue.again.eq(self.again),
            accept.eq(queue.i_stream.valid & queue.i_stream.ready),
            turn.eq(marked & ~left & (ahead == issued)),
            # Only what is there is issued; only what was issued is done or fails, but an answered miss is both.
            Assume(~self.issue | queue.ready_to_issue),
            Assume(~self.done | (issued != 0) | self.again & (level != 0)),
            Assume(~self.again | (level != 0)),
        ]
        m.d.sync += issued.eq(Mux(self.again, 0, issued + self.issue - self.done))
        with m.If(accept & mark):
            m.d.sync += [marked.eq(1), ahead.eq(level - self.done)]
        with m.Elif(marked & ~left):
            with m.If(self.done):
                m.d.sync += [ahead.eq(ahead - 1), left.eq(ahead == 0)]
            with m.If(self.issue & turn & ~self.again & (tries != 3)):
                m.d.sync += tries.eq(tries + 1)
        m.d.comb += [
            Assert(level <= CLIENT_QUEUE), Assert(queue.empty == (level == 0)),
            Assert(~queue.ready_to_issue | (issued < level)),
            Assert(~queue.ready_to_issue | (queue.payload == turn)),
            Assert(~(accept & closed)),
        ]
        # It is offered at the latest two cycles after its turn has come.
        late = Signal(2)
        with m.If(turn & ~queue.ready_to_issue & ~self.again & ~self.done & ~self.issue):
            m.d.sync += late.eq(late + 1)
        with m.Else():
            m.d.sync += late.eq(0)
        m.d.comb += Assert(late != 2)
        if self._never:
            m.d.comb += Assert(~(left & (tries > 1)))
        return m


class ArbiterContract(wiring.Component):
    """A burst of either reader is followed from its request to its last line.

    The memory answers in order and marks the lines of the followed burst; ``never`` claims that it is never complete.
    """

    def __init__(self, never=False):
        self._never = never
        super().__init__({"free": In(data.StructLayout({
            "write": 1, "cache": 1, "sequencer": 1, "follow": 1, "lines": data.ArrayLayout(2, 2), "cache_ready": 1,
            "sequencer_ready": 1, "request_ready": 1, "line_ready": 1, "answer": 1, "confirm": 1}))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = MemoryArbiter(SMALLEST)
        free = self.free
        marked, whose, length, got = Signal(), Signal(), Signal(2), Signal(3)
        clients = (arbiter.cache_request, arbiter.sequencer_request)
        outputs = (arbiter.cache_data, arbiter.sequencer_data)
        m.d.comb += [Assume(~ResetSignal()), *(Assume(lines != 0) for lines in free.lines)]
        m.d.comb += [
            arbiter.cache_write.valid.eq(free.write),
            arbiter.request.ready.eq(free.request_ready), arbiter.write_data.ready.eq(free.line_ready),
            arbiter.cache_data.ready.eq(free.cache_ready), arbiter.sequencer_data.ready.eq(free.sequencer_ready),
        ]
        for number, (client, wish) in enumerate(zip(clients, (free.cache, free.sequencer))):
            mark = free.follow & ~marked if number == 0 else free.follow & ~marked & ~free.cache
            m.d.comb += [client.valid.eq(wish), client.payload.lines.eq(free.lines[number]), client.payload.address.eq(mark)]
            with m.If(client.valid & client.ready & mark):
                m.d.sync += [marked.eq(1), whose.eq(number), length.eq(free.lines[number])]

        # The memory: lines owed before, of, and after the followed burst; writes owed.
        before, of, after = Signal(7), Signal(2), Signal(7)
        seen = Signal()
        unconfirmed = Signal(6)
        sent = arbiter.request.valid & arbiter.request.ready
        read = sent & ~arbiter.request.payload.write
        took = Signal()
        m.d.comb += [
            Assume(~free.answer | (before + of + after != 0)),
            Assume(~free.confirm | (unconfirmed != 0)),
            arbiter.read_data.valid.eq(free.answer), arbiter.read_data.payload.line.eq((before == 0) & (of != 0)),
            arbiter.write_done.valid.eq(free.confirm), took.eq(free.answer & arbiter.read_data.ready),
        ]
        m.d.sync += unconfirmed.eq(unconfirmed + (sent & arbiter.request.payload.write) - free.confirm)
        lines = arbiter.request.payload.lines
        with m.If(read & (arbiter.request.payload.address[0] == 1)):
            m.d.sync += [seen.eq(1), of.eq(lines)]
        m.d.sync += [
            before.eq(before + Mux(read & ~seen & (arbiter.request.payload.address[0] == 0), lines, 0) - (took & (before != 0))),
            after.eq(after + Mux(read & seen, lines, 0) - (took & (before == 0) & (of == 0))),
        ]
        with m.If(took & (before == 0) & (of != 0)):
            m.d.sync += of.eq(of - 1)
        for number, output in enumerate(outputs):
            ours = output.valid & output.payload.line[0]
            m.d.comb += Assert(~ours | marked & (whose == number) & (got < length))
            with m.If(ours & output.ready):
                m.d.sync += got.eq(got + 1)
        m.d.comb += Assert(~arbiter.idle | (before + of + after == 0) & (unconfirmed == 0) & (~marked | (got == length)))
        if self._never:
            m.d.comb += Assert(~(marked & (got == 2) & (length == 2)))
        return m


class CacheContract(wiring.Component):
    """Any reads of one address, chosen freely, any writes of all addresses, any memory; no fetches, no consumption, no invalidation.

    ``claim``: "contract"; "never", that the line is never read as written; "reached", the covers.
    """

    def __init__(self, claim="contract"):
        self._claim = claim
        super().__init__({
            "address": In(CACHE.address_bits), "read": In(read_layout(CACHE)), "write": In(write_layout(CACHE)),
            "free": In(data.StructLayout({"read": 1, "write": 1, "answer": 1, "request_ready": 1, "write_ready": 1}))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cache = cache = FiberCache(CACHE)
        free = self.free
        followed, started = Signal(CACHE.address_bits), Signal()
        m.d.sync += [followed.eq(self.address), started.eq(1)]
        line, memory_line = Signal(), Signal()         # bit 0 of the newest line at the address, and of memory's
        waiting, owed = Signal(5), Signal(8)
        ask, tell, read_line = Signal(), Signal(), Signal()      # read_line: what memory held when it was asked
        here_read, here_write = self.read.address == followed, self.write.address == followed
        m.d.comb += [
            Assume(~ResetSignal()), Assume(~started | (self.address == followed)), Assume(~self.read.consume),
            cache.read.valid.eq(free.read), cache.read.payload.eq(self.read), ask.eq(free.read & cache.read.ready),
            cache.write.valid.eq(free.write), cache.write.payload.eq(self.write), tell.eq(free.write & cache.write.ready),
            cache.read_request.ready.eq(free.request_ready), cache.write_request.ready.eq(free.write_ready),
            # All reads are of the followed line; it is not written while one is under way.
            Assume(~free.read | here_read), Assume(~(tell & here_write & (waiting != 0))),
            Assume(~free.answer | (owed != 0)), cache.read_data.valid.eq(free.answer),
            cache.read_data.payload.line.eq(read_line),
        ]
        with m.If(tell & here_write):
            m.d.sync += line.eq(self.write.line[0])
        sent = cache.write_request.valid & cache.write_request.ready
        with m.If(sent & (cache.write_request.payload.address == followed)):
            m.d.sync += memory_line.eq(cache.write_request.payload.line[0])
        asked = cache.read_request.valid & cache.read_request.ready
        with m.If(asked):       # all reads are of the followed line, so the requests are
            m.d.sync += read_line.eq(memory_line)
        m.d.sync += [waiting.eq(waiting + ask - cache.response.valid),
                     owed.eq(owed + Mux(asked, cache.read_request.payload.lines, 0) - (free.answer & cache.read_data.ready))]
        m.d.comb += [
            Assert(~cache.response.valid | (waiting != 0)),
            Assert(~cache.response.valid | (cache.response.line[0] == line)),
            Assert(~cache.idle | (waiting == 0) & (owed == 0)),
        ]
        if self._claim == "never":
            m.d.comb += Assert(~(cache.response.valid & line))
        if self._claim == "reached":
            came, passed = Signal(), Signal()
            m.d.sync += [came.eq(came | free.answer & cache.read_data.ready), passed.eq(passed | tell & here_write & self.write.through)]
            m.d.comb += [Cover(cache.hit), Cover(cache.response.valid & ~came), Cover(cache.response.valid & came), Cover(cache.eviction),
                         Cover(cache.eviction & (waiting != 0)),
                         Cover(sent & ~passed & (cache.write_request.payload.address == followed))]
        return m


def test_replay_queue():
    prove(QueueContract())
    with pytest.raises(ProofFailed):
        prove(QueueContract(never=True))


def test_arbiter():
    prove(ArbiterContract(), mode="bmc", depth=9)
    with pytest.raises(ProofFailed):
        prove(ArbiterContract(never=True), mode="bmc", depth=9)


@pytest.fixture
def short_queues(monkeypatch):
    """Client queues of 4 operations: full ones, and their pointers' turn, come within the depth."""
    monkeypatch.setattr(fibercache, "CLIENT_QUEUE", 4)


def test_cache(short_queues):
    prove(CacheContract(), mode="bmc", depth=CACHE_DEPTH)
    with pytest.raises(ProofFailed):
        prove(CacheContract("never"), mode="bmc", depth=CACHE_DEPTH)


def test_cache_reaches_misses_and_evictions(short_queues):
    prove(CacheContract("reached"), mode="cover", depth=CACHE_DEPTH)
