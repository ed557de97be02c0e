"""Processing element of the ANN core: join, multiply, accumulate, QCFS."""
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory

from neuroflex.formats import LEVEL_BITS, LoadKind
from neuroflex.hdl.join import JoinFrontEnd
from neuroflex.hdl.pe import RowEnd, pe_ports
from neuroflex.hdl.prefix import FastPrefix
from neuroflex.hdl.qcfs import QCFS

__all__ = ["AnnPe"]


class AnnPe(wiring.Component):
    """Multiplies matching INT8 weights and levels, one pair per cycle, and activates finished rows by QCFS.

    A match of cycle ``M`` is in its accumulator from ``M + 8`` on. A chunk retired in cycle ``R`` frees its slot in
    ``R + 2``; the row it ends gives the QCFS unit its first job in ``R + 8``. See ``docs/pe.md``.

    SparTen's inner join (MICRO 2019): a fast prefix count for each operand.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    See :func:`~neuroflex.hdl.pe.pe_ports`; ``levels_in`` is not used.
    """

    DRAIN_DELAY = 6     # after retirement: the last product is written at the end of R + 6

    def __init__(self, config):
        self._config = config
        super().__init__(pe_ports(config))

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.front_end = join = JoinFrontEnd(config)
        m.submodules.row_end = row_end = RowEnd(config)
        m.d.comb += [
            *(getattr(join, name).eq(getattr(self, name)) for name in ("bus", "group", "load", "load_here", "clear")),
            join.open.eq(join.arrived),
            row_end.columns.eq(join.columns), row_end.clear.eq(self.clear), row_end.row_started.eq(join.row_started),
            row_end.y_bank.eq(self.y_bank), row_end.y_index.eq(self.y_index),
            self.y.eq(row_end.y), self.done.eq(row_end.done), self.row_free.eq(row_end.row_free),
            self.slot_free.eq(join.slot_free), self.matching.eq(join.matching), self.enabled.eq(join.enabled),
            self.columns.eq(join.columns),
            self.busy.eq(join.busy | row_end.busy),
        ]
        self._retire(m, join, row_end)
        self._accumulate(m, join, row_end)
        return m

    def _retire(self, m, join, row_end):
        """Slot and row follow a fixed number of cycles after the chunk's retirement."""
        # The last match may be that of R - 1, which reads its level in R + 2: a new chunk may be written from then on.
        m.d.sync += join.slot_release.eq(join.retired.valid)
        stage = Cat(join.retired.valid & join.retired.last_chunk, join.retired.first_window, join.retired.last_window)
        for cycle in range(self.DRAIN_DELAY):
            delayed = Signal(3, name=f"drain_{cycle}")
            m.d.sync += delayed.eq(stage)
            stage = delayed
        m.d.comb += row_end.drained.eq(stage)

    def _accumulate(self, m, join, row_end):
        """Level fetch beside the weight fetch, product, sum; then QCFS."""
        config = self._config
        m.submodules.level_prefix = prefix = FastPrefix(bits=config.chunk_bits)
        slot_2, slot_3 = Signal.like(join.match.slot), Signal.like(join.match.slot)
        level_4, level_5, level_6 = (Signal(LEVEL_BITS, name=f"level_{cycle}") for cycle in (4, 5, 6))
        m.d.comb += [
            prefix.mask.eq(join.activation_mask), prefix.position.eq(join.match.position),
            join.level_slot.eq(slot_3), join.level_offset.eq(prefix.count),
        ]
        m.d.sync += [slot_2.eq(join.match.slot), slot_3.eq(slot_2), level_4.eq(join.level), level_5.eq(level_4),
                     level_6.eq(level_5)]

        column, bank = join.weighted.column, join.weighted.bank
        product = Signal(signed(8 + LEVEL_BITS))
        product_valid, product_address, product_first = Signal(), Signal(len(column) + len(bank)), Signal()
        written = Signal(1 << len(product_address))
        address = Cat(column, bank)
        m.d.sync += [product.eq(join.weighted.weight * level_6), product_valid.eq(join.weighted.valid),
                     product_address.eq(address),
                     product_first.eq(~written.bit_select(address, 1))]

        # A column's first product of a row does not add to what an earlier row left: no cycles to clear.
        m.submodules.sums = sums = Memory(shape=signed(config.ann_acc_bits), depth=1 << len(product_address), init=[])
        write, old, done = sums.write_port(), sums.read_port(domain="comb"), sums.read_port(domain="comb")
        job_address = Cat(row_end.job_column, row_end.job_bank)
        m.d.comb += [
            old.addr.eq(product_address), write.addr.eq(product_address), write.en.eq(product_valid),
            write.data.eq(product + Mux(product_first, 0, old.data)),
            done.addr.eq(job_address),
        ]
        m.d.sync += written.eq((written | (join.weighted.valid << address)) & ~(row_end.job_taken << job_address))

        layout = data.StructLayout({"theta": 32, "bias": signed(32), "levels": 8})
        m.submodules.parameters = parameters = Memory(shape=layout, depth=config.columns_per_pe, init=[])
        load_write, parameter = parameters.write_port(), parameters.read_port(domain="comb")
        m.d.comb += [
            load_write.addr.eq(self.load.address), load_write.data.eq(self.load.data),
            load_write.en.eq(self.load.valid & self.load_here & (self.load.kind == LoadKind.PARAMETER)),
            parameter.addr.eq(row_end.job_column),
        ]

        m.submodules.qcfs = qcfs = QCFS(acc_bits=config.ann_acc_bits, theta_bits=config.theta_bits, bias_bits=32,
                                        level_bits=LEVEL_BITS, tag_bits=len(column))
        job = qcfs.i.payload
        fetched, fetched_parameter = Signal(), Signal(layout)
        fetched_sum, fetched_column = Signal(signed(config.ann_acc_bits)), Signal.like(row_end.job_column)
        m.d.comb += [
            row_end.job_taken.eq(row_end.job_valid & (~fetched | qcfs.i.ready)), qcfs.i.valid.eq(fetched),
            job.z.eq(fetched_sum), job.tag.eq(fetched_column), job.bias.eq(fetched_parameter.bias), job.theta.eq(fetched_parameter.theta), job.levels.eq(fetched_parameter.levels),
            row_end.result.valid.eq(qcfs.o.valid), row_end.result.column.eq(qcfs.o.payload.tag),
            row_end.result.y.eq(qcfs.o.payload.y),
        ]
        with m.If(qcfs.i.ready):
            m.d.sync += fetched.eq(0)
        with m.If(row_end.job_taken):
            m.d.sync += [fetched.eq(1), fetched_column.eq(row_end.job_column), fetched_parameter.eq(parameter.data),
                         fetched_sum.eq(Mux(written.bit_select(job_address, 1), done.data, 0))]
