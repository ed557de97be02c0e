"""Writer of AXI bursts against its model, and its contract proved.

Plan
----
Stimuli: bursts cut from random requests, lines narrower and wider than a beat, first lines in any lane; lines that come before, with and long after their burst; a memory
with random stalls on all channels and refused bursts; a receiver of answers that stops.
Checks: every output in every cycle; in the end memory has every line that was sent and nothing else. Contract (formal, the first cycles from reset): AW and W stay while they wait;
each burst is asked for once, in order; a followed line goes out once and in its place, its strobes are those of its lane, the last beat is marked; each request has one answer.
Faults: strobes that are all set must be seen by the bench, a line that is lost by the proof.
"""
import numpy as np
import pytest
from amaranth.hdl import Assert, Cat, Cover, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.axi_write import AxiWrite
from neuroflex.sim.axi_split import bursts_of
from neuroflex.sim.axi_write import AxiWriteModel
from neuroflex.tb.axi_contract import BURST_PORTS, CONFIGS, FORMAL, FORMAL_AXI, AnyBurst, stays
from neuroflex.tb.axi_memory import AxiMemory
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.closed_loop import Offer, Take, closed_loop
from neuroflex.tb.coverage import Coverage

POINTS = ("one line", "many lines", "lane not 0", "refused", "several bursts", "address held", "beat held", "answer held", "line before burst", "four under way")
CASES = [("tiny", {})]        # lines narrower than a beat; the master's default case has wider ones
MORE = [("paper", {}), ("tiny", {"data_bits": 128}), ("small", {}), ("wide", {"burst_beats": 32, "writes": 4})]
PRESETS = PRESETS | {"wide": PRESETS["paper"].replace(name="wide", chunk_bits=256)}
PAYLOADS = {"write_done__payload": "write_done__valid", "bus__awaddr": "bus__awvalid", "bus__awlen": "bus__awvalid", "bus__wdata": "bus__wvalid",
            "bus__wstrb": "bus__wvalid", "bus__wlast": "bus__wvalid"}


class Traffic:
    """Bursts of random requests, their lines, a memory, a receiver of answers. Requests do not overlap, so that memory can be compared in the end."""

    def __init__(self, rng, config, axi, coverage, size):
        self.rng, self.config, self.axi, self.hit = rng, config, axi, coverage.hit
        self.memory = AxiMemory(rng, axi, size, refuse=0.05, speed=0.7)
        self.want, self.next = self.memory.content.copy(), 0
        self.burst, self.line, self.take, self.requests, self.answers = Offer(rng, 0.6), Offer(rng, 0.8), Take(rng, 0.6), 0, 0

    def drive(self):
        rng, size = self.rng, self.config.line_bytes
        if not self.burst.entries and len(self.line.entries) < 60:
            lines = int(rng.choice([1, 1, 2, 9, 40]))
            self.next += int(rng.integers(3))
            if (self.next + lines) * size <= len(self.want):
                content = rng.integers(0, 256, (lines, size), np.uint8)
                self.want[self.next * size:(self.next + lines) * size] = content.reshape(-1)
                self.line.entries += [int.from_bytes(row.tobytes(), "little") for row in content]
                self.burst.entries += bursts_of(self.config, self.axi, self.next, lines, 1, 0, 0, 0)
                self.next += lines
        burst, line = self.burst(), self.line()
        inputs = {"burst__valid": burst[0], "burst__payload": burst[1], "write_data__valid": line[0], "write_data__payload": line[1] or 0,
                  "write_done__ready": self.take()}
        return inputs | {f"bus__{name}": value for name, value in self.memory.drive_write().items()}

    def step(self, out, inputs):
        taken = self.burst.step(out["burst__ready"])
        self.line.step(out["write_data__ready"])
        bus = {name[5:]: value for name, value in (*out.items(), *inputs.items()) if name.startswith("bus__")}
        self.memory.step_write(bus, bus)
        self.requests += bool(taken and taken.last)
        self.answers += out["write_done__valid"] and inputs["write_done__ready"]
        for name, seen in {"one line": taken and taken.lines == 1, "many lines": taken and taken.lines > 3, "several bursts": taken and not taken.last,
                           "lane not 0": self.axi.lanes(self.config) == 1 or taken and taken.lane, "refused": out["write_done__valid"] and out["write_done__payload"],
                           "address held": out["bus__awvalid"] and not inputs["bus__awready"], "beat held": out["bus__wvalid"] and not inputs["bus__wready"],
                           "answer held": out["write_done__valid"] and not inputs["write_done__ready"],
                           "line before burst": inputs["write_data__valid"] and inputs["burst__valid"] and not out["write_data__ready"],
                           "four under way": len(self.memory.writes) >= 4}.items():
            self.hit(name, bool(seen))


