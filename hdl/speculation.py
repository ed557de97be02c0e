"""Speculation FIFO: matches whose weight went to the pseudo accumulator, until the laggy prefix sum knows their level."""
from amaranth import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.hdl.laggy import LaggyPrefix

__all__ = ["Speculation", "chunk_end_layout"]


def chunk_end_layout():
    """End of a chunk with the flags that a row's end needs."""
    return data.StructLayout({"valid": 1, "last_chunk": 1, "first_window": 1, "last_window": 1})


class Speculation(wiring.Component):
    """Holds matches until their chunk is counted, lets one leave per cycle, and tells when a chunk's corrections are done.

    An entry that comes in cycle ``p`` leaves in ``u = max(p + 1, u_before + 1, done)``, where ``done`` is the first cycle in which
    its slot's bit is set. **Timing:** ``query`` is out in ``u + 1``, ``apply`` in ``u + APPLY_LATENCY``. A chunk's end that
    comes in cycle ``r``, not before its last match, leaves in ``f = max(r + 1, u_last + 1, f_before + 1)``; ``ended``
    is out in ``f + 1``. All outputs are registers.

    Nothing stops it from behind, and it never overflows: when every match comes ``push_delay`` cycles or more
    after the laggy unit accepted its chunk, an entry waits at most ``bound`` cycles (proof in ``docs/pe_snn.md``), and there are
    more entries than that. Weights come ``WEIGHT_DELAY`` cycles after their matches and lie in a memory of their own, so
    that nothing is shifted along.

    Source: speculative inner join of LoAS, Yin et al., MICRO 2024.

    Parameters
    ----------
    config : ArchConfig
    push_delay : int
        Least number of cycles from the laggy unit's acceptance of a chunk to its first match here.

    Members
    -------
    match : In({valid, slot, group, below})
    weighted : In({valid, weight, column, bank})
        Weights of the matches, in the same order, ``WEIGHT_DELAY`` cycles after each.
    chunk_end : In(chunk_end_layout)
    done : In(slots)
        By slot: the laggy unit has counted the chunk. Set from at most ``laggy_cycles + DONE_LATENCY`` cycles after
        its acceptance on, while matches of the chunk wait.
    query : Out(wiring.Signature({valid, slot, group, below}))
        To :class:`~neuroflex.hdl.laggy.LaggyPrefix`.
    apply : Out({valid, weight, column, bank})
    ended : Out(chunk_end_layout)
    """

    WEIGHT_DELAY = 2
    APPLY_LATENCY = 3

    def __init__(self, config, *, push_delay):
        if not isinstance(push_delay, int) or isinstance(push_delay, bool):
            raise TypeError(f"push_delay must be an integer, not {push_delay!r}")
        if push_delay < 1:
            raise ValueError(f"push_delay must be at least 1, not {push_delay}")
        self._config, self._push_delay = config, push_delay
        wait = {"slot": range(config.slots), "group": range(max(config.laggy_cycles, 2)), "below": range(config.laggy_adders)}
        weighted = data.StructLayout({"valid": 1, "weight": signed(8), "column": range(config.columns_per_pe),
                                      "bank": range(config.row_buffers)})
        super().__init__({
            "match": In(data.StructLayout({"valid": 1, **wait})),
            "weighted": In(weighted),
            "chunk_end": In(chunk_end_layout()),
            "done": In(config.slots),
            "query": Out(wiring.Signature({"valid": Out(1), **{name: Out(shape) for name, shape in wait.items()}})),
            "apply": Out(weighted),
            "ended": Out(chunk_end_layout()),
        })

    @property
    def bound(self):
        """Most cycles that an entry spends here: 1, or what the laggy unit still needs when the first match comes."""
        return max(1, self._config.laggy_cycles + LaggyPrefix.DONE_LATENCY - self._push_delay)

    @property
    def depth(self):
        """Entries: the least power of two above :attr:`bound`."""
        return 1 << self.bound.bit_length()

    def elaborate(self, platform):
        m = Module()
        config = self._config
        # Counts of entries, wide enough that a chunk's count can be compared with that of the entries that left,
        # `depth` behind it or `slots` ahead.
        count_bits = max(self.depth, config.slots).bit_length() + 1
        pushed, left, weights_in = Signal(count_bits), Signal(count_bits), Signal(range(self.depth))
        leave = Signal()

        waiting_layout = data.StructLayout({name: member.shape for name, member in self.match.shape() if name != "valid"})
        m.submodules.waiting = waiting = memory.Memory(shape=waiting_layout, depth=self.depth, init=[])
        write, head = waiting.write_port(), waiting.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.match.valid), write.addr.eq(pushed), head.addr.eq(left),
                     *(write.data[name].eq(self.match[name]) for name, _ in waiting_layout),
                     leave.eq((pushed != left) & self.done.bit_select(head.data.slot, 1))]
        m.d.sync += [pushed.eq(pushed + self.match.valid), left.eq(left + leave), self.query.valid.eq(leave)]
        with m.If(leave):
            m.d.sync += [getattr(self.query, name).eq(head.data[name]) for name, _ in waiting_layout]

        weight_layout = data.StructLayout({name: member.shape for name, member in self.weighted.shape() if name != "valid"})
        m.submodules.weights = weights = memory.Memory(shape=weight_layout, depth=self.depth, init=[])
        write, weight = weights.write_port(), weights.read_port(domain="comb")
        leaving, leaving_index = Signal(2), Signal(range(self.depth))
        m.d.comb += [write.en.eq(self.weighted.valid), write.addr.eq(weights_in), weight.addr.eq(leaving_index),
                     *(write.data[name].eq(self.weighted[name]) for name, _ in weight_layout)]
        m.d.sync += [weights_in.eq(weights_in + self.weighted.valid), leaving.eq(leaving << 1 | leave),
                     self.apply.valid.eq(leaving[1]), leaving_index.eq(leaving_index + leaving[1])]
        with m.If(leaving[1]):
            m.d.sync += [self.apply[name].eq(weight.data[name]) for name, _ in weight_layout]

        self._chunk_ends(m, pushed, left)
        return m

    def _chunk_ends(self, m, pushed, left):
        """Chunks whose matches are all here wait until the last of them has left."""
        flags = [name for name, _ in self.chunk_end.shape() if name != "valid"]
        m.submodules.ends = ends = memory.Memory(
            shape=data.StructLayout({"pushed": pushed.shape(), **{name: 1 for name in flags}}), depth=self._config.slots, init=[])
        write, head = ends.write_port(), ends.read_port(domain="comb")
        count = Signal(range(2 * self._config.slots))
        ended, ahead, end = Signal.like(count), Signal.like(pushed), Signal()
        m.d.comb += [
            write.en.eq(self.chunk_end.valid), write.addr.eq(count), write.data.pushed.eq(pushed + self.match.valid),
            *(write.data[name].eq(self.chunk_end[name]) for name in flags),
            head.addr.eq(ended), ahead.eq(left - head.data.pushed), end.eq((count != ended) & ~ahead[-1]),
        ]
        m.d.sync += [count.eq(count + self.chunk_end.valid), ended.eq(ended + end), self.ended.valid.eq(end),
                     *(self.ended[name].eq(head.data[name]) for name in flags)]
