"""Proofs: what holds is proved, what does not is refuted, what cannot happen is not covered."""

import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.formal import ProofFailed, prove


class Counter(wiring.Component):
    """Counts to 5 and stays; `step` is never given twice running."""

    def __init__(self, *, limit=None, reach=()):
        self._limit, self._reach = limit, reach
        super().__init__({"step": In(1)})

    def elaborate(self, platform):
        m = Module()
        count, before = Signal(4), Signal()
        m.d.sync += before.eq(self.step)
        with m.If(self.step & (count != 5)):
            m.d.sync += count.eq(count + 1)
        m.d.comb += Assume(~(before & self.step))
        if self._limit is not None:
            m.d.comb += Assert(count <= self._limit)
        for value in self._reach:
            m.d.comb += Cover(count == value)
        return m


@pytest.mark.parametrize("mode", ["pdr", "bmc"])
def test_proved_and_refuted(mode):
    prove(Counter(limit=5, reach=[7]), mode=mode)
    with pytest.raises(ProofFailed, match="a property of Counter can be violated in cycle 9") as error:
        prove(Counter(limit=4), mode=mode)
    assert error.value.cycle == 9       # five steps, one cycle between each


def test_bmc_sees_as_far_as_it_is_told():
    prove(Counter(limit=4), mode="bmc", depth=9)
    with pytest.raises(ProofFailed):
        prove(Counter(limit=4), mode="bmc", depth=10)


def test_covers():
    prove(Counter(limit=0, reach=[0, 4, 5]), mode="cover", depth=20)
    with pytest.raises(ProofFailed, match="Counter: 2 of 3 covers were not reached in 20 cycles"):
        prove(Counter(reach=[5, 6, 7]), mode="cover", depth=20)
    with pytest.raises(ProofFailed, match="1 of 1 covers were not reached in 9 cycles"):
        prove(Counter(reach=[5]), mode="cover", depth=9)


@pytest.mark.parametrize("mode, what", [("pdr", "Assert"), ("cover", "Cover")])
def test_nothing_to_prove_is_an_error(mode, what):
    with pytest.raises(ValueError, match=f"Counter has no {what}"):
        prove(Counter(), mode=mode)


@pytest.mark.parametrize("mode", ["pdr", "cover"])
def test_without_any_property_nothing_is_proved(mode):
    class Bare(wiring.Component):
        step: In(1)

        def elaborate(self, platform):
            m = Module()
            count = Signal(4)
            m.d.sync += count.eq(count + self.step)
            return m

    with pytest.raises(ValueError, match="Bare has no"):
        prove(Bare(), mode=mode)