def run(bench, config, axi, seed, cycles, engine="library", size=1 << 13):
    """With a memory of so many bytes; the traffic ends when it is full."""
    coverage = Coverage("axi write", POINTS)
    environment = Traffic(np.random.default_rng(seed), config, axi, coverage, size)
    pack = {"burst__payload": lambda burst: burst.pack(config, axi) if burst else 0}
    vectors = closed_loop(bench, AxiWriteModel(config, axi), environment, cycles, PAYLOADS, pack)
    bench.run(*vectors, engine=engine, seed=seed)
    if environment.requests == environment.answers and not environment.line.entries:
        np.testing.assert_array_equal(environment.memory.content, environment.want)
    return coverage, environment


@pytest.mark.parametrize("preset,settings", CASES)
def test_axi_write(preset, settings):
    """The traffic ends when memory is full, and with it every transaction."""
    config, axi = PRESETS[preset], AxiConfig(**settings)
    bench = Bench(AxiWrite(config=config, axi=axi), name="axi_write")
    coverage, environment = run(bench, config, axi, 61, 8_000)
    coverage.require(3)
    assert environment.requests == environment.answers > 50 and not environment.line.entries


@pytest.mark.long
@pytest.mark.parametrize("seed", range(62, 70))
def test_axi_write_long(seed):
    for preset, settings in CASES + MORE:
        config, axi = PRESETS[preset], AxiConfig(**settings)
        run(Bench(AxiWrite(config=config, axi=axi), name="axi_write"), config, axi, seed, 30_000, size=1 << 16)


@pytest.mark.long       # the whole shell runs under cocotb too
def test_axi_write_cocotb():
    config, axi = PRESETS["tiny"], AxiConfig()
    run(Bench(AxiWrite(config=config, axi=axi), name="axi_write"), config, axi, 71, 1_500, engine="cocotb")


def test_strobes_all_set_are_seen():
    config, axi = PRESETS["tiny"], AxiConfig()
    broken = Bench(AxiWrite(config=config, axi=axi), name="axi_write", verilog_edit=lambda text: text.replace("assign bus__wstrb = ", "assign bus__wstrb = 8'hff | ", 1))
    with pytest.raises(Mismatch):
        run(broken, config, axi, 72, 3_000)


