"""From a processor's AXI3 port to AXI4-Lite registers."""
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi import AXI_LITE_ADDRESS_BITS, Burst, Response
from neuroflex.axi_bus import axi3_general_signature, axi_lite_signature

__all__ = ["Axi3Bridge"]


class Step(enum.Enum, shape=2):
    """What happens to the burst in work, of writes or of reads."""

    ADDRESS = 0     # none in work
    DATA = 1        # waiting for a beat to write
    ACCESS = 2      # the beat is on the other bus
    ANSWER = 3      # the burst's answer, or the beat that was read, is offered


class Axi3Bridge(wiring.Component):
    """Takes bursts apart; reads and writes are independent, one burst of each is in work.

    Each beat is one access to the word that holds its address. Bursts of kind FIXED and INCR with beats of 1, 2 or 4 bytes are carried out; what is read is the whole word, and
    WSTRB is handed on, so that the registers decide about parts of a word. The answer to a burst of writes is the worst of its beats'. Nothing is accessed and every
    beat is answered, with DECERR for an address outside of the page, with SLVERR for bursts that wrap, that are of no kind, or of wider beats.

    Timing, with the address taken in cycle t: a read is on the other bus from t + 2 on, its beat offered one cycle after the answer there, the next access begins one cycle
    after the beat was taken. A beat to write is taken from t + 1 on and on the other bus one cycle later; the next one is taken one cycle after its answer, and the burst's
    answer offered one cycle after that of its last. What is refused skips the access.

    Parameters
    ----------
    base : int
        Byte address of the page, a multiple of 4096.

    Members
    -------
    port : In(axi3_general_signature)
        IDs come back with the answers. WID is not looked at: without interleaving, beats come in the order of their addresses.
    registers : Out(axi_lite_signature)
    """

    def __init__(self, *, base):
        if not isinstance(base, int) or not 0 <= base < 1 << 32 or base % (1 << AXI_LITE_ADDRESS_BITS):
            raise ValueError(f"base must be the address of a page of {1 << AXI_LITE_ADDRESS_BITS} bytes within 32 bits, not {base!r}")
        self._base = base
        super().__init__({"port": In(axi3_general_signature()), "registers": Out(axi_lite_signature())})

    def elaborate(self, platform):
        m = Module()
        self._writes(m)
        self._reads(m)
        return m

    def _address(self, m, letter, taken, done):
        """Register offset of the beat in work, whether it is refused, and the response to it then; ``done`` with a beat, the next one follows."""
        address, kind, size = (getattr(self.port, f"a{letter}{name}") for name in ("addr", "burst", "size"))
        offset, step = Signal(AXI_LITE_ADDRESS_BITS, name=f"{letter}_offset"), Signal(3, name=f"{letter}_step")
        refused, response = Signal(name=f"{letter}_refused"), Signal(Response, name=f"{letter}_refusal")
        elsewhere = address[AXI_LITE_ADDRESS_BITS:] != self._base >> AXI_LITE_ADDRESS_BITS
        with m.If(taken):
            m.d.sync += [offset.eq(address), step.eq(Mux(kind == Burst.INCR, 1 << size[:2], 0)),
                         refused.eq(elsewhere | kind[1] | (size == 3)), response.eq(Mux(elsewhere, Response.DECERR, Response.SLVERR))]
        with m.Elif(done):
            m.d.sync += offset.eq(offset + step)
        return Cat(Const(0, 2), offset[2:]), refused, response

    def _writes(self, m):
        port, registers = self.port, self.registers
        step = Signal(Step, name="write_step")
        data, strobe, last = Signal(32), Signal(4), Signal()
        address_sent, data_sent = Signal(), Signal()
        done = Signal()
        address, refused, refusal = self._address(m, "w", port.awvalid & port.awready, done)
        m.d.comb += [
            port.awready.eq(step == Step.ADDRESS), port.wready.eq(step == Step.DATA), port.bvalid.eq(step == Step.ANSWER),
            registers.awvalid.eq((step == Step.ACCESS) & ~address_sent), registers.awaddr.eq(address),
            registers.wvalid.eq((step == Step.ACCESS) & ~data_sent), registers.wdata.eq(data), registers.wstrb.eq(strobe),
            registers.bready.eq(step == Step.ACCESS),
            done.eq((step == Step.ACCESS) & registers.bvalid),
        ]
        with m.Switch(step):
            with m.Case(Step.ADDRESS):
                m.d.sync += [port.bid.eq(port.awid), port.bresp.eq(Response.OKAY)]
                with m.If(port.awvalid):
                    m.d.sync += step.eq(Step.DATA)
            with m.Case(Step.DATA):
                m.d.sync += [data.eq(port.wdata), strobe.eq(port.wstrb), last.eq(port.wlast), address_sent.eq(0), data_sent.eq(0)]
                with m.If(port.wvalid & ~refused):
                    m.d.sync += step.eq(Step.ACCESS)
                with m.Elif(port.wvalid & port.wlast):
                    m.d.sync += [port.bresp.eq(refusal), step.eq(Step.ANSWER)]
            with m.Case(Step.ACCESS):
                with m.If(registers.awready):
                    m.d.sync += address_sent.eq(1)
                with m.If(registers.wready):
                    m.d.sync += data_sent.eq(1)
                with m.If(done):
                    m.d.sync += [port.bresp.eq(port.bresp | registers.bresp), step.eq(Mux(last, Step.ANSWER, Step.DATA))]
            with m.Case(Step.ANSWER):
                with m.If(port.bready):
                    m.d.sync += step.eq(Step.ADDRESS)

    def _reads(self, m):
        port, registers = self.port, self.registers
        step = Signal(Step, name="read_step")
        left = Signal(4)            # beats behind the one in work
        address_sent = Signal()
        taken = Signal()
        address, refused, refusal = self._address(m, "r", port.arvalid & port.arready, taken)
        m.d.comb += [
            port.arready.eq(step == Step.ADDRESS), port.rvalid.eq(step == Step.ANSWER), port.rlast.eq(left == 0),
            registers.arvalid.eq((step == Step.ACCESS) & ~address_sent), registers.araddr.eq(address), registers.rready.eq(step == Step.ACCESS),
            taken.eq(port.rvalid & port.rready),
        ]
        with m.Switch(step):
            with m.Case(Step.ADDRESS):
                m.d.sync += [port.rid.eq(port.arid), left.eq(port.arlen), address_sent.eq(0)]
                with m.If(port.arvalid):
                    m.d.sync += step.eq(Step.DATA)
            with m.Case(Step.DATA):         # one cycle, in which it is known whether the burst is refused
                m.d.sync += [port.rdata.eq(0), port.rresp.eq(refusal), step.eq(Mux(refused, Step.ANSWER, Step.ACCESS))]
            with m.Case(Step.ACCESS):
                with m.If(registers.arready):
                    m.d.sync += address_sent.eq(1)
                with m.If(registers.rvalid):
                    m.d.sync += [port.rdata.eq(registers.rdata), port.rresp.eq(registers.rresp), step.eq(Step.ANSWER)]
            with m.Case(Step.ANSWER):
                with m.If(taken):
                    m.d.sync += [left.eq(left - 1), address_sent.eq(0), step.eq(Mux(left == 0, Step.ADDRESS, Mux(refused, Step.ANSWER, Step.ACCESS)))]
        return m
