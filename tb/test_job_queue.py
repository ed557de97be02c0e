"""Queue of jobs against its model.

Plan
----
Stimuli: a host that pushes jobs, takes results, reads and writes every register of both halves at random, flushes at any time, and runs jobs directly; the accelerator's register file
(its model) behind it with jobs of random length and outcome; slow answers on both sides.
Checks: every output in every cycle; jobs start in the order in which they were pushed, each gives one result with its own status and cycles, none is lost but by a flush; a
write to the accelerator never begins to get through while a queued job is in work; each access has one answer; the tensors' page of a job in work, direct or queued, stays. Contract (formal): each access has one answer, for all cycles; for the first ones from reset: what waits
stays, and the host waits for nobody but the block within a bound.
Faults: a result that is dropped, a flush that is forgotten must be seen.
"""
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex import registers as regmap
from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.job_queue import JobQueue
from neuroflex.sim.job_queue import JobQueueModel
from neuroflex.sim.registers import RegisterModel
from neuroflex.tb.axi_contract import stays
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.closed_loop import Offer, Take, closed_loop
from neuroflex.tb.coverage import Coverage

POINTS = ("push", "push refused", "result", "flush idle", "flush running", "write refused", "write passes", "read while running", "unmapped", "direct job",
          "result queue full", "interrupt", "host waits", "write under way when a job begins", "push in a direct job", "flush before a job has begun")
AXI = AxiConfig(jobs=4)
PAYLOADS = {"host_response__payload": "host_response__valid", "core_request__payload": "core_request__valid"}
OFFSET = {r.name: r.offset for r in regmap.REGISTERS + regmap.SHELL_REGISTERS}


class Accelerator:
    """A register file with jobs of random length behind it."""

    def __init__(self, rng):
        self.rng, self.file, self.left, self.resetting = rng, RegisterModel(PRESETS["tiny"]), 0, 0
        self.started, self.finished = [], []

    def outputs(self):
        out = self.file.outputs()
        return {"core_request__ready": out["request__ready"], "core_response__valid": out["response__valid"],
                "core_response__payload": out["response__payload"], "core_irq": out["irq"]}

    def step(self, out):
        rng, before = self.rng, self.file.outputs()
        payload, finish = out["core_request__payload"], int(self.left == 1)
        code, layer, busy = int(rng.integers(1, 10)), int(rng.integers(1 << 16)), int(self.left > 0 or self.resetting > 0)
        if before["start"]:
            self.started.append(before["program_address"])
        self.file.step(valid=out["core_request__valid"], address=payload & 255, write=payload >> 8 & 1, data=payload >> 9,
                       response_ready=out["core_response__ready"], busy=busy, finish=finish, code=code, layer=layer, count={"cycles": int(self.left > 0)})
        self.left, self.resetting = max(0, self.left - 1), max(0, self.resetting - 1)
        if before["start"]:
            self.left = int(rng.integers(2, 200))
        if finish:
            self.finished.append((before["program_address"], code, layer))
        if before["soft_reset"]:
            self.left, self.resetting = 0, int(rng.integers(1, 20))


