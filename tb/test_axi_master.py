"""The memory port as an AXI4 master, against the model made of its parts' models.

Plan
----
Stimuli: reads and writes of 1 to 40 lines in a few windows, so that most meet one another; lines narrower and wider than a beat; a memory in which reads and writes take effect
at random times, with random stalls and refused accesses; a core that stops taking lines.
Checks: every output in every cycle; every line read without an error has what the port's order says, whatever the memory does; each request has its answers; bursts stay in
their pages. At least four reads under way.
Contract (formal, the first cycles from reset): a read and a write of the same window are never under way together.
Faults: a write that does not wait for reads must be seen, by the bench, by the order of what is read, and by the proof.
"""
import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Const, Cover, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.axi import PAGE_BYTES, AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.axi_master import AxiMaster
from neuroflex.sim.axi_master import AxiMasterModel
from neuroflex.tb.axi_contract import CONFIGS, FORMAL_AXI
from neuroflex.tb.axi_memory import AxiMemory
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.closed_loop import Offer, Take, closed_loop
from neuroflex.tb.coverage import Coverage

POINTS = ("read", "write", "read error", "write error", "read waits for write", "write waits for read", "many bursts", "four reads under way", "line held",
          "tensors", "program")
CASES = [("paper", {})]       # lines wider than a beat
MORE = [("small", {}), ("tiny", {}), ("paper", {"data_bits": 128, "reads": 4, "writes": 16})]
PAYLOADS = {"memory__read_data__payload": "memory__read_data__valid", "memory__write_done__payload": "memory__write_done__valid",
            "read__araddr": "read__arvalid", "read__arlen": "read__arvalid", "write__awaddr": "write__awvalid", "write__awlen": "write__awvalid",
            "write__wdata": "write__wvalid", "write__wstrb": "write__wvalid", "write__wlast": "write__wvalid"}
SIZE = 4 * PAGE_BYTES       # of memory; addresses count modulo it


class Traffic:
    """A core that reads and writes at random, and a memory."""

    def __init__(self, rng, config, axi, model, coverage, refuse):
        self.rng, self.config, self.axi, self.model, self.hit = rng, config, axi, model, coverage.hit
        self.memory = AxiMemory(rng, axi, SIZE, refuse=refuse, speed=0.7)
        self.now = self.memory.content.copy()      # memory as it is after the requests so far, in the port's order
        self.tensor_line = (1 << config.address_bits) // 2
        self.inputs = {"program_page": 1, "tensor_page": 3, "tensor_line": self.tensor_line}
        self.request, self.line = Offer(rng, 0.5), Offer(rng, 0.8)
        self.take_line, self.take_answer = Take(rng, 0.9), Take(rng, 0.7)
        self.want, self.owed, self.errors, self.transactions = [], 0, [0, 0], 0

    def at(self, address):
        page = self.inputs["tensor_page" if address >= self.tensor_line else "program_page"]
        start = (page * PAGE_BYTES + address * self.config.line_bytes) % SIZE
        return slice(start, start + self.config.line_bytes)

    def drive(self):
        rng = self.rng
        if not self.request.entries:
            lines, write = int(rng.choice([1, 1, 1, 2, 9, 9, 40])), int(rng.integers(2))
            start = int(rng.integers(4 * self.axi.window_lines(self.config)))
            self.request.entries.append((int(rng.integers(2)) * self.tensor_line + start, lines, write))
        valid, request = self.request()
        address, lines, write = request or (0, 0, 0)
        line = self.line()
        return self.inputs | {
            "memory__request__valid": valid, "memory__request__payload": address | lines << self.config.address_bits | write << (self.config.address_bits + 8),
            "memory__write_data__valid": line[0], "memory__write_data__payload": line[1] or 0, "memory__read_data__ready": self.take_line(),
            "memory__write_done__ready": self.take_answer(), **{f"read__{n}": v for n, v in self.memory.drive_read().items()},
            **{f"write__{n}": v for n, v in self.memory.drive_write().items()}}

    def step(self, out, inputs):
        moved = self.request.step(out["memory__request__ready"])
        self.line.step(out["memory__write_data__ready"])
        for prefix, step in (("read", self.memory.step_read), ("write", self.memory.step_write)):
            bus = {name.removeprefix(f"{prefix}__"): value for name, value in (*out.items(), *inputs.items()) if name.startswith(f"{prefix}__")}
            step(bus, bus)
        if moved:
            address, lines, write = moved
            self.transactions += 1
            for a in range(address, address + lines):
                if write:
                    content = self.rng.integers(0, 256, self.config.line_bytes, np.uint8)
                    self.now[self.at(a)] = content
                    self.line.entries.append(int.from_bytes(content.tobytes(), "little"))
                else:
                    self.want.append(int.from_bytes(self.now[self.at(a)].tobytes(), "little"))
            self.owed += write
            for name, seen in {"read": not write, "write": write, "many bursts": lines == 40, "tensors": address >= self.tensor_line,
                               "program": address < self.tensor_line}.items():
                self.hit(name, seen)
        if out["memory__read_data__valid"] and inputs["memory__read_data__ready"]:
            payload, want = out["memory__read_data__payload"], self.want.pop(0)
            error = payload >> self.config.chunk_bits
            self.errors[0] += error
            assert error or payload == want, "a read does not see the writes before it, or sees one after it"
        if out["memory__write_done__valid"] and inputs["memory__write_done__ready"]:
            self.owed -= 1
            self.errors[1] += out["memory__write_done__payload"]
        held = self.model.held
        for name, seen in {"read error": self.errors[0], "write error": self.errors[1], "read waits for write": held and not held.write and self.model.ahead,
                           "write waits for read": held and held.write and self.model.ahead, "four reads under way": len(self.model.unanswered[0]) >= 4,
                           "line held": out["memory__read_data__valid"] and not inputs["memory__read_data__ready"]}.items():
            self.hit(name, bool(seen))


