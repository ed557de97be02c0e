"""Laggy prefix sum: where a match's level lies among the packed activations, a few cycles late and with few adders."""
from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.hdl.prefix import ones

__all__ = ["GroupPrefix", "LaggyPrefix"]


def _check(**sizes):
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if value < 2 or value & (value - 1):
            raise ValueError(f"{name} must be a power of two of at least 2, not {value}")
    if sizes["adders"] > sizes["chunk_bits"]:
        raise ValueError(f"adders = {sizes['adders']} must not exceed chunk_bits = {sizes['chunk_bits']}")


class LaggyPrefix(wiring.Component):
    """Counts a mask one group of ``adders`` bits per cycle, and keeps the sum before each group in a small table.

    The offset of a position is the table's entry for its group plus the ones of its group below it, which
    :class:`GroupPrefix` counts when the match is found: the value that a full prefix sum gives. The mask is not copied into a
    shift register; it stays where it is and is indexed by group, and the last group is never counted.

    **Timing.** With ``cycles = chunk_bits / adders``: a job accepted in cycle ``s`` has ``done[slot] = 1`` from
    ``s + cycles + DONE_LATENCY`` on, until a job for the same slot is accepted; the next job is accepted from
    ``s + cycles`` on, so jobs follow each other without a gap. A query in cycle ``t`` is answered in ``t + QUERY_LATENCY``;
    one per cycle, also while a job runs. All outputs are registers.

    Source: the laggy prefix sum of LoAS, Yin et al., MICRO 2024.

    Parameters
    ----------
    chunk_bits : int
        Bits of a mask, a power of two.
    adders : int
        Bits counted per cycle, a power of two, at most ``chunk_bits``.
    slots : int
        Masks whose table is kept, a power of two.

    Members
    -------
    job : In(stream.Signature({slot}))
        Count the mask of this slot. A slot's last job must be done before its next.
    mask_slot : Out, mask : In(chunk_bits)
        The mask of slot ``mask_slot``, in the same cycle. It must not change in the ``cycles`` cycles after the acceptance.
    done : Out(slots)
        By slot: counted, queries are answered right.
    query : In(wiring.Signature({valid, slot, group, below}))
        Asks for ``below`` plus the ones of the slot's mask before ``group``.
    answer : Out(wiring.Signature({valid, slot, offset}))
        The answers, in order. Payloads hold while not valid.
    """

    DONE_LATENCY = 2
    QUERY_LATENCY = 1

    def __init__(self, *, chunk_bits, adders, slots):
        _check(chunk_bits=chunk_bits, adders=adders, slots=slots)
        self._chunk_bits, self._adders, self._slots = chunk_bits, adders, slots
        super().__init__({
            "job": In(stream.Signature(data.StructLayout({"slot": range(slots)}))),
            "mask_slot": Out(range(slots)),
            "mask": In(chunk_bits),
            "done": Out(slots),
            "query": In(wiring.Signature({"valid": Out(1), "slot": Out(range(slots)),
                                          "group": Out(range(max(self.cycles, 2))), "below": Out(range(adders))})),
            "answer": Out(wiring.Signature({"valid": Out(1), "slot": Out(range(slots)), "offset": Out(range(chunk_bits))})),
        })

    @property
    def cycles(self):
        """Cycles from one job to the next."""
        return self._chunk_bits // self._adders

    def elaborate(self, platform):
        m = Module()
        m.submodules.bases = bases = memory.Memory(shape=range(self._chunk_bits), depth=self._slots * self.cycles, init=[])
        write, read = bases.write_port(), bases.read_port(domain="comb")
        self._count(m, write)

        m.d.comb += read.addr.eq(self._entry(self.query.slot, self.query.group))
        m.d.sync += self.answer.valid.eq(self.query.valid)
        with m.If(self.query.valid):
            m.d.sync += [self.answer.offset.eq(read.data + self.query.below), self.answer.slot.eq(self.query.slot)]
        return m

    def _entry(self, slot, group):
        return Cat(group, slot) if self.cycles > 1 else slot

    def _count(self, m, write):
        last = self.cycles - 1
        slot = self.mask_slot
        group = Signal(range(max(self.cycles, 2)))
        busy = Signal()
        accept = Signal()
        m.d.comb += [self.job.ready.eq(~busy | (group == last)), accept.eq(self.job.valid & self.job.ready)]
        with m.If(busy):
            m.d.sync += group.eq(group + 1)
        with m.If(self.job.ready):
            m.d.sync += [busy.eq(self.job.valid), group.eq(0)]
        with m.If(accept):
            m.d.sync += slot.eq(self.job.payload.slot)

        # One stage each: pick the group, count it, add it to the sum. The last group's count is nobody's base.
        bits = Signal(self._adders)
        count = Signal(range(self._adders + 1))
        base = Signal(range(self._chunk_bits))
        total = Signal(range(self._chunk_bits))
        picked = Signal()
        picked_slot = Signal.like(slot)
        picked_group = Signal.like(group)
        m.d.sync += picked.eq(busy)
        with m.If(busy):
            m.d.sync += [picked_slot.eq(slot), picked_group.eq(group)]
            with m.If(group != last):
                m.d.sync += bits.eq(self.mask.word_select(group, self._adders))
        with m.If(picked):
            m.d.sync += [count.eq(ones(bits)), total.eq(base)]
        m.d.comb += [base.eq(Mux(picked_group == 0, 0, total + count)),
                     write.en.eq(picked), write.addr.eq(self._entry(picked_slot, picked_group)), write.data.eq(base)]

        for number in range(self._slots):
            with m.If(picked & (picked_group == last) & (picked_slot == number)):
                m.d.sync += self.done[number].eq(1)
            with m.If(accept & (self.job.payload.slot == number)):
                m.d.sync += self.done[number].eq(0)


class GroupPrefix(wiring.Component):
    """Ones of a mask below a position, within the position's group only: one count over ``adders`` bits.

    One query per cycle; the answer to the query of cycle ``t`` is out in ``t + LATENCY``. Outputs hold while no query comes.

    Parameters
    ----------
    chunk_bits, adders : int
        As for :class:`LaggyPrefix`.

    Members
    -------
    valid : In(1), mask : In(chunk_bits), position : In
    group : Out, below : Out
        The position's group, and the ones below the position in it.
    """

    LATENCY = 2

    def __init__(self, *, chunk_bits, adders):
        _check(chunk_bits=chunk_bits, adders=adders)
        self._adders, self._groups = adders, chunk_bits // adders
        super().__init__({
            "valid": In(1), "mask": In(chunk_bits), "position": In(range(chunk_bits)),
            "group": Out(range(max(self._groups, 2))), "below": Out(range(adders)),
        })

    def elaborate(self, platform):
        m = Module()
        low_bits = (self._adders - 1).bit_length()
        low, group = self.position[:low_bits], self.position[low_bits:]
        bits = Signal(self._adders - 1)         # those below the position; the last one never is
        picked = Signal()
        picked_group = Signal.like(self.group)
        m.d.sync += picked.eq(self.valid)
        with m.If(self.valid):
            own = self.mask.word_select(group, self._adders) if self._groups > 1 else self.mask
            m.d.sync += [bits.eq(own & Cat(low > i for i in range(self._adders - 1))), picked_group.eq(group)]
        with m.If(picked):
            m.d.sync += [self.below.eq(ones(bits)), self.group.eq(picked_group)]
        return m
