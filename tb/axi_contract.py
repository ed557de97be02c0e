"""What the contracts of the AXI blocks have in common: sizes at which they are proved, any bursts, and what holds on every channel."""
from amaranth.hdl import Assert, Assume, Module, ResetSignal, Signal

from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS

__all__ = ["BURST_PORTS", "CONFIGS", "FORMAL", "FORMAL_AXI", "AnyBurst", "stays"]

FORMAL = PRESETS["tiny"].replace(address_bits=12)
FORMAL_AXI = AxiConfig(burst_beats=8, reads=4, writes=4)
CONFIGS = [FORMAL.replace(chunk_bits=bits) for bits in (32, 64, 128)]      # lines narrower than a beat, as wide, wider
BURST_PORTS = (("valid", 1), ("lines", 2), ("lane", 3), ("address", 4))


def stays(m, name, valid, ready, payload):
    """Assert that what is on offer and not taken stays as it is."""
    waited, before = Signal(name=f"{name}_waited"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [waited.eq(valid & ~ready), before.eq(payload)]
    m.d.comb += Assert(~waited | valid & (payload == before))


class AnyBurst:
    """Bursts of one to three lines, from the ports ``BURST_PORTS`` of a contract, and the promise of the address channel: it stays, and each burst is asked for once, in its turn.

    Attributes
    ----------
    beats, lane : Value
        Of the burst on offer.
    taken : Value
        It is taken in this cycle.
    """

    def __init__(self, m: Module, contract, config, axi, burst, address_channel):
        lanes = axi.lanes(config)
        self.lane = contract.lane & (lanes - 1)
        self.beats = (contract.lines + self.lane + lanes - 1) >> (lanes.bit_length() - 1) if lanes > 1 else contract.lines * axi.parts(config)
        self.taken = burst.valid & burst.ready
        m.d.comb += [
            Assume(~ResetSignal()), Assume(contract.lines != 0), burst.valid.eq(contract.valid), burst.payload.lines.eq(contract.lines),
            burst.payload.lane.eq(self.lane), burst.payload.length.eq(self.beats - 1), burst.payload.address.eq(contract.address),
        ]
        valid, ready, address, length = address_channel
        expect, shown = Signal(12, name="expect"), Signal(12, name="shown")
        owed = Signal(name="address_owed")       # a burst was taken whose address has not gone out
        m.d.comb += [shown.eq(address[:4] | length << 4), Assert(valid == owed), Assert(~valid | (shown == expect))]
        stays(m, "address", valid, ready, shown)
        with m.If(self.taken):
            m.d.sync += [owed.eq(1), expect.eq(contract.address | (self.beats - 1)[:8] << 4)]
            m.d.comb += Assert(~owed)
        with m.Elif(ready):
            m.d.sync += owed.eq(0)
