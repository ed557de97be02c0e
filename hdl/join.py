"""Join front end of a processing element: chunk slots, scanner, join queue, match engine, weight fetch."""
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from neuroflex.formats import LEVEL_BITS, LoadKind
from neuroflex.hdl.arithmetic import stepped
from neuroflex.hdl.prefix import FastPrefix, PriorityEncoder, count_flags
from neuroflex.layouts import broadcast_layout, load_layout

__all__ = ["JoinFrontEnd", "match_layout", "retire_layout", "weighted_layout"]


def _index(count):
    return range(max(count, 2))


def match_layout(config):
    """A match on its way: ``position`` in the chunk, ``column`` of the PE, row ``bank``, chunk ``slot``."""
    return data.StructLayout({
        "valid": 1,
        "position": range(config.chunk_bits),
        "column": range(config.columns_per_pe),
        "bank": range(config.row_buffers),
        "slot": range(config.slots),
    })


def weighted_layout(config):
    """A match's ``weight``, with its ``column`` and row ``bank``."""
    return data.StructLayout({
        "valid": 1,
        "weight": signed(8),
        "column": range(config.columns_per_pe),
        "bank": range(config.row_buffers),
    })


def retire_layout(config):
    """A chunk whose last match was issued: its ``slot`` and row ``bank``, and the flags that the row's end needs."""
    return data.StructLayout({
        "valid": 1,
        "slot": range(config.slots),
        "bank": range(config.row_buffers),
        "last_chunk": 1,
        "first_window": 1,
        "last_window": 1,
    })


