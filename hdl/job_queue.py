"""Queue of jobs: starts them one after the other through the accelerator's register port, and keeps their results."""
from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex import registers as regmap
from neuroflex.axi import AxiConfig
from neuroflex.axi_bus import shell_request
from neuroflex.hdl.fifo import StreamFIFO
from neuroflex.hdl.registers import register_request, register_response

__all__ = ["JobQueue"]


class Step(enum.Enum, shape=4):
    """What the queue does next; all but IDLE and RUN are one access to a register of the accelerator."""

    IDLE = 0
    CHECK = 1       # read status until nothing runs
    CLEAR = 2       # clear status.finished
    PROGRAM = 3
    START = 4       # with the interrupt enabled
    RUN = 5         # until the interrupt
    STATUS = 6
    CYCLES = 7
    CLEAN = 8       # clear status.finished: it is the queue's, not the host's
    DISABLE = 9     # the interrupt
    RESET = 10      # abandon the job
    DRAIN = 11      # read status until nothing runs
    WIPE = 12       # clear status.finished, should the job have ended just before


class Access(enum.Enum, shape=2):
    """Stage of an access to the accelerator's registers."""

    NONE = 0
    ASK = 1
    WAIT = 2


def job_layout():
    """A queued job: line address of its ``program``, ``page`` of its tensors."""
    return data.StructLayout({"program": 32, "page": 32})


def result_layout():
    """A job's outcome."""
    return data.StructLayout({"code": 8, "layer": 16, "cycles": 32})


