"""Serial lines: bytes in and out, 8 data bits, no parity, one stop bit."""
from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter", "check_divisor"]

FRAME_BITS = 10     # start, eight data, stop


def check_divisor(divisor):
    """Cycles per bit; ValueError when there are too few to sample in the middle of one."""
    if not isinstance(divisor, int) or isinstance(divisor, bool) or not 4 <= divisor < 1 << 16:
        raise ValueError(f"divisor must be 4 to 65535 cycles per bit, not {divisor!r}")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from a line.

    The line passes two registers. With the first low value behind them in cycle t, the start bit is looked at again in
    ``t + divisor // 2 + 1`` (a glitch is dropped), each further bit ``divisor`` cycles later, and a byte whose stop bit is high shows in the cycle after that. A byte whose
    stop bit is low is dropped.

    Members
    -------
    rx : In(1)
    valid : Out(1)
        Pulse: ``data`` was received, and stays until the next start bit.
    data : Out(8)
    """

    def __init__(self, *, divisor):
        self._divisor = check_divisor(divisor)
        super().__init__({"rx": In(1, init=1), "valid": Out(1), "data": Out(8)})

    def elaborate(self, platform):
        m = Module()
        line, left, timer = Signal(init=1), Signal(range(FRAME_BITS + 1)), Signal(range(self._divisor))
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        m.d.sync += self.valid.eq(0)
        with m.If(left == 0):
            with m.If(~line):
                m.d.sync += [left.eq(FRAME_BITS), timer.eq(self._divisor // 2)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divisor - 1), left.eq(left - 1)]
            with m.If(left == FRAME_BITS):
                with m.If(line):
                    m.d.sync += left.eq(0)
            with m.Elif(left == 1):
                m.d.sync += self.valid.eq(line)
            with m.Else():
                m.d.sync += self.data.eq(Cat(self.data[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a line.

    A byte taken in cycle t is on the line from t + 1, ``divisor`` cycles per bit; the next one is taken ``10 * divisor + 1`` cycles later.

    Members
    -------
    i : stream of 8 bits
    tx : Out(1)
    """

    def __init__(self, *, divisor):
        self._divisor = check_divisor(divisor)
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        bits, left, timer = Signal(FRAME_BITS, init=-1), Signal(range(FRAME_BITS + 1)), Signal(range(self._divisor))
        m.d.comb += [self.i.ready.eq(left == 0), self.tx.eq(bits[0])]
        with m.If(left == 0):
            with m.If(self.i.valid):
                m.d.sync += [bits.eq(Cat(Const(0, 1), self.i.payload, Const(1, 1))), left.eq(FRAME_BITS), timer.eq(self._divisor - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self._divisor - 1), left.eq(left - 1), bits.eq(Cat(bits[1:], Const(1, 1)))]
        return m
