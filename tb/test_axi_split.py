"""Splitter of requests into AXI bursts against its model, and its contract proved.

Plan
----
Stimuli: requests of 1 to 255 lines at random addresses and at the ends of windows, pages and regions; lines narrower and wider than a beat;
gaps and back-pressure.
Checks: every output in every cycle. Contract (formal, the first cycles from reset, any requests): a burst stays while it waits, stays in its window and so in its 4 KB page, the
lines of a request's bursts add up to the request's, only the last is marked, and each has its beats.
Faults: a region that is mistaken must be seen by the bench, a window that is too long by the proof.
"""
import numpy as np
import pytest
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from neuroflex.axi import PAGE_BYTES, AxiConfig
from neuroflex.config import PRESETS
from neuroflex.formal import ProofFailed, prove
from neuroflex.hdl.axi_split import AxiSplit
from neuroflex.sim.axi_split import AxiSplitModel, bursts_of
from neuroflex.tb.axi_contract import CONFIGS, FORMAL, stays
from neuroflex.tb.bench import Bench, Mismatch
from neuroflex.tb.closed_loop import Offer, Take, closed_loop
from neuroflex.tb.coverage import Coverage

POINTS = ("one burst", "many bursts", "one line", "whole window", "page end", "tensors", "program", "lane not 0", "held", "write", "read", "largest")
CASES = [("tiny", {"address_bits": 40})]
MORE = [("paper", {"address_bits": 40}), ("tiny", {"data_bits": 128, "burst_beats": 256}), ("small", {}), ("paper", {"data_bits": 128, "burst_beats": 8})]


