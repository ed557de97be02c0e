"""Reader of AXI bursts against its model, and its contract proved.

Plan
----
Stimuli: bursts cut from random requests, lines narrower and wider than a beat, first lines in any lane; a memory with random stalls on both channels, random
latencies and refused beats; a receiver that stops; never fewer than four bursts under way where memory lets them.
Checks: every output in every cycle. Contract (formal, the first cycles from reset): AR stays while it waits; each burst taken is asked for once, in order; a
followed line, in any beat of any burst, comes out once and in its place, and nothing comes that was not asked for; when all is answered, all lines came within a bound.
Faults: a line that loses its error in the circuit must be seen by the bench, a beat taken twice by the proof.
"""
import numpy as np
import pytest
from amaranth.hdl import Assert, Cover, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.axi import AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.axi_read import AxiRead
from neuroflex.sim.axi_read import AxiReadModel
from neuroflex.sim.axi_split import bursts_of
from neuroflex.tb.axi_contract import BURST_PORTS, CONFIGS, FORMAL, FORMAL_AXI, AnyBurst
from neuroflex.tb.axi_memory import AxiMemory
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.closed_loop import Offer, Take, closed_loop
from neuroflex.tb.coverage import Coverage

POINTS = ("one line", "many lines", "lane not 0", "error", "address held", "line held", "beats stopped", "four under way", "answers wait")
CASES = [("tiny", {})]        # lines narrower than a beat; the master's default case has wider ones
MORE = [("paper", {}), ("tiny", {"data_bits": 128}), ("small", {}), ("wide", {"burst_beats": 32, "reads": 4})]
PRESETS = PRESETS | {"wide": PRESETS["paper"].replace(name="wide", chunk_bits=256)}
PAYLOADS = {"read_data__payload": "read_data__valid", "bus__araddr": "bus__arvalid", "bus__arlen": "bus__arvalid"}


class Traffic:
    """Bursts of random requests, a memory, a receiver."""

    def __init__(self, rng, config, axi, coverage, fast=False):
        self.rng, self.config, self.axi, self.hit = rng, config, axi, coverage.hit
        self.memory = AxiMemory(rng, axi, 1 << 16, refuse=0.05, speed=1.0 if fast else 0.7)
        self.burst, self.take, self.accepted = Offer(rng, 0.8), Take(rng, 1.0 if fast else 0.8), 0

    def drive(self):
        if not self.burst.entries:
            start, lines = int(self.rng.integers(1 << self.config.address_bits)), int(self.rng.choice([1, 2, 9, 40]))
            self.burst.entries += bursts_of(self.config, self.axi, start, lines, 0, 0, 0, 0)
        burst = self.burst()
        inputs = {"burst__valid": burst[0], "burst__payload": burst[1], "read_data__ready": self.take()}
        return inputs | {f"bus__{name}": value for name, value in self.memory.drive_read().items()}

    def step(self, out, inputs):
        taken = self.burst.step(out["burst__ready"])
        bus = {name[5:]: value for name, value in (*out.items(), *inputs.items()) if name.startswith("bus__")}
        self.memory.step_read(bus, bus)
        for name, seen in {"one line": taken and taken.lines == 1, "many lines": taken and taken.lines > 3,
                           "lane not 0": self.axi.lanes(self.config) == 1 or taken and taken.lane, "error": out["read_data__valid"] and out["read_data__payload"] >> self.config.chunk_bits,
                           "address held": out["bus__arvalid"] and not inputs["bus__arready"], "line held": out["read_data__valid"] and not inputs["read_data__ready"],
                           "beats stopped": inputs["bus__rvalid"] and not out["bus__rready"], "four under way": len(self.memory.reads) >= 4,
                           "answers wait": not out["burst__ready"] and not out["bus__arvalid"]}.items():
            self.hit(name, bool(seen))


