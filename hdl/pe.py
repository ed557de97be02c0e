"""What the kinds of processing element have in common: ports, frame, and the end of a row."""
from types import SimpleNamespace

from amaranth import Array, Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from neuroflex.formats import LEVEL_BITS, LoadKind
from neuroflex.hdl.arithmetic import stepped
from neuroflex.hdl.join import JoinFrontEnd
from neuroflex.hdl.prefix import FastPrefix
from neuroflex.layouts import broadcast_layout, load_layout, settings_layout
from neuroflex.widths import weighted_bits

__all__ = ["ProcessingElement", "RowEnd", "pe_ports"]


def pe_ports(config):
    """Ports of a processing element of either core, as a dict of members.

    Members
    -------
    bus : In(broadcast_layout)
    group : In
        Number of the PE's group; chunks of other groups are ignored.
    levels_in : In
        Levels of the layer's inputs (SNN core).
    load : In(load_layout), load_here : In(1)
        Load bus, and whether its beat is for this PE.
    clear : In(1)
        Pulse before a layer's load: no columns, nothing done, output banks start at 0. Only while idle. With two weight banks: nothing is loaded for the
        next layer; at any time.
    swap : In(1)
        Pulse before a layer runs: what was loaded is at work from the next cycle on and the other weight bank is loaded, nothing done, output banks start
        at 0. Only while idle. Only with two weight banks.
    y_bank, y_index : In
        Address of ``y``.
    y : Out(7)
        Level of column ``y_index`` in output bank ``y_bank`` of the cycle before; 0 if there is no such column.
    slot_free, row_free : Out(1)
        A chunk, a row may be sent; both always 1 without columns.
    enabled : Out(1)
        The PE has columns.
    columns : Out
        How many.
    done : Out
        Pooled outputs finished since ``clear``, or ``swap``, modulo ``2 * row_buffers``.
    matching : Out(1)
        A match is issued in this cycle (serial addition: an addition is made).
    busy : Out(1)
        A chunk or a row is held.
    """
    return {
        "bus": In(broadcast_layout(config)),
        "group": In(range(max(config.max_groups, 2))),
        "levels_in": In(settings_layout(config)["levels_in"].shape),
        "load": In(load_layout(config)),
        "load_here": In(1),
        "clear": In(1),
        **({"swap": In(1)} if config.overlap else {}),
        "y_bank": In(range(config.row_buffers)),
        "y_index": In(range(config.columns_per_pe)),
        "y": Out(LEVEL_BITS),
        "slot_free": Out(1),
        "row_free": Out(1),
        "enabled": Out(1),
        "columns": Out(range(config.columns_per_pe + 1)),
        "done": Out(range(2 * config.row_buffers)),
        "matching": Out(1),
        "busy": Out(1),
    }