class Traffic:
    """Random requests."""

    def __init__(self, rng, config, axi, coverage):
        self.rng, self.config, self.axi, self.hit = rng, config, axi, coverage.hit
        self.pages = {name: int(rng.integers(1 << 32)) for name in ("program_page", "tensor_page")}
        self.pages["tensor_line"] = int(rng.integers(1, 1 << config.address_bits))
        self.request, self.take = Offer(rng, 0.5), Take(rng, 0.8)

    def drive(self):
        rng, config, window = self.rng, self.config, self.axi.window_lines(self.config)
        if not self.request.entries:
            lines = int(rng.choice([1, 2, 9, min(window, 255), 255, rng.integers(1, 256)]))
            end = 1 << config.address_bits
            near = int(rng.choice([rng.integers(end), self.pages["tensor_line"], rng.integers(end) // window * window]))
            address = min(max(0, near + int(rng.integers(-3, 4))), end - lines)
            self.request.entries.append(address | lines << config.address_bits | int(rng.integers(2)) << (config.address_bits + 8))
        valid, payload = self.request()
        return self.pages | {"request__valid": valid, "request__payload": payload or 0, "burst__ready": self.take()}

    def step(self, out, inputs):
        payload = self.request.step(out["request__ready"])
        self.hit("held", out["burst__valid"] and not inputs["burst__ready"])
        if payload is None:
            return
        bits, window = self.config.address_bits, self.axi.window_lines(self.config)
        address, lines, write = payload & ((1 << bits) - 1), payload >> bits & 255, payload >> (bits + 8)
        bursts = bursts_of(self.config, self.axi, address, lines, write, *(self.pages[name] for name in ("program_page", "tensor_page", "tensor_line")))
        assert sum(burst.lines for burst in bursts) == lines
        for name, seen in {"one burst": len(bursts) == 1, "many bursts": len(bursts) > 2 or len(bursts) == 2 and window > 127, "one line": lines == 1, "largest": lines == 255,
                           "whole window": any(burst.lines == min(window, 255) for burst in bursts), "write": write, "read": not write,
                           "page end": any((b.address + (b.length + 1) * self.axi.beat_bytes) % PAGE_BYTES == 0 for b in bursts[:-1]),
                           "tensors": address >= self.pages["tensor_line"], "program": address < self.pages["tensor_line"],
                           "lane not 0": bursts[0].lane > 0 or self.axi.lanes(self.config) == 1}.items():
            self.hit(name, bool(seen))


def run(bench, config, axi, seed, cycles, engine="library"):
    coverage = Coverage("axi split", POINTS)
    environment = Traffic(np.random.default_rng(seed), config, axi, coverage)
    bench.run(*closed_loop(bench, AxiSplitModel(config, axi), environment, cycles, {"burst__payload": "burst__valid"}), engine=engine, seed=seed)
    return coverage


LONG = [pytest.param(*case, 100_000, marks=pytest.mark.long) for case in CASES + MORE]


@pytest.mark.parametrize("preset,settings,cycles", [(*case, 4_000) for case in CASES] + LONG)
def test_axi_split(preset, settings, cycles):
    config, axi = PRESETS[preset], AxiConfig(**settings)
    run(Bench(AxiSplit(config=config, axi=axi), name="axi_split"), config, axi, 41, cycles).require(2)


@pytest.mark.long       # the whole shell runs under cocotb too
def test_axi_split_cocotb():
    config, axi = PRESETS["tiny"], AxiConfig()
    run(Bench(AxiSplit(config=config, axi=axi), name="axi_split"), config, axi, 42, 1_000, engine="cocotb")


def test_wrong_region_is_seen():
    config, axi = PRESETS["tiny"], AxiConfig()
    broken = Bench(AxiSplit(config=config, axi=axi), name="axi_split", verilog_edit=lambda text: text.replace("cut_tensor <= ", "cut_tensor <= 1'h1 | ", 1))
    with pytest.raises(Mismatch):
        run(broken, config, axi, 43, 2_000)


@pytest.mark.parametrize("settings,text", [({"data_bits": 32}, "data_bits = 32: must be a power of two from 64 to 128"), ({"burst_beats": 12}, "burst_beats = 12"),
                                           ({"reads": 2}, "reads = 2"), ({"address_bits": 50}, "address_bits = 50: must be from 32 to 44"),
                                           ({"jobs": True}, "jobs = True: must be an integer")])
def test_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        AxiConfig(**settings)


class Contract(wiring.Component):
    """Any requests, any pages; ``never`` adds the false claim that no request has two bursts."""

    def __init__(self, config, axi, never=False):
        self._config, self._axi, self._never = config, axi, never
        super().__init__({"valid": In(1), "address": In(config.address_bits), "lines": In(8), "write": In(1), "ready": In(1),
                          "program_page": In(32), "tensor_page": In(32), "tensor_line": In(32)})

    def elaborate(self, platform):
        m = Module()
        axi, config = self._axi, self._config
        m.submodules.split = split = AxiSplit(config=config, axi=axi)
        m.d.comb += [Assume(~ResetSignal()), Assume(~self.valid | (self.lines != 0)), split.request.valid.eq(self.valid),
                     split.burst.ready.eq(self.ready)]
        m.d.comb += [getattr(split.request.payload, name).eq(getattr(self, name)) for name in ("address", "lines", "write")]
        m.d.comb += [getattr(split, name).eq(getattr(self, name)) for name in ("program_page", "tensor_page", "tensor_line")]
        burst = split.burst.payload
        stays(m, "burst", split.burst.valid, self.ready, burst.as_value())
        zeros, size = axi.beat_bytes.bit_length() - 1, axi.burst_bytes
        beats = Signal(9)
        with m.If(split.burst.valid):
            m.d.comb += [
                beats.eq(burst.length + 1), Assert(burst.lines != 0),
                Assert(burst.address[:zeros] == 0), Assert((burst.address & (size - 1)) + (beats << zeros) <= size),
                Assert((burst.address & (PAGE_BYTES - 1)) + (beats << zeros) <= PAGE_BYTES),
            ]
            if axi.lanes(config) == 1:
                m.d.comb += Assert(beats == burst.lines * axi.parts(config))
            else:
                used = burst.lane + burst.lines
                m.d.comb += [Assert(beats * axi.lanes(config) >= used), Assert((beats - 1) * axi.lanes(config) < used)]
        # Lines owed: of the request in work and of a following one, taken while the first one's bursts wait.
        moved = split.burst.valid & self.ready
        owed = [Signal(8, name=f"owed_{i}") for i in range(4)]
        writes = [Signal(name=f"write_{i}") for i in range(4)]
        count = Signal(3)
        ends = moved & burst.last
        taken = self.valid & split.request.ready
        m.d.sync += count.eq(count + taken - ends)
        left = Signal(9)
        m.d.comb += [left.eq(owed[0] - burst.lines), Assert(count <= 4), Assert((count < 4) | ~taken)]
        with m.If(split.burst.valid):
            m.d.comb += [Assert(count != 0), Assert(burst.write == writes[0]), Assert(burst.lines <= owed[0]), Assert(burst.last == (left == 0))]
        for i in range(4):
            last = i == 3
            rest = Mux(ends, 0 if last else owed[min(i + 1, 3)], Mux(moved, left, owed[0]) if i == 0 else owed[i])
            rest_write = Mux(ends, writes[min(i + 1, 3)], writes[i])
            here = taken & (count - ends == i)
            m.d.sync += [owed[i].eq(Mux(here, self.lines, rest)), writes[i].eq(Mux(here, self.write, rest_write))]
        m.d.comb += [Cover(moved & ~burst.last), Cover(moved & burst.last & (count == 4))]
        if self._never:
            m.d.comb += Assert(~(moved & ~burst.last))
        return m


class LongWindows(AxiConfig):
    """Windows as a splitter sees them that takes one for twice as long as it is."""

    def window_lines(self, config):
        return 2 * super().window_lines(config)


SMALL_WINDOWS = {"burst_beats": 8}


@pytest.mark.formal
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[-1]])
def test_contract(config):
    prove(Contract(config, AxiConfig(**SMALL_WINDOWS)), mode="bmc", depth=10)
    prove(Contract(config, AxiConfig(**SMALL_WINDOWS)), mode="cover", depth=15)


@pytest.mark.formal
def test_contract_can_fail():
    for axi, never in ((LongWindows(**SMALL_WINDOWS), False), (AxiConfig(**SMALL_WINDOWS), True)):
        with pytest.raises(ProofFailed):
            prove(Contract(FORMAL, axi, never=never), mode="bmc", depth=10)
