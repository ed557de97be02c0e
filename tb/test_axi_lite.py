"""AXI4-Lite slave against its model, and its contract proved.

Plan
----
Stimuli: random reads and writes; data before, with and after the address; all 16 strobes; a register port that is slow, refuses, and
says error; masters that are slow to take answers; reads and writes that wait together.
Checks: every output in every cycle. Contract (formal, all cycles): a valid and its payload stay until taken; each read and each write
has exactly one answer, within a bound of cycles in which nobody else is waited for; a register access has the address and the data of the bus access in work.
Faults: a lost turn in the circuit must be seen by the bench; a broken strobe check and an answer that is given up by the proof.
"""
import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.axi_lite import AxiLite
from neuroflex.sim.axi_lite import AxiLiteModel
from neuroflex.tb.axi_contract import stays
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.closed_loop import Offer, Take, closed_loop
from neuroflex.tb.coverage import Coverage

POINTS = ("read", "write", "read error", "write error", "no strobe", "part strobe", "data first", "address first", "both wait", "response held",
          "register port held")
PAYLOADS = {"bus__bresp": "bus__bvalid", "bus__rresp": "bus__rvalid", "bus__rdata": "bus__rvalid", "request__payload": "request__valid"}


class Traffic:
    """A random master, and a register port that answers anything after a while."""

    def __init__(self, rng, coverage):
        self.rng, self.coverage = rng, coverage
        self.address, self.data, self.read, self.answer = (Offer(rng, chance) for chance in (0.15, 0.15, 0.1, 0.4))
        self.take_b, self.take_r, self.take_request = Take(rng, 0.5), Take(rng, 0.5), Take(rng, 0.6)

    def drive(self):
        rng = self.rng
        for offer, entry in ((self.address, lambda: int(rng.integers(1 << 12))), (self.read, lambda: int(rng.integers(1 << 12))),
                             (self.data, lambda: (int(rng.integers(1 << 32)), 15 if rng.random() < 0.6 else int(rng.integers(16))))):
            if not offer.entries:
                offer.entries.append(entry())
        aw, w, ar, answer = self.address(), self.data(), self.read(), self.answer()
        data, strobe = w[1] or (0, 0)
        return {"bus__awvalid": aw[0], "bus__awaddr": aw[1] or 0, "bus__awprot": int(rng.integers(8)), "bus__wvalid": w[0], "bus__wdata": data,
                "bus__wstrb": strobe, "bus__arvalid": ar[0], "bus__araddr": ar[1] or 0, "bus__arprot": 0, "bus__bready": self.take_b(),
                "bus__rready": self.take_r(), "request__ready": self.take_request(), "response__valid": answer[0],
                "response__payload": answer[1] or 0}

    def step(self, out, inputs):
        hit = self.coverage.hit
        hit("both wait", not out["bus__awready"] and not out["bus__wready"] and not out["bus__arready"])
        hit("response held", out["bus__bvalid"] and not inputs["bus__bready"] or out["bus__rvalid"] and not inputs["bus__rready"])
        hit("register port held", out["request__valid"] and not inputs["request__ready"])
        for kind, letter in (("read", "r"), ("write", "b")):
            if out[f"bus__{letter}valid"] and inputs[f"bus__{letter}ready"]:
                hit(f"{kind} error" if out[f"bus__{letter}resp"] else kind)
        address, data = self.address.step(out["bus__awready"]), self.data.step(out["bus__wready"])
        hit("data first", data is not None and address is None and out["bus__awready"])
        hit("address first", address is not None and data is None and out["bus__wready"])
        if data is not None:
            hit("no strobe", data[1] == 0)
            hit("part strobe", 0 < data[1] < 15)
        self.read.step(out["bus__arready"])
        self.answer.step(out["response__ready"])
        if out["request__valid"] and inputs["request__ready"]:
            self.answer.entries.append(int(self.rng.integers(1 << 32)) | int(self.rng.random() < 0.2) << 32)


def run(bench, seed, cycles, engine="library"):
    coverage = Coverage("axi lite", POINTS)
    vectors = closed_loop(bench, AxiLiteModel(), Traffic(np.random.default_rng(seed), coverage), cycles, PAYLOADS)
    bench.run(*vectors, engine=engine, seed=seed)
    return coverage


@pytest.mark.parametrize("cycles", [10_000, pytest.param(400_000, marks=pytest.mark.long)])
def test_axi_lite(cycles):
    run(Bench(AxiLite(), name="axi_lite"), 31, cycles).require(10)


@pytest.mark.long       # the whole shell runs under cocotb too
def test_axi_lite_cocotb():
    run(Bench(AxiLite(), name="axi_lite"), 32, 800, engine="cocotb")


def test_lost_turn_is_seen():
    broken = Bench(AxiLite(), name="axi_lite", verilog_edit=lambda text: text.replace("write_first <= ", "write_first <= 1'h0 & ", 1))
    with pytest.raises(Mismatch):
        run(broken, 33, 2_000)


BOUND = 7       # cycles of an access that depend on the slave alone, another access before it included