class RowEnd(wiring.Component):
    """Row buffers of a PE: hands the columns of finished rows to the neuron unit and keeps its outputs.

    Rows use accumulator banks, pooled outputs use output banks, both round robin. **Timing:** the first job of a row
    is out in the cycle after ``drained``, the next one in the cycle after ``job_taken``; a result of cycle ``v`` is
    written at its end, and with a row's last one ``row_free``, ``done`` and ``busy`` change in ``v + 1``.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    columns : In
        Columns of the PE.
    clear : In(1)
        Nothing done, all banks start at 0.
    row_started : In(1)
        Pulse: the first beat of a row arrives.
    drained : In({valid, first_window, last_window})
        The sums of the next row are complete; first, last row of its pooled output.
    job_valid : Out(1), job_bank : Out, job_column : Out
        Accumulator that the neuron unit is to take.
    job_taken : In(1)
        Pulse: it was taken. Only while ``job_valid``.
    result : In({valid, column, y})
        Levels of the columns, in the order of the jobs.
    y_bank, y_index, y, row_free, done, busy
        See :func:`pe_ports`; ``busy`` while a row is held.
    """

    def __init__(self, config):
        self._config = config
        super().__init__({
            "columns": In(range(config.columns_per_pe + 1)),
            "clear": In(1),
            "row_started": In(1),
            "drained": In(data.StructLayout({"valid": 1, "first_window": 1, "last_window": 1})),
            "job_valid": Out(1),
            "job_bank": Out(range(config.row_buffers)),
            "job_column": Out(range(config.columns_per_pe)),
            "job_taken": In(1),
            "result": In(data.StructLayout({"valid": 1, "column": range(config.columns_per_pe), "y": LEVEL_BITS})),
            **{name: port for name, port in pe_ports(config).items()
               if name in ("y_bank", "y_index", "y", "row_free", "done", "busy")},
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        held, waiting = Signal(range(config.row_buffers + 1)), Signal(range(config.row_buffers + 1))
        full = Signal()     # a register of its own, for it goes far; without columns no row is held
        drain_bank, result_bank, output_bank = (Signal(range(config.row_buffers), name=name)
                                                for name in ("drain_bank", "result_bank", "output_bank"))
        # Counted down beside `job_column`, whose wires to every accumulator are slow, so that the end of a row is seen early.
        columns_left = Signal(range(max(config.columns_per_pe, 2)))
        last_column = Signal.like(self.job_column)      # of a row; a register, as the columns stay as they are while there are rows
        m.d.sync += last_column.eq(self.columns - 1)
        job_last, row_done = Signal(), Signal()
        result = self.result

        m.submodules.windows = windows = Memory(shape=data.StructLayout({"first": 1, "last": 1}), depth=config.row_buffers, init=[])
        window_write, window = windows.write_port(), windows.read_port(domain="comb")
        m.d.comb += [
            window_write.addr.eq(drain_bank), window_write.en.eq(self.drained.valid),
            window_write.data.first.eq(self.drained.first_window), window_write.data.last.eq(self.drained.last_window),
            window.addr.eq(result_bank),
            job_last.eq(self.job_taken & (columns_left == 0)),
            row_done.eq(result.valid & (result.column == last_column)),
            self.row_free.eq(~full), self.busy.eq(held != 0),
        ]
        m.d.sync += [
            held.eq(stepped(held, self.row_started, row_done)), waiting.eq(stepped(waiting, self.drained.valid, job_last)),
            drain_bank.eq(drain_bank + self.drained.valid),
            self.job_bank.eq(self.job_bank + job_last),
            result_bank.eq(result_bank + row_done),
        ]
        # What is taken is known late: it enables, and chooses nothing.
        with m.If(self.job_taken):
            m.d.sync += self.job_column.eq(Mux(columns_left == 0, 0, self.job_column + 1))
        with m.If(self.job_taken | ~self.job_valid):
            m.d.sync += columns_left.eq(Mux((columns_left == 0) | ~self.job_valid, last_column, columns_left - 1))
        with m.If(self.row_started & ~row_done):
            m.d.sync += full.eq(held == config.row_buffers - 1)
        with m.Elif(row_done & ~self.row_started):
            m.d.sync += full.eq(0)
        # `job_valid` says that rows are waiting. A register, for all sums of a column wait for what is taken.
        with m.If(self.drained.valid):
            m.d.sync += self.job_valid.eq(1)
        with m.Elif(job_last):
            m.d.sync += self.job_valid.eq(waiting != 1)

        m.submodules.outputs = outputs = Memory(shape=LEVEL_BITS, depth=config.row_buffers * config.columns_per_pe, init=[])
        write, old, read = outputs.write_port(), outputs.read_port(domain="comb"), outputs.read_port(domain="comb")
        m.d.comb += [
            old.addr.eq(Cat(result.column, output_bank)), write.addr.eq(old.addr), write.en.eq(result.valid),
            write.data.eq(Mux(~window.data.first & (old.data > result.y), old.data, result.y)),
            read.addr.eq(Cat(self.y_index, self.y_bank)),
        ]
        m.d.sync += self.y.eq(Mux(self.y_index < self.columns, read.data, 0))
        with m.If(row_done & window.data.last):
            m.d.sync += [output_bank.eq(output_bank + 1), self.done.eq(self.done + 1)]
        with m.If(self.clear):
            m.d.sync += [drain_bank.eq(0), result_bank.eq(0), output_bank.eq(0), self.job_bank.eq(0), self.done.eq(0)]
        return m


class ProcessingElement(wiring.Component):
    """Frame of a processing element: join front end and row end, to be completed by what sums and what activates.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    See :func:`pe_ports`.
    """

    DRAIN_DELAY = None      # from a chunk's end to the cycle in which the row it ends is drained

    def __init__(self, config):
        self._config = config
        super().__init__(pe_ports(config))

    def _frame(self, m, *, held=False):
        """Front end and row end, with the ports that lead straight to them; a front end that is ``held`` leaves ``matching`` to be driven."""
        m.submodules.front_end = join = JoinFrontEnd(self._config, held=held)
        m.submodules.row_end = row_end = RowEnd(self._config)
        swap = ("swap",) if self._config.overlap else ()
        m.d.comb += [
            *(getattr(join, name).eq(getattr(self, name)) for name in ("bus", "group", "load", "load_here", "clear", *swap)),
            *(getattr(self, name).eq(getattr(join, name)) for name in ("slot_free", "matching", "enabled", "columns") if not (held and name == "matching")),
            row_end.clear.eq(self.swap if swap else self.clear), *(getattr(row_end, name).eq(getattr(self, name)) for name in ("y_bank", "y_index")),
            *(getattr(self, name).eq(getattr(row_end, name)) for name in ("y", "done", "row_free")),
            row_end.columns.eq(join.columns), row_end.row_started.eq(join.row_started),
            self.busy.eq(join.busy | row_end.busy),
        ]
        return join, row_end

    def _drain(self, m, row_end, end):
        """A row is drained ``DRAIN_DELAY`` cycles after the ``end`` of its last chunk: its sums are complete then."""
        stage = Cat(end.valid & end.last_chunk, end.first_window, end.last_window)
        for cycle in range(self.DRAIN_DELAY):
            delayed = Signal(3, name=f"drain_{cycle}")
            m.d.sync += delayed.eq(stage)
            stage = delayed
        m.d.comb += row_end.drained.eq(stage)

    def _read_level(self, m, join):
        """Level of the match whose weight is out, by a fast prefix count beside that of the weight."""
        config = self._config
        if config.snn_levels == 1:
            return Const(1)
        m.submodules.level_prefix = prefix = FastPrefix(bits=config.chunk_bits)
        slot_2, slot_3 = Signal.like(join.match.slot), Signal.like(join.match.slot)
        level_4, level_5, level_6 = (Signal(range(config.snn_levels + 1), name=f"level_{cycle}") for cycle in (4, 5, 6))
        single = Signal()      # inputs have one level: a setting of the layer, there long before its first match
        m.d.sync += single.eq(self.levels_in <= 1)
        m.d.comb += [
            # Where all levels are 1, the first one of the chunk says as much as the match's own.
            prefix.mask.eq(join.activation_mask), prefix.position.eq(Mux(single, 0, join.match.position)),
            join.level_slot.eq(slot_3), join.level_offset.eq(prefix.count),
        ]
        m.d.sync += [slot_2.eq(join.match.slot), slot_3.eq(slot_2), level_4.eq(join.level), level_5.eq(level_4), level_6.eq(level_5)]
        return level_6

    def _activate(self, m, row_end, unit, jobs=None):
        """Columns of drained rows go through the neuron unit, one stage of registers in front of it.

        The columns are the row end's jobs, or those of ``jobs``, what stands in between. Returns the levels of the column in that stage, and
        whether the stage is free for another; a column's sums must be there in the cycle after its ``job_taken``.
        """
        jobs = jobs or row_end
        layout = data.StructLayout({"theta": 32, "bias": signed(32), "levels": 8})
        config = self._config
        m.submodules.parameters = parameters = Memory(shape=layout, depth=config.weight_banks * config.columns_per_pe, init=[])
        write, read = parameters.write_port(), parameters.read_port(domain="comb")
        spare, at_work = self.load.address, jobs.job_column
        if config.overlap:
            bank = m.submodules.front_end.weight_bank
            spare, at_work = Cat(spare[:len(at_work)], ~bank), Cat(at_work, bank)
        m.d.comb += [
            write.addr.eq(spare), write.data.eq(self.load.data),
            write.en.eq(self.load.valid & self.load_here & (self.load.kind == LoadKind.PARAMETER)),
            read.addr.eq(at_work),
        ]
        fetched, column, parameter = Signal(), Signal.like(row_end.job_column), Signal(layout)
        free = ~fetched | unit.i.ready
        m.d.comb += [
            jobs.job_taken.eq(jobs.job_valid & free), unit.i.valid.eq(fetched),
            unit.i.payload.tag.eq(column), unit.i.payload.bias.eq(parameter.bias), unit.i.payload.theta.eq(parameter.theta),
            row_end.result.valid.eq(unit.o.valid), row_end.result.column.eq(unit.o.payload.tag), row_end.result.y.eq(unit.o.payload.y),
        ]
        with m.If(unit.i.ready):
            m.d.sync += fetched.eq(0)
        with m.If(jobs.job_taken):
            m.d.sync += [fetched.eq(1), column.eq(jobs.job_column), parameter.eq(read.data)]
        return parameter.levels, free

    def _weigh(self, m, row_end, unit, sums):
        """Binary-weighted sums of a column, by bit, become one by Horner's rule: ``total = 2 * total + sums[bit]``, a bit per cycle from the highest of
        ``levels_in`` down; all of it enters the neuron in the first of its steps.

        ``sums`` are to be there in the cycle after ``row_end.job_taken``. The width is that of :func:`~neuroflex.widths.weighted_bits`. Sets what the
        neuron unit gets but for its corrections.
        """
        most = self._config.snn_levels.bit_length()
        bit, highest = Signal(range(max(most, 2)), name="weighed_bit"), Signal(range(max(most, 2)), name="highest_bit")
        busy, begun = Signal(name="weighing"), Signal(name="weighing_begun")
        total = Signal(signed(weighted_bits(self._config)), name="weighed_sum")
        weighed = Signal()      # the highest bits are summed up, the lowest comes next: a register, for all sums of a column wait for what is taken
        jobs = SimpleNamespace(job_valid=weighed, job_taken=Signal(name="weighed_taken"), job_column=Signal.like(row_end.job_column, name="weighed_column"))
        levels, free = self._activate(m, row_end, unit, jobs)
        m.d.comb += [
            row_end.job_taken.eq(row_end.job_valid & (~busy | jobs.job_taken)),
            unit.i.payload.t1.eq(1), unit.i.payload.t2.eq(levels), unit.i.payload.pseudo.eq(total),
        ]
        for number in range(1, most):
            with m.If(self.levels_in >> number != 0):
                m.d.comb += highest.eq(number)
        # The register is the stage in front of the neuron, too: its first step waits until the column before is through.
        with m.If(busy & free):
            m.d.sync += [total.eq((Mux(begun, total, 0) << 1) + Array(sums)[bit]), bit.eq(bit - 1), begun.eq(1), weighed.eq(bit == 1)]
        with m.If(jobs.job_taken):
            m.d.sync += busy.eq(0)
        with m.If(row_end.job_taken):
            m.d.sync += [busy.eq(1), begun.eq(0), bit.eq(highest), weighed.eq(highest == 0), jobs.job_column.eq(row_end.job_column)]
