"""Register file: the port by which software starts jobs and reads what happened."""
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex import registers as regmap
from neuroflex.config import ArchConfig

__all__ = ["RegisterFile", "counter_increments", "register_request", "register_response"]

COUNTER_BITS = 48


def register_request():
    """Layout of a register access: byte ``address`` (lowest two bits ignored), ``write``, ``data``."""
    return data.StructLayout({"address": 8, "write": 1, "data": 32})


def register_response():
    """Layout of the answer: ``data`` (0 for writes) and ``error`` (no register at this address)."""
    return data.StructLayout({"data": 32, "error": 1})


def counter_increments(config):
    """Layout of what each performance counter grows by in a cycle."""
    widths = {"matches_ann": config.ann_pes.bit_length(), "matches_snn": config.snn_pes.bit_length()}
    return data.StructLayout({counter.name: widths.get(counter.name, 1) for counter in regmap.COUNTERS})


class RegisterFile(wiring.Component):
    """The registers of ``neuroflex/registers.py`` behind a request/response port.

    Timing: a request taken in cycle t reads the registers as they are in t and answers in t + 1; a write shows in
    t + 1; pulses (``start``, ``soft_reset``) are high in t + 1 only. One request is in work at a time:
    ``request.ready`` is low while an answer waits. ``finish`` in cycle t sets code and ``status.finished`` in t + 1 and wins over a clear.

    Parameters
    ----------
    config : ArchConfig
        Gives the read-only configuration words.

    Members
    -------
    request, response : streams
        :func:`register_request`, :func:`register_response`.
    start, soft_reset : Out(1)
        Pulses. ``start`` is suppressed while ``busy``.
    program_address, watchdog : Out(32)
    busy, finish, code, layer : In
        State of the job; ``finish`` is a pulse that latches ``code`` and ``layer``.
    count : In
        Increments of the counters; they are cleared by ``start``.
    irq : Out(1)
        ``interrupt_enable`` and ``finished``.
    """

    def __init__(self, *, config):
        if not isinstance(config, ArchConfig):
            raise TypeError(f"config must be an ArchConfig, not {config!r}")
        self._config = config
        super().__init__({
            "request": In(stream.Signature(register_request())),
            "response": Out(stream.Signature(register_response())),
            "start": Out(1), "soft_reset": Out(1), "program_address": Out(32),
            "watchdog": Out(32, init=regmap.register("watchdog").fields[0].reset),
            "busy": In(1), "finish": In(1), "code": In(8), "layer": In(16),
            "count": In(counter_increments(config)),
            "irq": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        counters = {c.name: Signal(COUNTER_BITS, name=f"count_{c.name}") for c in regmap.COUNTERS}
        finished, enable = Signal(), Signal()
        code, layer = Signal(8), Signal(16)

        accept = Signal()
        answer = Signal(self.response.payload.shape())
        waiting = Signal()
        m.d.comb += [
            self.request.ready.eq(~waiting),
            accept.eq(self.request.valid & ~waiting),
            self.response.valid.eq(waiting),
            self.response.payload.eq(answer),
            self.irq.eq(finished & enable),
        ]
        with m.If(accept):
            m.d.sync += waiting.eq(1)
        with m.Elif(self.response.ready):
            m.d.sync += waiting.eq(0)

        values = {"program": self.program_address, "watchdog": self.watchdog,
                  "control": Cat(Const(0, 8), enable),
                  "status": Cat(self.busy, finished, Const(0, 6), code, layer)}
        values |= {name: Const(word, 32) for name, word in regmap.config_words(self._config).items()}
        values |= {"identity": Const(regmap.IDENTITY, 32), "version": Const(regmap.VERSION, 32)}
        for name, counter in counters.items():
            values[f"{name}_low"], values[f"{name}_high"] = counter[:32], counter[32:]

        write = Signal()
        m.d.comb += write.eq(accept & self.request.payload.write)
        m.d.sync += [self.start.eq(0), self.soft_reset.eq(0)]
        # What is read is chosen by the address alone; whether it is wanted comes late and enables the register.
        found = Signal.like(answer)
        with m.Switch(self.request.payload.address[2:]):
            for reg in regmap.REGISTERS:
                with m.Case(reg.offset >> 2):
                    m.d.comb += found.data.eq(values[reg.name])
            with m.Default():
                m.d.comb += found.error.eq(1)
        with m.If(accept):
            m.d.sync += [answer.data.eq(Mux(self.request.payload.write, 0, found.data)), answer.error.eq(found.error)]

        wdata = self.request.payload.data
        address = self.request.payload.address[2:]
        with m.If(write & (address == regmap.register("program").offset >> 2)):
            m.d.sync += self.program_address.eq(wdata)
        with m.If(write & (address == regmap.register("watchdog").offset >> 2)):
            m.d.sync += self.watchdog.eq(wdata)
        with m.If(write & (address == regmap.register("control").offset >> 2)):
            m.d.sync += [self.start.eq(wdata[0] & ~self.busy & ~self.start), self.soft_reset.eq(wdata[1]), enable.eq(wdata[8])]
        with m.If(write & (address == regmap.register("status").offset >> 2) & wdata[1]):
            m.d.sync += finished.eq(0)

        with m.If(self.start):
            m.d.sync += code.eq(0)
        with m.Elif(self.finish):
            m.d.sync += [finished.eq(1), code.eq(self.code)]
        with m.If(self.busy | self.finish):
            m.d.sync += layer.eq(self.layer)
        for name, counter in counters.items():
            with m.If(self.start):
                m.d.sync += counter.eq(0)
            with m.Else():
                m.d.sync += counter.eq(counter + self.count[name])
        return m
