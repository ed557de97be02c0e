"""Boards: what fits is decided before synthesis, reports, wrong bitstreams; the design itself is generated, the tools are not run."""
import json
import subprocess
from types import SimpleNamespace

import pytest

from neuroflex.cli import main
from neuroflex.config import PRESETS, SNN_PES, load_config
from neuroflex.eda import ToolError
from neuroflex.eda.synthesis import ecp5_counts
from neuroflex.eda.yosys import flattened, run_yosys
from neuroflex.fpga import build, flash, zynq_build
from neuroflex.fpga.boards import BOARDS, DoesNotFit, check_fit, estimate
from neuroflex.fpga.ulx3s import pll_settings

ULX3S = BOARDS["ulx3s"]


def recorded(**blocks):
    names = ("AnnPe", "RadixPe", "FiberCache", "MemoryArbiter", "MemoryGuard", "Broadcaster", "Compressor", "Loader", "Sequencer", "RegisterFile")
    row = {"lut": 1_000, "ff": 500, "dsp": 1, "bram": 2}
    return {"blocks": {name: {"tiny": {"ecp5": row}} for name in names} | blocks}


def test_estimate():
    counts, missing = estimate(PRESETS["tiny"], "ecp5", recorded())
    assert (counts, missing) == ({"lut": 12_000, "ff": 6_000, "dsp": 12, "bram": 24}, ())
    counts, missing = estimate(PRESETS["tiny"], "ecp5", recorded(Loader={}))
    assert counts["lut"] == 11_000 and missing == ("Loader",)


def test_estimate_scales_by_what_one_change_did():
    """A block that took 1,000 look-up tables with 8 levels and 500 with 4 takes 250 with 2; twice the banks, twice the block RAMs; other kinds stay."""
    model = {"base": "tiny", "blocks": {"RadixPe": {"snn_levels": {"to": 4, "ecp5": {"lut": 500, "ff": 500, "dsp": 1, "bram": 2}},
                                                  "weight_banks": {"to": 2, "ecp5": {"lut": 1_000, "ff": 500, "dsp": 1, "bram": 4}}}}}
    config = PRESETS["tiny"].replace(name="other", snn_levels=2, weight_banks=2)
    counts, _ = estimate(config, "ecp5", recorded(), model=model)
    assert counts == {"lut": 12_000 - 2 * 750, "ff": 6_000, "dsp": 12, "bram": 24 + 2 * 2}


def test_the_presets_pes_are_in_the_resource_model(pytestconfig):
    """Else a configuration of one's own is estimated as if its PEs were a preset's."""
    model = json.loads((pytestconfig.rootpath / "docs" / "resource_model.json").read_text())["blocks"]
    assert {"AnnPe", *(SNN_PES[config.snn_pe] for config in PRESETS.values())} <= model.keys()


def test_estimate_of_what_was_placed():
    """The board's own configuration, placed and routed: 29,913 LUT4 sites, 13,895 flip-flops, 17 multipliers, 89 block RAMs; 15 % is the promise."""
    needs = check_fit(ULX3S, load_config(ULX3S.config))
    for kind, placed in {"lut": 29_913, "ff": 13_895, "dsp": 17, "bram": 89}.items():
        assert needs[kind] == pytest.approx(placed, rel=0.15)


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_every_board_has_a_configuration_that_fits(board):
    needs = check_fit(board, load_config(board.config))
    assert all(0 < needs[kind] <= board.room(kind) for kind in needs)


def test_what_does_not_fit_is_refused_with_figures():
    needs = check_fit(ULX3S, PRESETS["tiny"], recorded())
    assert needs["lut"] == 13_000 and needs["bram"] == 89
    with pytest.raises(DoesNotFit, match=r"'paper' does not fit the LFE5U-85F of ulx3s: .*5,000 look-up tables too many \(88,640 of 83,640\)"):
        check_fit(ULX3S, PRESETS["paper"].replace(name="paper"), recorded(AnnPe={"paper": {"ecp5": {"lut": 2_477.5, "ff": 0, "dsp": 0, "bram": 0}}},
                                                                          RadixPe={"paper": {"ecp5": {"lut": 2_500, "ff": 0, "dsp": 0, "bram": 0}}}),
                  {"base": "tiny", "blocks": {}})