class Traffic:
    """A host and an accelerator."""

    def __init__(self, rng, model, coverage):
        self.rng, self.model, self.hit, self.core = rng, model, coverage.hit, Accelerator(rng)
        self.access, self.take, self.work = Offer(rng, 0.5), Take(rng, 0.7), []
        self.number, self.lazy, self.owed, self.page = 0, False, 0, None

    def _next(self):
        rng, kind = self.rng, self.rng.random()
        value = int(rng.integers(1 << 32))
        if rng.random() < 0.02:
            self.lazy = not self.lazy       # leaves results where they are for a while
        if kind < 0.2 or self.lazy and kind < 0.4:
            self.number += 1
            return [("queue_program", self.number), ("queue_push", value)]
        if kind < 0.45 and not self.lazy:
            return [("queue_result", None), ("queue_result_cycles", None), ("queue_result", 1)]
        if kind > 0.98:
            return [("queue_control", 0x101)] * int(rng.integers(1, 4))
        if kind < 0.5:
            return [("queue_control", 0x100 * int(rng.integers(2)))]
        if kind < 0.55:
            return [("program", value), ("control", 0x101)]
        if kind < 0.58:
            return [("status", 2)]
        if kind < 0.61:
            return [("watchdog", value)] * 40       # long enough for jobs to end and begin
        if kind < 0.63:
            return [("program", value), ("control", 0x101), ("queue_push", value), *([("queue_control", 0x101)] * int(rng.integers(2)))]
        names = ("program_page", "tensor_page", "tensor_line", "watchdog", "queue_status", "queue_status", "status", "shell", "identity", "queue_push", 0x128, 0x1FC, 0x204, 0xF00, 0xFC)
        name = names[rng.integers(len(names))]
        return [(name, value if rng.random() < 0.3 and name != "queue_push" else None)]

    def drive(self):
        if not self.access.entries:
            self.work = self.work or self._next()
            name, value = self.work.pop(0)
            self.access.entries.append((OFFSET.get(name, name), value))
        valid, access = self.access()
        address, value = access or (0, None)
        return {"host_request__valid": valid, "host_request__payload": (address | (value is not None) << 12 | (value or 0) << 13) if valid else 0,
                "host_response__ready": self.take(), **self.core.outputs()}

    def step(self, out, inputs):
        model, running = self.model, self.model.work is not None
        assert out["host_response__valid"] <= self.owed, "one answer to each access"
        self.owed -= out["host_response__valid"] and inputs["host_response__ready"]
        self.owed += self.access.step(out["host_request__ready"]) is not None
        # The tensors of a job in work lie where they lay when it began: on its page, or on the host's if that began it.
        if self.core.file.start:
            self.page = model.page if running and model.found_rest else None
        if self.core.left:
            assert out["tensor_page"] == (model.values["tensor_page"] if self.page is None else self.page)
        begins = not running and model.jobs.valid and model.results.ready and not model.flush
        self.hit("write under way when a job begins", bool(begins and model.host and model.host[0] < 256 and model.host[1]))
        if model.host is not None:
            address, write, data = model.host
            name = next((name for name, offset in OFFSET.items() if offset == address), None)
            for point, seen in {"push": name == "queue_push" and write and model.jobs.ready, "push refused": name == "queue_push" and write and not model.jobs.ready,
                                "flush idle": name == "queue_control" and write and data & 1 and not running,
                                "flush running": name == "queue_control" and write and data & 1 and running,
                                "write refused": address < 256 and write and running, "write passes": address < 256 and write and not running,
                                "read while running": address < 256 and not write and running, "unmapped": name is None,
                                "direct job": name == "control" and write and not running, "push in a direct job": name == "queue_push" and write and self.core.left and not running,
                                "flush before a job has begun": name == "queue_control" and write and data & 1 and running and not model.found_rest,
                                "host waits": address < 256 and model.port and model.port[0] == "queue"}.items():
                self.hit(point, bool(seen))
        for point, seen in {"result": model.results.valid, "result queue full": not model.results.ready and model.jobs.valid, "interrupt": out["irq"]}.items():
            self.hit(point, bool(seen))
        self.core.step(out)


def run(bench, seed, cycles, engine="library"):
    coverage, model = Coverage("job queue", POINTS), JobQueueModel(AXI)
    environment = Traffic(np.random.default_rng(seed), model, coverage)
    bench.run(*closed_loop(bench, model, environment, cycles, PAYLOADS), engine=engine, seed=seed)
    return coverage


@pytest.mark.parametrize("cycles", [20_000, pytest.param(400_000, marks=pytest.mark.long)])
def test_job_queue(cycles):
    run(Bench(JobQueue(axi=AXI), name="job_queue"), 91, cycles).require(3)


@pytest.mark.long       # the whole shell runs under cocotb too
def test_job_queue_cocotb():
    run(Bench(JobQueue(axi=AXI), name="job_queue"), 92, 800, engine="cocotb")


def test_forgotten_flush_is_seen():
    broken = Bench(JobQueue(axi=AXI), name="job_queue", verilog_edit=lambda text: text.replace("flush <= ", "flush <= 1'h0 & ", 1))
    with pytest.raises(Mismatch):
        run(broken, 93, 20_000)


def test_jobs_in_order():
    """Twelve jobs through a queue of four, as a driver uses it: each starts once, in order, and its result is its own."""
    rng, model = np.random.default_rng(94), JobQueueModel(AXI)
    core = Accelerator(rng)

    def access(name, value=None):
        request = {"host_request__valid": 1, "host_request__payload": OFFSET[name] | (value is not None) << 12 | (value or 0) << 13}
        for _ in range(1000):
            out, inputs = model.outputs(), {"host_request__valid": 0, "host_request__payload": 0, **request, "host_response__ready": 1, **core.outputs()}
            core.step(out)
            model.step(inputs)
            if out["host_request__ready"]:
                request = {}
            if out["host_response__valid"]:
                return out["host_response__payload"]
        raise AssertionError("no answer")

    access("queue_program", 77)
    pushed, results = 0, []
    while len(results) < 12:
        if pushed < 12 and not access("queue_push", 1000 + pushed) >> 32:
            pushed += 1
        if access("queue_result") & 1:
            assert model.outputs()["tensor_page"] in range(1000, 1012) or model.work is None or not model.found_rest
            results.append((access("queue_result"), access("queue_result_cycles")))
            access("queue_result", 1)
    assert core.started == [77] * 12
    assert [(word >> 8 & 255, word >> 16) for word, _ in results] == [(code, layer) for _, code, layer in core.finished]
    assert all(cycles > 0 for _, cycles in results)


