"""FiberCache: a banked cache whose replacement knows which lines will be read and which were."""
from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from neuroflex.cache_policy import CLIENT_QUEUE, WRITE_SLACK, bank_bits, set_bits, tag_bits
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

    The next operation to be issued stands in a register of its own, the **front**.

    Parameters
    ----------
    shape : ShapeLike
        An operation.
    closed : bool
        Whether it accepts nothing in the first cycle after reset.

    Members
    -------
    i_stream : In(stream)
        Operations; ready depends on registers only. A new one can be issued two cycles after the one that accepted it.
    closes : In(1)
        Nothing is accepted in the next cycle.
    ready_to_issue, payload
        The front: an operation not yet issued, in order. From registers.
    issue : In(1)
        It was granted; the next one follows.
    place
        Where the front is kept, until it leaves: for what its user keeps beside it.
    load, candidate
        The front becomes ``candidate`` in the next cycle.
    done : In(1)
        The oldest operation has taken effect and leaves.
    again : In(1)
        All operations, but the one that is done, must be issued again, two cycles later at the earliest; overrules ``issue``.
    empty : Out
        No operation is in the queue, issued or not.
    oldest, newest : Out
        Place of the operation that leaves next, and of the one that is accepted next.
    """

    def __init__(self, shape, *, closed=False):
        self._shape, self._closed = shape, closed
        super().__init__({
            "i_stream": In(stream.Signature(shape)),
            "closes": In(1),
            "ready_to_issue": Out(1),
            "payload": Out(shape),
            "place": Out(range(CLIENT_QUEUE)),
            "issue": In(1),
            "load": Out(1),
            "candidate": Out(shape),
            "done": In(1),
            "again": In(1),
            "empty": Out(1),
            "oldest": Out(range(CLIENT_QUEUE)),
            "newest": Out(range(CLIENT_QUEUE)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.entries = entries = Memory(shape=self._shape, depth=CLIENT_QUEUE, init=[])
        put, get = entries.write_port(), entries.read_port(domain="comb")
        # The highest bit tells an empty queue from a full one. No counters: what a grant moves is this and the front.
        head, next_, tail = (Signal(range(2 * CLIENT_QUEUE), name=name) for name in ("head", "next", "tail"))
        front, front_place, front_valid = Signal(self._shape), Signal(range(CLIENT_QUEUE)), Signal()
        accept = Signal()
        vacant, ready = Signal(init=1), Signal(init=not self._closed)    # registers of their own: readiness goes far, in and out of the cache
        becomes_vacant = Signal()
        m.d.comb += becomes_vacant.eq(vacant)
        with m.If(accept & ~self.done):
            m.d.comb += becomes_vacant.eq((tail + 1)[:len(tail)] ^ head != CLIENT_QUEUE)
        with m.Elif(self.done & ~accept):
            m.d.comb += becomes_vacant.eq(1)
        m.d.sync += [vacant.eq(becomes_vacant), ready.eq(becomes_vacant & ~self.closes)]
        m.d.comb += [
            self.i_stream.ready.eq(ready),
            accept.eq(self.i_stream.valid & self.i_stream.ready),
            put.addr.eq(tail), put.data.eq(self.i_stream.payload), put.en.eq(accept),
            get.addr.eq(next_), self.candidate.eq(get.data),
            self.load.eq((next_ != tail) & (~front_valid | self.issue)),
            self.ready_to_issue.eq(front_valid), self.payload.eq(front), self.place.eq(front_place),
            self.empty.eq(head == tail), self.oldest.eq(head), self.newest.eq(tail),
        ]
        m.d.sync += [tail.eq(tail + accept), head.eq(head + self.done)]
        with m.If(self.load):
            m.d.sync += [front.eq(self.candidate), front_place.eq(next_)]
        with m.If(self.again):
            m.d.sync += [next_.eq(head + self.done), front_valid.eq(0)]
        with m.Else():
            m.d.sync += front_valid.eq(self.load | front_valid & ~self.issue)
            with m.If(self.load):
                m.d.sync += next_.eq(next_ + 1)
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
        Lines in the order of the reads; at the earliest ``READ_LATENCY`` (7) cycles after the read was accepted.
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
        layouts = {Client.FILL: data.StructLayout({"address": address_shape, "slot": slot_shape}), Client.READ: read_layout(config),
                   Client.WRITE: data.StructLayout({"address": address_shape, "through": 1}), Client.FETCH: fetch_layout(config)}
        queues = {client: ReplayQueue(layout, closed=client != Client.FILL) for client, layout in layouts.items()}
        for client, queue in queues.items():
            m.submodules[f"{client.name.lower()}_queue"] = queue
        wiring.connect(m, wiring.flipped(self.fetch), queues[Client.FETCH].i_stream)
        wiring.connect(m, wiring.flipped(self.read), queues[Client.READ].i_stream)
        fills, stores = queues[Client.FILL].i_stream, queues[Client.WRITE].i_stream
        m.d.comb += [
            stores.valid.eq(self.write.valid), self.write.ready.eq(stores.ready),
            stores.payload.address.eq(self.write.payload.address), stores.payload.through.eq(self.write.payload.through),
        ]

        # Operations of a client in the look-up and in the effect stage and after it: at most one each, in some bank.
        look, act, past = ({client: Signal(layout, name=f"{stage}_{client.name.lower()}") for client, layout in layouts.items()}
                           for stage in ("look", "act", "past"))
        for client in Client:
            m.d.sync += [look[client].eq(queues[client].payload), act[client].eq(look[client]), past[client].eq(act[client])]

        # Their lines stay beside the queues until the effect stage: a grant moves no wide registers.
        act_line = {}
        for client, line in ((Client.FILL, self.read_data.payload.line), (Client.WRITE, self.write.payload.line)):
            name = client.name.lower()
            m.submodules[f"{name}_lines"] = kept = Memory(shape=line_shape, depth=CLIENT_QUEUE, init=[])
            put, get = kept.write_port(), kept.read_port(domain="comb")
            act_line[client] = Signal(line_shape, name=f"act_{name}_line")
            m.d.comb += [put.addr.eq(queues[client].newest), put.data.eq(line),
                         put.en.eq(queues[client].i_stream.valid & queues[client].i_stream.ready)]
            m.d.sync += [get.addr.eq(queues[client].place), act_line[client].eq(get.data)]

        # --- state of misses, of the memory side and of the invalidation -------------------------------
        missing, searched, known, waiting = (Signal(name=f"miss_{name}")
                                             for name in ("active", "searched", "known", "waiting"))
        miss_address, miss_consume = Signal(address_shape), Signal()
        absent, absent_searched, absent_known = (Signal(name=f"fetch_{name}") for name in ("absent", "searched", "known"))
        absent_burst = Signal(fetch_layout(config))
        staged, staged_burst = Signal(), Signal(burst_layout(config))
        stored = Signal(range(config.write_buffer + WRITE_SLACK + 1))       # lines in the write buffer
        kill, kill_address = Signal(), Signal(address_shape)                # one more comes next
        draining, clearing, clear_set = Signal(), Signal(init=1), Signal(set_bits(config))
        closed, closes = Signal(init=1), Signal()   # draining or clearing; will be in the next cycle

        # --- grant: one operation per client and bank, those of a set at their distance -----------------
        low, middle = bank_bits(config), bank_bits(config) + set_bits(config)
        reads, writes = queues[Client.READ], queues[Client.WRITE]
        done, again = Signal(CLIENTS), Signal(CLIENTS)         # outcome of the operation that was in the effect stage

        # A read waits for the writes to its line that were there when it came to the front.
        write_address = [Signal(address_shape, name=f"write_address_{i}") for i in range(CLIENT_QUEUE)]
        occupied, leaving, behind = (Signal(CLIENT_QUEUE, name=name) for name in ("write_occupied", "write_leaving", "behind"))
        behind_write = Signal()
        m.d.comb += [leaving.eq(done[Client.WRITE] << writes.oldest), behind_write.eq(behind.any())]
        for i in range(CLIENT_QUEUE):
            with m.If(writes.i_stream.valid & writes.i_stream.ready & (writes.newest == i)):
                m.d.sync += [write_address[i].eq(writes.i_stream.payload.address), occupied[i].eq(1)]
            with m.Elif(leaving[i]):
                m.d.sync += occupied[i].eq(0)
            with m.If(reads.load):
                m.d.sync += behind[i].eq(occupied[i] & ~leaving[i] & (write_address[i] == reads.candidate.address))
            with m.Elif(leaving[i]):
                m.d.sync += behind[i].eq(0)

        wants, issued = Signal(CLIENTS), Signal(CLIENTS)
        retried = Signal()      # a fill made room and comes back: no write may take the place before
        with m.If(again[Client.FILL]):
            m.d.sync += retried.eq(1)
        with m.Elif(issued[Client.FILL]):
            m.d.sync += retried.eq(0)
        hold = {Client.FILL: 0, Client.READ: missing | behind_write, Client.WRITE: staged | retried, Client.FETCH: absent}
        recent = [[(Signal(name=f"granted_{age}_{client.name.lower()}"), stage[client].address[:middle]) for client in Client]
                  for age, stage in enumerate((look, act), 1)]
        previous = issued
        for stage in recent:
            for client, (valid, _) in zip(Client, stage):
                m.d.sync += valid.eq(previous[client])
            previous = [valid for valid, _ in stage]
        # Whether an operation of its set will be too near is looked up one cycle ahead, for the front and for what may become the front. Of this cycle's
        # fronts it is remembered which ones are of its set; whether they were granted is known in the next cycle.
        for client, queue in queues.items():
            place = queue.payload.address[:middle]
            name = client.name.lower()
            beside, before = Signal(CLIENTS, name=f"{name}_beside"), Signal(name=f"{name}_before")
            near = recent[:2 if client in (Client.FILL, Client.WRITE) else 1]

            def same_set(place):
                return Cat(queues[other].payload.address[:middle] == place for other in Client)

            def conflicts(place):
                return Cat(valid & (other == place) for stage in near for valid, other in stage).any()

            stays, candidate = queue.ready_to_issue & ~issued[client], queue.candidate.address[:middle]
            m.d.sync += [beside.eq(Mux(stays, same_set(place), same_set(candidate))),
                         before.eq(Mux(stays, conflicts(place), conflicts(candidate)))]
            too_near = before | (beside & Cat(valid for valid, _ in recent[0])).any()
            taken = Cat(wants[other] & (queues[other].payload.address[:low] == place[:low]) for other in Client if other < client).any()
            m.d.comb += [wants[client].eq(queues[client].ready_to_issue & ~hold[client] & ~again[client]),
                         issued[client].eq(wants[client] & ~too_near & ~taken)]

        # --- banks ----------------------------------------------------------------------------------
        banks = []
        raw_acting, acting, found = Signal(CLIENTS, name="in_effect"), Signal(CLIENTS), Signal(CLIENTS)
        looking = Cat(valid for valid, _ in recent[0])
        room, pressed, evicted = Signal(), Signal(), Signal(config.cache_banks)
        fill_skip, fill_demand, consume, through = (
            Signal(name=name) for name in ("fill_skip", "fill_demand", "consume", "through"))
        fill_line, write_line = Signal(line_shape), Signal(line_shape)
        m.d.comb += [consume.eq(act[Client.READ].consume), through.eq(act[Client.WRITE].through),
                     fill_line.eq(act_line[Client.FILL]), write_line.eq(act_line[Client.WRITE])]
        for number in range(config.cache_banks):
            bank = CacheBank(config)
            m.submodules[f"bank_{number}"] = bank
            banks.append(bank)
            for client in Client:
                address = queues[client].payload.address
                here = address[:low] == number
                m.d.comb += [bank.request[client].eq(wants[client] & here), bank.grant[client].eq(issued[client] & here),
                             bank.set[client].eq(address[low:middle]), bank.tag[client].eq(address[middle:])]
            m.d.comb += [
                bank.replay.eq(again),
                bank.room.eq(room), bank.write_room.eq(room & ~pressed),
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

        m.d.comb += [acting.eq(raw_acting & ~again), found.eq(any_bank("done"))]
        m.d.sync += [
            raw_acting.eq(looking & ~again),
            done.eq(found), again.eq(acting & ~found),
            pressed.eq(any_bank("presses")),        # no write may need the write buffer beside a fill that may
            evicted.eq(Cat(bank.evicts for bank in banks)),
            # At most WRITE_SLACK lines are on their way to the write buffer that this does not count.
            room.eq(stored + kill < config.write_buffer),
        ]
        drained = Signal()
        m.d.comb += drained.eq((stored == 0) & ~kill)

        # --- demand misses: search the pending lines, request the line if it is not among them, wait ---
        fill_act, fill_look = act[Client.FILL], look[Client.FILL]
        wanted, killed = Signal(), Signal()        # of the fill in the look-up stage
        outdated_fill = Signal()                   # of the fill in the effect stage
        answered = Signal()
        pending_address = Array(Signal(address_shape, name=f"pending_address_{i}") for i in range(pending_count))
        pending_valid, pending_killed = Signal(pending_count), Signal(pending_count)

        def pending(address):
            return Cat(pending_valid[i] & ~pending_killed[i] & (pending_address[i] == address)
                       for i in range(pending_count)).any()

        m.d.comb += [wanted.eq(missing & (fill_look.address == miss_address)),
                     killed.eq(pending_killed.bit_select(fill_look.slot, 1))]
        m.d.sync += [fill_demand.eq(wanted & ~killed), outdated_fill.eq(wanted & killed),
                     fill_skip.eq(killed | wanted & miss_consume)]
        filled, filled_slot, filled_line = Signal(), Signal(slot_shape), Signal(line_shape)
        outdated = Signal()
        m.d.sync += [
            filled_slot.eq(fill_act.slot), filled_line.eq(fill_line),
            answered.eq(fill_demand & found[Client.FILL]), outdated.eq(outdated_fill & found[Client.FILL]),
        ]
        m.d.comb += filled.eq(done[Client.FILL])
        grant_miss, grant_fetch = Signal(), Signal()
        m.d.sync += [known.eq(pending(miss_address)), searched.eq(missing)]
        with m.If(again[Client.READ]):
            m.d.sync += [missing.eq(1), miss_address.eq(past[Client.READ].address),
                         miss_consume.eq(past[Client.READ].consume)]
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
        with m.If(again[Client.FETCH]):
            m.d.sync += [absent.eq(1), absent_burst.eq(past[Client.FETCH])]
        with m.If(grant_fetch | absent_searched & absent_known):
            m.d.sync += [absent.eq(0), absent_searched.eq(0)]

        # --- pending lines: reserved at the grant, entered one per cycle, then requested in one burst ------
        reserved = Signal(range(pending_count + 1))
        entering, burst = Signal(), Signal(burst_layout(config))
        entered = Signal(fetch_layout(config)["lines"].width)
        arrive, tail = Signal(slot_shape), Signal(slot_shape)
        free, fits = Signal(), Signal()
        # A fetch waits for ``free`` at least two cycles after the grant before, and is searched first: ``fits`` is up to date by then.
        m.d.sync += fits.eq(reserved + absent_burst.lines <= pending_count)
        m.d.comb += [
            free.eq(~entering & ~staged),
            grant_miss.eq(missing & searched & ~known & ~waiting & free & (reserved != pending_count)),
            grant_fetch.eq(absent & absent_searched & ~absent_known & free & ~(missing & searched & ~known & ~waiting)
                           & fits),
        ]
        with m.If(grant_miss):
            m.d.sync += [entering.eq(1), burst.address.eq(miss_address), burst.lines.eq(1), entered.eq(0)]
        with m.If(grant_fetch):
            m.d.sync += [entering.eq(1), burst.address.eq(absent_burst.address), burst.lines.eq(absent_burst.lines),
                         entered.eq(0)]
        m.d.sync += reserved.eq(reserved + Mux(grant_miss, 1, Mux(grant_fetch, absent_burst.lines, 0)) - filled)
        entry_address = Signal(address_shape)
        m.d.comb += entry_address.eq(burst.address + entered)

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
            fills.payload.address.eq(pending_address[arrive]), fills.payload.slot.eq(arrive),
        ]
        with m.If(self.read_data.valid & self.read_data.ready):
            m.d.sync += arrive.eq(arrive + 1)

        for client, queue in queues.items():
            m.d.comb += [queue.issue.eq(issued[client]), queue.closes.eq(0 if client == Client.FILL else closes)]
            if client == Client.READ:
                m.d.comb += [queue.done.eq(done[client] | answered), queue.again.eq(again[client] | answered)]
            elif client == Client.FETCH:
                # Done even if it finds nothing: `absent` remembers it. Those behind it come back.
                m.d.comb += [queue.done.eq(done[client] | again[client]), queue.again.eq(again[client])]
            else:
                m.d.comb += [queue.done.eq(done[client]), queue.again.eq(again[client])]

        # --- responses: from the banks two cycles after the effect, or the line that a miss waited for ------
        hit_bank, hit_line, hit_coming = Signal(config.cache_banks), Signal(config.cache_banks), Signal()
        m.d.sync += [
            hit_bank.eq(Cat(bank.read_hits for bank in banks)), hit_line.eq(hit_bank), hit_coming.eq(done[Client.READ]),
            self.response.valid.eq(hit_coming | answered),
            self.response.line.eq(_pick([*zip(hit_line, (bank.line for bank in banks)), (answered, filled_line)])),
        ]

        # --- write buffer: the address comes a cycle before the line, which is stored two cycles after the effect ------------
        entry_layout = line_write_layout(config)
        places = 2 * config.write_buffer        # a power of two, at least WRITE_SLACK more
        m.submodules.write_buffer = buffer = Memory(shape=entry_layout, depth=places, init=[])
        put, get = buffer.write_port(), buffer.read_port(domain="comb")
        take = Signal()
        passed, line_passed = Signal(), Signal()
        past_line, passed_line = Signal(line_shape), Signal(line_shape)
        evict_line = Signal(config.cache_banks)
        m.d.comb += [
            passed.eq(done[Client.WRITE] & past[Client.WRITE].through),
            self.write_request.valid.eq(stored != 0),
            self.write_request.payload.eq(get.data),
            take.eq(self.write_request.valid & self.write_request.ready),
        ]
        m.d.sync += [
            kill.eq(evicted.any() | passed), evict_line.eq(evicted),
            line_passed.eq(passed), past_line.eq(write_line), passed_line.eq(past_line),
            kill_address.eq(_pick([
                *((evicted[i], Cat(Const(i, low), bank.victim_set, bank.victim_tag)) for i, bank in enumerate(banks)),
                (passed, past[Client.WRITE].address)])),
            stored.eq(stored + kill - take),
        ]
        m.d.comb += [
            put.en.eq(kill),
            put.data.address.eq(kill_address),
            put.data.line.eq(_pick([*zip(evict_line, (bank.line for bank in banks)), (line_passed, passed_line)])),
        ]
        with m.If(put.en):
            m.d.sync += put.addr.eq(put.addr + 1)
        with m.If(take):
            m.d.sync += get.addr.eq(get.addr + 1)

        # --- invalidation, idle, events -----------------------------------------------------------------------
        quiet = Signal()
        m.d.comb += [
            quiet.eq(Cat(queue.empty for queue in queues.values()).all() & ~missing & ~absent & ~entering & ~staged
                     & ~request_valid & (reserved == 0)),
            self.busy.eq(closed),
            self.hit.eq(done[Client.READ]), self.miss.eq(again[Client.READ]),
            self.idle.eq(quiet & drained & ~hit_coming & ~answered & ~self.response.valid & ~self.busy),
        ]
        m.d.comb += closes.eq(closed)
        m.d.sync += closed.eq(closes)
        with m.If(self.invalidate & ~self.busy):
            m.d.comb += closes.eq(1)
            m.d.sync += draining.eq(1)
        with m.If(draining & quiet):
            m.d.sync += [draining.eq(0), clearing.eq(1)]
        with m.If(clearing):
            m.d.sync += clear_set.eq(clear_set + 1)
            with m.If(clear_set == config.cache_sets - 1):
                m.d.comb += closes.eq(0)
                m.d.sync += clearing.eq(0)
        m.d.sync += [
            self.eviction.eq(evicted.any()),
            self.error.eq(self.read_data.valid & self.read_data.ready & self.read_data.payload.error),
        ]
        return m
