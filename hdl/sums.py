"""Column sums of an SNN PE: one narrow accumulator per time step, row bank and column."""
from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ColumnSums"]


class ColumnSums(wiring.Component):
    """Adds a weight to some of the ``sums`` accumulators of an address, one address per cycle, without a multiplier.

    Each sum has a memory of its own, and all share one ``written`` bit per address: the first addition writes every sum of its
    address, the weight or 0, so that nothing has to be cleared; later ones touch the selected memories only.

    **Timing.** The addition of cycle ``t`` is in the sums taken in ``t + ADD_LATENCY`` or later; additions may follow each other
    in every cycle, to any address. A ``take`` in cycle ``t`` shows the sums from ``t + 1`` until the next one, and empties
    the address; no addition to it may be in the ``ADD_LATENCY - 1`` cycles before, in the same cycle, or belong to the row taken later.

    Source: pseudo and correction accumulators of LoAS, Yin et al., MICRO 2024.

    Parameters
    ----------
    depth : int
        Addresses, a power of two of at least 2.
    acc_bits : int
        Width of a sum, signed; it wraps around.
    sums : int
        Accumulators per address, at least 1.
    apart : bool
        Each sum has registers of its own in front of its memory, which stand still while it is not selected: for sums that seldom are.
        Values and timing are the same.

    Members
    -------
    add : In({valid, address, weight, select})
        ``weight`` is signed, 8 bits; bit ``i`` of ``select`` adds it to sum ``i``.
    take : In({valid, address})
    taken : Out(data.ArrayLayout(signed(acc_bits), sums))
        0 for an address without additions.
    """

    ADD_LATENCY = 2

    def __init__(self, *, depth, acc_bits, sums, apart=False):
        for name, value, least in (("depth", depth, 2), ("acc_bits", acc_bits, 8), ("sums", sums, 1)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if depth & (depth - 1):
            raise ValueError(f"depth must be a power of two, not {depth}")
        self._depth, self._acc_bits, self._sums, self._apart = depth, acc_bits, sums, apart
        super().__init__({
            "add": In(data.StructLayout({"valid": 1, "address": range(depth), "weight": signed(8), "select": sums})),
            "take": In(data.StructLayout({"valid": 1, "address": range(depth)})),
            "taken": Out(data.ArrayLayout(signed(self._acc_bits), sums)),
        })

    def elaborate(self, platform):
        m = Module()
        written = Signal(self._depth)
        stages = self._apart_stages(m, written) if self._apart else self._common_stage(m, written)
        m.d.sync += written.eq((written | (self.add.valid << self.add.address)) & ~(self.take.valid << self.take.address))

        for i, (enable, first, selected, address, weight) in enumerate(stages):
            m.submodules[f"sum_{i}"] = sums = memory.Memory(shape=signed(self._acc_bits), depth=self._depth, init=[])
            write, old, done = sums.write_port(), sums.read_port(domain="comb"), sums.read_port(domain="comb")
            m.d.comb += [
                old.addr.eq(address), write.addr.eq(address), write.en.eq(enable),
                write.data.eq(Mux(first, 0, old.data) + Mux(selected, weight, 0)),
                done.addr.eq(self.take.address),
            ]
            with m.If(self.take.valid):
                m.d.sync += self.taken[i].eq(Mux(written.bit_select(self.take.address, 1), done.data, 0))
        return m

    def _common_stage(self, m, written):
        """Registers of an addition that all sums see; for each sum whether it is written, for the first time, with the weight, where, and the weight."""
        valid = Signal()
        first = Signal()
        select = Signal(self._sums)
        address = Signal(range(self._depth))
        weight = Signal(signed(8))
        m.d.sync += valid.eq(self.add.valid)
        with m.If(self.add.valid):
            m.d.sync += [first.eq(~written.bit_select(self.add.address, 1)), select.eq(self.add.select),
                         address.eq(self.add.address), weight.eq(self.add.weight)]
        return [(valid & (first | select[i]), first, select[i], address, weight) for i in range(self._sums)]

    def _apart_stages(self, m, written):
        """The same with registers for each sum, loaded only for what is written."""
        unwritten = Signal()
        m.d.comb += unwritten.eq(~written.bit_select(self.add.address, 1))
        stages = []
        for i in range(self._sums):
            needed, valid, first, selected = (Signal(name=f"{name}_{i}") for name in ("needed", "valid", "first", "selected"))
            address, weight = Signal(range(self._depth), name=f"address_{i}"), Signal(signed(8), name=f"weight_{i}")
            m.d.comb += needed.eq(self.add.valid & (unwritten | self.add.select[i]))
            m.d.sync += valid.eq(needed)
            with m.If(needed):
                m.d.sync += [first.eq(unwritten), selected.eq(self.add.select[i]), address.eq(self.add.address), weight.eq(self.add.weight)]
            stages.append((valid, first, selected, address, weight))
        return stages
