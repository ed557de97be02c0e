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


def count_flags(m, bits, name, *, groups=1):
    """Whether at least 1, 2, 3 bits are set, counted by a saturating tree.

    Parameters
    ----------
    m : Module
        Gets the tree's logic.
    bits : Value
        Its width is a power of two times ``groups``.
    name : str
        Prefix of the names of the tree's signals.
    groups : int
        Number of groups counted separately; group ``g`` is the bits ``g``, ``g + groups``, ``g + 2 * groups`` ...

    Returns
    -------
    tuple of three Signals of ``groups`` bits: at least 1, 2, 3 set bits in each group.
    """
    one, two, three = bits, Const(0, len(bits)), Const(0, len(bits))
    while len(one) > groups:
        half = len(one) // 2
        a1, b1, a2, b2, a3, b3 = one[:half], one[half:], two[:half], two[half:], three[:half], three[half:]
        one, two, three = (Signal(half, name=f"{name}_{count}_of_{half}") for count in ("one", "two", "three"))
        m.d.comb += [one.eq(a1 | b1), two.eq(a2 | b2 | (a1 & b1)), three.eq(a3 | b3 | (a2 & b1) | (a1 & b2))]
    return one, two, three


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
        low_below = Signal(GROUP)          # the bits of the position's own group that count
        m.d.comb += low_below.eq(Cat(low > i for i in range(GROUP - 1)))
        group_counts = []
        for group in range(self._bits // GROUP):
            whole = high > group if group < self._bits // GROUP - 1 else Const(0, 1)
            partial = high == group
            bits, count = Signal(GROUP, name=f"below_{group}"), Signal(range(GROUP + 1), name=f"group_count_{group}")
            m.d.comb += bits.eq(self.mask.word_select(group, GROUP)
                                & (whole.replicate(GROUP) | (partial.replicate(GROUP) & low_below)))
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
        # All groups at once: plane i holds bit i of every group.
        planes, lowest = ([Signal(count, name=f"{name}_{i}") for i in range(GROUP)] for name in ("plane", "lowest"))
        before = [Signal(count, name=f"before_{i}") for i in range(GROUP + 1)]
        first_group, bit = Signal(count), Signal(GROUP)     # one hot: group of the lowest bit, its place in there
        for i, plane in enumerate(planes):
            m.d.comb += [plane.eq(Cat(self.mask[i::GROUP])), lowest[i].eq(plane & ~before[i] & first_group),
                         before[i + 1].eq(before[i] | plane)]
        m.d.comb += [
            first_group.eq(_lowest(before[GROUP])), bit.eq(Cat(plane.any() for plane in lowest)),
            self.position.eq((_encode(first_group) << 3) | _encode(bit)),
            self.rest.eq(self.mask & ~Cat(plane[group] for group in range(count) for plane in lowest)),
        ]
        return m


def _lowest(bits):
    """The lowest set bit alone."""
    return Cat(bits[i] & ~bits[:i].any() if i else bits[0] for i in range(len(bits)))


def _encode(one_hot):
    """Index of the set bit."""
    return Cat(Cat(one_hot[i] for i in range(len(one_hot)) if i >> digit & 1).any()
               for digit in range((len(one_hot) - 1).bit_length()))
