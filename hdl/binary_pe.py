"""Processing element of the SNN core that speculates and corrects, with corrections in binary. No multiplier."""
from amaranth import Cat, Mux, Signal

from neuroflex.hdl.pascif import PascIF
from neuroflex.hdl.snn_pe import SnnPe
from neuroflex.hdl.sums import ColumnSums
from neuroflex.widths import weighted_bits

__all__ = ["BinaryPe"]


class BinaryPe(SnnPe):
    """Speculates like :class:`~neuroflex.hdl.snn_pe.SnnPe`; what a level lacks to the most is corrected bit by bit and not step by step.

    The PASC-IF neuron equals QCFS for any order of arrivals, so that nothing but their sum matters. A match whose level ``q`` lacks ``d = levels_in - q``
    adds its weight to correction ``b`` for every bit ``b`` of ``d``: ``ceil(log2(snn_levels))`` corrections instead of ``snn_levels - 1``. When the row is over,
    ``levels_in * pseudo - sum(2**b * correction[b])`` is formed, a bit per cycle by shifts and additions, and enters the neuron in the first of its steps.

    Up to the corrections all cycles are those of :class:`~neuroflex.hdl.snn_pe.SnnPe`. See ``docs/pe_binary.md``.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    See :func:`~neuroflex.hdl.pe.pe_ports`.
    """

    def _correct(self, m, join, laggy, speculation, row_end):
        """The weight goes to the corrections of the bits of what its level lacks."""
        config, apply = self._config, speculation.apply
        level_valid, level = Signal(), Signal.like(join.level)
        missing = Signal((config.snn_levels - 1).bit_length())
        m.d.comb += [join.level_slot.eq(laggy.answer.slot), join.level_offset.eq(laggy.answer.offset)]
        m.d.sync += [level_valid.eq(laggy.answer.valid), level.eq(join.level)]
        if config.snn_levels == 1:
            return None
        with m.If(level_valid):
            m.d.sync += missing.eq(self.levels_in - level)
        m.submodules.corrections = corrections = ColumnSums(
            depth=config.row_buffers * config.columns_per_pe, acc_bits=config.snn_acc_bits, sums=len(missing), apart=True)
        m.d.comb += [
            corrections.add.valid.eq(apply.valid), corrections.add.weight.eq(apply.weight), corrections.add.select.eq(missing),
            corrections.add.address.eq(Cat(apply.column, apply.bank)),
        ]
        return corrections

    def _neuron(self, m, join, row_end, corrections):
        """Pseudo accumulator; then the sums of a finished row's columns become one each, and go through PASC-IF."""
        config, pseudo = self._config, self._pseudo(m, join)
        m.submodules.pascif = pascif = PascIF(
            acc_bits=weighted_bits(config), theta_bits=config.theta_bits, bias_bits=32, max_levels=config.snn_levels, max_levels_in=1,
            steps_per_cycle=config.neuron_steps, tag_bits=len(row_end.job_column))
        for each in (pseudo, corrections):
            if each is not None:
                m.d.comb += [each.take.valid.eq(row_end.job_taken), each.take.address.eq(Cat(row_end.job_column, row_end.job_bank))]
        taken = [] if corrections is None else list(corrections.taken)
        taken += [0] * (config.snn_levels.bit_length() - len(taken))
        self._weigh(m, row_end, pascif, [Mux(self.levels_in[bit], pseudo.taken[0], 0) - correction for bit, correction in enumerate(taken)])