def run(bench, config, axi, seed, cycles, engine="library", refuse=0.02):
    coverage, model = Coverage("axi master", POINTS), AxiMasterModel(config, axi)
    environment = Traffic(np.random.default_rng(seed), config, axi, model, coverage, refuse)
    bench.run(*closed_loop(bench, model, environment, cycles, PAYLOADS), engine=engine, seed=seed)
    return coverage, environment


LONG = [pytest.param(*case, 250_000, marks=pytest.mark.long) for case in CASES + MORE]


@pytest.mark.parametrize("preset,settings,cycles", [(*case, 6_000) for case in CASES] + LONG)
def test_axi_master(preset, settings, cycles):
    config, axi = PRESETS[preset], AxiConfig(**settings)
    coverage, environment = run(Bench(AxiMaster(config=config, axi=axi), name="axi_master"), config, axi, 81, cycles)
    coverage.require(5)
    assert environment.transactions > cycles // 40


@pytest.mark.long       # the whole shell runs under cocotb too
def test_axi_master_cocotb():
    config, axi = PRESETS["tiny"], AxiConfig()
    run(Bench(AxiMaster(config=config, axi=axi), name="axi_master"), config, axi, 82, 800, engine="cocotb")


def test_lost_order_is_seen():
    config, axi = PRESETS["paper"], AxiConfig()
    broken = Bench(AxiMaster(config=config, axi=axi), name="axi_master", verilog_edit=lambda text: text.replace("waits <= ", "waits <= 8'h0f & ", 1))
    with pytest.raises(Mismatch):
        run(broken, config, axi, 83, 5_000)


class Hasty(AxiMasterModel):
    """Sends a burst whatever is unanswered."""

    ahead = property(lambda self: 0, lambda self, value: None)


def test_what_is_read_shows_the_order():
    """The check of what is read fails for a master that keeps no order: the memory does take effect late."""
    config, axi = PRESETS["small"], AxiConfig()
    model = Hasty(config, axi)
    environment = Traffic(np.random.default_rng(84), config, axi, model, Coverage("axi master", POINTS), 0.0)
    with pytest.raises(AssertionError, match="does not see the writes before it"):
        for _ in range(20_000):
            out, inputs = model.outputs(), environment.drive()
            environment.step(out, inputs)
            model.step(inputs)


class Contract(wiring.Component):
    """Any requests of one line, a memory that answers in order at any time; one window, chosen freely, is watched.

    ``never`` adds the false claim that no write is answered while a read of the window is under way.
    """

    def __init__(self, never=False):
        self._never = never
        super().__init__({name: In(width) for name, width in (
            ("valid", 1), ("address", 6), ("write", 1), ("window", 3), ("line", 1), ("take", 1), ("arready", 1), ("rvalid", 1), ("awready", 1), ("wready", 1),
            ("bvalid", 1))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.master = master = AxiMaster(config=CONFIGS[1], axi=FORMAL_AXI)
        memory, read, write = master.memory, master.read, master.write
        zeros = FORMAL_AXI.burst_bytes.bit_length() - 1
        window, started = Signal(3), Signal()
        m.d.sync += [window.eq(self.window), started.eq(1)]
        m.d.comb += [
            Assume(~ResetSignal()), Assume(~started | (self.window == window)), memory.request.valid.eq(self.valid), memory.request.payload.address.eq(self.address),
            memory.request.payload.lines.eq(1), memory.request.payload.write.eq(self.write), memory.write_data.valid.eq(self.line),
            memory.read_data.ready.eq(self.take), memory.write_done.ready.eq(1), read.arready.eq(self.arready), write.awready.eq(self.awready),
            write.wready.eq(self.wready),
        ]
        # Bursts that memory has and has not answered, oldest first: whether they are of the window.
        under_way = []
        for name, valid, ready, address, wish, end in (("reads", read.arvalid, self.arready, read.araddr, self.rvalid, (read.rvalid, read.rready)),
                                                       ("writes", write.awvalid, self.awready, write.awaddr, self.bvalid, (write.bvalid, write.bready))):
            ours = Signal(8, name=f"{name}_ours")
            count = Signal(4, name=f"{name}_count")
            here = Signal(name=f"{name}_here")
            answered = end[0] & end[1]
            m.d.comb += [here.eq(address[zeros:] == window), end[0].eq(wish & (count != 0)), Assert(count <= FORMAL_AXI.reads)]
            left = Signal(4, name=f"{name}_left")
            m.d.comb += left.eq(count - answered)
            m.d.sync += [count.eq(left + (valid & ready)), ours.eq((ours >> answered) | ((valid & ready & here) << left))]
            under_way.append((valid & here) | (ours != 0))
            m.d.comb += Cover(ours[0] & answered)
        m.d.comb += Assert(~(under_way[0] & under_way[1]))
        if self._never:
            m.d.comb += Assert(~(memory.write_done.valid & under_way[0]))
        return m


@pytest.mark.formal
def test_contract():
    prove(Contract(), mode="bmc", depth=11)
    prove(Contract(), mode="cover", depth=16)


@pytest.mark.formal
def test_contract_can_fail(monkeypatch):
    """Without what a burst waits for, and with a claim that is false."""
    with pytest.raises(ProofFailed):
        prove(Contract(never=True), mode="bmc", depth=11)
    monkeypatch.setattr("neuroflex.hdl.axi_master._Windows.same", lambda self, window: Const(0, len(self.window)))
    with pytest.raises(ProofFailed):
        prove(Contract(), mode="bmc", depth=11)
