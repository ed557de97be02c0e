"""FiberCache: a banked cache whose replacement knows which lines will be read and which were."""
from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from neuroflex.cache_policy import CLIENT_QUEUE, bank_bits, set_bits, tag_bits
from neuroflex.config import ArchConfig
from neuroflex.hdl.cache_bank import CLIENTS, CacheBank, Client
from neuroflex.layouts import (burst_layout, fetch_layout, line_write_layout, read_data_layout, read_layout, response_layout,
                               write_layout)

__all__ = ["FiberCache", "ReplayQueue"]


def _pick(choices):
    """OR of the values whose condition holds; at most one does."""
    result = 0
    for condition, value in choices:
        result = result | Mux(condition, value, 0)
    return result


class ReplayQueue(wiring.Component):
    """A queue of operations that stay until they have taken effect, and may be tried again.

    Parameters
    ----------
    shape : ShapeLike
        An operation.

    Members
    -------
    i_stream : In(stream)
        Operations; ready depends on registers only. A new one can be issued in the cycle after it was accepted.
    closed : In(1)
        Accept nothing. Must come from a register.
    ready_to_issue, payload
        An operation not yet issued, in order.
    issue : In(1)
        It was granted; the next one follows.
    done : In(1)
        The oldest operation has taken effect and leaves.
    again : In(1)
        All operations, but the one that is done, must be issued again; overrules ``issue``.
    level : Out
        Operations in the queue, issued or not.
    entries, occupied
        All operations in the queue, in no particular order.
    """

    def __init__(self, shape):
        self._shape = shape
        super().__init__({
            "i_stream": In(stream.Signature(shape)),
            "closed": In(1),
            "ready_to_issue": Out(1),
            "payload": Out(shape),
            "issue": In(1),
            "done": In(1),
            "again": In(1),
            "level": Out(range(CLIENT_QUEUE + 1)),
            "entries": Out(data.ArrayLayout(shape, CLIENT_QUEUE)),
            "occupied": Out(CLIENT_QUEUE),
        })

    def elaborate(self, platform):
        m = Module()
        entries = Signal(data.ArrayLayout(self._shape, CLIENT_QUEUE))
        occupied = Signal(CLIENT_QUEUE)
        head, next_, tail = (Signal(range(CLIENT_QUEUE), name=name) for name in ("head", "next", "tail"))
        waiting = Signal(range(CLIENT_QUEUE + 1))
        level = Signal(range(CLIENT_QUEUE + 1))
        accept = Signal()
        m.d.comb += [
            self.i_stream.ready.eq((level != CLIENT_QUEUE) & ~self.closed),
            accept.eq(self.i_stream.valid & self.i_stream.ready),
            self.ready_to_issue.eq(waiting != 0),
            self.payload.eq(entries[next_]),
            self.level.eq(level),
            self.entries.eq(entries),
            self.occupied.eq(occupied),
        ]
        with m.If(accept):
            m.d.sync += [entries[tail].eq(self.i_stream.payload), occupied.bit_select(tail, 1).eq(1), tail.eq(tail + 1)]
        with m.If(self.done):
            m.d.sync += [occupied.bit_select(head, 1).eq(0), head.eq(head + 1)]
        m.d.sync += level.eq(level + accept - self.done)
        with m.If(self.again):
            m.d.sync += [next_.eq(head + self.done), waiting.eq(level + accept - self.done)]
        with m.Else():
            m.d.sync += [next_.eq(next_ + self.issue), waiting.eq(waiting + accept - self.issue)]
        return m


