"""Shared modules and readable names: the same circuit, shown by Yosys on a small design and in every cycle on the accelerator."""
import re

import numpy as np
import pytest
from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from neuroflex import eda, flow, zoo
from neuroflex.config import PRESETS
from neuroflex.eda.rtlil_names import readable
from neuroflex.eda.yosys import run_yosys
from neuroflex.hdl.top import NeuroFlex
from neuroflex.sim.network import quantise
from neuroflex.tb.accelerator import RtlAccelerator
from neuroflex.tb.compare import compare_job


class Counter(wiring.Component):
    """Counts by ``step``; ``flags`` are bits that come from different places."""

    def __init__(self, step):
        self._step = step
        super().__init__({"enable": In(1), "count": Out(8), "flags": Out(2)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.flags.eq(Cat(self.count.any(), self.count.all() | self.enable))
        with m.If(self.enable):
            m.d.sync += self.count.eq(self.count + self._step)
        return m


class Holder(wiring.Component):
    """A counter within."""

    def __init__(self, step):
        self._step = step
        super().__init__({"enable": In(1), "count": Out(8), "flags": Out(2)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.counter = counter = Counter(self._step)
        m.d.comb += [counter.enable.eq(self.enable), self.count.eq(counter.count), self.flags.eq(counter.flags[::-1])]
        return m


class Sample(wiring.Component):
    """Holders of counters: two that are alike, one whose counter is another."""

    enable: In(3)
    total: Out(10)
    flags: Out(6)

    def elaborate(self, platform):
        m = Module()
        count = Signal(10)
        held = [Holder(step) for step in (1, 1, 3)]
        m.submodules.left_unit, m.submodules.right_unit, m.submodules.odd = held
        for enable, one in zip(self.enable, held):
            m.d.comb += one.enable.eq(enable)
        m.d.comb += [count.eq(sum(one.count for one in held)), self.total.eq(count), self.flags.eq(Cat(one.flags for one in held))]
        return m


@pytest.fixture(scope="module")
def verilog():
    return {shared: eda.to_verilog(Sample(), "sample", shared=shared) for shared in (False, True)}


def _modules(text):
    return re.findall(r"^module (\w+)", text, re.MULTILINE)


def test_what_is_alike_is_one_module(verilog):
    assert len(_modules(verilog[False])) == 7
    assert sorted(_modules(verilog[True])) == ["sample", "sample_odd", "sample_odd_counter", "sample_unit", "sample_unit_counter"]
    instances = re.findall(r"^  (sample_\w+) (\w+) \(", verilog[True], re.MULTILINE)
    assert sorted(instances) == [("sample_odd", "odd"), ("sample_odd_counter", "counter"), ("sample_unit", "left_unit"), ("sample_unit", "right_unit"),
                                 ("sample_unit_counter", "counter")]


def test_names_are_identifiers(verilog):
    """Signals of several submodules are told apart by the submodule, not by numbers of the tool's."""
    assert re.search(r"\w\$\d", verilog[False])
    assert "$" not in verilog[True] and re.search(r"\bright_unit_count\b", verilog[True])


def test_top_keeps_its_ports(verilog):
    ports = [re.findall(r"^  (?:in|out)put .*;$", text.partition("module sample(")[2].partition("endmodule")[0], re.MULTILINE) for text in verilog.values()]
    assert sorted(ports[0]) == sorted(ports[1]) and len(ports[0]) == 5


def test_equal_designs_give_equal_text(verilog):
    assert eda.to_verilog(Sample(), "sample", shared=True) == verilog[True]


def test_it_is_the_same_circuit(verilog, tmp_path):
    """Yosys proves both texts equivalent, and refuses a wrong one."""
    def prove(text):
        (tmp_path / "plain.v").write_text(verilog[False])
        (tmp_path / "shared.v").write_text(text)
        read = [[f"read_verilog {name}.v", "prep -flatten -top sample", f"rename sample {name}", f"design -stash {name}"] for name in ("plain", "shared")]
        run_yosys([*read[0], *read[1], "design -copy-from plain plain", "design -copy-from shared shared", "equiv_make plain shared both", "hierarchy -top both",
                   "equiv_simple", "equiv_induct", "equiv_status -assert"], cwd=tmp_path)

    prove(verilog[True])
    with pytest.raises(eda.ToolError, match="unproven"):
        prove(verilog[True].replace("enable[1]", "enable[0]"))


def test_accelerator_in_every_cycle():
    """The demonstration's network on the accelerator with shared modules: every output of every cycle, and every value."""
    config, network = PRESETS["tiny"], zoo.load("digits")
    rtl = RtlAccelerator(config, quick=True, verilog_edit=lambda text: eda.to_verilog(NeuroFlex(config=config, probe=True), "neuroflex_tiny", shared=True))
    modules = _modules(rtl.bench.verilog)
    assert sum("_pe" in name for name in modules) < 20 and "neuroflex_tiny_core_ann_array_pe" in modules
    job = flow.compile_network(network, config)
    for tensor in quantise(network.input, network.examples.test_images[:2]):
        done = compare_job(rtl, job, tensor)
        assert (done.cycle_mismatches, done.value_mismatches) == (0, 0) and done.cycles > 10_000
        assert np.array_equal(done.output, done.model.output)


def test_text_without_submodules_stays():
    from amaranth.back import rtlil

    text = rtlil.convert(Counter(1), name="counter", emit_src=False)
    assert readable(text) == text
