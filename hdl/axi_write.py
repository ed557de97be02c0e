"""Lines as the beats of write bursts on an AXI4 bus."""
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex.axi_bus import INCR, MODIFIABLE_BUFFERABLE, axi_burst_layout, axi_write_signature, check_parameters
from neuroflex.hdl.fifo import StreamFIFO

__all__ = ["AxiWrite"]


class AxiWrite(wiring.Component):
    """Sends the address and the beats of each burst; one answer per request, in error when one of its bursts is.

    Addresses go out whether or not their data are there, data whether or not their address was taken; both in order. All bursts
    have ID 0, so answers come in order; ``bid`` is not looked at.

    Timing: a burst taken in cycle t is on AW from t + 1, the next is taken two cycles later at the earliest. A line taken in cycle t is (in) a beat
    on offer from t + 2, if the beat is complete by it; one line or one beat per cycle, whichever is less. An answer taken in cycle t is passed on from t + 1.

    Parameters
    ----------
    config : ArchConfig
    axi : AxiConfig
        ``writes`` bursts may be unanswered.

    Members
    -------
    burst : In(stream of :func:`~neuroflex.axi_bus.axi_burst_layout`)
        ``write`` does not matter.
    write_data : In(stream of a line)
    write_done : Out(stream of ``{error}``)
    bus : Out(axi_write_signature)
    done : Out(1)
        Pulse: the oldest burst was answered in the cycle before.
    """

    def __init__(self, *, config, axi):
        self._config, self._axi = check_parameters(config, axi)
        super().__init__({
            "burst": In(stream.Signature(axi_burst_layout(config, axi))),
            "write_data": In(stream.Signature(config.chunk_bits)),
            "write_done": Out(stream.Signature(data.StructLayout({"error": 1}))),
            "bus": Out(axi_write_signature(axi)),
            "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, axi, bus, burst = self._config, self._axi, self.bus, self.burst
        layout = burst.payload.shape()
        to_send_layout = data.StructLayout({name: layout[name].shape for name in ("lane", "lines")})
        beat_layout = data.StructLayout({"data": axi.data_bits, "strobe": axi.beat_bytes, "last": 1})
        m.submodules.to_send = to_send = StreamFIFO(shape=to_send_layout, depth=axi.writes)
        m.submodules.to_answer = to_answer = StreamFIFO(shape=1, depth=axi.writes)
        m.submodules.lines = lines = StreamFIFO(shape=config.chunk_bits, depth=2)
        m.submodules.beats = beats = StreamFIFO(shape=beat_layout, depth=2)
        m.submodules.answers = answers = StreamFIFO(shape=self.write_done.payload.shape(), depth=2)
        wiring.connect(m, wiring.flipped(self.write_data), lines.i)
        wiring.connect(m, answers.o, wiring.flipped(self.write_done))

        # Addresses.
        accept = Signal()
        m.d.comb += [
            burst.ready.eq(~bus.awvalid & to_send.i.ready & to_answer.i.ready), accept.eq(burst.valid & burst.ready),
            to_send.i.valid.eq(accept), to_send.i.payload.lane.eq(burst.payload.lane), to_send.i.payload.lines.eq(burst.payload.lines),
            to_answer.i.valid.eq(accept), to_answer.i.payload.eq(burst.payload.last),
            bus.awsize.eq(axi.beat_bytes.bit_length() - 1), bus.awburst.eq(INCR), bus.awcache.eq(MODIFIABLE_BUFFERABLE),
        ]
        with m.If(accept):
            m.d.sync += [bus.awvalid.eq(1), bus.awaddr.eq(burst.payload.address), bus.awlen.eq(burst.payload.length)]
        with m.Elif(bus.awready):
            m.d.sync += bus.awvalid.eq(0)

        # Lines to beats.
        lanes, parts = axi.lanes(config), axi.parts(config)
        now, beat = to_send.o.payload, beats.i.payload
        count = Signal(now.lines.shape())        # lines of the burst sent
        go = Signal()            # there is a line, and room for a beat
        step = Signal()          # the line in work is over
        ends = Signal()          # it is the burst's last
        m.d.comb += [
            go.eq(lines.o.valid & to_send.o.valid & beats.i.ready), ends.eq(count + 1 == now.lines),
            lines.o.ready.eq(step), to_send.o.ready.eq(step & ends),
            bus.wvalid.eq(beats.o.valid), beats.o.ready.eq(bus.wready),
            bus.wdata.eq(beats.o.payload.data), bus.wstrb.eq(beats.o.payload.strobe), bus.wlast.eq(beats.o.payload.last),
        ]
        with m.If(step):
            m.d.sync += count.eq(Mux(ends, 0, count + 1))
        if parts == 1:
            next_lane = Signal(now.lane.shape())
            lane = Signal(now.lane.shape())
            kept = Signal(axi.data_bits)                # lines of the beat so far
            kept_strobe = Signal(axi.beat_bytes)
            m.d.comb += [
                step.eq(go), lane.eq(Mux(count == 0, now.lane, next_lane)), beats.i.valid.eq(go & (ends | (lane == lanes - 1))),
                beat.last.eq(ends),
            ]
            for place in range(lanes):
                here = lane == place
                m.d.comb += [
                    beat.data.word_select(place, config.chunk_bits).eq(Mux(here, lines.o.payload, kept.word_select(place, config.chunk_bits))),
                    beat.strobe.word_select(place, config.line_bytes).eq(
                        kept_strobe.word_select(place, config.line_bytes) | here.replicate(config.line_bytes)),
                ]
            with m.If(go):
                m.d.sync += [next_lane.eq((lane + 1) & (lanes - 1)), kept.eq(Mux(beats.i.valid, 0, beat.data)), kept_strobe.eq(Mux(beats.i.valid, 0, beat.strobe))]
        else:
            part = Signal(range(parts))
            m.d.comb += [
                step.eq(go & (part == parts - 1)), beats.i.valid.eq(go), beat.data.eq(lines.o.payload.word_select(part, axi.data_bits)),
                beat.strobe.eq(~0), beat.last.eq(ends & (part == parts - 1)),
            ]
            with m.If(go):
                m.d.sync += part.eq(part + 1)

        # Answers.
        failed = Signal()        # a burst of the request was refused
        answered = Signal()
        m.d.comb += [
            bus.bready.eq(to_answer.o.valid & answers.i.ready), answered.eq(bus.bvalid & bus.bready), to_answer.o.ready.eq(answered),
            answers.i.valid.eq(answered & to_answer.o.payload[0]), answers.i.payload.error.eq(failed | bus.bresp[1]),
        ]
        m.d.sync += self.done.eq(answered)
        with m.If(answered):
            m.d.sync += failed.eq(~to_answer.o.payload[0] & (failed | bus.bresp[1]))
        return m