class FiberCache(wiring.Component):
    """Cache of chunk lines between the memory port, the broadcaster and the compressor.

    See ``docs/fibercache.md`` for the picture, the meaning of the operations, and why it cannot lock up.
    After reset it invalidates itself: ``busy`` for ``cache_sets`` cycles and one.

    Parameters
    ----------
    config : ArchConfig
        ``cache_banks``, ``cache_ways``, ``cache_sets``, ``pending_lines``, ``write_buffer``, ``chunk_bits`` and
        ``address_bits`` matter.

    Members
    -------
    fetch : In(stream of :func:`~neuroflex.layouts.fetch_layout`)
        Hints: ``lines`` (at least 1) lines will be read soon.
    read : In(stream of :func:`~neuroflex.layouts.read_layout`)
        One line per cycle while they hit and no two follow each other in one set of a bank.
    response : Out(:func:`~neuroflex.layouts.response_layout`)
        Lines in the order of the reads; at the earliest ``READ_LATENCY`` (5) cycles after the read was accepted.
    write : In(stream of :func:`~neuroflex.layouts.write_layout`)
        Lines to keep, or to pass on (``through``).
    read_request : Out(stream of :func:`~neuroflex.layouts.burst_layout`)
        Bursts to memory, issued only after every write before them was handed over.
    read_data : In(stream of :func:`~neuroflex.layouts.read_data_layout`)
        Their lines, in order.
    write_request : Out(stream of :func:`~neuroflex.layouts.line_write_layout`)
        Evicted lines and lines passed on.
    invalidate : In(1)
        Pulse: serve what was accepted, then forget all lines without writing them back.
    busy : Out(1)
        From the cycle after ``invalidate`` until done; nothing is accepted from the clients meanwhile.
    idle : Out(1)
        Nothing is under way: no operation, no response, no line from or to memory. Lines may be dirty.
    hit, miss : Out(1)
        Pulses, one of the two per demand read: it was answered at once from the cache, or not.
    eviction : Out(1)
        Pulse: a dirty line was handed to the write buffer to make room.
    error : Out(1)
        Pulse: a line came from memory with an error. It is stored and answered all the same.

    Raises
    ------
    TypeError
        When ``config`` is not an :class:`~neuroflex.config.ArchConfig`.
    """

    def __init__(self, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "fetch": In(stream.Signature(fetch_layout(config))),
            "read": In(stream.Signature(read_layout(config))),
            "response": Out(response_layout(config)),
            "write": In(stream.Signature(write_layout(config))),
            "read_request": Out(stream.Signature(burst_layout(config))),
            "read_data": In(stream.Signature(read_data_layout(config))),
            "write_request": Out(stream.Signature(line_write_layout(config))),
            "invalidate": In(1),
            "busy": Out(1),
            "idle": Out(1),
            "hit": Out(1),
            "miss": Out(1),
            "eviction": Out(1),
            "error": Out(1),
        })

    @property
    def config(self):
        """The configuration."""
        return self._config

    def elaborate(self, platform):
        config = self._config
        address_shape, line_shape = config.address_bits, config.chunk_bits
        pending_count = config.pending_lines
        slot_shape = range(pending_count)
        m = Module()

        # --- client queues --------------------------------------------------------------------------
        fill_layout = data.StructLayout({"address": address_shape, "line": line_shape, "slot": slot_shape})
        layouts = {Client.FILL: fill_layout, Client.READ: read_layout(config), Client.WRITE: write_layout(config),
                   Client.FETCH: fetch_layout(config)}
        queues = {client: ReplayQueue(layout) for client, layout in layouts.items()}
        for client, queue in queues.items():
            m.submodules[f"{client.name.lower()}_queue"] = queue
        wiring.connect(m, wiring.flipped(self.fetch), queues[Client.FETCH].i_stream)
        wiring.connect(m, wiring.flipped(self.read), queues[Client.READ].i_stream)
        wiring.connect(m, wiring.flipped(self.write), queues[Client.WRITE].i_stream)
        fills = queues[Client.FILL].i_stream

        # Operations of a client in the look-up and in the effect stage: at most one each, in some bank.
        look = {client: Signal(layout, name=f"look_{client.name.lower()}") for client, layout in layouts.items()}
        act = {client: Signal(layout, name=f"act_{client.name.lower()}") for client, layout in layouts.items()}
        for client in Client:
            m.d.sync += [look[client].eq(queues[client].payload), act[client].eq(look[client])]

        # --- state of misses, of the memory side and of the invalidation -------------------------------
        missing, searched, known, waiting = (Signal(name=f"miss_{name}")
                                             for name in ("active", "searched", "known", "waiting"))
        miss_address, miss_consume = Signal(address_shape), Signal()
        absent, absent_searched, absent_known = (Signal(name=f"fetch_{name}") for name in ("absent", "searched", "known"))
        absent_burst = Signal(fetch_layout(config))
        staged, staged_burst = Signal(), Signal(burst_layout(config))
        stored, kill = Signal(range(config.write_buffer + 1)), Signal()     # lines in the write buffer; one comes next
        drained = Signal()
        draining, clearing, clear_set = Signal(), Signal(init=1), Signal(set_bits(config))

        # --- banks ----------------------------------------------------------------------------------
        low, middle = bank_bits(config), bank_bits(config) + set_bits(config)
        wants = Signal(CLIENTS)
        behind_write = Signal()
        writes = queues[Client.WRITE]
        m.d.comb += behind_write.eq(Cat(
            writes.occupied[i] & (writes.entries[i].address == queues[Client.READ].payload.address)
            for i in range(CLIENT_QUEUE)).any())
        hold = {Client.FILL: 0, Client.READ: missing | behind_write, Client.WRITE: staged, Client.FETCH: absent}
        m.d.comb += [wants[client].eq(queues[client].ready_to_issue & ~hold[client]) for client in Client]

        banks = []
        issued, done, again = Signal(CLIENTS), Signal(CLIENTS), Signal(CLIENTS)
        room, fill_presses, fill_evicts, write_evicts, read_hits, fetch_absent = (
            Signal(name=name) for name in ("room", "fill_presses", "fill_evicts", "write_evicts", "read_hits", "fetch_absent"))
        fill_skip, fill_demand, consume, through = (
            Signal(name=name) for name in ("fill_skip", "fill_demand", "consume", "through"))
        fill_line, write_line = Signal(line_shape), Signal(line_shape)
        m.d.comb += [consume.eq(act[Client.READ].consume), through.eq(act[Client.WRITE].through),
                     fill_line.eq(act[Client.FILL].line), write_line.eq(act[Client.WRITE].line)]
        replay = Signal(CLIENTS)
        for number in range(config.cache_banks):
            bank = CacheBank(config)
            m.submodules[f"bank_{number}"] = bank
            banks.append(bank)
            for client in Client:
                address = queues[client].payload.address
                m.d.comb += [bank.request[client].eq(wants[client] & (address[:low] == number)),
                             bank.set[client].eq(address[low:middle]), bank.tag[client].eq(address[middle:])]
            m.d.comb += [
                bank.replay.eq(replay),
                bank.room.eq(room), bank.write_room.eq(room & ~fill_presses),
                bank.fill_skip.eq(fill_skip), bank.fill_demand.eq(fill_demand),
                bank.consume.eq(consume), bank.through.eq(through),
                bank.fill_line.eq(fill_line), bank.write_line.eq(write_line),
                bank.clear.eq(clearing), bank.clear_set.eq(clear_set),
            ]

        def any_bank(name):
            result = 0
            for bank in banks:
                result = result | getattr(bank, name)
            return result

        fetch_lost = Signal()
        m.d.comb += [
            issued.eq(any_bank("grant")),
            done.eq(any_bank("done")),
            again.eq(any_bank("again")),
            fill_presses.eq(any_bank("fill_presses")),
            fill_evicts.eq(any_bank("fill_evicts")),
            write_evicts.eq(any_bank("write_evicts")),
            read_hits.eq(any_bank("read_hits")),
            fetch_absent.eq(any_bank("fetch_absent")),
            room.eq((stored != config.write_buffer) & ~(kill & (stored == config.write_buffer - 1))),
            drained.eq((stored == 0) & ~kill),
            # A fetch that finds nothing while the one before is still being requested must come back.
            fetch_lost.eq(fetch_absent & absent),
            replay.eq(again | fetch_lost << Client.FETCH.value),
        ]

        # --- demand misses: search the pending lines, request the line if it is not among them, wait ---
        fill_act, fill_look = act[Client.FILL], look[Client.FILL]
        wanted, killed = Signal(), Signal()        # of the fill in the effect stage
        answered = Signal()
        pending_address = Array(Signal(address_shape, name=f"pending_address_{i}") for i in range(pending_count))
        pending_valid, pending_killed = Signal(pending_count), Signal(pending_count)

        def pending(address):
            return Cat(pending_valid[i] & ~pending_killed[i] & (pending_address[i] == address)
                       for i in range(pending_count)).any()

        m.d.sync += [wanted.eq(missing & (fill_look.address == miss_address)),
                     killed.eq(pending_killed.bit_select(fill_look.slot, 1))]
        m.d.comb += [
            fill_demand.eq(wanted & missing & ~killed),
            fill_skip.eq(killed | fill_demand & miss_consume),
        ]
        filled, filled_slot, filled_line = Signal(), Signal(slot_shape), Signal(line_shape)
        outdated = Signal()
        m.d.sync += [
            filled.eq(done[Client.FILL]), filled_slot.eq(fill_act.slot), filled_line.eq(fill_line),
            answered.eq(fill_demand & done[Client.FILL]), outdated.eq(wanted & killed & done[Client.FILL]),
        ]
        grant_miss, grant_fetch = Signal(), Signal()
        m.d.sync += [known.eq(pending(miss_address)), searched.eq(missing)]
        with m.If(again[Client.READ]):
            m.d.sync += [missing.eq(1), miss_address.eq(act[Client.READ].address), miss_consume.eq(act[Client.READ].consume)]
        with m.If(missing):
            with m.If(grant_miss | searched & known):
                m.d.sync += waiting.eq(1)
            # The pending line turned out to be outdated: search again.
            with m.If(waiting & outdated):
                m.d.sync += [waiting.eq(0), searched.eq(0)]
            with m.If(answered):
                m.d.sync += [missing.eq(0), searched.eq(0), waiting.eq(0)]

        # --- fetches of absent lines --------------------------------------------------------------------
        m.d.sync += [absent_known.eq(pending(absent_burst.address)), absent_searched.eq(absent)]
        with m.If(fetch_absent & ~absent):
            m.d.sync += [absent.eq(1), absent_burst.eq(act[Client.FETCH])]
        with m.If(grant_fetch | absent_searched & absent_known):
            m.d.sync += [absent.eq(0), absent_searched.eq(0)]

        # --- pending lines: reserved at the grant, entered one per cycle, then requested in one burst ------
        reserved = Signal(range(pending_count + 1))
        entering, burst = Signal(), Signal(burst_layout(config))
        entered = Signal(fetch_layout(config)["lines"].width)
        arrive, tail = Signal(slot_shape), Signal(slot_shape)
        free = Signal()
        m.d.comb += [
            free.eq(~entering & ~staged),
            grant_miss.eq(missing & searched & ~known & ~waiting & free & (reserved != pending_count)),
            grant_fetch.eq(absent & absent_searched & ~absent_known & free & ~(missing & searched & ~known & ~waiting)
                           & (reserved + absent_burst.lines <= pending_count)),
        ]
        with m.If(grant_miss):
            m.d.sync += [entering.eq(1), burst.address.eq(miss_address), burst.lines.eq(1), entered.eq(0)]
        with m.If(grant_fetch):
            m.d.sync += [entering.eq(1), burst.address.eq(absent_burst.address), burst.lines.eq(absent_burst.lines),
                         entered.eq(0)]
        m.d.sync += reserved.eq(reserved + Mux(grant_miss, 1, Mux(grant_fetch, absent_burst.lines, 0)) - filled)
        entry_address = Signal(address_shape)
        m.d.comb += entry_address.eq(burst.address + entered)

        kill_address = Signal(address_shape)
        for i in range(pending_count):
            with m.If(kill & (pending_address[i] == kill_address)):
                m.d.sync += pending_killed[i].eq(1)
            with m.If(filled & (filled_slot == i)):
                m.d.sync += pending_valid[i].eq(0)
            with m.If(entering & (tail == i)):
                m.d.sync += [pending_valid[i].eq(1), pending_killed[i].eq(0), pending_address[i].eq(entry_address)]
        with m.If(entering):
            m.d.sync += [tail.eq(tail + 1), entered.eq(entered + 1)]
            with m.If(entered + 1 == burst.lines):
                m.d.sync += [entering.eq(0), staged.eq(1), staged_burst.eq(burst)]

        request_valid, request = Signal(), Signal(burst_layout(config))
        m.d.comb += [self.read_request.valid.eq(request_valid), self.read_request.payload.eq(request)]
        with m.If(self.read_request.ready):
            m.d.sync += request_valid.eq(0)
        with m.If(staged & drained & (~request_valid | self.read_request.ready)):
            m.d.sync += [staged.eq(0), request_valid.eq(1), request.eq(staged_burst)]

        m.d.comb += [
            fills.valid.eq(self.read_data.valid), self.read_data.ready.eq(fills.ready),
            fills.payload.line.eq(self.read_data.payload.line),
            fills.payload.address.eq(pending_address[arrive]), fills.payload.slot.eq(arrive),
        ]
        with m.If(self.read_data.valid & self.read_data.ready):
            m.d.sync += arrive.eq(arrive + 1)

        for client, queue in queues.items():
            m.d.comb += [queue.issue.eq(issued[client]), queue.closed.eq(0 if client == Client.FILL else self.busy)]
            if client == Client.READ:
                m.d.comb += [queue.done.eq(done[client] | answered), queue.again.eq(again[client] | answered)]
            elif client == Client.FETCH:
                m.d.comb += [queue.done.eq(done[client] & ~fetch_lost), queue.again.eq(fetch_lost)]
            else:
                m.d.comb += [queue.done.eq(done[client]), queue.again.eq(again[client])]

        # --- responses: from the banks one cycle after the effect, or the line that a miss waited for ------
        hit_bank = Signal(config.cache_banks)
        m.d.sync += [
            hit_bank.eq(Cat(bank.read_hits for bank in banks)),
            self.response.valid.eq(hit_bank.any() | answered),
            self.response.line.eq(_pick([*zip(hit_bank, (bank.line for bank in banks)), (answered, filled_line)])),
        ]

        # --- write buffer -----------------------------------------------------------------------------------
        entry_layout = line_write_layout(config)
        m.submodules.write_buffer = buffer = Memory(shape=entry_layout, depth=config.write_buffer, init=[])
        put, get = buffer.write_port(), buffer.read_port(domain="comb")
        take, buffering, passed = Signal(), Signal(), Signal()
        was_passed, passed_address, passed_line = Signal(), Signal(address_shape), Signal(line_shape)
        evict_bank = Signal(config.cache_banks)
        m.d.comb += [
            passed.eq(done[Client.WRITE] & through),
            buffering.eq(fill_evicts | write_evicts | passed),
            self.write_request.valid.eq(stored != 0),
            self.write_request.payload.eq(get.data),
            take.eq(self.write_request.valid & self.write_request.ready),
        ]
        m.d.sync += [
            kill.eq(buffering), was_passed.eq(passed), passed_address.eq(act[Client.WRITE].address),
            passed_line.eq(write_line),
            evict_bank.eq(Cat(bank.fill_evicts | bank.write_evicts for bank in banks)),
            stored.eq(stored + kill - take),
        ]
        m.d.comb += [
            kill_address.eq(_pick([
                *((evict_bank[i], Cat(Const(i, low), bank.victim_set, bank.victim_tag)) for i, bank in enumerate(banks)),
                (was_passed, passed_address)])),
            put.en.eq(kill),
            put.data.address.eq(kill_address),
            put.data.line.eq(_pick([*zip(evict_bank, (bank.line for bank in banks)), (was_passed, passed_line)])),
        ]
        with m.If(put.en):
            m.d.sync += put.addr.eq(put.addr + 1)
        with m.If(take):
            m.d.sync += get.addr.eq(get.addr + 1)

        # --- invalidation, idle, events -----------------------------------------------------------------------
        quiet = Signal()
        m.d.comb += [
            quiet.eq((Cat(queue.level != 0 for queue in queues.values()) == 0) & ~missing & ~absent & ~entering & ~staged
                     & ~request_valid & (reserved == 0)),
            self.busy.eq(draining | clearing),
            self.idle.eq(quiet & drained & ~hit_bank.any() & ~answered & ~self.response.valid & ~self.busy),
        ]
        with m.If(self.invalidate & ~self.busy):
            m.d.sync += draining.eq(1)
        with m.If(draining & quiet):
            m.d.sync += [draining.eq(0), clearing.eq(1)]
        with m.If(clearing):
            m.d.sync += clear_set.eq(clear_set + 1)
            with m.If(clear_set == config.cache_sets - 1):
                m.d.sync += clearing.eq(0)
        m.d.sync += [
            self.hit.eq(read_hits), self.miss.eq(again[Client.READ]), self.eviction.eq(fill_evicts | write_evicts),
            self.error.eq(self.read_data.valid & self.read_data.ready & self.read_data.payload.error),
        ]
        return m
