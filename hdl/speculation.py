"""Speculation FIFO: matches whose weight went to the pseudo accumulator, until the laggy prefix sum knows their level."""
from amaranth import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.hdl.laggy import LaggyPrefix

__all__ = ["Speculation", "chunk_end_layout"]


def chunk_end_layout(config):
    """End of the chunk in ``slot``, with the flags that a row's end needs."""
    return data.StructLayout({"valid": 1, "slot": range(config.slots), "last_chunk": 1, "first_window": 1, "last_window": 1})


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

    WEIGHT_DELAY = 3
    APPLY_LATENCY = 4

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
            "chunk_end": In(chunk_end_layout(config)),
            "done": In(config.slots),
            "query": Out(wiring.Signature({"valid": Out(1), **{name: Out(shape) for name, shape in wait.items()}})),
            "apply": Out(weighted),
            "ended": Out(chunk_end_layout(config)),
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
        pushed = Signal(range(2 * self.depth))
        left = Signal(range(2 * self.depth))
        weights_in = Signal(range(self.depth))
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
        leaving = Signal(3)
        leaving_index = Signal(range(self.depth))
        m.d.comb += [write.en.eq(self.weighted.valid), write.addr.eq(weights_in), weight.addr.eq(leaving_index),
                     *(write.data[name].eq(self.weighted[name]) for name, _ in weight_layout)]
        m.d.sync += [weights_in.eq(weights_in + self.weighted.valid), leaving.eq(leaving << 1 | leave),
                     self.apply.valid.eq(leaving[2]), leaving_index.eq(leaving_index + leaving[2])]
        with m.If(leaving[2]):
            m.d.sync += [self.apply[name].eq(weight.data[name]) for name, _ in weight_layout]

        # Entries leave in order, and a slot is not used again before its chunk's end has left: so the last entry of a
        # chunk has left when the FIFO is empty or shows another slot.
        end_layout = data.StructLayout({name: member.shape for name, member in self.chunk_end.shape() if name != "valid"})
        m.submodules.ends = ends = memory.Memory(shape=end_layout, depth=config.slots, init=[])
        write, end_head = ends.write_port(), ends.read_port(domain="comb")
        ends_in = Signal(range(2 * config.slots))
        ends_out = Signal(range(2 * config.slots))
        end = Signal()
        m.d.comb += [
            write.en.eq(self.chunk_end.valid), write.addr.eq(ends_in), end_head.addr.eq(ends_out),
            *(write.data[name].eq(self.chunk_end[name]) for name, _ in end_layout),
            end.eq((ends_in != ends_out) & ((pushed == left) | (head.data.slot != end_head.data.slot))),
        ]
        m.d.sync += [ends_in.eq(ends_in + self.chunk_end.valid), ends_out.eq(ends_out + end), self.ended.valid.eq(end)]
        with m.If(end):
            m.d.sync += [self.ended[name].eq(end_head.data[name]) for name, _ in end_layout]
        return m
