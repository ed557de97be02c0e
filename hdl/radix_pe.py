"""Processing element of the SNN core that reads a level before it adds, and adds in binary. No multiplier, no speculation."""
from amaranth import Cat, Module

from neuroflex.hdl.pascif import PascIF
from neuroflex.hdl.pe import ProcessingElement
from neuroflex.hdl.sums import ColumnSums
from neuroflex.widths import weighted_bits

__all__ = ["RadixPe"]


class RadixPe(ProcessingElement):
    """Adds the weight of a match to accumulator ``b`` of its column for every bit ``b`` of the input's level, one match per cycle.

    The PASC-IF neuron equals QCFS for any order of arrivals, so that nothing but their sum matters. When the row is over, ``sum(2**b * accumulator[b])`` is formed,
    a bit per cycle by shifts and additions, and enters the neuron in the first of its steps. Levels are read from the slot beside the weights, by a fast prefix count
    as in the ANN PE, whose cycles these are up to the end of a row: a match of cycle ``M`` is in its sums from ``M + 8`` on, a chunk retired in cycle ``R`` frees
    its slot in ``R + 2``, and the row it ends is drained in ``R + 6``. See ``docs/pe_binary.md``.

    With ``levels_in`` of 1 there is one addition per match, and the level prefix count stands still.

    Source: radix coding of spikes, Wang et al., "Efficient Spiking Neural Networks with Radix Encoding", 2021; here within one accelerator step, without time steps.

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    See :func:`~neuroflex.hdl.pe.pe_ports`.
    """

    DRAIN_DELAY = 6     # after retirement: the last addition is in the sums when the job comes

    def elaborate(self, platform):
        m = Module()
        config = self._config
        join, row_end = self._frame(m)
        # The last match may be that of R - 1, which reads its level in R + 2: a new chunk may be written from then on.
        m.d.comb += join.open.eq(join.arrived)
        m.d.sync += join.slot_release.eq(join.retired.valid)
        self._drain(m, row_end, join.retired)

        weighted, level = join.weighted, self._read_level(m, join)
        m.submodules.sums = sums = ColumnSums(depth=config.row_buffers * config.columns_per_pe, acc_bits=config.snn_acc_bits, sums=len(level), apart=True)
        m.submodules.pascif = pascif = PascIF(
            acc_bits=weighted_bits(config), theta_bits=config.theta_bits, bias_bits=32, max_levels=config.snn_levels, max_levels_in=1,
            steps_per_cycle=config.neuron_steps, tag_bits=len(row_end.job_column))
        m.d.comb += [
            sums.add.valid.eq(weighted.valid), sums.add.weight.eq(weighted.weight), sums.add.select.eq(level),
            sums.add.address.eq(Cat(weighted.column, weighted.bank)),
            sums.take.valid.eq(row_end.job_taken), sums.take.address.eq(Cat(row_end.job_column, row_end.job_bank)),
        ]
        self._weigh(m, row_end, pascif, list(sums.taken))
        return m
