"""Multiples and counters against NumPy, for every value of their operands.

Plan
----
* Multiples: all values of a signed and of an unsigned operand, with every constant that the circuits use and others of one to four ones.
* Counters: every count with each combination of the reasons to count, from 0 and from the last count too, where they wrap around.
* Faults: a multiple without one of its terms, a counter that counts up when it should stand still.
"""
import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex.formats import CHUNK_LINES
from neuroflex.hdl.arithmetic import stepped, times
from neuroflex.sim import arithmetic as model
from neuroflex.tb.bench import Bench, Mismatch

BITS = 8
FACTORS = sorted({CHUNK_LINES, 1, 2, 3, 4, 7, 8, 11, 15})       # lines of a chunk, and columns and levels of the neurons


class Expressions(wiring.Component):
    """All of them on one set of operands."""

    def __init__(self):
        super().__init__({"value": In(BITS), "negative": In(signed(BITS)), "count": In(BITS), "up": In(1), "down": In(1), "counted": Out(BITS),
                          **{f"unsigned_{factor}": Out(BITS + 4) for factor in FACTORS}, **{f"signed_{factor}": Out(signed(BITS + 4)) for factor in FACTORS}})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.counted.eq(stepped(self.count, self.up, self.down))
        for factor in FACTORS:
            m.d.comb += [getattr(self, f"unsigned_{factor}").eq(times(self.value, factor)), getattr(self, f"signed_{factor}").eq(times(self.negative, factor))]
        return m


def check(verilog_edit=None):
    value, up, down = (part.ravel() for part in np.meshgrid(np.arange(1 << BITS), [0, 1], [0, 1], indexing="ij"))
    negative = value - (1 << BITS - 1)
    expected = {"counted": model.stepped(value, up, down) & (1 << BITS) - 1}
    for factor in FACTORS:
        expected |= {f"unsigned_{factor}": model.times(value, factor), f"signed_{factor}": model.times(negative, factor) & (1 << BITS + 4) - 1}
    stimulus = {"value": value, "negative": negative & (1 << BITS) - 1, "count": value, "up": up, "down": down}
    Bench(Expressions(), "expressions", verilog_edit=verilog_edit).run(stimulus, expected)


def test_all_values():
    check()


@pytest.mark.parametrize("right, wrong", [("{ value, 3'h0 }", "{ value, 3'h1 }"), ("~ down", "down")])
def test_fault_is_seen(right, wrong):
    def edit(text):
        assert right in text
        return text.replace(right, wrong)

    with pytest.raises(Mismatch):
        check(edit)