class JoinFrontEnd(wiring.Component):
    """Finds the matches of broadcast chunks with a PE's stationary columns and fetches their weights.

    Nothing stops it from behind, unless it is built ``held``: the sender keeps to ``slot_free``. See ``docs/pe.md`` for the pipeline. Seen from the
    cycle ``s`` in which the scanner reads a pair of masks, and the cycle ``M`` in which the engine holds a match:

    * the earliest ``M`` of the pair is ``s + 4``; matches follow one per cycle while the queue holds pairs;
    * ``match`` and ``activation_mask`` are out in ``M + MATCH_LATENCY``, ``weighted`` in ``M + WEIGHT_LATENCY``;
    * ``retired`` comes at the earliest 3 cycles after the chunk's last ``s`` and 1 after its last ``M``.

    A chunk's scan starts after its ``open``, after the scan of the chunk before, and when fewer than ``ahead`` chunks
    are between start of scan and retirement: 2, or 4 when at most half of the columns are in use. So at most
    ``2 * pairs_per_pe`` pairs wait in the queue, which is its size.

    Parameters
    ----------
    config : ArchConfig
    held : bool
        What is behind may hold the match engine, and says itself when it is through with a pair.

    Members
    -------
    bus : In(broadcast_layout)
    group : In
        Number of the PE's group: other groups' chunks are ignored; so are all while ``columns`` is 0.
    load : In(load_layout), load_here : In(1)
        Load bus, and whether its beat is for this PE.
    clear : In(1)
        Forget columns and restart the row banks at 0. Only while no chunk is held. With two weight banks: forget what the spare bank holds.
    swap : In(1)
        Work with the columns of the spare bank from the next cycle on, load into the other one, and restart the row banks at 0. Only while no chunk is
        held. Only with two weight banks, as ``weight_bank``.
    open : In(1)
        Pulse: one more chunk, in order, may be scanned from the next cycle on; not before its ``arrived``.
    slot_release : In(1)
        Pulse: the oldest slot held is free again.
    level_slot, level_offset : In
        Address of ``level``.
    mask_slot : In
        Address of ``mask``.
    hold : In(1)
        No match is issued in this cycle. Only with ``held``, as the next two.
    pair_through : In(1)
        Pulse: all matches of the oldest pair are dealt with. Chunks retire by it, and not by what the engine has issued.
    pair_end : Out(1)
        ``weighted`` is the last match of its pair of columns.
    arrived : Out(1)
        The bus carries the last beat of a chunk for this PE. Combinational, of use inside the PE only.
    row_started : Out(1)
        The bus carries the first beat of a row for this PE. Combinational like ``arrived``.
    slot_free : Out(1)
        A slot is free, or the PE has no columns.
    columns : Out, enabled : Out(1)
        Columns of this PE, and whether it has any.
    matching : Out(1)
        The engine holds a match in this cycle.
    match : Out(match_layout), activation_mask : Out(chunk_bits)
        The match of ``MATCH_LATENCY`` cycles ago, and the mask of its chunk; held while not valid.
    weighted : Out(weighted_layout)
        The match of ``WEIGHT_LATENCY`` cycles ago with its weight; held while not valid.
    weight_bank : Out(1)
        The one at work; the other one is loaded.
    retired : Out(retire_layout)
        Chunks in order, at most one per cycle; all 0 otherwise.
    level : Out(7)
        Packed level ``level_offset`` of the chunk in ``level_slot``. Combinational.
    mask : Out(chunk_bits)
        Mask of the chunk in ``mask_slot``. Combinational.
    busy : Out(1)
        A slot is held.
    """

    MATCH_LATENCY = 1
    WEIGHT_LATENCY = 6

    def __init__(self, config, *, held=False):
        self._config, self._held = config, held
        super().__init__({
            "bus": In(broadcast_layout(config)),
            "group": In(_index(config.max_groups)),
            "load": In(load_layout(config)),
            "load_here": In(1),
            "clear": In(1),
            "open": In(1),
            "slot_release": In(1),
            "level_slot": In(range(config.slots)),
            "level_offset": In(range(config.chunk_bits)),
            "mask_slot": In(range(config.slots)),
            "arrived": Out(1),
            "row_started": Out(1),
            "slot_free": Out(1),
            "columns": Out(range(config.columns_per_pe + 1)),
            "enabled": Out(1),
            "matching": Out(1),
            "match": Out(match_layout(config)),
            "activation_mask": Out(config.chunk_bits),
            "weighted": Out(weighted_layout(config)),
            "retired": Out(retire_layout(config)),
            "level": Out(LEVEL_BITS),
            "mask": Out(config.chunk_bits),
            "busy": Out(1),
            **({"hold": In(1), "pair_through": In(1), "pair_end": Out(1)} if held else {}),
            **({"swap": In(1), "weight_bank": Out(1)} if config.overlap else {}),
        })

    @property
    def queue_depth(self):
        """Pairs that can wait in the join queue."""
        return 2 * self._config.pairs_per_pe

    def elaborate(self, platform):
        m = Module()
        pairs_last = self._columns(m)
        tags, scan_slot, scan_mask, engine_mask, engine_slot = self._slots(m)
        scanned = self._scanner(m, pairs_last, tags, scan_slot, scan_mask)
        entry, entry_valid, pop, queued, push = self._queue(m, scanned)
        finished = self._engine(m, entry, entry_valid, pop, engine_mask, engine_slot)
        self._retire(m, scanned, queued, push, finished)
        return m

    @property
    def _restart(self):
        """Pulse: the row banks start at 0."""
        return self.swap if self._config.overlap else self.clear

    def _spare(self, address, depth):
        """Address, of ``depth`` ones, in the weight bank that is loaded."""
        return Cat(address[:(depth - 1).bit_length()], ~self.weight_bank) if self._config.overlap else address

    def _at_work(self, address):
        """Address in the weight bank at work."""
        return Cat(address, self.weight_bank) if self._config.overlap else address

    def _columns(self, m):
        """Column count from the load bus; returns the index of the last pair."""
        config = self._config
        pairs_last = Signal(_index(config.pairs_per_pe))
        here = self.load.valid & self.load_here
        if config.overlap:
            loaded, loaded_last = Signal.like(self.columns), Signal.like(pairs_last)    # of the spare bank
            with m.If(here & (self.load.kind == LoadKind.COLUMNS)):
                m.d.sync += [loaded.eq(self.load.data[:len(loaded)]), loaded_last.eq((self.load.data[:8] - 1) >> 1)]
            with m.If(self.clear):
                m.d.sync += loaded.eq(0)
            with m.If(self.swap):
                m.d.sync += [self.columns.eq(loaded), self.enabled.eq(loaded != 0), pairs_last.eq(loaded_last), self.weight_bank.eq(~self.weight_bank)]
            return pairs_last
        with m.If(here & (self.load.kind == LoadKind.COLUMNS)):
            columns = self.load.data[:len(self.columns)]
            m.d.sync += [self.columns.eq(columns), self.enabled.eq(columns != 0), pairs_last.eq((self.load.data[:8] - 1) >> 1)]
        with m.If(self.clear):
            m.d.sync += [self.columns.eq(0), self.enabled.eq(0)]
        return pairs_last

    def _slots(self, m):
        """Chunk slots: masks, levels and tags of the chunks held."""
        config, bus = self._config, self.bus
        m.submodules.masks = masks = Memory(shape=config.chunk_bits, depth=config.slots, init=[])
        tag = data.StructLayout({"empty": 1, "last_chunk": 1, "first_window": 1, "last_window": 1,
                                 "bank": range(config.row_buffers)})
        m.submodules.tags = tags = Memory(shape=tag, depth=config.slots, init=[])
        # Levels never use the sign bit, so it is not stored.
        m.submodules.levels = levels = Memory(shape=LEVEL_BITS * config.line_bytes, depth=8 * config.slots, init=[])

        mine, first = Signal(), Signal()
        slot, bank = Signal(range(config.slots)), Signal(range(config.row_buffers))
        beat, next_beat = Signal(3), Signal(3)
        held = Signal(range(config.slots + 1))
        full = Signal()     # a register of its own, for it goes far; without columns nothing is held
        m.d.comb += [
            mine.eq(bus.valid & (bus.group == self.group) & self.enabled),
            first.eq(mine & bus.first_beat),
            beat.eq(Mux(bus.first_beat, 0, next_beat)),
            self.arrived.eq(mine & bus.last_beat),
            self.row_started.eq(first & bus.first_chunk),
            self.slot_free.eq(~full), self.busy.eq(held != 0),
        ]
        m.d.sync += held.eq(stepped(held, first, self.slot_release))
        with m.If(first & ~self.slot_release):
            m.d.sync += full.eq(held == config.slots - 1)
        with m.Elif(self.slot_release & ~first):
            m.d.sync += full.eq(0)
        with m.If(mine):
            m.d.sync += next_beat.eq(beat + 1)
        with m.If(self.arrived):
            m.d.sync += slot.eq(slot + 1)
        with m.If(first & bus.last_chunk):
            m.d.sync += bank.eq(bank + 1)
        with m.If(self._restart):
            m.d.sync += bank.eq(0)

        mask_write, tag_write, level_write = masks.write_port(), tags.write_port(), levels.write_port()
        m.d.comb += [
            mask_write.addr.eq(slot), mask_write.data.eq(bus.mask), mask_write.en.eq(first),
            tag_write.addr.eq(slot), tag_write.en.eq(first),
            tag_write.data.empty.eq(bus.mask == 0), tag_write.data.last_chunk.eq(bus.last_chunk),
            tag_write.data.first_window.eq(bus.first_window), tag_write.data.last_window.eq(bus.last_window),
            tag_write.data.bank.eq(bank),
            level_write.addr.eq(Cat(beat, slot)), level_write.en.eq(mine),
            level_write.data.eq(Cat(bus.line.word_select(i, 8)[:LEVEL_BITS] for i in range(config.line_bytes))),
        ]
        scan_mask, engine_mask, pe_mask = (masks.read_port(domain="comb") for _ in range(3))
        scan_tag, level_read = tags.read_port(domain="comb"), levels.read_port(domain="comb")
        byte_bits = (config.line_bytes - 1).bit_length()
        m.d.comb += [
            pe_mask.addr.eq(self.mask_slot), self.mask.eq(pe_mask.data),
            level_read.addr.eq(Cat(self.level_offset[byte_bits:], self.level_slot)),
            self.level.eq(level_read.data.word_select(self.level_offset[:byte_bits], LEVEL_BITS)),
        ]
        scan_slot = Signal(range(config.slots))
        m.d.comb += scan_tag.addr.eq(scan_slot)
        return scan_tag.data, scan_slot, scan_mask, engine_mask.data, engine_mask.addr

    def _scanner(self, m, pairs_last, tag, slot, scan_mask):
        """Reads one pair of column masks per cycle; three stages: read, AND, combine."""
        config = self._config
        bits, base_bits = config.chunk_bits, config.value_base_bits
        pair_layout = data.StructLayout({"mask0": bits, "mask1": bits, "base0": base_bits, "base1": base_bits})
        m.submodules.pairs = pairs = Memory(shape=pair_layout, depth=config.weight_banks * config.mask_pairs, init=[])
        write, read = pairs.write_port(), pairs.read_port()
        address = Signal(range(config.mask_pairs))
        m.d.comb += [
            write.addr.eq(self._spare(self.load.address, config.mask_pairs)), write.data.eq(self.load.data),
            write.en.eq(self.load.valid & self.load_here & (self.load.kind == LoadKind.MASKS)),
        ]

        waiting = Signal(range(config.slots + 1))   # chunks that may be scanned
        started = Signal(range(5))                  # chunks between start of scan and retirement
        index = Signal.like(pairs_last)
        scan, first, last, few = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            few.eq(Mux(pairs_last < config.pairs_per_pe // 2, started < 4, started < 2)),
            scan.eq((index != 0) | ((waiting != 0) & few)),
            first.eq(scan & (index == 0)),
            last.eq(scan & (tag.empty | (index == pairs_last))),
            read.addr.eq(self._at_work(address)), read.en.eq(scan & ~tag.empty),
        ]
        m.d.sync += [waiting.eq(stepped(waiting, self.open, first)), started.eq(stepped(started, first, self.retired.valid))]
        with m.If(scan):
            m.d.sync += [index.eq(index + 1), address.eq(address + 1)]
        with m.If(scan & tag.empty):
            m.d.sync += address.eq(address + pairs_last + 1)
        with m.If(last):
            m.d.sync += [index.eq(0), slot.eq(slot + 1)]
        with m.If((last & tag.last_chunk) | self._restart):
            m.d.sync += address.eq(0)

        token = data.StructLayout({"valid": 1, "end": 1, "pair": pairs_last.shape(), "slot": slot.shape(), "tag": tag.shape()})
        and_stage, combine_stage = Signal(token), Signal(token)
        m.d.sync += [
            and_stage.valid.eq(scan & ~tag.empty), and_stage.end.eq(last), and_stage.pair.eq(index),
            and_stage.slot.eq(slot), and_stage.tag.eq(tag),
            combine_stage.eq(and_stage),
        ]
        m.d.comb += scan_mask.addr.eq(and_stage.slot)
        entry = Signal(pair_layout)
        with m.If(and_stage.valid):
            m.d.sync += entry.eq(read.data)
        result = {"stage": combine_stage, "entry": entry}
        # The AND is cut after groups of two bits, one LUT behind the block RAM: the rest of the tree fits the next cycle.
        for half in range(2):
            some, several = Signal(bits // 2, name=f"some_{half}"), Signal(bits // 2, name=f"several_{half}")
            flags = count_flags(m, read.data[f"mask{half}"] & scan_mask.data, f"scan_{half}", groups=bits // 2)
            m.d.sync += [some.eq(flags[0]), several.eq(flags[1])]
            result[f"any{half}"] = some.any()
            result[f"single{half}"] = ~several.any() & ~count_flags(m, some, f"some_{half}")[1]
        return result

    def _queue(self, m, scanned):
        """Pairs with matches, waiting for the engine, how many came before this cycle, and whether one comes in it."""
        config, stage = self._config, scanned["stage"]
        layout = data.StructLayout({
            "masks": scanned["entry"].shape(), "any0": 1, "any1": 1, "single0": 1, "single1": 1,
            "pair": stage.pair.shape(), "slot": stage.slot.shape(), "bank": stage.tag.bank.shape()})
        m.submodules.queue = queue = Memory(shape=layout, depth=self.queue_depth, init=[])
        write, read = queue.write_port(), queue.read_port(domain="comb")
        count_bits = (self.queue_depth - 1).bit_length() + 2    # pointers are counts: see _retire
        write_count, read_count = Signal(count_bits), Signal(count_bits)
        push, pop = Signal(), Signal()
        valid = Signal()        # a register: what leaves the queue goes far
        m.d.comb += [
            push.eq(stage.valid & (scanned["any0"] | scanned["any1"])),
            write.addr.eq(write_count), write.en.eq(push), read.addr.eq(read_count),
            write.data.masks.eq(scanned["entry"]), write.data.pair.eq(stage.pair), write.data.slot.eq(stage.slot),
            write.data.bank.eq(stage.tag.bank),
        ] + [write.data[name].eq(scanned[name]) for name in ("any0", "any1", "single0", "single1")]
        m.d.sync += [write_count.eq(write_count + push), read_count.eq(read_count + pop),
                     valid.eq(push | Mux(pop, write_count != (read_count + 1)[:count_bits], valid))]
        return read.data, valid, pop, write_count, push

    def _engine(self, m, entry, entry_valid, pop, engine_mask, engine_slot):
        """One match per cycle, then its weight; returns the count of pairs whose last match was issued, or is dealt with."""
        config = self._config
        bits, masks = config.chunk_bits, entry.masks
        active, last = Signal(), Signal()              # last: the match in hand is its column's last
        remaining, weights, activations = Signal(bits), Signal(bits), Signal(bits)
        second, second_single = Signal(), Signal()     # the pair's second column is still to come
        second_weights, second_base = Signal(bits), Signal(config.value_base_bits)
        base, half = Signal(config.value_base_bits), Signal()
        pair, slot, bank = Signal.like(entry.pair), Signal.like(entry.slot), Signal.like(entry.bank)
        finished = Signal((self.queue_depth - 1).bit_length() + 2)
        pair_done = Signal()

        m.submodules.encoder = encoder = PriorityEncoder(bits=bits)
        flags = count_flags(m, remaining, "remaining")
        issue, through = active, pair_done
        if self._held:
            issue = Signal()
            through = self.pair_through
            ends = Signal(self.WEIGHT_LATENCY)
            m.d.comb += [issue.eq(active & ~self.hold), self.pair_end.eq(ends[-1])]
            m.d.sync += ends.eq(Cat(pair_done, ends))
        m.d.comb += [
            self.matching.eq(issue), encoder.mask.eq(remaining), engine_slot.eq(entry.slot),
            pair_done.eq(issue & last & ~second),
            pop.eq(entry_valid & (~active | pair_done)),
        ]
        m.d.sync += finished.eq(finished + through)
        with m.If(pop):
            m.d.sync += [
                active.eq(1), activations.eq(engine_mask), second.eq(entry.any0 & entry.any1),
                remaining.eq(Mux(entry.any0, masks.mask0, masks.mask1) & engine_mask),
                weights.eq(Mux(entry.any0, masks.mask0, masks.mask1)), base.eq(Mux(entry.any0, masks.base0, masks.base1)),
                half.eq(~entry.any0), last.eq(Mux(entry.any0, entry.single0, entry.single1)),
                second_weights.eq(masks.mask1), second_base.eq(masks.base1), second_single.eq(entry.single1),
                pair.eq(entry.pair), slot.eq(entry.slot), bank.eq(entry.bank),
            ]
        with m.Elif(issue):
            with m.If(last):       # without a second column the rest is idle, and its registers may take anything
                m.d.sync += [active.eq(second), second.eq(0), remaining.eq(second_weights & activations), weights.eq(second_weights),
                             base.eq(second_base), half.eq(1), last.eq(second_single)]
            with m.Else():
                m.d.sync += [remaining.eq(encoder.rest), last.eq(flags[1] & ~flags[2])]

        # M + 1: the match is out, and its offset among the column's weights is asked for.
        match_weights, match_base = Signal(bits), Signal.like(base)
        m.d.sync += self.match.valid.eq(issue)
        with m.If(issue):
            m.d.sync += [
                self.match.position.eq(encoder.position), self.match.column.eq(Cat(half, pair)),
                self.match.slot.eq(slot), self.match.bank.eq(bank), self.activation_mask.eq(activations),
                match_weights.eq(weights), match_base.eq(base),
            ]
        m.submodules.weight_prefix = prefix = FastPrefix(bits=bits)
        m.d.comb += [prefix.mask.eq(match_weights), prefix.position.eq(self.match.position)]

        # M + 3: address of the weight. M + 4: its line leaves the block RAM, slowly. M + 5: the line. M + 6: the weight.
        layout = data.StructLayout({"valid": 1, "column": self.match.column.shape(), "bank": bank.shape()})
        delayed = [Signal(layout, name=f"weight_stage_{i}") for i in range(4)]
        for before, after in zip([self.match, *delayed], [*delayed, self.weighted]):
            m.d.sync += [after[name].eq(before[name]) for name in ("valid", "column", "bank")]
        base_2, base_3, address = (Signal(config.value_base_bits, name=name) for name in ("base_2", "base_3", "weight_address"))
        byte_bits = (config.line_bytes - 1).bit_length()
        byte_4, byte_5 = Signal(byte_bits), Signal(byte_bits)
        line = Signal(config.chunk_bits)
        m.submodules.weights = values = Memory(shape=config.chunk_bits, depth=config.weight_banks * config.value_lines, init=[])
        write, read = values.write_port(), values.read_port()
        m.d.comb += [
            write.addr.eq(self._spare(self.load.address, config.value_lines)), write.data.eq(self.load.data),
            write.en.eq(self.load.valid & self.load_here & (self.load.kind == LoadKind.VALUES)),
            address.eq(base_3 + prefix.count), read.addr.eq(self._at_work(address[byte_bits:])), read.en.eq(delayed[1].valid),
        ]
        m.d.sync += [base_2.eq(match_base), base_3.eq(base_2), byte_4.eq(address), byte_5.eq(byte_4), line.eq(read.data),
                     self.weighted.weight.eq(line.word_select(byte_5, 8))]
        return finished

    def _retire(self, m, scanned, queued, push, finished):
        """Chunks whose scan is over wait here until the pairs queued up to then are finished."""
        config, stage = self._config, scanned["stage"]
        retired = self.retired
        layout = data.StructLayout({"queued": queued.shape(), "push": 1, "slot": retired.slot.shape(), "bank": retired.bank.shape(),
                                    "last_chunk": 1, "first_window": 1, "last_window": 1})
        m.submodules.tokens = tokens = Memory(shape=layout, depth=4, init=[])
        write, read = tokens.write_port(), tokens.read_port(domain="comb")
        write_count, read_count, ahead = Signal(3), Signal(3), Signal.like(queued)
        names = ("bank", "last_chunk", "first_window", "last_window")
        m.d.comb += [
            write.en.eq(stage.end), write.addr.eq(write_count), write.data.queued.eq(queued), write.data.push.eq(push), write.data.slot.eq(stage.slot),
            *(write.data[name].eq(stage.tag[name]) for name in names),
            read.addr.eq(read_count),
            # Both are counts of pairs, at most queue_depth apart: the difference has a sign. One adder: finished + ~queued + ~push.
            ahead.eq((Cat(1, finished) + Cat(~read.data.push, ~read.data.queued))[1:]),
        ]
        with m.If((write_count != read_count) & ~ahead[-1]):
            m.d.comb += [retired.valid.eq(1), *(retired[name].eq(read.data[name]) for name in ("slot", *names))]
        m.d.sync += [write_count.eq(write_count + stage.end), read_count.eq(read_count + retired.valid)]
