"""Spike generator: the thermometer code of an activation level."""
from amaranth import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SpikeGenerator"]


class SpikeGenerator(wiring.Component):
    """Turns stored levels into spike words, made on the fly: bit ``t`` is 1 when the neuron fires in step ``t``.

    The word of level ``q`` is ``(1 << q) - 1``; a level above ``levels`` gives all ones. One word per cycle,
    latency 1, no back-pressure.

    Parameters
    ----------
    levels : int
        Time steps, the width of the word; at least 1.

    Members
    -------
    i : In(wiring.Signature({valid, payload: {level}}))
        Levels, just wide enough for ``levels``.
    o : Out(wiring.Signature({valid, payload: {spikes}}))
        Spike words, ``levels`` wide. Holds its last payload while not valid.
    """

    def __init__(self, *, levels):
        if not isinstance(levels, int) or isinstance(levels, bool):
            raise TypeError(f"levels must be an integer, not {levels!r}")
        if levels < 1:
            raise ValueError(f"levels must be at least 1, not {levels}")
        self._levels = levels
        super().__init__({
            "i": In(wiring.Signature({"valid": Out(1), "payload": Out(data.StructLayout({"level": range(levels + 1)}))})),
            "o": Out(wiring.Signature({"valid": Out(1), "payload": Out(data.StructLayout({"spikes": levels}))})),
        })

    @property
    def levels(self):
        """Time steps, the width of a word."""
        return self._levels

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.valid):
            m.d.sync += self.o.payload.spikes.eq(Cat(self.i.payload.level > step for step in range(self._levels)))
        return m
