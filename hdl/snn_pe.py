"""Processing element of the SNN core: join, speculate, correct, PASC-IF. No multiplier."""
from amaranth import Cat, Const, Module, Signal

from neuroflex.hdl.laggy import GroupPrefix, LaggyPrefix
from neuroflex.hdl.pascif import PascIF
from neuroflex.hdl.pe import ProcessingElement
from neuroflex.hdl.speculation import Speculation
from neuroflex.hdl.spikegen import SpikeGenerator
from neuroflex.hdl.sums import ColumnSums

__all__ = ["SnnPe"]


class SnnPe(ProcessingElement):
    """Adds every matching weight to a pseudo accumulator as if the input fired in every step, and corrects that later.

    A match of cycle ``M`` enters the speculation FIFO in ``M + 3`` and its weight the pseudo accumulator in ``M + 6``. It leaves
    in ``u`` when the laggy prefix sum has counted the chunk; its level is read in ``u + 2``, becomes a spike
    word, and in ``u + 4`` its weight is added to the corrections of the steps without a spike. A chunk's slot is
    free from ``f + 2`` on and the row that it ends gives its first column to the neuron in ``f + 5``; ``f`` is the cycle in which its
    end leaves the FIFO, see :class:`~neuroflex.hdl.speculation.Speculation` and ``docs/pe_snn.md``.

    With ``levels_in`` of 1 every match is all ones: the laggy unit, the FIFO and the corrections then stand still, and a
    chunk is scanned without waiting for them.

    Sources: TPPE of LoAS (Yin et al., MICRO 2024), PASC-IF neuron of PASCAL (Ramesh and Srinivasan, 2025).

    Parameters
    ----------
    config : ArchConfig

    Members
    -------
    See :func:`~neuroflex.hdl.pe.pe_ports`.
    """

    PUSH_DELAY = 8      # from the laggy unit's acceptance of a chunk to its first match in the FIFO, at least
    DRAIN_DELAY = 3     # from the end of a chunk to `drained`: its last correction is in the sums when the job comes

    def elaborate(self, platform):
        m = Module()
        config = self._config
        join, row_end = self._frame(m)
        single = Signal()   # inputs have one level: nothing to correct
        m.d.comb += single.eq(Const(1) if config.snn_levels == 1 else self.levels_in <= 1)

        laggy = self._prefix(m, join, single)
        speculation = self._speculate(m, join, laggy, single)
        self._chunk_ends(m, join, speculation, row_end)
        corrections = self._correct(m, join, laggy, speculation, row_end)
        self._neuron(m, join, row_end, corrections)
        return m

    def _prefix(self, m, join, single):
        """Laggy prefix sum: takes the chunks in order; a chunk may be scanned once it is taken."""
        config = self._config
        m.submodules.laggy = laggy = LaggyPrefix(chunk_bits=config.chunk_bits, adders=config.laggy_adders, slots=config.slots)
        arrived = Signal(range(config.slots + 1))
        taken = Signal()
        slot = Signal(range(config.slots))
        m.d.comb += [
            taken.eq((arrived != 0) & (single | laggy.job.ready)), join.open.eq(taken),
            laggy.job.valid.eq((arrived != 0) & ~single), laggy.job.payload.slot.eq(slot),
            join.mask_slot.eq(laggy.mask_slot), laggy.mask.eq(join.mask),
        ]
        m.d.sync += [arrived.eq(arrived + join.arrived - taken), slot.eq(slot + taken)]
        return laggy

    def _speculate(self, m, join, laggy, single):
        """Matches, counted within their group on the way, wait for the sum before it."""
        config = self._config
        m.submodules.group_prefix = group = GroupPrefix(chunk_bits=config.chunk_bits, adders=config.laggy_adders)
        m.submodules.speculation = speculation = Speculation(config, push_delay=self.PUSH_DELAY)
        valid_1 = Signal()
        slot_1 = Signal.like(join.match.slot)
        valid_2 = Signal()
        slot_2 = Signal.like(join.match.slot)
        m.d.comb += [
            group.valid.eq(join.match.valid & ~single), group.mask.eq(join.activation_mask), group.position.eq(join.match.position),
            speculation.match.valid.eq(valid_2), speculation.match.slot.eq(slot_2),
            speculation.match.group.eq(group.group), speculation.match.below.eq(group.below),
            speculation.done.eq(laggy.done),
            laggy.query.valid.eq(speculation.query.valid), laggy.query.slot.eq(speculation.query.slot),
            laggy.query.group.eq(speculation.query.group), laggy.query.below.eq(speculation.query.below),
            *(speculation.weighted[name].eq(join.weighted[name]) for name in ("weight", "column", "bank")),
            speculation.weighted.valid.eq(join.weighted.valid & ~single),
        ]
        m.d.sync += [valid_1.eq(group.valid), slot_1.eq(join.match.slot), valid_2.eq(valid_1), slot_2.eq(slot_1)]
        return speculation

    def _chunk_ends(self, m, join, speculation, row_end):
        """A retired chunk follows its last match into the FIFO; when it leaves, its slot is free and perhaps its row drained."""
        names = ("valid", "slot", "last_chunk", "first_window", "last_window")
        stage = join.retired
        for index in range(GroupPrefix.LATENCY):
            delayed = Signal(speculation.chunk_end.shape(), name=f"retired_{index}")
            m.d.sync += [delayed[name].eq(stage[name]) for name in names]
            stage = delayed
        m.d.comb += [speculation.chunk_end.eq(stage), join.slot_release.eq(speculation.ended.valid)]

        self._drain(m, row_end, speculation.ended)

    def _correct(self, m, join, laggy, speculation, row_end):
        """Level to spike word; the weight goes to the corrections of the steps in which the input does not fire."""
        config = self._config
        level_valid, level = Signal(), Signal.like(join.level)
        m.submodules.spikes = spikes = SpikeGenerator(levels=config.snn_levels)
        m.d.comb += [
            join.level_slot.eq(laggy.answer.slot), join.level_offset.eq(laggy.answer.offset),
            spikes.i.valid.eq(level_valid), spikes.i.payload.level.eq(level),
        ]
        m.d.sync += [level_valid.eq(laggy.answer.valid), level.eq(join.level)]
        if config.snn_levels == 1:
            return None
        apply = speculation.apply
        m.submodules.corrections = corrections = self._sums(config.snn_levels - 1)
        m.d.comb += [
            corrections.add.valid.eq(apply.valid), corrections.add.weight.eq(apply.weight),
            corrections.add.address.eq(Cat(apply.column, apply.bank)),
            corrections.add.select.eq(Cat(~spikes.o.payload.spikes[t] & (self.levels_in > t) for t in range(1, config.snn_levels))),
        ]
        return corrections

    def _sums(self, sums):
        config = self._config
        return ColumnSums(depth=config.row_buffers * config.columns_per_pe, acc_bits=config.snn_acc_bits, sums=sums)

    def _pseudo(self, m, join):
        """Pseudo accumulator: all weights of matches."""
        m.submodules.pseudo = pseudo = self._sums(1)
        m.d.comb += [
            pseudo.add.valid.eq(join.weighted.valid), pseudo.add.weight.eq(join.weighted.weight), pseudo.add.select.eq(1),
            pseudo.add.address.eq(Cat(join.weighted.column, join.weighted.bank)),
        ]
        return pseudo

    def _neuron(self, m, join, row_end, corrections):
        """Pseudo accumulator; then the columns of a finished row go through PASC-IF."""
        config, pseudo = self._config, self._pseudo(m, join)
        m.submodules.pascif = pascif = PascIF(
            acc_bits=config.snn_acc_bits, theta_bits=config.theta_bits, bias_bits=32, max_levels=config.snn_levels,
            steps_per_cycle=config.neuron_steps, tag_bits=len(row_end.job_column))
        job = pascif.i.payload
        for each in (pseudo, corrections):
            if each is not None:
                m.d.comb += [each.take.valid.eq(row_end.job_taken), each.take.address.eq(Cat(row_end.job_column, row_end.job_bank))]
        m.d.comb += [job.t1.eq(self.levels_in), job.t2.eq(self._activate(m, row_end, pascif)[0]), job.pseudo.eq(pseudo.taken[0])]
        if corrections is not None:
            m.d.comb += job.corrections.eq(corrections.taken)
