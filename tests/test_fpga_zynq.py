"""Projects for Zynq boards: constraints and script without Vivado, hand-off file, archive.

The accelerator itself is left out of the design, which makes it small: synthesis of the real one takes 18 minutes. With ``long``, the real one is generated, read by Yosys without a
warning, and is found to be the same around the accelerator, so that what is tested without it holds; the registers behind the real bridge are read in `test_fpga_pynq.py`.
"""
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml
import zipfile
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from neuroflex import registers
from neuroflex.axi import Burst
from neuroflex.cli import main
from neuroflex.config import PRESETS
from neuroflex.eda.yosys import run_yosys
from neuroflex.fpga import zynq, zynq_build
from neuroflex.fpga.boards import BOARDS, DoesNotFit, check_fit
from neuroflex.fpga.hwh import ClockError, hardware_handoff
from neuroflex.hdl.shell import AxiShell

TINY = PRESETS["tiny"]
ZYNQ = ("pynq_z2", "arty_z7_20")


class EmptyShell(wiring.Component):
    """The ports of the shell, and next to nothing behind them."""

    def __init__(self, *, config, axi):
        super().__init__(AxiShell(config=config, axi=axi).signature)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.irq.eq(self.s_axi_awvalid ^ self.m_axi_rlast)
        return m


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the command prints when it builds for the PYNQ-Z2, without the accelerator."""
    made, out = tmp_path_factory.mktemp("pynq_z2"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(zynq, "AxiShell", EmptyShell)
        assert main(["build", "--board", "pynq_z2", "--config", "tiny", "-o", str(made), "--json"]) == 0
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def folder(printed):
    return Path(printed["folder"])


def test_arty(folder, monkeypatch):
    """The same part and LED: the same project."""
    monkeypatch.setattr(zynq, "AxiShell", EmptyShell)
    project = zynq_build.vivado_project("arty_z7_20", TINY, clock_mhz=100)
    for name in ("neuroflex.xdc", "neuroflex.tcl", "neuroflex.il"):
        assert project[name] == (folder / name).read_text()


def test_report(folder, printed):
    report = json.loads((folder / "build.json").read_text())
    assert printed == {**report, "folder": str(folder)}
    assert report["part"] == "xc7z020clg400-1" and report["stage"] == "synthesised" and report["config"]["name"] == "tiny"
    assert report["clock_mhz"] is report["longest_path"] is report["bitstream"] is None and report["board_clock_mhz"] == 100
    assert 20 < report["lut"] < 300 and 20 < report["ff"] < 300 and report["dsp"] == report["bram"] == 0        # the bridge
    assert report["note"] == "synthesised with Yosys; not placed and routed, not run on a board"


def test_processor_has_the_pins_that_are_used(folder):
    """By Yosys's own description of the primitive: names, directions, widths; both buses are connected whole."""
    log = run_yosys(["read_verilog -lib +/xilinx/cells_sim.v", "read_verilog -lib +/xilinx/cells_xtra.v", "read_verilog neuroflex.v", "hierarchy -check -top neuroflex",
                     "check"], cwd=folder)
    assert "Resizing cell port" not in log and "ERROR" not in log
    text = (folder / "neuroflex.v").read_text()
    pins = processor(text)
    for letters, names in (("AW", "ID ADDR LEN SIZE BURST VALID READY"), ("AR", "ID ADDR LEN SIZE BURST VALID READY"), ("W", "ID DATA STRB LAST VALID READY"),
                           ("B", "ID RESP VALID READY"), ("R", "ID DATA RESP LAST VALID READY")):
        for name in names.split():
            assert f"MAXIGP0{letters}{name}" in pins and f"SAXIHP0{letters}{name}" in pins
    assert "MAXIGP0ACLK" in pins and "SAXIHP0ACLK" in pins and pins["IRQF2P"].startswith("{ 19'h00000,")