class Contract(wiring.Component):
    """Any bursts, any lines, a memory that answers what it was sent, in order; ``never`` claims that the followed line never goes out.

    The followed line has a 1 as its lowest bit, all others have a 0 there.
    """

    def __init__(self, config, axi, core=AxiWrite, never=False):
        self._config, self._axi, self._core, self._never = config, axi, core, never
        super().__init__({name: In(width) for name, width in (
            *BURST_PORTS, ("last", 1), ("line", 1), ("follow", 1), ("awready", 1), ("wready", 1), ("bvalid", 1),
            ("bresp", 2), ("ready", 1))})

    def elaborate(self, platform):
        m = Module()
        config, axi = self._config, self._axi
        lanes, parts, size = axi.lanes(config), axi.parts(config), config.line_bytes
        m.submodules.writer = writer = self._core(config=config, axi=axi)
        bus = writer.bus
        burst = AnyBurst(m, self, config, axi, writer.burst, (bus.awvalid, bus.awready, bus.awaddr, bus.awlen))
        beats, taken = burst.beats, burst.taken
        following = Signal()     # the followed line was given
        left = Signal(8)         # lines to go out up to and with it
        sent = Signal()          # it went out
        mark = Signal()
        m.d.comb += [
            writer.burst.payload.last.eq(self.last), bus.awready.eq(self.awready), bus.wready.eq(self.wready), writer.write_done.ready.eq(self.ready), writer.write_data.valid.eq(self.line),
            mark.eq(self.follow & ~following), writer.write_data.payload.eq(mark),
        ]
        line = self.line & writer.write_data.ready
        beat = bus.wvalid & bus.wready

        stays(m, "w", bus.wvalid, bus.wready, Cat(bus.wdata, bus.wstrb, bus.wlast))

        # Lines of beats: a beat has as many as it has strobes.
        lines_here = Signal(range(lanes + 1))
        m.d.comb += lines_here.eq(sum(bus.wstrb[i * size] for i in range(lanes)) if parts == 1 else bus.wlast | 0)
        marks = Signal(range(lanes + 1))
        m.d.comb += marks.eq(sum(bus.wdata[i * config.chunk_bits] & bus.wstrb[i * size] for i in range(lanes)) if parts == 1 else bus.wdata[0])
        held = Signal(8)         # lines given and not gone out
        if parts == 1:
            gone = Mux(beat, lines_here, 0)
        else:
            part = Signal(range(parts))
            with m.If(beat):
                m.d.sync += part.eq(part + 1)
            gone = beat & (part == parts - 1)
        m.d.sync += held.eq(held + line - gone)
        with m.If(line & mark):
            m.d.sync += [following.eq(1), left.eq(held + 1 - gone)]
        with m.Elif(following & ~sent):
            m.d.sync += left.eq(left - gone)
        with m.If(bus.wvalid):
            if parts == 1:
                m.d.comb += [Assert(lines_here != 0), Assert(lines_here <= held), Assert(marks == (following & ~sent & (left <= lines_here)))]
                for i in range(lanes):
                    here = bus.wstrb[i * size:(i + 1) * size]
                    m.d.comb += Assert((here == 0) | here.all())
                with m.If(beat & (marks != 0)):
                    m.d.sync += sent.eq(1)
            else:
                m.d.comb += [Assert(held != 0), Assert(bus.wstrb.all()), Assert(marks == (following & ~sent & (left == 1) & (part == 0)))]
                with m.If(gone & (left == 1) & following):
                    m.d.sync += sent.eq(1)

        # Bursts: at most this many; the beats that each is still to have.
        depth = 4
        beats_owed = [Signal(8, name=f"beats_owed_{i}") for i in range(depth)]
        count = Signal(range(depth + 2))
        over = beat & bus.wlast
        m.d.comb += [Assert(count <= depth), Assert(~bus.wvalid | (count != 0) & (bus.wlast == (beats_owed[0] == 1)))]
        m.d.sync += count.eq(count + taken - over)
        for i in range(depth):
            rest = Mux(over, beats_owed[i + 1] if i + 1 < depth else 0, beats_owed[i] - (beat if i == 0 else 0))
            m.d.sync += beats_owed[i].eq(Mux(taken & (count - over == i), beats, rest))

        # Answers: one for each request whose last burst was answered.
        unanswered = Signal(8)   # bursts that memory has had in full
        requests = Signal(8)     # taken and not answered
        answered = bus.bvalid & bus.bready
        told = writer.write_done.valid & writer.write_done.ready
        m.d.comb += [bus.bvalid.eq(self.bvalid & (unanswered != 0)), bus.bresp.eq(self.bresp), Assert(~writer.write_done.valid | (requests != 0))]
        m.d.sync += [unanswered.eq(unanswered + over - answered), requests.eq(requests + (taken & self.last) - told)]
        m.d.comb += [Cover(sent & told), Cover(beat & (marks != 0) & (count > 1))]
        if self._never:
            m.d.comb += Assert(~sent)
        return m


class Loses(AxiWrite):
    """Takes lines that it has no room for."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.write_data.ready.eq(1)
        return m


@pytest.mark.formal
@pytest.mark.parametrize("config", CONFIGS)
def test_contract(config):
    prove(Contract(config, FORMAL_AXI), mode="bmc", depth=10)
    prove(Contract(config, FORMAL_AXI), mode="cover", depth=14)


@pytest.mark.formal
@pytest.mark.parametrize("wrong", [{"core": Loses}, {"never": True}])
def test_contract_can_fail(wrong):
    with pytest.raises(ProofFailed):
        prove(Contract(FORMAL, FORMAL_AXI, **wrong), mode="bmc", depth=10)
