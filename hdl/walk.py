"""The im2col walk: the chunks of a layer in broadcast order, one description per cycle."""
from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.config import ArchConfig
from neuroflex.formats import CHUNK_LINES
from neuroflex.hdl.arithmetic import times
from neuroflex.layouts import chunk_layout, settings_layout

__all__ = ["Walk"]

_COORDINATE = signed(18)   # a row or column of a source, from -pad to 2**16 plus a window
_FLAGS = ("group", "first_chunk", "last_chunk", "first_window", "last_window", "new_block", "source", "last_of_layer")


def _position_layout():
    """A pooled output position: how many follow in its row and column, whether none does, and its window's origin in each source."""
    return data.StructLayout({
        "columns_left": 16,
        "rows_left": 16,
        "last_column": 1,
        "last_row": 1,
        "row": data.ArrayLayout(_COORDINATE, 2),
        "column": data.ArrayLayout(_COORDINATE, 2),
    })


class Walk(wiring.Component):
    """Nested loops over blocks, pool window, sources, repeats, kernel, chunks and groups (``docs/architecture.md``).

    ``start`` in cycle ``t`` takes the settings, which have to stay as they are until the last description was taken;
    descriptions are on offer from cycle ``t + 8`` on without a gap, one per cycle, the last with ``last_of_layer``.
    ``start`` must not come before that one was taken.

    Coordinates are scaled positions stepped by addition; the address
    ``base + ((row * width + column) * chunks + chunk) * 9`` is worked out in a pipeline with a 16 x 16 multiplier and
    another one or two for the chunks of a spine.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    start : In(1)
    settings : In(settings_layout(config))
        A layer that the sequencer has accepted: kernel and pool 1 ... 7, repeat 1 ... 15, sizes at least 1.
    o_chunk : Out(stream of chunk_layout(config))

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
            "o_chunk": Out(stream.Signature(chunk_layout(config))),
        })

    @property
    def config(self):
        return self._config

    def _of_sources(self, name):
        """A setting of both sources, to be indexed by source."""
        return Array([self.settings[f"source0_{name}"], self.settings[f"source1_{name}"]])

    def elaborate(self, platform):
        m = Module()
        settings = self.settings
        # The whole pipeline moves: descriptions follow each other without gaps, so none is squeezed. It moves by a register: where it cannot know yet
        # whether the description on offer is taken, the one behind that goes to a register of its own.
        advance = Signal()
        stage = self._loops(m, settings, advance)
        self._address_pipeline(m, stage, advance)
        return m

    def _constants(self, m):
        """Registers derived from the settings, so that the loops only compare and add."""
        constants = {}

        def constant(name, value):
            constants[name] = Signal(value.shape(), name=name)
            m.d.sync += constants[name].eq(value)

        settings = self.settings
        constant("columns_last", (settings.out_width - 1)[:16])
        constant("rows_last", (settings.out_height - 1)[:16])
        constant("one_column", settings.out_width == 1)
        constant("one_row", settings.out_height == 1)
        constant("pool_rows_last", (settings.pool_h - 1)[:4])
        constant("pool_columns_last", (settings.pool_w - 1)[:4])
        constant("one_pool_row", settings.pool_h == 1)
        constant("one_pool_column", settings.pool_w == 1)
        constant("groups_last", ((1 << settings.groups_log2) - 1)[:len(self.o_chunk.payload.group)])
        constant("two_sources", settings.source1_height.any())
        whole = (settings.groups_log2 == 0) & (settings.pool_h == 1) & (settings.pool_w == 1)
        for source in range(2):
            def setting(name):
                return settings[f"source{source}_{name}"]
            constant(f"chunks_last{source}", (setting("chunks") - 1)[:12])
            constant(f"one_chunk{source}", setting("chunks") == 1)
            constant(f"kernel_rows_last{source}", (setting("kernel_h") - 1)[:4])
            constant(f"kernel_columns_last{source}", (setting("kernel_w") - 1)[:4])
            constant(f"repeats_last{source}", (setting("repeat") - 1)[:4])
            constant(f"one_kernel_row{source}", setting("kernel_h") == 1)
            constant(f"one_kernel_column{source}", setting("kernel_w") == 1)
            constant(f"one_repeat{source}", setting("repeat") == 1)
            constant(f"row_step{source}", setting("stride") * settings.pool_h)
            constant(f"column_step{source}", setting("stride") * settings.pool_w)
            constant(f"consumable{source}", settings[f"consume{source}"] & whole)

        def of(name):
            return Array([constants[f"{name}0"], constants[f"{name}1"]])
        return constants, of

    def _loops(self, m, settings, advance):
        """The loop counters; returns what the first pipeline stage takes from them."""
        constants, of = self._constants(m)
        stride = self._of_sources("stride")
        pad = self._of_sources("pad")

        begin = Signal()           # the constants are there
        active = Signal()
        position = Signal(_position_layout())
        block = Signal(_position_layout())          # position of the block's first group
        group = Signal.like(self.o_chunk.payload.group)
        chunks_left = Signal(12)
        chunk_offset = Signal(16)  # lines
        kernel_row = Signal(4)
        kernel_column = Signal(4)
        repeat = Signal(4)
        source = Signal()
        pool_row = Signal(4)
        pool_column = Signal(4)
        pool_rows = Signal(data.ArrayLayout(6, 2))  # pool_row * stride of each source
        pool_columns = Signal(data.ArrayLayout(6, 2))
        first_chunk = Signal()
        first_window = Signal()
        new_block = Signal()

        # Whether a counter is at its end is a register beside it: together they enable all registers of the loops.
        chunk_ends = Signal()      # of the spine: chunks_left is 0
        columns_end = Signal()
        rows_end = Signal()
        repeats_end = Signal()
        sources_end = Signal()
        pool_columns_end = Signal()
        pool_rows_end = Signal()
        # What the loops ask of the source that they are at follows it, too.
        here = {name: Signal.like(constants[f"{name}0"], name=f"{name}_here")
                for name in ("kernel_columns_last", "kernel_rows_last", "repeats_last", "consumable")}
        stride_here = Signal.like(settings.source0_stride)

        def enter(number):
            """A source begins."""
            return [source.eq(number), sources_end.eq(number | ~constants["two_sources"]), stride_here.eq(stride[number]),
                    *(here[name].eq(of(name)[number]) for name in here)]

        def single(number):
            """A source has one chunk in all: its loops begin at their ends."""
            return of("one_chunk")[number] & of("one_kernel_column")[number] & of("one_kernel_row")[number] & of("one_repeat")[number]

        # ends of the loops, inner to outer
        last_column, last_row = position.last_column, position.last_row
        last_group = Signal()
        last_chunk = Signal()      # of the convolution row: all of its loops are at their ends
        last_window = Signal()
        m.d.comb += last_group.eq(self._last_group(group, constants["groups_last"], last_column & last_row))
        last_of_layer = last_group & last_chunk & last_window & last_column & last_row

        following = Signal(_position_layout())
        with m.If(last_column):
            m.d.comb += [following.columns_left.eq(constants["columns_last"]), following.last_column.eq(constants["one_column"]),
                         following.rows_left.eq(position.rows_left - 1), following.last_row.eq(position.rows_left == 1)]
        with m.Else():
            m.d.comb += [following.columns_left.eq(position.columns_left - 1), following.last_column.eq(position.columns_left == 1),
                         following.rows_left.eq(position.rows_left), following.last_row.eq(last_row)]
        for index in range(2):
            m.d.comb += [
                following.column[index].eq(Mux(last_column, -pad[index], position.column[index] + of("column_step")[index])),
                following.row[index].eq(Mux(last_column, position.row[index] + of("row_step")[index], position.row[index])),
            ]

        next_source = Signal()
        source_ends = chunk_ends & columns_end & rows_end & repeats_end
        m.d.comb += next_source.eq(Mux(source_ends, ~sources_end, source))

        m.d.sync += begin.eq(self.start)
        with m.If(begin):
            m.d.sync += [
                active.eq(1), group.eq(0), chunk_offset.eq(0), kernel_row.eq(0), kernel_column.eq(0), repeat.eq(0),
                *enter(0), pool_row.eq(0), pool_column.eq(0), pool_rows.eq(0), pool_columns.eq(0),
                chunks_left.eq(of("chunks_last")[0]), chunk_ends.eq(of("one_chunk")[0]), columns_end.eq(of("one_kernel_column")[0]),
                rows_end.eq(of("one_kernel_row")[0]), repeats_end.eq(of("one_repeat")[0]),
                pool_columns_end.eq(constants["one_pool_column"]), pool_rows_end.eq(constants["one_pool_row"]),
                last_chunk.eq(single(0) & ~constants["two_sources"]), last_window.eq(constants["one_pool_column"] & constants["one_pool_row"]),
                first_chunk.eq(1), first_window.eq(1), new_block.eq(1),
            ]
            for register in (position, block):
                m.d.sync += [register.columns_left.eq(constants["columns_last"]), register.last_column.eq(constants["one_column"]),
                             register.rows_left.eq(constants["rows_last"]), register.last_row.eq(constants["one_row"])]
                for index in range(2):
                    m.d.sync += [register.row[index].eq(-pad[index]), register.column[index].eq(-pad[index])]
        with m.Elif(active & advance):
            m.d.sync += new_block.eq(0)
            with m.If(~last_group):
                m.d.sync += [group.eq(group + 1), position.eq(following)]
            with m.Else():
                m.d.sync += [
                    group.eq(0), position.eq(block), first_chunk.eq(last_chunk),
                    chunks_left.eq(chunks_left - 1), chunk_ends.eq(chunks_left == 1), chunk_offset.eq(chunk_offset + CHUNK_LINES),
                    last_chunk.eq((chunks_left == 1) & columns_end & rows_end & repeats_end & sources_end),
                ]
                with m.If(chunk_ends):
                    m.d.sync += [chunks_left.eq(of("chunks_last")[next_source]), chunk_ends.eq(of("one_chunk")[next_source]), chunk_offset.eq(0),
                                 kernel_column.eq(kernel_column + 1), columns_end.eq(kernel_column + 1 == here["kernel_columns_last"]),
                                 last_chunk.eq(of("one_chunk")[source] & (kernel_column + 1 == here["kernel_columns_last"]) & rows_end & repeats_end & sources_end)]
                    with m.If(columns_end):
                        m.d.sync += [kernel_column.eq(0), columns_end.eq(of("one_kernel_column")[next_source]),
                                     kernel_row.eq(kernel_row + 1), rows_end.eq(kernel_row + 1 == here["kernel_rows_last"]),
                                     last_chunk.eq(of("one_chunk")[source] & of("one_kernel_column")[source] & (kernel_row + 1 == here["kernel_rows_last"])
                                                   & repeats_end & sources_end)]
                        with m.If(rows_end):
                            m.d.sync += [kernel_row.eq(0), rows_end.eq(of("one_kernel_row")[next_source]),
                                         repeat.eq(repeat + 1), repeats_end.eq(repeat + 1 == here["repeats_last"]),
                                         last_chunk.eq(of("one_chunk")[source] & of("one_kernel_column")[source] & of("one_kernel_row")[source]
                                                       & (repeat + 1 == here["repeats_last"]) & sources_end)]
                            with m.If(repeats_end):
                                m.d.sync += [repeat.eq(0), repeats_end.eq(of("one_repeat")[next_source]), *enter(next_source),
                                             last_chunk.eq(single(next_source) & (next_source | ~constants["two_sources"]))]
                with m.If(last_chunk):
                    m.d.sync += [first_window.eq(last_window),
                                 pool_column.eq(pool_column + 1), pool_columns_end.eq(pool_column + 1 == constants["pool_columns_last"]),
                                 last_window.eq((pool_column + 1 == constants["pool_columns_last"]) & pool_rows_end)]
                    for index in range(2):
                        m.d.sync += pool_columns[index].eq(pool_columns[index] + stride[index])
                    with m.If(pool_columns_end):
                        m.d.sync += [pool_column.eq(0), pool_columns_end.eq(constants["one_pool_column"]), pool_columns.eq(0),
                                     pool_row.eq(pool_row + 1), pool_rows_end.eq(pool_row + 1 == constants["pool_rows_last"]),
                                     last_window.eq(constants["one_pool_column"] & (pool_row + 1 == constants["pool_rows_last"]))]
                        for index in range(2):
                            m.d.sync += pool_rows[index].eq(pool_rows[index] + stride[index])
                        with m.If(pool_rows_end):
                            m.d.sync += [pool_row.eq(0), pool_rows_end.eq(constants["one_pool_row"]), pool_rows.eq(0), new_block.eq(1),
                                         last_window.eq(constants["one_pool_column"] & constants["one_pool_row"]),
                                         position.eq(following), block.eq(following)]
                            with m.If(last_column & last_row):
                                m.d.sync += active.eq(0)

        row = Mux(source, position.row[1], position.row[0]) + (pool_rows[source] + kernel_row)
        column = Mux(source, position.column[1], position.column[0]) + (pool_columns[source] + kernel_column)
        below = (kernel_row >= stride_here) & ~last_row
        right = (kernel_column >= stride_here) & ~last_column
        return {"valid": active, "row": row, "column": column, "chunk_offset": chunk_offset, "group": group,
                "first_chunk": first_chunk, "last_chunk": last_chunk, "first_window": first_window,
                "last_window": last_window, "new_block": new_block,
                "consume": here["consumable"] & ~self._read_again(below, right, repeats_end), "source": source,
                "last_of_layer": last_of_layer}

    def _last_group(self, group, groups_last, last_position):
        """Whether the block ends with this group: the last block may have fewer positions than there are groups."""
        return (group == groups_last) | last_position

    def _read_again(self, below, right, repeats_end):
        """Whether the layer reads the chunk again: in the window below or to the right, or in the next repeat."""
        return below | right | ~repeats_end

    def _address_pipeline(self, m, loops, advance):
        """Six stages from loop counters to the description on offer."""
        bits = self.config.address_bits
        passed = ("valid", *_FLAGS, "consume")

        def stage(number, previous, **values):
            """Registers of a stage: computed values, and what is passed on as it is."""
            registers = {}
            for name, value in {**{name: previous[name] for name in passed}, **values}.items():
                registers[name] = Signal(value.shape(), name=f"{name}_{number}")
                with m.If(advance):
                    m.d.sync += registers[name].eq(value)
            return registers

        def of(name, registers):
            return self._of_sources(name)[registers["source"]]

        window = stage(1, loops, row=loops["row"].as_signed()[:18].as_signed(),
                       column=loops["column"][:18].as_signed(), chunk_offset=loops["chunk_offset"], width=of("width", loops))
        row, column = window["row"], window["column"]
        outside = ((row < 0) | (row >= of("height", window)) | (column < 0) | (column >= window["width"]))
        line = stage(2, window, row_start=(row[:16] * window["width"])[:bits], column=column[:16],
                     chunk_offset=window["chunk_offset"], outside=outside, chunks=of("chunks", window))
        passed += ("outside",)
        spine = stage(3, line, spine=(line["row_start"] + line["column"])[:bits], chunk_offset=line["chunk_offset"],
                      spine_lines=times(line["chunks"], CHUNK_LINES)[:16])
        product = stage(4, spine, low=(spine["spine"][:16] * spine["spine_lines"])[:bits],
                        high=(spine["spine"][16:] * spine["spine_lines"])[:max(bits - 16, 0)],
                        base=(of("base", spine)[:bits] + spine["chunk_offset"])[:bits])
        partial = stage(5, product, sum=(product["low"] + product["base"])[:bits], high=product["high"])
        payload = self.o_chunk.payload
        names = (*_FLAGS, "address", "outside", "consume")
        last = {**partial, "address": Mux(partial["outside"], 0, partial["sum"] + (partial["high"] << 16))[:bits]}
        spare = {name: Signal.like(payload[name], name=f"spare_{name}") for name in names}
        spared = Signal()
        m.d.comb += advance.eq(~spared)
        with m.If(~self.o_chunk.valid | self.o_chunk.ready):
            m.d.sync += [spared.eq(0), self.o_chunk.valid.eq(spared | last["valid"]),
                         *(payload[name].eq(Mux(spared, spare[name], last[name])) for name in names)]
        with m.Elif(~spared):
            m.d.sync += [spared.eq(last["valid"]), *(spare[name].eq(last[name]) for name in names)]