def test_page_is_generated():
    """docs/axi_registers.md is what the definition gives; the shell's offsets are its own."""
    page = Path(__file__).parents[1] / "docs" / "axi_registers.md"
    assert page.read_text() == regmap.to_markdown(regmap.SHELL_REGISTERS).replace("# Registers", "# Registers of the AXI shell", 1)
    offsets = [r.offset for r in regmap.SHELL_REGISTERS]
    assert len(set(offsets)) == len(offsets) and all(0x100 <= offset < 0x200 and offset % 4 == 0 for offset in offsets)


class Contract(wiring.Component):
    """Any host, any register port that answers what it took; ``never`` claims that no queued job ever begins."""

    def __init__(self, core=JobQueue, never=False):
        self._core, self._never = core, never
        super().__init__({name: In(width) for name, width in (
            ("valid", 1), ("address", 12), ("write", 1), ("data", 9), ("ready", 1), ("take", 1), ("answer", 1), ("error", 1), ("value", 2), ("irq", 1))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = self._core(axi=AXI)
        host, told, ask, core = queue.host_request, queue.host_response, queue.core_request, queue.core_response
        asked = Signal()
        m.d.comb += [
            Assume(~ResetSignal()), host.valid.eq(self.valid), host.payload.address.eq(self.address), host.payload.write.eq(self.write),
            host.payload.data.eq(self.data), told.ready.eq(self.ready), ask.ready.eq(self.take & ~asked), core.valid.eq(asked & self.answer),
            core.payload.data.eq(self.value), core.payload.error.eq(self.error), queue.core_irq.eq(self.irq),
        ]
        with m.If(ask.valid & ask.ready):
            m.d.sync += asked.eq(1)
        with m.Elif(core.valid & core.ready):
            m.d.sync += asked.eq(0)
        for name, port in (("told", told), ("ask", ask)):
            stays(m, name, port.valid, port.ready, port.payload.as_value())
        owed = Signal()
        address = Signal(12)
        taken = host.valid & host.ready
        m.d.comb += [Assert(~told.valid | owed), Assert(~owed | ~host.ready), Assert(~(asked & ask.valid))]
        with m.If(taken):
            m.d.sync += [owed.eq(1), address.eq(self.address)]
        with m.Elif(told.valid & told.ready):
            m.d.sync += owed.eq(0)
        with m.If(told.valid & (address[9:] != 0)):
            m.d.comb += Assert(told.payload.error)
        # Cycles that the host waits for nobody but the block: an access of the queue's may come before its own.
        waits = Signal(5)
        excused = ask.valid & ~ask.ready | core.ready & ~core.valid | told.valid & ~told.ready
        m.d.comb += Assert(waits <= 8)
        with m.If(~owed):
            m.d.sync += waits.eq(0)
        with m.Elif(~excused & (waits != 31)):
            m.d.sync += waits.eq(waits + 1)
        start = ask.valid & ask.payload.write & (ask.payload.address == OFFSET["control"]) & (ask.payload.data == 0x101)
        m.d.comb += Cover(told.valid & (address == OFFSET["queue_result"]))
        if self._never:
            m.d.comb += Assert(~(ask.valid & (queue.tensor_page != 0)))
        m.d.comb += Cover(start)
        return m


class OneAnswer(wiring.Component):
    """Any host, any register port, any results: an answer only to an access that was taken, and no access before it. For all cycles: jobs end late."""

    def __init__(self, core=JobQueue):
        self._core = core
        super().__init__({name: In(width) for name, width in (
            ("valid", 1), ("address", 12), ("write", 1), ("ready", 1), ("take", 1), ("answer", 1), ("idle", 1), ("irq", 1), ("data", 1))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = self._core(axi=AXI)
        host, told, ask, core = queue.host_request, queue.host_response, queue.core_request, queue.core_response
        m.d.comb += [
            Assume(~ResetSignal()), host.valid.eq(self.valid), host.payload.address.eq(self.address), host.payload.write.eq(self.write), host.payload.data.eq(self.data),
            told.ready.eq(self.ready), ask.ready.eq(self.take), core.valid.eq(self.answer), core.payload.data.eq(self.idle), queue.core_irq.eq(self.irq),
        ]
        owed = Signal()
        m.d.comb += [Assert(~told.valid | owed), Assert(~owed | ~host.ready)]
        with m.If(host.valid & host.ready):
            m.d.sync += owed.eq(1)
        with m.Elif(told.valid & told.ready):
            m.d.sync += owed.eq(0)
        return m


class Impatient(JobQueue):
    """Answers the host although the accelerator has not."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.core_request.valid):
            m.d.comb += self.host_response.valid.eq(1)
        return m


@pytest.mark.formal
def test_one_answer():
    prove(OneAnswer())
    with pytest.raises(ProofFailed):
        prove(OneAnswer(core=Impatient))


@pytest.mark.formal
def test_contract():
    prove(Contract(), mode="bmc", depth=14)
    prove(Contract(), mode="cover", depth=30)


@pytest.mark.formal
@pytest.mark.parametrize("wrong", [{"core": Impatient}, {"never": True}])
def test_contract_can_fail(wrong):
    with pytest.raises(ProofFailed):
        prove(Contract(**wrong), mode="bmc", depth=14)