def test_constraints_name_ports_of_the_design(folder):
    """The XDC is Tcl: its ports are those of the Verilog, each with pin and standard; the clock is the processor's."""
    commands = evaluate((folder / "neuroflex.xdc").read_text())
    ports = {re.search(r"\w+", call[1])[0] for _, call in nested(commands, "get_ports")}
    top = re.search(r"^module neuroflex\((.*?)\);", (folder / "neuroflex.v").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert ports == {name.strip() for name in top.split(",")} == {"led_0__io"}
    clock = next(call for call in commands if call[0] == "create_clock")
    assert clock[1:5] == ("-name", "clk_fpga_0", "-period", "10.000") and ("get_pins", "ps7/FCLKCLK[0]") in commands
    assert re.search(r"^  PS7 .*ps7 \($", (folder / "neuroflex.v").read_text(), re.MULTILINE)


def test_script(folder):
    """Vivado's script runs, with every command of Vivado's a stub, to a bitstream; not when timing is missed."""
    done = [call[0] for call in evaluate((folder / "neuroflex.tcl").read_text())]
    order = ["create_project", "add_files", "read_xdc", "synth_design", "opt_design", "place_design", "route_design", "write_bitstream"]
    assert [name for name in done if name in order] == order
    late = evaluate((folder / "neuroflex.tcl").read_text(), slack="-0.1", fails="timing is not met")
    assert "route_design" in [call[0] for call in late] and "write_bitstream" not in [call[0] for call in late]


def evaluate(text, slack="0.5", fails=None):
    """Commands that a script calls, in order, from Tcl's own interpreter."""
    tkinter = pytest.importorskip("tkinter", reason="this Python has no tkinter, whose Tcl interpreter reads the scripts")
    tcl, calls = tkinter.Tcl(), []

    def unknown(*words):
        calls.append(words)
        return slack if words[:2] == ("get_property", "SLACK") else "" if words[0] in ("get_cells", "get_clocks") else words[0]

    tcl.createcommand("unknown", unknown)
    tcl.eval("proc quit {} {}")
    if fails is None:
        tcl.eval(text)
    else:
        with pytest.raises(tkinter.TclError, match=fails):
            tcl.eval(text)
    return calls


def nested(calls, name):
    return [(i, call) for i, call in enumerate(calls) if call[0] == name]


def test_handoff():
    """Address, registers and clock as PYNQ looks for them."""
    root = xml.fromstring(hardware_handoff(base=0x43C0_0000, clock_mhz=62.5, design="neuroflex").encode())
    modules = {module.get("INSTANCE"): module for module in root.find("MODULES")}
    values = {entry.get("NAME"): entry.get("VALUE") for entry in modules["ps7_0"].find("PARAMETERS")}
    assert 1000 / int(values["PCW_FCLK0_PERIPHERAL_DIVISOR0"]) / int(values["PCW_FCLK0_PERIPHERAL_DIVISOR1"]) == 62.5
    assert [values[f"PCW_FPGA_FCLK{i}_ENABLE"] for i in range(4)] == ["1", "0", "0", "0"] and values["PCW_FCLK3_PERIPHERAL_CLKSRC"] == "IO PLL"
    place = modules["ps7_0"].find("MEMORYMAP/MEMRANGE")
    assert (place.get("BASEVALUE"), place.get("HIGHVALUE"), place.get("INSTANCE")) == ("0x43C00000", "0x43C00FFF", "neuroflex")
    listed = {}
    for register in modules["neuroflex"].iter("REGISTER"):
        properties = {p.get("NAME"): p.get("VALUE") for p in register.findall("PROPERTY")}
        listed[register.get("NAME")] = int(properties["ADDRESS_OFFSET"]), tuple(field.get("NAME") for field in register.find("FIELDS"))
    assert listed == {r.name: (r.offset, tuple(f.name for f in r.fields)) for r in registers.REGISTERS + registers.SHELL_REGISTERS}
    with pytest.raises(ClockError, match="no two dividers up to 63 make 99 MHz"):
        hardware_handoff(base=0, clock_mhz=99, design="x")


def test_archive(folder, tmp_path):
    """All that its README names; the drivers work by themselves; equal builds give equal bytes."""
    packed = next(folder.glob("neuroflex_*.zip"))
    with zipfile.ZipFile(packed) as zipped:
        zipped.extractall(tmp_path)
    root = tmp_path / packed.stem
    readme = (root / "README.md").read_text()
    assert "not placed and routed, not run on a board" in readme and "@" not in readme and "FCLK0 at 100 MHz" in readme
    for name in re.findall(r"`([\w/]+(?:\.\w+|/))`", readme.split("## Bitstream")[0]):
        assert (root / name).exists(), name
    for name in ("neuroflex.v", "neuroflex.xdc", "neuroflex.tcl", "neuroflex.hwh", "build.json"):
        assert (root / name).read_bytes() == (folder / name).read_bytes()
    script = ("import sys; from neuroflex import fpga; from neuroflex.compiler.image import ProgramImage; import neuroflex.fpga.pynq_device as device\n"
              "image = ProgramImage.load('program.nfx'); assert image.config.name == 'tiny'\n"
              "assert device.__file__.startswith(sys.argv[1]) and not {'numba', 'amaranth'} & set(sys.modules)\n"
              "import classify_digits\n"
              "try: classify_digits.main(['--back-end', 'pynq'])\n"
              "except ModuleNotFoundError as error: print(error)")
    done = subprocess.run([sys.executable, "-W", "error", "-c", script, str(root)], cwd=root, env={"PYTHONPATH": str(root / "python")}, capture_output=True, text=True)
    assert done.returncode == 0 and "runs on the board" in done.stdout, done.stderr
    if compiler := shutil.which("gcc") or shutil.which("cc"):
        done = subprocess.run([compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", "all.so", "neuroflex.c", "program.c"], cwd=root / "c",
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    report, content = json.loads((folder / "build.json").read_text()), {name: (folder / name).read_bytes() for name in (
        "neuroflex.v", "neuroflex.xdc", "neuroflex.tcl", "neuroflex.hwh", "build.json")}
    assert zynq_build.archive(content, BOARDS[report["board"]], report, "digits") == packed.read_bytes()
    assert zipfile.ZipFile(io.BytesIO(packed.read_bytes())).testzip() is None


@pytest.mark.long
def test_the_real_design(folder, tmp_path):
    """With the accelerator: constraints, script, ports and the processor's pins are those of the stand-in; Yosys reads all of it without a warning or a problem."""
    project = zynq_build.vivado_project("pynq_z2", TINY, clock_mhz=100)
    for name in ("neuroflex.xdc", "neuroflex.tcl"):
        assert project[name] == (folder / name).read_text()
    (tmp_path / "neuroflex.il").write_text(project["neuroflex.il"])
    run_yosys(["read_rtlil neuroflex.il", "proc -nomux -norom", "memory_collect", "attrmap -remove generator", "write_verilog neuroflex.v"], cwd=tmp_path)
    log = run_yosys(["read_verilog -lib +/xilinx/cells_sim.v", "read_verilog -lib +/xilinx/cells_xtra.v", "read_verilog neuroflex.v", "hierarchy -check -top neuroflex",
                     "proc", "check -assert"], cwd=tmp_path)
    assert "Warning" not in log and "Resizing cell port" not in log and "Found and reported 0 problems" in log
    real, small = (modules((path / "neuroflex.v").read_text()) for path in (tmp_path, folder))
    assert len(real) > 50 and ports(real["neuroflex"]) == ports(small["neuroflex"]) == ["  output led_0__io;"]
    pins = processor(real["neuroflex"])
    assert pins.keys() == processor(small["neuroflex"]).keys()
    # All else comes from the accelerator or goes there.
    tied = {pin: int(found[1], 16) for pin, value in pins.items() if (found := re.fullmatch(r"\d+'h(\w+)", value))}
    each = {"BURST": Burst.INCR, "CACHE": 3, "ID": 0, "LOCK": 0, "PROT": 0, "QOS": 0, "SIZE": zynq.AXI.beat_bytes.bit_length() - 1}
    assert tied == {f"SAXIHP0A{letter}{name}": value for letter in "RW" for name, value in each.items()} | dict.fromkeys(
        ("SAXIHP0WID", "SAXIHP0RDISSUECAP1EN", "SAXIHP0WRISSUECAP1EN"), 0)
    bases = {int(digits, 16) << 12 for digits in re.findall(r"port__a[wr]addr\[31:12\] != \d+'h(\w+)", real["neuroflex.fabric.bridge"])}
    place = xml.fromstring((folder / "neuroflex.hwh").read_bytes()).find(".//MEMRANGE")
    assert bases == {int(place.get("BASEVALUE"), 16)} and int(place.get("HIGHVALUE"), 16) == max(bases) + 0xFFF


def modules(verilog):
    """Module name → its text."""
    return {name: text for text, name in re.findall(r"^(module \\?(\S+?) ?\(.*?^endmodule)", verilog, re.MULTILINE | re.DOTALL)}


def ports(module):
    """Declarations of a module's ports."""
    return sorted(re.findall(r"^  (?:input|output|inout) .*?;$", module, re.MULTILINE))


def processor(top):
    """Pins of the processor, and what is at them."""
    return dict(re.findall(r"\.(\w+)\((.*?) ?\)[,\n]", re.search(r"^  PS7 .*?\);$", top, re.DOTALL | re.MULTILINE)[0]))


def test_pins():
    """Pins of the programmable logic: no pin twice, clock and LEDs where the board has them."""
    platform = zynq.PynqZ2Platform()
    names = [name for resource in platform.resources.values() for leaf in ([resource] if not getattr(resource.ios[0], "ios", None) else resource.ios)
             for name in leaf.ios[0].names]
    assert len(names) == len(set(names)) and {"H16", "R14", "P14", "N16", "M14", "M20", "D19"} <= set(names)
    assert platform.default_clk_frequency == 125e6 and platform._part == "xc7z020clg400-1"


@pytest.mark.parametrize("board", ZYNQ)
def test_presets_are_checked_before_synthesis(board, monkeypatch, capsys, tmp_path):
    """At most 80 % of each kind; the board's own preset fits."""
    part = BOARDS[board]
    assert (part.holds, part.share) == ({"lut": 53_200, "ff": 106_400, "dsp": 220, "bram": 140}, 0.8)
    needs = check_fit(part, PRESETS[part.config])
    assert all(needs[kind] <= 0.8 * part.holds[kind] for kind in needs)
    with pytest.raises(DoesNotFit, match=r"look-up tables too many \([\d,]+ of 53,200, of which 80% may be used\)"):
        check_fit(part, PRESETS[part.config].replace(snn_pes=8))
    monkeypatch.setattr(zynq_build, "run_yosys", lambda *a, **k: pytest.fail("a tool was started"))
    assert main(["build", "--board", board, "--config", "paper", "-o", str(tmp_path / "out"), "--json"]) == 2
    assert "too many" in json.loads(capsys.readouterr().out)["error"] and not (tmp_path / "out").exists()
    assert main(["build", "--board", board, "--clock", "99", "-o", str(tmp_path / "out"), "--json"]) == 2
    assert "no two dividers" in json.loads(capsys.readouterr().out)["error"]
