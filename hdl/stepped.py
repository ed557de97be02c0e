"""Counters of what came and has not left, whose reasons to count arrive late in the cycle."""
from amaranth.hdl import Mux

__all__ = ["stepped"]


def stepped(count, up, down):
    """``count + up - down`` as a choice among sums that are there before the bits ``up`` and ``down`` are: no carry waits for them."""
    return Mux(up & ~down, count + 1, Mux(down & ~up, count - 1, count))