class JobQueue(wiring.Component):
    """The shell's registers, the way to the accelerator's, and a queue that uses them as software would.

    Host accesses to addresses below 0x100 go to the accelerator, those from 0x100 on are the shell's (``SHELL_REGISTERS``). While a queued job is in work, writes to
    the accelerator's registers are refused. Host and queue take turns at the register port.

    Timing: a host access taken in cycle t is answered in t + 2 if it is the shell's or refused; one for the accelerator is on its port from t + 2 on, if the
    queue is not using it, and answered one cycle after the port's answer. ``irq`` is one cycle behind what it shows.

    Parameters
    ----------
    axi : AxiConfig
        ``jobs`` wait at most, besides the one that runs; as many results.

    Members
    -------
    host_request : In(stream of :func:`~neuroflex.axi_bus.shell_request`)
    host_response : Out(stream of :func:`~neuroflex.hdl.registers.register_response`)
    core_request : Out(stream of :func:`~neuroflex.hdl.registers.register_request`)
    core_response : In(stream of :func:`~neuroflex.hdl.registers.register_response`)
    core_irq : In(1)
    irq : Out(1)
    program_page, tensor_page, tensor_line : Out(32)
        For :class:`~neuroflex.hdl.axi_split.AxiSplit`; ``tensor_page`` is that of the queued job from when the accelerator was found at rest until its end.
    """

    def __init__(self, *, axi):
        if not isinstance(axi, AxiConfig):
            raise TypeError(f"axi must be an AxiConfig, not {axi!r}")
        self._axi = axi
        answer = stream.Signature(register_response())
        super().__init__({
            "host_request": In(stream.Signature(shell_request())), "host_response": Out(answer),
            "core_request": Out(stream.Signature(register_request())), "core_response": In(answer),
            "core_irq": In(1), "irq": Out(1),
            "program_page": Out(32), "tensor_page": Out(32),
            "tensor_line": Out(32, init=regmap.register("tensor_line").fields[0].reset),
        })

    def elaborate(self, platform):
        m = Module()
        clear = Signal()       # empties both queues
        jobs = StreamFIFO(shape=job_layout(), depth=self._axi.jobs)
        results = StreamFIFO(shape=result_layout(), depth=self._axi.jobs)
        m.submodules.jobs = ResetInserter(clear)(jobs)
        m.submodules.results = ResetInserter(clear)(results)
        step = Signal(Step)
        job = Signal(job_layout())
        result = Signal(result_layout())
        flush = Signal()
        direct_page = Signal(32)
        waiting = (step == Step.IDLE) | (step == Step.CHECK)       # a direct job may be in work: memory is where it was told
        m.d.comb += self.tensor_page.eq(Mux(waiting, direct_page, job.page))

        # The accelerator's register port, for one of the two at a time.
        access = Signal(Access)
        for_host = Signal()
        host_last = Signal()
        ask = Signal(register_request())
        answered = Signal()
        m.d.comb += [
            self.core_request.valid.eq(access == Access.ASK), self.core_request.payload.eq(ask),
            self.core_response.ready.eq(access == Access.WAIT), answered.eq((access == Access.WAIT) & self.core_response.valid),
        ]
        host_here = Signal()
        host = Signal(shell_request())
        host_wants = Signal()
        queue_wants = Signal()
        queue_ask = Signal(register_request())
        m.d.comb += queue_wants.eq((step != Step.IDLE) & (step != Step.RUN))
        with m.Switch(access):
            with m.Case(Access.NONE):
                with m.If(queue_wants & (host_last | ~host_wants)):
                    m.d.sync += [access.eq(Access.ASK), for_host.eq(0), host_last.eq(0), ask.eq(queue_ask)]
                with m.Elif(host_wants):
                    m.d.sync += [access.eq(Access.ASK), for_host.eq(1), host_last.eq(1), ask.address.eq(host.address), ask.write.eq(host.write),
                                 ask.data.eq(host.data)]
            with m.Case(Access.ASK):
                with m.If(self.core_request.ready):
                    m.d.sync += access.eq(Access.WAIT)
            with m.Case(Access.WAIT):
                with m.If(self.core_response.valid):
                    m.d.sync += access.eq(Access.NONE)

        self._queue(m, step, queue_ask, answered & ~for_host, jobs, results, job, result, flush)
        under_way = for_host & (access != Access.NONE)
        self._host(m, host_here, host, host_wants, under_way, answered & for_host, step, jobs, results, flush, clear, direct_page)
        return m

    def _host(self, m, host_here, host, host_wants, under_way, answered, step, jobs, results, flush, clear, direct_page):
        """Host accesses: the shell's registers, and what goes to the accelerator. A write that is under way when a job begins is not refused any more."""
        telling = Signal()
        tell = Signal(register_response())
        enable = Signal()
        take = Signal()
        queue_program = Signal(32)
        running = step != Step.IDLE
        shells = host.address[8:] == 1
        refused = (host.address[8:] > 1) | (host.address[8:] == 0) & host.write & running & ~under_way
        local = Signal()
        m.d.comb += [
            self.host_request.ready.eq(~host_here & ~telling), self.host_response.valid.eq(telling), self.host_response.payload.eq(tell),
            local.eq(host_here & (shells | refused)), host_wants.eq(host_here & ~shells & ~refused),
        ]
        with m.If(self.host_request.valid & self.host_request.ready):
            m.d.sync += [host_here.eq(1), host.eq(self.host_request.payload)]
        with m.If(telling & self.host_response.ready):
            m.d.sync += telling.eq(0)
        with m.If(answered):
            m.d.sync += [host_here.eq(0), telling.eq(1), tell.eq(self.core_response.payload)]

        head = results.o.payload
        values = {
            "shell": Const(regmap.shell_words(self._axi)["shell"], 32), "program_page": self.program_page, "tensor_page": direct_page,
            "tensor_line": self.tensor_line, "queue_control": Cat(Const(0, 8), enable),
            "queue_status": Cat(jobs.level | Const(0, 8), running, Const(0, 7), results.level | Const(0, 8)), "queue_program": queue_program,
            "queue_push": Const(0, 32), "queue_result": Mux(results.o.valid, Cat(Const(1, 8), head.code, head.layer), 0),
            "queue_result_cycles": Mux(results.o.valid, head.cycles, 0)}
        write = Signal()
        offset = host.address[2:8]
        m.d.comb += [write.eq(local & shells & host.write), jobs.i.payload.program.eq(queue_program), jobs.i.payload.page.eq(host.data),
                     take.eq(write & (offset == _word("queue_result")) & host.data[0]), results.o.ready.eq(take),
                     jobs.i.valid.eq(write & (offset == _word("queue_push")))]
        m.d.sync += clear.eq(0)
        with m.If(local):
            m.d.sync += [host_here.eq(0), telling.eq(1), tell.data.eq(0), tell.error.eq(~shells)]
            with m.If(shells):
                with m.Switch(offset):
                    for reg in regmap.SHELL_REGISTERS:
                        with m.Case((reg.offset & 0xFF) >> 2):
                            with m.If(~host.write):
                                m.d.sync += tell.data.eq(values[reg.name])
                            if reg.name == "queue_push":
                                m.d.sync += tell.error.eq(host.write & ~jobs.i.ready)
                    with m.Default():
                        m.d.sync += tell.error.eq(1)
        with m.If(write):
            with m.Switch(offset):
                for name, register in (("program_page", self.program_page), ("tensor_page", direct_page), ("tensor_line", self.tensor_line),
                                       ("queue_program", queue_program)):
                    with m.Case(_word(name)):
                        m.d.sync += register.eq(host.data)
                with m.Case(_word("queue_control")):
                    m.d.sync += enable.eq(host.data[8])
                    with m.If(host.data[0]):
                        m.d.sync += [clear.eq(1), flush.eq(1)]
        m.d.sync += self.irq.eq(enable & results.o.valid | self.core_irq & ~running)

    def _queue(self, m, step, ask, answered, jobs, results, job, result, flush):
        """A job's accesses, one after the other."""
        status = self.core_response.payload.data
        writes = {Step.CLEAR: ("status", 1 << 1), Step.CLEAN: ("status", 1 << 1), Step.WIPE: ("status", 1 << 1), Step.PROGRAM: ("program", job.program), Step.START: ("control", 1 << 8 | 1),
                  Step.DISABLE: ("control", 0), Step.RESET: ("control", 1 << 1)}
        reads = {Step.CHECK: "status", Step.STATUS: "status", Step.CYCLES: "cycles_low", Step.DRAIN: "status"}
        with m.Switch(step):
            for case, (name, word) in writes.items():
                with m.Case(case):
                    m.d.comb += [ask.address.eq(regmap.register(name).offset), ask.write.eq(1), ask.data.eq(word)]
            for case, name in reads.items():
                with m.Case(case):
                    m.d.comb += ask.address.eq(regmap.register(name).offset)
        m.d.comb += [results.i.payload.eq(result)]

        following = {Step.CLEAR: Step.PROGRAM, Step.PROGRAM: Step.START, Step.START: Step.RUN, Step.STATUS: Step.CYCLES, Step.CYCLES: Step.CLEAN, Step.CLEAN: Step.DISABLE,
                     Step.RESET: Step.DRAIN}
        begin = Signal()
        abandoning = Signal()
        m.d.comb += abandoning.eq((step == Step.RESET) | (step == Step.DRAIN) | (step == Step.WIPE))
        m.d.comb += [begin.eq((step == Step.IDLE) & ~flush & jobs.o.valid & results.i.ready), jobs.o.ready.eq(begin),
                     results.i.valid.eq((step == Step.DISABLE) & answered & ~flush)]
        with m.If(step == Step.IDLE):
            m.d.sync += flush.eq(0)     # the host sets it at any time: it wins, see _host
        with m.If(begin):
            m.d.sync += [step.eq(Step.CHECK), job.eq(jobs.o.payload)]
        with m.Elif(flush & ((step == Step.RUN) | answered & ~abandoning)):
            m.d.sync += step.eq(Mux(step == Step.CHECK, Step.IDLE, Step.RESET))     # what runs before the job is not the queue's to abandon
        with m.Elif(answered):
            with m.Switch(step):
                for case, after in following.items():
                    with m.Case(case):
                        m.d.sync += step.eq(after)
                with m.Case(Step.CHECK):
                    with m.If(~status[0]):
                        m.d.sync += step.eq(Step.CLEAR)
                with m.Case(Step.DISABLE):
                    m.d.sync += step.eq(Step.IDLE)
                with m.Case(Step.DRAIN):
                    with m.If(~status[0]):
                        m.d.sync += step.eq(Step.WIPE)
                with m.Case(Step.WIPE):
                    m.d.sync += [step.eq(Step.IDLE), flush.eq(0)]
            with m.If(step == Step.STATUS):
                m.d.sync += [result.code.eq(status[8:16]), result.layer.eq(status[16:32])]
            with m.If(step == Step.CYCLES):
                m.d.sync += result.cycles.eq(status)
        with m.Elif((step == Step.RUN) & self.core_irq):
            m.d.sync += step.eq(Step.STATUS)


def _word(name):
    """Number of a shell register within its 256 bytes, in words."""
    return (regmap.register(name).offset & 0xFF) >> 2