def run(bench, config, axi, seed, cycles, engine="library", fast=False):
    coverage = Coverage("axi read", POINTS)
    environment = Traffic(np.random.default_rng(seed), config, axi, coverage, fast)
    pack = {"burst__payload": lambda burst: burst.pack(config, axi) if burst else 0}
    bench.run(*closed_loop(bench, AxiReadModel(config, axi), environment, cycles, PAYLOADS, pack), engine=engine, seed=seed)
    return coverage


LONG = [pytest.param(*case, 150_000, marks=pytest.mark.long) for case in CASES + MORE]


@pytest.mark.parametrize("preset,settings,cycles", [(*case, 6_000) for case in CASES] + LONG)
def test_axi_read(preset, settings, cycles):
    config, axi = PRESETS[preset], AxiConfig(**settings)
    bench = Bench(AxiRead(config=config, axi=axi), name="axi_read")
    run(bench, config, axi, 51, cycles).require(5)
    run(bench, config, axi, 52, cycles // 4, fast=True)


@pytest.mark.long       # the whole shell runs under cocotb too
def test_axi_read_cocotb():
    config, axi = PRESETS["tiny"], AxiConfig()
    run(Bench(AxiRead(config=config, axi=axi), name="axi_read"), config, axi, 53, 1_500, engine="cocotb")


def test_lost_error_is_seen():
    config, axi = PRESETS["tiny"], AxiConfig()
    broken = Bench(AxiRead(config=config, axi=axi), name="axi_read", verilog_edit=lambda text: text.replace("bus__rresp[1]", "1'h0"))
    with pytest.raises(Mismatch):
        run(broken, config, axi, 54, 3_000)


def test_one_line_per_cycle():
    """A memory that never waits is read at a line per cycle: 64-bit lines on a 64-bit bus."""
    config, axi = PRESETS["small"], AxiConfig()
    model = AxiReadModel(config, axi)
    bursts, beats, lines = bursts_of(config, axi, 0, 240, 0, 0, 0, 0), 0, 0
    for _ in range(260):
        out = model.outputs()
        beats += 16 * (out["bus__arvalid"])
        lines += out["read_data__valid"]
        model.step({"burst__valid": int(bool(bursts)), "burst__payload": bursts[0] if bursts else None, "read_data__ready": 1, "bus__arready": 1,
                    "bus__rvalid": int(beats > 0), "bus__rdata": 0, "bus__rresp": 0})
        beats -= beats > 0 and out["bus__rready"]
        if bursts and out["burst__ready"]:
            bursts.pop(0)
    assert lines == 240


class Contract(wiring.Component):
    """Any bursts, a memory that answers what was asked for, in order; ``never`` claims that the followed line never comes.

    The memory marks the line that is followed by a 1 as its lowest bit, all others have a 0 there.
    """

    BOUND = 12          # lines may be so many cycles behind a memory that owes nothing, while the receiver takes them

    def __init__(self, config, axi, core=AxiRead, never=False):
        self._config, self._axi, self._core, self._never = config, axi, core, never
        super().__init__({name: In(width) for name, width in (
            *BURST_PORTS, ("follow", 1), ("place", 2), ("arready", 1), ("rvalid", 1), ("rresp", 2), ("ready", 1))})

    def elaborate(self, platform):
        m = Module()
        config, axi = self._config, self._axi
        lanes, parts = axi.lanes(config), axi.parts(config)
        m.submodules.reader = reader = self._core(config=config, axi=axi)
        bus = reader.bus
        burst = AnyBurst(m, self, config, axi, reader.burst, (bus.arvalid, bus.arready, bus.araddr, bus.arlen))
        lane, beats, taken = burst.lane, burst.beats, burst.taken
        m.d.comb += [bus.arready.eq(self.arready), bus.rresp.eq(self.rresp), reader.read_data.ready.eq(self.ready)]

        # The memory: beats owed before and up to the one with the followed line's end, and after it; lines owed in the same way.
        size = 7
        beats_before = Signal(size)
        beats_after = Signal(size)
        lines_before = Signal(size)
        lines_after = Signal(size)
        following = Signal()     # the followed burst was taken
        offered = Signal()       # its beat was
        arrived = Signal()       # its line came
        mark_lane = Signal(range(max(lanes, 2)))
        wants = self.follow & ~following & (self.place < self.lines)
        slot = lane + self.place
        follow_beats = (slot >> (lanes.bit_length() - 1)) + 1 if lanes > 1 else (self.place + 1) * parts
        beat = bus.rvalid & bus.rready
        here = following & ~offered & (beats_before == 1)
        line = reader.read_data.valid & reader.read_data.ready
        marked = reader.read_data.payload.line[0]
        asked = Signal(size)     # beats that memory may send: those of addresses that went out
        m.d.comb += [
            bus.rvalid.eq(self.rvalid & (asked != 0)), bus.rresp.eq(self.rresp),
            *(bus.rdata[i * config.chunk_bits].eq(here & (mark_lane == i)) for i in range(lanes if parts == 1 else 0)),
        ]
        if parts > 1:            # the mark is in a line's first part
            m.d.comb += bus.rdata[0].eq(following & ~offered & (beats_before == parts))
        new_beats = Mux(taken, beats, 0)
        m.d.sync += asked.eq(asked + Mux(bus.arvalid & bus.arready, bus.arlen + 1, 0) - beat)
        with m.If(taken & wants):
            m.d.sync += [following.eq(1), mark_lane.eq(slot & (lanes - 1)), beats_before.eq(beats_before + follow_beats - beat),
                         beats_after.eq(beats - follow_beats), lines_before.eq(lines_before + self.place + 1 - line), lines_after.eq(self.lines - self.place - 1)]
        with m.Elif(~following):
            m.d.sync += [beats_before.eq(beats_before + new_beats - beat), lines_before.eq(lines_before + Mux(taken, self.lines, 0) - line)]
        with m.Else():
            m.d.sync += [beats_before.eq(beats_before - (beat & ~offered)), beats_after.eq(beats_after + new_beats - (beat & offered)),
                         lines_before.eq(lines_before - (line & ~arrived)), lines_after.eq(lines_after + Mux(taken, self.lines, 0) - (line & arrived))]
            with m.If(beat & (beats_before == 1) & ~offered):
                m.d.sync += offered.eq(1)
            with m.If(line & (lines_before == 1) & ~arrived):
                m.d.sync += arrived.eq(1)
        with m.If(reader.read_data.valid):
            m.d.comb += [Assert(lines_before + lines_after != 0), Assert(marked == (following & ~arrived & (lines_before == 1))),
                         Assert(~marked | (beats_before < parts))]
        behind = Signal(range(self.BOUND + 2))
        m.d.comb += Assert(behind <= self.BOUND)
        with m.If((beats_before + beats_after != 0) | (lines_before + lines_after == 0)):
            m.d.sync += behind.eq(0)
        with m.Elif(self.ready & (behind != self.BOUND + 1)):
            m.d.sync += behind.eq(behind + 1)
        m.d.comb += [Cover(line & marked & (beats_after != 0)), Cover(following & arrived & (lines_after == 0))]
        if self._never:
            m.d.comb += Assert(~(line & marked))
        return m


class Twice(AxiRead):
    """Takes a refused beat without saying so: memory will send it again."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.bus.rvalid & self.bus.rresp[1]):
            m.d.comb += self.bus.rready.eq(0)
        return m


@pytest.mark.formal
@pytest.mark.parametrize("config", CONFIGS)
def test_contract(config):
    prove(Contract(config, FORMAL_AXI), mode="bmc", depth=10)
    prove(Contract(config, FORMAL_AXI), mode="cover", depth=14)


@pytest.mark.formal
@pytest.mark.parametrize("wrong", [{"core": Twice}, {"never": True}])
def test_contract_can_fail(wrong):
    with pytest.raises(ProofFailed):
        prove(Contract(FORMAL, FORMAL_AXI, **wrong), mode="bmc", depth=10)