def test_command_refuses_before_any_tool(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a tool was started"))
    assert main(["build", "--board", "ulx3s", "--config", "paper", "-o", str(tmp_path / "out"), "--json"]) == 2
    assert "look-up tables too many" in json.loads(capsys.readouterr().out)["error"]
    assert not (tmp_path / "out").exists()


def test_pll():
    assert pll_settings(50) == {"input": 1, "feedback": 2, "output": 12}
    for clock in range(25, 201, 5):
        settings = pll_settings(clock)
        assert 25 * settings["feedback"] == clock * settings["input"] and 400 <= clock * settings["output"] <= 800
    with pytest.raises(ValueError, match="no PLL setting gives 53.3 MHz"):
        pll_settings(53.3)


def test_figures():
    assert ecp5_counts({"LUT4": 10, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 7, "MULT18X18D": 3, "DP16KD": 4}) == {"lut": 20, "ff": 7, "dsp": 3, "bram": 4}
    hops = [("system.neuroflex.core.loader.counter_TRELLIS_FF_Q", 0.5), ("system.neuroflex.core.loader.sum_LUT4_Z", 1.25)]
    report = {"utilization": {cell: {"used": n} for n, cell in enumerate(("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD"), 1)},
              "fmax": {"$glbnet$clk": {"achieved": 61.234, "constraint": 50.0}},
              "critical_paths": [{"from": "posedge $glbnet$clk", "to": "<async>", "path": []},
                                 {"from": "posedge $glbnet$clk", "to": "posedge $glbnet$clk",
                                  "path": [{"from": {"cell": cell}, "delay": delay} for cell, delay in hops]}]}
    figures = build.placed_figures(report)
    assert figures["lut"] == 1 and figures["bram"] == 4 and figures["clock_mhz"] == 61.2
    assert figures["longest_path"] == {"ns": 1.75, "blocks": ["neuroflex.core.loader"],
                                       "points": [(0.5, "neuroflex.core.loader.counter"), (1.25, "neuroflex.core.loader.sum")]}


def test_mapping_is_proved_and_nothing_follows_without_the_proof(tmp_path, monkeypatch):
    """The board's mapping to LUTs on a small block: ABC proves what it made, by the line that a build waits for."""
    (tmp_path / "design.v").write_text("module neuroflex(input clk, input [7:0] a, b, output reg [7:0] y); always @(posedge clk) y <= a * b; endmodule")
    printed = run_yosys(["read_verilog design.v", *flattened(build.NAME), *build.mapped()], cwd=tmp_path)
    assert build.PROVED in printed and f"&if -m -W {build.WIRE_PS}" in printed and (tmp_path / "neuroflex.json").exists()

    plan = SimpleNamespace(files={"neuroflex.il": "", "neuroflex.lpf": ""})
    monkeypatch.setattr("neuroflex.fpga.ulx3s.Ulx3sPlatform", lambda **_: SimpleNamespace(build=lambda *_, **__: plan))
    monkeypatch.setattr("neuroflex.fpga.build.run_yosys", lambda *_, **__: printed.replace(build.PROVED, "Networks are NOT EQUIVALENT"))
    with pytest.raises(ToolError, match="did not prove"):
        build.build_ulx3s(load_config(ULX3S.config), tmp_path / "out")
    assert not (tmp_path / "out" / "build.json").exists()


@pytest.mark.parametrize("board", ["ulx3s", "pynq_z2"])
def test_a_build_that_fails_leaves_nothing_of_the_one_before(board, tmp_path, monkeypatch):
    """Else `neuroflex flash` would load the earlier bitstream, and the archive would not be of the files beside it."""
    def fails(*_, **__):
        raise ToolError("no")

    old = ["build.json", "neuroflex.bit"] + ["neuroflex_pynq_z2.zip"] * (board == "pynq_z2")
    for name in old:
        (tmp_path / name).write_text("old")
    if board == "ulx3s":
        monkeypatch.setattr("neuroflex.fpga.ulx3s.Ulx3sPlatform", fails)
    else:
        monkeypatch.setattr("neuroflex.fpga.zynq_build.vivado_project", lambda *_, **__: {})
        monkeypatch.setattr("neuroflex.fpga.zynq_build.run_yosys", fails)
    with pytest.raises(ToolError):
        config = load_config(BOARDS[board].config)
        build.build_ulx3s(config, tmp_path) if board == "ulx3s" else zynq_build.build_zynq(board, config, tmp_path)
    assert not [name for name in old if (tmp_path / name).exists()]


def test_flash_refuses_other_parts(tmp_path, monkeypatch, capsys):
    """The part is read from the file; then the loader is called, and its failure explained."""
    file = tmp_path / "x.bit"
    with pytest.raises(flash.FlashError, match="is missing; `neuroflex build --board ulx3s` makes one"):
        flash.flash("ulx3s", file)
    file.write_bytes(b"garbage")
    with pytest.raises(flash.FlashError, match="no bitstream that says"):
        flash.flash("ulx3s", file)
    file.write_bytes(b"\xff\x00Part: LFE5U-25F-6CABGA381\x00")
    assert main(["flash", "--board", "ulx3s", str(file)]) == 2
    assert "for the part LFE5U-25F-CABGA381; ulx3s has an LFE5U-85F-CABGA381" in " ".join(capsys.readouterr().err.split())
    file.write_bytes(b"\xff\x00Part: LFE5U-85F-8CABGA554\x00")       # other pins
    assert main(["flash", "--board", "ulx3s", str(file)]) == 2
    assert "for the part LFE5U-85F-CABGA554; ulx3s has an LFE5U-85F-CABGA381" in " ".join(capsys.readouterr().err.split())
    file.write_bytes(b"\xff\x00Part: LFE5U-85F-6CABGA381\x00")
    loader = tmp_path / "openFPGALoader"
    loader.write_text("#!/bin/sh\necho \"$@\"\nexit ${FAIL:-0}\n")
    loader.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert flash.flash("ulx3s", file) == f"-b ulx3s -m {file}\n"
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(flash.FlashError, match="Is the board connected"):
        flash.flash("ulx3s", file)
