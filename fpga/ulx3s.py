"""ULX3S with an LFE5U-85F: the accelerator, block RAM as its memory, the serial line of the USB socket to the host."""
from amaranth.hdl import ClockDomain, Elaboratable, Instance, Module, Signal
from amaranth.lib.cdc import ResetSynchronizer
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from neuroflex.hdl.uart_system import UartSystem

__all__ = ["Pll", "Ulx3s", "Ulx3sPlatform", "pll_settings"]

OSCILLATOR_MHZ = 25
VCO_MHZ = range(400, 801)


class Ulx3sPlatform(ULX3S_85F_Platform):
    """ULX3S-85F."""

    device_mark = "LFE5U-85F"


def pll_settings(clock_mhz):
    """Dividers of the ECP5's PLL for a clock from 25 MHz: ``{"input", "feedback", "output"}``.

    ``clock = 25 / input * feedback`` and the oscillator, ``clock * output``, in 400 to 800 MHz, nearest 600.

    Raises
    ------
    ValueError
        When no dividers give exactly this clock.
    """
    for divider in range(1, 9):
        feedback = clock_mhz * divider / OSCILLATOR_MHZ
        if feedback == int(feedback) and 1 <= feedback <= 80:
            output = min((n for n in range(1, 129) if clock_mhz * n in VCO_MHZ), key=lambda n: abs(clock_mhz * n - 600), default=None)
            if output:
                return {"input": divider, "feedback": int(feedback), "output": output}
    raise ValueError(f"no PLL setting gives {clock_mhz} MHz from {OSCILLATOR_MHZ} MHz; multiples of 5 MHz from 25 to 200 MHz work")


class Pll(Elaboratable):
    """EHXPLLL: ``clock`` of ``clock_mhz`` from ``reference``; ``locked`` when it runs."""

    def __init__(self, *, clock_mhz):
        self._settings, self._clock_mhz = pll_settings(clock_mhz), clock_mhz
        self.reference, self.clock, self.locked = Signal(), Signal(), Signal()

    def elaborate(self, platform):
        m = Module()
        settings = self._settings
        m.submodules.primitive = Instance(
            "EHXPLLL", a_FREQUENCY_PIN_CLKI=str(OSCILLATOR_MHZ), a_FREQUENCY_PIN_CLKOP=str(self._clock_mhz),
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=settings["input"], p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=settings["output"],
            p_CLKOP_CPHASE=settings["output"] // 2, p_CLKOP_FPHASE=0, p_FEEDBK_PATH="CLKOP", p_CLKFB_DIV=settings["feedback"],
            i_RST=0, i_STDBY=0, i_CLKI=self.reference, i_CLKFB=self.clock, i_PHASESEL0=0, i_PHASESEL1=0, i_PHASEDIR=1, i_PHASESTEP=1,
            i_PHASELOADREG=1, i_PLLWAKESYNC=0, i_ENCLKOP=0, o_CLKOP=self.clock, o_LOCK=self.locked)
        return m


class Ulx3s(Elaboratable):
    """What is built for the board.

    LEDs: 0 an interrupt waits, 1 the PLL runs, 2 the host sends, 3 the board sends.

    Parameters
    ----------
    config : ArchConfig
    depth : int
        Lines of memory.
    clock_mhz : int
    baud : int
        Of the serial line.
    """

    def __init__(self, *, config, depth, clock_mhz, baud):
        self._clock_mhz = clock_mhz
        self._system = UartSystem(config=config, depth=depth, divisor=round(clock_mhz * 1_000_000 / baud))
        self._pll = Pll(clock_mhz=clock_mhz)

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain()
        m.submodules.pll = pll = self._pll
        m.submodules.system = system = self._system
        serial = platform.request("uart", 0)
        m.d.comb += [pll.reference.eq(platform.request("clk25", 0).i), sync.clk.eq(pll.clock),
                     system.rx.eq(serial.rx.i), serial.tx.o.eq(system.tx)]
        m.submodules.reset = ResetSynchronizer(~pll.locked, domain="sync")
        for number, light in enumerate((system.irq, pll.locked, ~serial.rx.i, ~system.tx)):
            m.d.comb += platform.request("led", number).o.eq(light)
        return m