class Contract(wiring.Component):
    """A master and a register port that keep to their protocols.

    ``core`` is the slave to look at; ``never`` adds the false claim that no failed write is ever answered.
    """

    def __init__(self, core=AxiLite, never=False):
        self._core, self._never = core, never
        super().__init__({name: In(width) for name, width in (
            ("awvalid", 1), ("awaddr", 12), ("wvalid", 1), ("wdata", 4), ("wstrb", 4), ("arvalid", 1), ("araddr", 12), ("bready", 1),
            ("rready", 1), ("take", 1), ("answer", 1), ("error", 1), ("value", 4))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.slave = slave = self._core()
        bus = slave.bus
        m.d.comb += [Assume(~ResetSignal())] + [getattr(bus, name).eq(getattr(self, name)) for name in (
            "awvalid", "awaddr", "wvalid", "wdata", "wstrb", "arvalid", "araddr", "bready", "rready")]
        asked = Signal()            # the register port owes an answer
        m.d.comb += [slave.request.ready.eq(self.take & ~asked), slave.response.valid.eq(asked & self.answer),
                     slave.response.payload.error.eq(self.error), slave.response.payload.data.eq(self.value)]
        with m.If(slave.request.valid & slave.request.ready):
            m.d.sync += asked.eq(1)
        with m.Elif(slave.response.valid & slave.response.ready):
            m.d.sync += asked.eq(0)

        # What waits stays.
        stays(m, "b", bus.bvalid, bus.bready, bus.bresp)
        stays(m, "r", bus.rvalid, bus.rready, Cat(bus.rresp, bus.rdata))
        stays(m, "request", slave.request.valid, slave.request.ready, slave.request.payload.as_value())

        # Each access has one answer; the register access between them is its own.
        addresses, datas, reads = Signal(), Signal(), Signal()
        address, word, strobe, read_address = Signal(12), Signal(4), Signal(4), Signal(12)
        got, failed, value = Signal(), Signal(), Signal(4)            # the register port's answer to the access in work
        written, fetched = bus.bvalid & bus.bready, bus.rvalid & bus.rready
        with m.If(bus.awvalid & bus.awready):
            m.d.comb += Assert(~addresses)
            m.d.sync += [addresses.eq(1), address.eq(bus.awaddr)]
        with m.If(bus.wvalid & bus.wready):
            m.d.comb += Assert(~datas)
            m.d.sync += [datas.eq(1), word.eq(bus.wdata), strobe.eq(bus.wstrb)]
        with m.If(bus.arvalid & bus.arready):
            m.d.comb += Assert(~reads)
            m.d.sync += [reads.eq(1), read_address.eq(bus.araddr)]
        with m.If(written):
            m.d.sync += [addresses.eq(0), datas.eq(0), got.eq(0)]
        with m.If(fetched):
            m.d.sync += [reads.eq(0), got.eq(0)]
        with m.If(slave.response.valid & slave.response.ready):
            m.d.sync += [got.eq(1), failed.eq(self.error), value.eq(self.value)]
        payload = slave.request.payload
        with m.If(slave.request.valid):
            m.d.comb += [Assert(~got), Assert(~asked), Assert(Mux(payload.write, addresses & datas & (strobe == 15), reads))]
            m.d.comb += Assert(Mux(payload.write, (payload.address == address) & (payload.data == word), payload.address == read_address))
        m.d.comb += [
            Assert(~(bus.bvalid & bus.rvalid)),
            Assert(~bus.bvalid | addresses & datas & (got == (strobe == 15)) & (bus.bresp == Mux(got, failed, strobe != 0) << 1)),
            Assert(~bus.rvalid | reads & got & (bus.rresp == failed << 1) & (bus.rdata == value)),
        ]

        # Cycles that an access waits for nobody but the slave.
        excused = slave.request.valid & ~slave.request.ready | slave.response.ready & ~slave.response.valid | bus.bvalid & ~bus.bready | bus.rvalid & ~bus.rready
        for name, waiting, answered in (("write", addresses & datas, written), ("read", reads, fetched)):
            waits = Signal(range(BOUND + 2), name=f"{name}_waits")
            m.d.comb += Assert(waits <= BOUND)
            with m.If(answered | ~waiting):
                m.d.sync += waits.eq(0)
            with m.Elif(~excused & (waits != BOUND + 1)):
                m.d.sync += waits.eq(waits + 1)
            m.d.comb += Cover(answered & (waits == BOUND))
        if self._never:
            m.d.comb += Assert(~(written & (bus.bresp != 0)))
        return m


class Reckless(AxiLite):
    """Asks the register port again and again."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.response.ready):
            m.d.comb += self.request.valid.eq(1)
        return m


@pytest.mark.formal
def test_contract():
    prove(Contract())
    prove(Contract(), mode="cover", depth=30)


@pytest.mark.formal
@pytest.mark.parametrize("wrong", [Reckless, "never"])
def test_contract_can_fail(wrong):
    with pytest.raises(ProofFailed):
        prove(Contract(never=True) if wrong == "never" else Contract(core=wrong))
