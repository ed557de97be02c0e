"""AXI4-Lite slave in front of a register port."""
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi import Response
from neuroflex.axi_bus import axi_lite_signature, shell_request
from neuroflex.hdl.registers import register_response

__all__ = ["AxiLite"]

_ALL = 0b1111


class Phase(enum.Enum, shape=2):
    """What happens to the access in work."""

    IDLE = 0
    REQUEST = 1     # offered to the register port
    ANSWER = 2      # waiting for the register port
    RESPOND = 3     # offered to the bus


class AxiLite(wiring.Component):
    """One access at a time; a read and a write that both wait take turns.

    Timing, with a register port that is ready and answers one cycle after a request: address (and data) taken in
    cycle t, request in t + 2, answer on the bus in t + 4. The next access of either kind is requested 5 cycles later at the earliest.

    Members
    -------
    bus : In(axi_lite_signature)
        ``awprot`` and ``arprot`` are not looked at.
    request : Out(stream of :func:`~neuroflex.axi_bus.shell_request`)
    response : In(stream of :func:`~neuroflex.hdl.registers.register_response`)
    """

    def __init__(self):
        super().__init__({
            "bus": In(axi_lite_signature()),
            "request": Out(stream.Signature(shell_request())),
            "response": In(stream.Signature(register_response())),
        })

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        phase = Signal(Phase)
        writing = Signal()
        write_first = Signal()
        address_here = Signal()
        data_here = Signal()
        read_here = Signal()
        write_address = Signal.like(bus.awaddr)
        read_address = Signal.like(bus.araddr)
        write_data = Signal.like(bus.wdata)
        strobe = Signal.like(bus.wstrb)
        failed = Signal()
        read_data = Signal(32)
        response = Mux(failed, Response.SLVERR, Response.OKAY)
        m.d.comb += [
            bus.awready.eq(~address_here), bus.wready.eq(~data_here), bus.arready.eq(~read_here),
            self.request.valid.eq(phase == Phase.REQUEST),
            self.request.payload.write.eq(writing), self.request.payload.data.eq(Mux(writing, write_data, 0)),    # stays, while the next write comes in
            self.request.payload.address.eq(Mux(writing, write_address, read_address)),
            self.response.ready.eq(phase == Phase.ANSWER),
            bus.bvalid.eq((phase == Phase.RESPOND) & writing), bus.bresp.eq(response),
            bus.rvalid.eq((phase == Phase.RESPOND) & ~writing), bus.rresp.eq(response), bus.rdata.eq(read_data),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address_here.eq(1), write_address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [data_here.eq(1), write_data.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [read_here.eq(1), read_address.eq(bus.araddr)]

        with m.Switch(phase):
            with m.Case(Phase.IDLE):
                m.d.sync += failed.eq(0)
                with m.If(address_here & data_here & (write_first | ~read_here)):
                    m.d.sync += [writing.eq(1), phase.eq(Phase.REQUEST)]
                    with m.If(strobe != _ALL):
                        m.d.sync += [failed.eq(strobe != 0), phase.eq(Phase.RESPOND)]
                with m.Elif(read_here):
                    m.d.sync += [writing.eq(0), phase.eq(Phase.REQUEST)]
            with m.Case(Phase.REQUEST):
                with m.If(self.request.ready):
                    m.d.sync += phase.eq(Phase.ANSWER)
            with m.Case(Phase.ANSWER):
                with m.If(self.response.valid):
                    m.d.sync += [failed.eq(self.response.payload.error), read_data.eq(self.response.payload.data), phase.eq(Phase.RESPOND)]
            with m.Case(Phase.RESPOND):
                with m.If(Mux(writing, bus.bready, bus.rready)):
                    m.d.sync += [phase.eq(Phase.IDLE), write_first.eq(~writing)]
                    with m.If(writing):
                        m.d.sync += [address_here.eq(0), data_here.eq(0)]
                    with m.Else():
                        m.d.sync += read_here.eq(0)
        return m
