"""Sums arranged for where they stand: constant multiples without a multiplier, counters whose reasons to count come late.

Both are expressions, without registers: a value depends on its operands in the same cycle.
"""
from amaranth.hdl import Mux

__all__ = ["stepped", "times"]


def stepped(count, up, down):
    """``count + up - down`` as a choice among sums that are there before the bits ``up`` and ``down`` are: no carry waits for them."""
    return Mux(up & ~down, count + 1, Mux(down & ~up, count - 1, count))


def times(value, factor):
    """``value * factor`` by shifts and additions, for a constant of few ones: synthesis would take a DSP block for it, far from everything else."""
    return sum(value << bit for bit in range(factor.bit_length()) if factor >> bit & 1)
