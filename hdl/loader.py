"""Loader: reads a layer's load stream from memory, checks it, and writes it into the PEs' slices."""
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import LOAD_BURST, RECORD_MAGIC, Core, LoadKind, Status, column_record_lines, most_levels
from neuroflex.layouts import burst_layout, load_layout, read_data_layout

__all__ = ["LOADER_LATENCY", "LineCounter", "Loader", "RecordParser"]

LOADER_LATENCY = 5   # from a line's arrival to its beat on the load bus

_LENGTH_BITS = 32    # of the descriptor's load_lines


def _counted_layout(config):
    """A line of the load stream with the number of its ones."""
    return data.StructLayout({"valid": 1, "line": config.chunk_bits, "error": 1, "ones": range(config.chunk_bits + 1)})


class LineCounter(wiring.Component):
    """Counts the ones of every line; three stages: take, count bytes, add.

    Members
    -------
    valid, line, error : In
    counted : Out
        The same three cycles later, with the count.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({"valid": In(1), "line": In(config.chunk_bits), "error": In(1),
                          "counted": Out(_counted_layout(config))})

    def elaborate(self, platform):
        m = Module()
        config = self._config
        taken = Signal(data.StructLayout({"valid": 1, "line": config.chunk_bits, "error": 1}))
        bytes_counted = Signal(data.StructLayout({
            "valid": 1, "line": config.chunk_bits, "error": 1, "ones": data.ArrayLayout(range(9), config.line_bytes)}))
        m.d.sync += [
            taken.valid.eq(self.valid), taken.line.eq(self.line), taken.error.eq(self.error),
            bytes_counted.valid.eq(taken.valid), bytes_counted.line.eq(taken.line), bytes_counted.error.eq(taken.error),
            self.counted.valid.eq(bytes_counted.valid), self.counted.line.eq(bytes_counted.line),
            self.counted.error.eq(bytes_counted.error),
        ]
        m.d.sync += [bytes_counted.ones[i].eq(_sum(list(taken.line[8 * i:8 * i + 8]))) for i in range(config.line_bytes)]
        m.d.sync += self.counted.ones.eq(_sum(list(bytes_counted.ones)))
        return m


def _sum(terms):
    """Sum as a balanced tree."""
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2])]
    return terms[0]


class _Phase(enum.Enum, shape=3):
    """What the next line is."""

    HEADER = 0
    SIZES = 1
    PARAMETERS = 2
    MASKS = 3
    VALUES = 4


class RecordParser(wiring.Component):
    """Takes the stream apart, line by line, checks it, and drives the load bus; two stages: read, judge.

    The first stage follows the format and never stops: what it makes of the lines behind a bad one is dropped by the second.

    Members
    -------
    start : In(1)
        Pulse: a stream begins.
    lines, groups_log2 : In
        Lines of the stream; groups of each core.
    counted : In
        A line while ``valid``.
    load : Out
        The load bus; holds the last beat between beats.
    taken : Out(1)
        A line leaves the first stage.
    ended : Out(1)
        The last line was judged, or an error was found.
    error : Out(8)
        ``Status``, NONE while all is well.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1), "lines": In(_LENGTH_BITS), "groups_log2": In(4), "counted": In(_counted_layout(config)),
            "load": Out(load_layout(config)), "taken": Out(1), "ended": Out(1, init=1), "error": Out(8),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        width = config.chunk_bits
        record_lines = column_record_lines(config)
        line, ones = self.counted.line, self.counted.ones

        phase = Signal(_Phase)
        left = Signal(_LENGTH_BITS)                                  # lines not yet read
        core, pe = Signal(Core), Signal(len(self.load.pe))           # of the record
        columns = Signal(range(config.columns_per_pe + 1))
        value_lines = Signal(range(config.value_lines + 1))
        last_column, last_mask, last_value = (Signal(range(max(config.columns_per_pe, config.mask_pairs, config.value_lines)), name=f"last_{what}")
                                              for what in ("column", "mask", "value"))      # what `index` is at the end of each phase
        index = Signal(range(max(config.columns_per_pe, config.mask_pairs, config.value_lines)))
        part = Signal(range(max(record_lines, 2)))                   # line within the column's record, or the pair
        pair = Signal(range(max(config.pairs_per_pe, 2)))            # within the chunk
        total = Signal(range(2 << config.value_base_bits))           # ones in the record's masks so far
        base = Signal(config.value_base_bits)                        # of the pair's first mask
        earlier = Signal(width * max(record_lines - 1, 1))           # lines before this one
        seen = Signal(data.ArrayLayout(config.lanes, 2))             # PEs that had a record, of each core

        header = data.View(data.StructLayout({"core": 8, "pe": 8, "columns": 8, "magic": 8}), line[:32])
        sizes = data.View(data.StructLayout({"mask_pairs": 16, "value_lines": 16}), line[:32])
        record = data.View(data.StructLayout({"theta": 32, "bias": 32, "levels": 32}),
                           (Cat(earlier, line) if record_lines > 1 else line)[:96])
        pes = Mux(header.core == Core.ANN, config.ann_pes, config.snn_pes) >> self.groups_log2
        again = Mux(header.core == Core.ANN, *seen).bit_select(header.pe[:len(pe)], 1)
        bad_header = ((header.magic != RECORD_MAGIC) | (header.core > Core.SNN) | (header.pe >= pes) | again
                      | (header.columns == 0) | (header.columns > config.columns_per_pe))
        bad_sizes = ((sizes.mask_pairs == 0) | (sizes.mask_pairs > config.mask_pairs)
                     | (sizes.value_lines > config.value_lines))
        bad_column = ((record.theta == 0) | record.theta[config.theta_bits:].any() | (record.levels == 0)
                      | (record.levels > Mux(core == Core.ANN, *(most_levels(which, config) for which in Core))))
        last_pair = Signal()
        last_in_chunk = Signal()
        phantom = Signal()
        m.d.comb += [
            last_pair.eq(index == last_mask),
            last_in_chunk.eq(pair == (columns - 1)[1:len(columns)]),
            phantom.eq(part[0] & last_in_chunk & columns[0] & (ones != 0)),
        ]

        beat = Signal()
        ends = Signal()
        bad_record = Signal()
        bad_length = Signal()
        kind = Signal(LoadKind)
        number = Signal(len(self.load.address))
        content = Signal(len(self.load.data))
        next_phase = Signal(_Phase)
        m.d.comb += [next_phase.eq(phase), number.eq(index)]
        with m.Switch(phase):
            with m.Case(_Phase.HEADER):
                m.d.comb += [next_phase.eq(_Phase.SIZES), beat.eq(1), kind.eq(LoadKind.COLUMNS), number.eq(0),
                             content.eq(header.columns), bad_record.eq(bad_header)]
            with m.Case(_Phase.SIZES):
                m.d.comb += [next_phase.eq(_Phase.PARAMETERS), bad_length.eq(bad_sizes)]
            with m.Case(_Phase.PARAMETERS):
                m.d.comb += [beat.eq(part == record_lines - 1), kind.eq(LoadKind.PARAMETER),
                             content.eq(Cat(record.theta, record.bias, record.levels[:8])), bad_record.eq(beat & bad_column)]
                with m.If(beat & (index == last_column)):
                    m.d.comb += next_phase.eq(_Phase.MASKS)
            with m.Case(_Phase.MASKS):
                m.d.comb += [beat.eq(part[0]), kind.eq(LoadKind.MASKS), bad_record.eq(phantom),
                             bad_length.eq(beat & last_pair & ~last_in_chunk),
                             content.eq(Cat(earlier[-width:], line, base, total[:config.value_base_bits]))]
                with m.If(beat & last_pair):
                    m.d.comb += [next_phase.eq(Mux(value_lines == 0, _Phase.HEADER, _Phase.VALUES)), ends.eq(value_lines == 0)]
            with m.Case(_Phase.VALUES):
                m.d.comb += [beat.eq(1), kind.eq(LoadKind.VALUES), content.eq(line)]
                with m.If(index == last_value):
                    m.d.comb += [next_phase.eq(_Phase.HEADER), ends.eq(1)]

        with m.If(self.counted.valid):
            m.d.sync += [left.eq(left - 1), phase.eq(next_phase), earlier.eq(Cat(earlier, line)[-len(earlier):])]
            with m.Switch(phase):
                with m.Case(_Phase.HEADER):
                    m.d.sync += [core.eq(header.core), pe.eq(header.pe), columns.eq(header.columns), last_column.eq(header.columns - 1),
                                 total.eq(0), base.eq(0)]
                    for which in Core:
                        with m.If(header.core == which):
                            m.d.sync += seen[which].eq(seen[which] | (1 << header.pe[:len(pe)]))
                with m.Case(_Phase.SIZES):
                    m.d.sync += [last_mask.eq(sizes.mask_pairs - 1), last_value.eq(sizes.value_lines - 1), value_lines.eq(sizes.value_lines)]
                with m.Case(_Phase.MASKS):
                    new_total = (total + ones)[:len(total)]
                    m.d.sync += [total.eq(new_total), base.eq(Mux(part[0], new_total, base))]
                    with m.If(part[0]):
                        m.d.sync += pair.eq(Mux(last_in_chunk, 0, pair + 1))
            with m.If(next_phase != phase):
                m.d.sync += [index.eq(0), part.eq(0), pair.eq(0)]
            with m.Elif(beat):
                m.d.sync += [index.eq(index + 1), part.eq(0)]
            with m.Else():
                m.d.sync += part.eq(part + 1)
        with m.If(self.start):
            m.d.sync += [left.eq(self.lines), phase.eq(_Phase.HEADER), index.eq(0), part.eq(0), pair.eq(0), seen.eq(0)]

        # Second stage. The sum of the ones has its register in between; the limit stays for as long as the record.
        read = Signal(data.StructLayout({
            "beat": 1, "kind": LoadKind, "address": len(number), "data": len(content), "last": 1, "mask": 1, "bus_error": 1,
            "bad_record": 1, "bad_length": 1}))
        m.d.sync += [
            self.taken.eq(self.counted.valid),
            read.beat.eq(beat), read.kind.eq(kind), read.address.eq(number), read.data.eq(content), read.last.eq(left == 1),
            read.mask.eq(phase == _Phase.MASKS), read.bus_error.eq(self.counted.error), read.bad_record.eq(bad_record),
            read.bad_length.eq(bad_length | (left == 1) & ~ends),
        ]
        error = Signal(Status)
        with m.If(read.bus_error):
            m.d.comb += error.eq(Status.BUS_ERROR)
        with m.Elif(read.bad_record):
            m.d.comb += error.eq(Status.BAD_LOAD_RECORD)
        with m.Elif(read.bad_length | read.mask & (total > (value_lines << (config.line_bytes.bit_length() - 1)))):
            m.d.comb += error.eq(Status.BAD_LOAD_LENGTH)
        m.d.sync += self.load.valid.eq(0)
        with m.If(self.taken & ~self.ended):
            m.d.sync += [self.error.eq(error), self.ended.eq(read.last | (error != Status.NONE))]
            with m.If(read.beat & (error == Status.NONE)):
                m.d.sync += [self.load.valid.eq(1), self.load.core.eq(core), self.load.pe.eq(pe), self.load.kind.eq(read.kind),
                             self.load.address.eq(read.address), self.load.data.eq(read.data)]
        with m.If(self.start):
            m.d.sync += [self.ended.eq(self.lines == 0),
                         self.error.eq(Mux(self.lines == 0, Status.BAD_LOAD_LENGTH, Status.NONE))]
        return m


