"""Processing element of the ANN core: join, multiply, accumulate, QCFS."""
from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib.memory import Memory

from neuroflex.formats import LEVEL_BITS
from neuroflex.hdl.pe import ProcessingElement
from neuroflex.hdl.prefix import FastPrefix
from neuroflex.hdl.qcfs import QCFS

__all__ = ["AnnPe"]


class AnnPe(ProcessingElement):
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

    def elaborate(self, platform):
        m = Module()
        join, row_end = self._frame(m)
        # The last match may be that of R - 1, which reads its level in R + 2: a new chunk may be written from then on.
        m.d.comb += join.open.eq(join.arrived)
        m.d.sync += join.slot_release.eq(join.retired.valid)
        self._drain(m, row_end, join.retired)
        self._accumulate(m, join, row_end)
        return m

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

        m.submodules.qcfs = qcfs = QCFS(acc_bits=config.ann_acc_bits, theta_bits=config.theta_bits, bias_bits=32,
                                        level_bits=LEVEL_BITS, tag_bits=len(column))
        fetched_sum, fetched_written = Signal(signed(config.ann_acc_bits)), Signal()
        m.d.comb += [qcfs.i.payload.levels.eq(self._activate(m, row_end, qcfs)[0]), qcfs.i.payload.z.eq(Mux(fetched_written, fetched_sum, 0))]
        with m.If(row_end.job_taken):
            m.d.sync += [fetched_sum.eq(done.data), fetched_written.eq(written.bit_select(job_address, 1))]
