"""Fast prefix count and priority encoder: the two circuits that walk through a chunk's mask."""
from amaranth import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FastPrefix", "PriorityEncoder", "count_flags", "tree_sum"]

GROUP = 8


def tree_sum(values):
    """Sum of values as a balanced tree of adders."""
    values = list(values)
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2])] + values[len(values) & ~1:]
    return values[0]


def count_flags(bits):
    """``(at_least_1, at_least_2, at_least_3)`` of the set bits, as a balanced tree; the flags saturate."""
    flags = [(bit, Const(0, 1), Const(0, 1)) for bit in bits]
    while len(flags) > 1:
        merged = [(a1 | b1, a2 | b2 | (a1 & b1), a3 | b3 | (a2 & b1) | (a1 & b2))
                  for (a1, a2, a3), (b1, b2, b3) in zip(flags[::2], flags[1::2])]
        flags = merged + flags[len(flags) & ~1:]
    return flags[0]


def _check_bits(bits):
    if not isinstance(bits, int) or isinstance(bits, bool):
        raise TypeError(f"bits must be an integer, not {bits!r}")
    if bits < 2 * GROUP or bits & (bits - 1):
        raise ValueError(f"bits must be a power of two and at least {2 * GROUP}, not {bits}")


class FastPrefix(wiring.Component):
    """Number of set bits of a mask below a position: the offset of a packed value.

    One query per cycle. **Timing:** the answer to the query of cycle ``t`` is out in ``t + LATENCY``: first the masked
    bits are counted in groups of eight, then the groups are summed.

    Instead of all ``bits`` prefix sums at once (LoAS, MICRO 2024) it answers the one question that is asked in a cycle.

    Parameters
    ----------
    bits : int
        Width of the mask, a power of two and at least 16.

    Members
    -------
    mask : In(bits)
    position : In(log2(bits))
    count : Out(log2(bits))
    """

    LATENCY = 2

    def __init__(self, *, bits):
        _check_bits(bits)
        self._bits = bits
        super().__init__({"mask": In(bits), "position": In(range(bits)), "count": Out(range(bits))})

    def elaborate(self, platform):
        m = Module()
        low, high = self.position[:3], self.position[3:]
        low_below = Cat(low > i for i in range(GROUP))
        group_counts = []
        for group in range(self._bits // GROUP):
            whole, partial = high > group, high == group
            bits = self.mask.word_select(group, GROUP) & (whole.replicate(GROUP) | (partial.replicate(GROUP) & low_below))
            count = Signal(range(GROUP + 1), name=f"group_count_{group}")
            m.d.sync += count.eq(tree_sum(bits))
            group_counts.append(count)
        m.d.sync += self.count.eq(tree_sum(group_counts))
        return m


class PriorityEncoder(wiring.Component):
    """Lowest set bit of a mask, in two levels: the first group of eight that is not empty, then the bit in it.

    Combinational: a part of a pipeline stage, not a block of its own.

    Parameters
    ----------
    bits : int
        Width of the mask, a power of two and at least 16.

    Members
    -------
    mask : In(bits)
        At least one bit set.
    position : Out(log2(bits))
        Of the lowest set bit.
    rest : Out(bits)
        The mask without that bit.
    """

    def __init__(self, *, bits):
        _check_bits(bits)
        self._bits = bits
        super().__init__({"mask": In(bits), "position": Out(range(bits)), "rest": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        count = self._bits // GROUP
        groups = [self.mask.word_select(group, GROUP) for group in range(count)]
        any_set = Signal(count)
        first_group = Signal(count)
        m.d.comb += [any_set.eq(Cat(group.any() for group in groups)), first_group.eq(_lowest(any_set))]
        lowest = Signal(GROUP)     # lowest bit within the first group
        selected = Signal(GROUP)
        chosen = Const(0, GROUP)
        for index, group in enumerate(groups):
            chosen = chosen | (group & first_group[index].replicate(GROUP))
            m.d.comb += self.rest.word_select(index, GROUP).eq(group & ~(_lowest(group) & first_group[index].replicate(GROUP)))
        m.d.comb += [selected.eq(chosen), lowest.eq(_lowest(selected)),
                     self.position.eq(Cat(_encode(lowest), _encode(first_group)))]
        return m


def _lowest(bits):
    """The lowest set bit alone."""
    return Cat(bits[i] & ~bits[:i].any() if i else bits[0] for i in range(len(bits)))


def _encode(one_hot):
    """Index of the set bit."""
    return Cat(Cat(one_hot[i] for i in range(len(one_hot)) if i >> digit & 1).any()
               for digit in range((len(one_hot) - 1).bit_length()))