class Loader(wiring.Component):
    """Loads the slices of both arrays; see ``docs/loader.md``.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    start : In(1)
        Pulse: load the ``lines`` lines from ``address`` on; the three settings are stable until ``finished``.
    address, lines, groups_log2 : In
        Fields ``load_address``, ``load_lines``, ``groups_log2`` of the descriptor.
    request : stream of ``burst_layout``
        Bursts of at most ``LOAD_BURST`` lines, the first 2 cycles after ``start``, one per cycle if taken at once.
    read_data : stream of ``read_data_layout``
        Always ready. A line's beat is on the load bus ``LOADER_LATENCY`` = 5 cycles after the line.
    load : Out
        Load bus, at most one beat per line; no beats from the first bad line on.
    finished : Out(1)
        Pulse, 6 cycles after the last line arrived; after an error too: then all lines asked for have arrived.
    error : Out(8)
        ``Status``: NONE, BAD_LOAD_RECORD, BAD_LOAD_LENGTH or BUS_ERROR; valid from ``finished`` to the next start.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "start": In(1), "address": In(config.address_bits), "lines": In(_LENGTH_BITS), "groups_log2": In(4),
            "request": Out(stream.Signature(burst_layout(config))),
            "read_data": In(stream.Signature(read_data_layout(config))),
            "load": Out(load_layout(config)), "finished": Out(1), "error": Out(8),
        })

    @property
    def config(self):
        return self._config

    def elaborate(self, platform):
        m = Module()
        m.submodules.counter = counter = LineCounter(config=self._config)
        m.submodules.parser = parser = RecordParser(config=self._config)
        busy = Signal()
        to_request = Signal(_LENGTH_BITS)
        next_address = Signal(len(self.address))
        asked = Signal(_LENGTH_BITS)           # lines in accepted requests
        arrived = Signal(_LENGTH_BITS)         # lines read
        accepted = self.request.valid & self.request.ready
        more = Signal()                        # than a burst

        m.d.comb += [
            self.read_data.ready.eq(1),
            counter.valid.eq(self.read_data.valid), counter.line.eq(self.read_data.payload.line),
            counter.error.eq(self.read_data.payload.error),
            parser.start.eq(self.start), parser.lines.eq(self.lines), parser.groups_log2.eq(self.groups_log2),
            parser.counted.eq(counter.counted), self.load.eq(parser.load), self.error.eq(parser.error),
            more.eq(to_request > LOAD_BURST),
        ]
        with m.If(~self.request.valid | self.request.ready):
            m.d.sync += self.request.valid.eq(0)
            with m.If((to_request != 0) & ~parser.ended):
                m.d.sync += [self.request.valid.eq(1), self.request.payload.address.eq(next_address),
                             self.request.payload.lines.eq(Mux(more, LOAD_BURST, to_request)), next_address.eq(next_address + LOAD_BURST),
                             to_request.eq(Mux(more, to_request - LOAD_BURST, 0))]
        # Counted apart, each by an enable: readiness comes too late for a carry.
        with m.If(accepted):
            m.d.sync += asked.eq(asked + self.request.payload.lines)
        with m.If(parser.taken):
            m.d.sync += arrived.eq(arrived + 1)

        m.d.sync += self.finished.eq(0)
        with m.If(busy & parser.ended & ~self.request.valid & (asked == arrived)):
            m.d.sync += [busy.eq(0), self.finished.eq(1)]
        with m.If(self.start):
            m.d.sync += [busy.eq(1), to_request.eq(self.lines), next_address.eq(self.address)]
        return m
