"""Requests of the memory port as AXI bursts: cut at windows, with byte addresses."""
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi import PAGE_BYTES
from neuroflex.axi_bus import axi_burst_layout, check_parameters
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.layouts import memory_request_layout

__all__ = ["AxiSplit"]


class AxiSplit(wiring.Component):
    """Cuts a request wherever an aligned window of ``burst_beats`` beats ends, and adds the page of its region.

    Windows divide pages of 4 KB and line addresses are added to whole pages, so no burst crosses 4 KB. The region is that of each burst's
    first line.

    Timing: the first burst of a request taken in cycle t is on offer from t + 3, the following ones one per cycle; the next request is
    taken in the cycle after that of the last cut, so every second cycle when requests are single bursts.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig

    Members
    -------
    request : In(stream of :func:`~neuroflex.layouts.memory_request_layout`)
    program_page, tensor_page, tensor_line : In(32)
        Page of lines below ``tensor_line`` and from it on; not to be changed while requests are in work.
    burst : Out(stream of :func:`~neuroflex.axi_bus.axi_burst_layout`)
    """

    def __init__(self, *, config, axi):
        self._config, self._axi = check_parameters(config, axi)
        super().__init__({
            "request": In(stream.Signature(memory_request_layout(config))),
            "program_page": In(32), "tensor_page": In(32), "tensor_line": In(32),
            "burst": Out(stream.Signature(axi_burst_layout(config, axi))),
        })

    def elaborate(self, platform):
        m = Module()
        config, axi = self._config, self._axi
        window, lanes, parts = axi.window_lines(config), axi.lanes(config), axi.parts(config)
        m.submodules.bursts = bursts = StreamFIFO(shape=axi_burst_layout(config, axi), depth=2)
        wiring.connect(m, bursts.o, wiring.flipped(self.burst))

        # A request, and what is left of it.
        busy = Signal()
        write = Signal()
        address = Signal(config.address_bits)
        left = Signal(8)
        # The burst cut off last.
        cut = Signal()
        cut_write = Signal()
        cut_last = Signal()
        cut_tensor = Signal()
        cut_address = Signal(config.address_bits)
        cut_lines = Signal(range(window + 1))

        offset = address & (window - 1)
        room = Signal(range(window + 1))
        ends = Signal()
        step = Signal()
        m.d.comb += [
            self.request.ready.eq(~busy), room.eq(window - offset), ends.eq(left <= room),
            step.eq(busy & (~cut | bursts.i.ready)), bursts.i.valid.eq(cut),
        ]
        with m.If(self.request.valid & ~busy):
            request = self.request.payload
            m.d.sync += [busy.eq(1), address.eq(request.address), left.eq(request.lines), write.eq(request.write)]
        with m.If(step):
            m.d.sync += [
                cut.eq(1), cut_write.eq(write), cut_last.eq(ends), cut_address.eq(address), cut_tensor.eq(address >= self.tensor_line),
                cut_lines.eq(Mux(ends, left, room)), left.eq(left - room), address.eq((address | (window - 1)) + 1),
            ]
            with m.If(ends):
                m.d.sync += busy.eq(0)
        with m.Elif(bursts.i.ready):
            m.d.sync += cut.eq(0)

        # Byte address: a line is a power of two of bytes, a page one of lines; beats hold several lines or the other way round.
        line_zeros = config.line_bytes.bit_length() - 1
        page_zeros = PAGE_BYTES.bit_length() - 1
        lane_zeros = lanes.bit_length() - 1
        beats = Signal(range(axi.burst_beats + 1))
        lane = cut_address[:lane_zeros]
        within = Cat(Const(0, line_zeros + lane_zeros), cut_address[lane_zeros:])
        page = Signal(32)
        payload = bursts.i.payload
        m.d.comb += [
            page.eq(Mux(cut_tensor, self.tensor_page, self.program_page)),
            beats.eq((cut_lines + lane + (lanes - 1)) >> lane_zeros if lanes > 1 else cut_lines * parts),
            payload.write.eq(cut_write), payload.last.eq(cut_last), payload.lines.eq(cut_lines), payload.length.eq(beats - 1),
            payload.lane.eq(lane), payload.address.eq(Cat(within[:page_zeros], page + within[page_zeros:])),
        ]
        return m
