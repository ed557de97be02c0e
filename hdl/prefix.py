"""Fast prefix count and priority encoder: the two circuits that walk through a chunk's mask."""
import functools
import operator

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FastPrefix", "PriorityEncoder", "count_flags", "ones"]

GROUP = 8        # bits that the priority encoder looks at together
COUNTED = 8      # bits that a prefix count sums up in its first cycle: one addition behind the tables, the others in the second


def tree_sum(values):
    """Sum of values as a balanced tree of adders."""
    values = list(values)
    while len(values) > 1:
        values = [a + b for a, b in zip(values[::2], values[1::2])] + values[len(values) & ~1:]
    return values[0]


def ones(bits):
    """Number of ones among some bits: counts of four bits by table (one LUT per output bit), then a tree of adders."""
    bits = list(bits)
    counts = []
    for first in range(0, len(bits), 4):
        four = Cat(bits[first:first + 4])
        planes = [Cat(Const(value.bit_count() >> plane & 1, 1) for value in range(1 << len(four)))
                  for plane in range(len(four).bit_length())]
        counts.append(Cat(plane.bit_select(four, 1) for plane in planes))
    return tree_sum(counts)


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
        digits = COUNTED.bit_length() - 1
        low, high = self.position[:digits], self.position[digits:]
        low_below = Signal(COUNTED)        # the bits of the position's own group that count
        m.d.comb += low_below.eq(Cat(low > i for i in range(COUNTED - 1)))
        group_counts = []
        for group in range(self._bits // COUNTED):
            whole = high > group if group < self._bits // COUNTED - 1 else Const(0, 1)
            partial = high == group if self._bits > COUNTED else Const(1, 1)
            bits, count = Signal(COUNTED, name=f"below_{group}"), Signal(range(COUNTED + 1), name=f"group_count_{group}")
            m.d.comb += bits.eq(self.mask.word_select(group, COUNTED)
                                & (whole.replicate(COUNTED) | (partial.replicate(COUNTED) & low_below)))
            m.d.sync += count.eq(ones(bits))
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
        # All groups at once: plane i holds bit i of every group. Each group's lowest bit is found beside the lowest group.
        planes, lowest = ([Signal(count, name=f"{name}_{i}") for i in range(GROUP)] for name in ("plane", "lowest"))
        before = [Signal(count, name=f"before_{i}") for i in range(GROUP + 1)]
        first_group = Signal(count)                         # one hot
        for i, plane in enumerate(planes):
            m.d.comb += [plane.eq(Cat(self.mask[i::GROUP])), lowest[i].eq(plane & ~before[i]), before[i + 1].eq(before[i] | plane)]
        places = [Signal(count, name=f"place_{digit}") for digit in range((GROUP - 1).bit_length())]
        for digit, place in enumerate(places):
            m.d.comb += place.eq(_any(plane for i, plane in enumerate(lowest) if i >> digit & 1))
        m.d.comb += [
            first_group.eq(_lowest(before[GROUP])),
            self.position.eq(Cat(*((place & first_group).any() for place in places), _encode(first_group))),
            self.rest.eq(self.mask & ~Cat(plane[group] & first_group[group] for group in range(count) for plane in lowest)),
        ]
        return m


def _any(vectors):
    """Bit by bit: set in any of the vectors."""
    return functools.reduce(operator.or_, vectors)


def _lowest(bits):
    """The lowest set bit alone."""
    return Cat(bits[i] & ~bits[:i].any() if i else bits[0] for i in range(len(bits)))


def _encode(one_hot):
    """Index of the set bit."""
    return Cat(Cat(one_hot[i] for i in range(len(one_hot)) if i >> digit & 1).any()
               for digit in range((len(one_hot) - 1).bit_length()))
