"""Processing element of the SNN core that adds serially: a level ``q`` adds its weight ``q`` times. No multiplier."""
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from neuroflex.hdl.pascif import PascIF
from neuroflex.hdl.pe import ProcessingElement
from neuroflex.hdl.sums import ColumnSums

__all__ = ["SerialPe"]


class SerialPe(ProcessingElement):
    """Adds the weight of every match to its column's one accumulator, once for each spike of the input: ``q`` cycles for level ``q``.

    The PASC-IF neuron equals QCFS for any order of arrivals, so that nothing but their sum matters: all of it arrives in the first of its
    steps (``T1 = 1``). Neither spike words nor corrections are needed, and no guess of what a level may be: levels are read from the slot
    beside the weights, by a fast prefix count as in the ANN PE.

    A match of cycle ``M`` waits from ``M + ADD_DELAY`` on for the additions of those before it, which are made one per cycle without a gap. The engine is held while ``WAITING``
    matches are between it and the end of their additions: enough that the adder never waits for a match that the scanner has found. An addition of
    cycle ``t`` is in the sum from ``t + 2`` on. A chunk retires when all its additions are made, frees its slot two cycles
    later, and the row that it ends gives its first column to the neuron in the third. See ``docs/pe_serial.md``.

    With ``levels_in`` of 1 every match is one addition, and the level prefix count stands still.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    See :func:`~neuroflex.hdl.pe.pe_ports`; ``matching`` says that an addition is made.
    """

    WAITING = 8         # a power of two of more than ADD_DELAY
    ADD_DELAY = 7       # from the engine's match to its first addition, at least
    DRAIN_DELAY = 1     # after retirement: the last addition is in the sum by then

    def elaborate(self, platform):
        m = Module()
        join, row_end = self._frame(m, held=True)
        m.d.comb += join.open.eq(join.arrived)
        m.d.sync += join.slot_release.eq(join.retired.valid)
        self._drain(m, row_end, join.retired)
        addition = self._repeat(m, join, self._read_level(m, join))
        self._neuron(m, row_end, addition)
        return m

    def _repeat(self, m, join, level):
        """Matches wait for their additions; returns the weight, column and bank of an addition."""
        weighted = join.weighted
        layout = data.StructLayout({"weight": signed(8), "column": weighted.column.shape(), "bank": weighted.bank.shape(), "level": len(level),
                                    "pair_end": 1})
        m.submodules.waiting = waiting = Memory(shape=layout, depth=self.WAITING, init=[])
        write, read = waiting.write_port(), waiting.read_port(domain="comb")
        count_bits = self.WAITING.bit_length()
        write_count, read_count = Signal(count_bits), Signal(count_bits)
        under_way = Signal(range(self.WAITING + 1))     # matches from the engine to the end of their additions
        added = Signal.like(level)                      # additions of the match in front
        adding, through = Signal(), Signal()
        m.d.comb += [
            write.addr.eq(write_count), write.en.eq(weighted.valid), read.addr.eq(read_count),
            *(write.data[name].eq(weighted[name]) for name in ("weight", "column", "bank")),
            write.data.level.eq(level), write.data.pair_end.eq(join.pair_end),
            adding.eq(write_count != read_count), through.eq(adding & (added + 1 >= read.data.level)),
            join.pair_through.eq(through & read.data.pair_end), join.hold.eq(under_way[-1]), self.matching.eq(adding),
        ]
        m.d.sync += [
            write_count.eq(write_count + weighted.valid), read_count.eq(read_count + through),
            under_way.eq(under_way + join.matching - through), added.eq(Mux(through, 0, added + adding)),
        ]
        return {"valid": adding, "weight": read.data.weight, "address": Cat(read.data.column, read.data.bank)}

    def _neuron(self, m, row_end, addition):
        """The sum; then the columns of a finished row go through PASC-IF, all of their sum in its first step."""
        config = self._config
        m.submodules.sums = sums = ColumnSums(depth=config.row_buffers * config.columns_per_pe, acc_bits=config.snn_acc_bits, sums=1)
        m.submodules.pascif = pascif = PascIF(
            acc_bits=config.snn_acc_bits, theta_bits=config.theta_bits, bias_bits=32, max_levels=config.snn_levels,
            steps_per_cycle=config.neuron_steps, tag_bits=len(row_end.job_column))
        job = pascif.i.payload
        m.d.comb += [
            *(sums.add[name].eq(value) for name, value in addition.items()), sums.add.select.eq(1),
            sums.take.valid.eq(row_end.job_taken), sums.take.address.eq(Cat(row_end.job_column, row_end.job_bank)),
            job.t1.eq(1), job.t2.eq(self._activate(m, row_end, pascif)[0]), job.pseudo.eq(sums.taken[0]),
        ]
