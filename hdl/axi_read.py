"""Read bursts on an AXI4 bus, and their beats as lines."""
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi_bus import INCR, MODIFIABLE_BUFFERABLE, axi_burst_layout, axi_read_signature, check_parameters
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.layouts import read_data_layout

__all__ = ["AxiRead"]


class AxiRead(wiring.Component):
    """Sends the address of each burst and gives the lines of its beats, in order.

    All bursts have ID 0, so beats come in the order of bursts. A line is in error when one of its beats is (SLVERR, DECERR); every beat is taken
    all the same. ``rid`` and ``rlast`` are not looked at: the number of beats is known.

    Timing: a burst taken in cycle t is on AR from t + 1, the next is taken two cycles later at the earliest. A beat taken in cycle t is a line
    (its last line's last part) on offer from t + 2; one beat or one line per cycle, whichever is less.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig
        ``reads`` bursts may be unanswered.

    Members
    -------
    burst : In(stream of :func:`~neuroflex.axi_bus.axi_burst_layout`)
        ``write`` and ``last`` do not matter.
    bus : Out(axi_read_signature)
    read_data : Out(stream of :func:`~neuroflex.layouts.read_data_layout`)
    done : Out(1)
        Pulse: the oldest burst's last line went into the output queue in the cycle before.
    """

    def __init__(self, *, config, axi):
        self._config, self._axi = check_parameters(config, axi)
        super().__init__({
            "burst": In(stream.Signature(axi_burst_layout(config, axi))),
            "bus": Out(axi_read_signature(axi)),
            "read_data": Out(stream.Signature(read_data_layout(config))),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, axi, bus, burst = self._config, self._axi, self.bus, self.burst
        layout = burst.payload.shape()
        expected_layout = data.StructLayout({name: layout[name].shape for name in ("lane", "lines")})
        m.submodules.expected = expected = StreamFIFO(shape=expected_layout, depth=axi.reads)
        m.submodules.beats = beats = StreamFIFO(shape=data.StructLayout({"data": axi.data_bits, "error": 1}), depth=2)
        m.submodules.lines = lines = StreamFIFO(shape=read_data_layout(config), depth=2)
        wiring.connect(m, lines.o, wiring.flipped(self.read_data))

        # Addresses.
        accept = Signal()
        m.d.comb += [
            burst.ready.eq(~bus.arvalid & expected.i.ready), accept.eq(burst.valid & burst.ready),
            expected.i.valid.eq(accept), expected.i.payload.lane.eq(burst.payload.lane), expected.i.payload.lines.eq(burst.payload.lines),
            bus.arsize.eq(axi.beat_bytes.bit_length() - 1), bus.arburst.eq(INCR), bus.arcache.eq(MODIFIABLE_BUFFERABLE),
        ]
        with m.If(accept):
            m.d.sync += [bus.arvalid.eq(1), bus.araddr.eq(burst.payload.address), bus.arlen.eq(burst.payload.length)]
        with m.Elif(bus.arready):
            m.d.sync += bus.arvalid.eq(0)

        # Beats to lines.
        lanes, parts = axi.lanes(config), axi.parts(config)
        now = expected.o.payload
        m.d.comb += [
            bus.rready.eq(beats.i.ready), beats.i.valid.eq(bus.rvalid), beats.i.payload.data.eq(bus.rdata), beats.i.payload.error.eq(bus.rresp[1]),
        ]
        beat, line = beats.o.payload, lines.i.payload
        count = Signal(now.lines.shape())        # lines of the burst given
        step = Signal()          # a line is given
        ends = Signal()          # ... the last of the burst
        full = Signal()          # the beat has the line's end
        m.d.comb += [
            ends.eq(step & (count + 1 == now.lines)), lines.i.valid.eq(step), expected.o.ready.eq(ends),
            step.eq(beats.o.valid & expected.o.valid & lines.i.ready & full),
        ]
        m.d.sync += self.done.eq(ends)
        with m.If(step):
            m.d.sync += count.eq(Mux(ends, 0, count + 1))
        if parts == 1:
            next_lane = Signal(now.lane.shape())
            lane = Signal(now.lane.shape())
            m.d.comb += [
                full.eq(1), lane.eq(Mux(count == 0, now.lane, next_lane)), line.line.eq(beat.data.word_select(lane, config.chunk_bits)),
                line.error.eq(beat.error), beats.o.ready.eq(step & (ends | (lane == lanes - 1))),
            ]
            with m.If(step):
                m.d.sync += next_lane.eq((lane + 1) & (lanes - 1))
        else:
            before = Signal(config.chunk_bits - axi.data_bits)      # the line's earlier parts, the latest on top
            part = Signal(range(parts))
            failed = Signal()
            m.d.comb += [
                full.eq(part == parts - 1), beats.o.ready.eq(expected.o.valid & Mux(full, lines.i.ready, 1)),
                line.line.eq(Cat(before, beat.data)), line.error.eq(failed | beat.error),
            ]
            with m.If(beats.o.valid & beats.o.ready):
                m.d.sync += [part.eq(part + 1), before.eq(Cat(before, beat.data)[axi.data_bits:]), failed.eq(~full & (failed | beat.error))]
        return m
