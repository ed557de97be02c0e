"""Energy from standard-cell netlists: Liberty text, a netlist whose energy is known by hand, memories, the fit, and the table of coefficients."""
import json

import measure_energy
import numpy as np
import pytest

from neuroflex.power.activity import simulate
from neuroflex.power.liberty import Library, LibertyError, Table, truth_table
from neuroflex.power.netlist import Netlist
from neuroflex.power.sram import access_energy
from neuroflex.sim.energy import SETS, energy_table

# Tables with one value: every rise of an output costs 3 pJ and every fall 1 pJ inside, each input 0.1 pJ, a clock edge 0.5 pJ.
_OUTPUT = """internal_power () {{ related_pin : "{related}"; rise_power (scalar) {{ values ("3.0"); }} fall_power (scalar) {{ values ("1.0"); }} }}
      timing () {{ related_pin : "{related}"; timing_sense : {sense}; timing_type : {kind};
        cell_rise (t) {{ index_1 ("0.0, 1.0"); index_2 ("0.0, 1.0"); values ("0.1, 1.1", "0.2, 1.2"); }}
        cell_fall (scalar) {{ values ("0.05"); }} rise_transition (scalar) {{ values ("0.05"); }} fall_transition (scalar) {{ values ("0.05"); }} }}"""
_INPUT = 'direction : input; capacitance : 0.5; internal_power () {{ rise_power (scalar) {{ values ("{0}"); }} fall_power (scalar) {{ values ("{0}"); }} }}'
LIBERTY = f"""/* two cells */
library (hand) {{
  time_unit : "1ns"; capacitive_load_unit (1.0, pf);
  operating_conditions ("tt") {{ voltage : 2.0; }}
  cell ("inv") {{ area : 1.5; cell_leakage_power : 0.25;
    pin ("A") {{ {_INPUT.format("0.1")} }}
    pin ("Y") {{ direction : output; function : "!A";
      {_OUTPUT.format(related="A", sense="negative_unate", kind="combinational")} }} }}
  cell ("dff") {{ area : 4; cell_leakage_power : 1;
    ff ("IQ", "IQ_N") {{ clocked_on : "CLK"; next_state : "D"; }}
    pin ("D") {{ {_INPUT.format("0.1")} timing () {{ related_pin : "CLK"; timing_type : setup_rising; rise_constraint (scalar) {{ values ("0.3"); }} }} }}
    pin ("CLK") {{ clock : true; {_INPUT.format("0.5")} }}
    pin ("Q") {{ direction : output; function : "IQ";
      {_OUTPUT.format(related="CLK", sense="non_unate", kind="rising_edge")} }} }}
  cell ("gate") {{ area : 3; cell_leakage_power : 1; clock_gating_integrated_cell : "latch_posedge";
    pin ("CLK") {{ clock_gate_clock_pin : true; {_INPUT.format("0.5")} }}
    pin ("EN") {{ clock_gate_enable_pin : true; {_INPUT.format("0.1")} }}
    pin ("OUT") {{ clock_gate_out_pin : true; direction : output;
      {_OUTPUT.format(related="CLK", sense="positive_unate", kind="combinational")} }} }}
}}
"""


def cell(kind, **pins):
    return {"type": kind, "parameters": {}, "connections": {pin: [net] for pin, net in pins.items()}}


def port(direction, *bits):
    return {"direction": direction, "bits": list(bits)}


@pytest.fixture(scope="module")
def library():
    return Library(LIBERTY)


def test_liberty_text_is_read(library):
    assert library.names == ["inv", "dff", "gate"] and library.voltage == 2.0
    inv, dff = library["inv"], library["dff"]
    assert (inv.area, inv.leakage, inv.inputs, inv.outputs, inv.register) == (1.5, 0.25, ["A"], ["Y"], None)
    assert inv.pins["A"].capacitance == 0.5 and inv.pins["A"].power[""][0][0](0.1, 0) == 0.1
    rise, fall = inv.pins["Y"].power["A"][0]
    assert (rise(0.1, 0.2), fall(0.1, 0.2)) == (3.0, 1.0)
    assert inv.pins["Y"].arcs[0].tables["rise"](0.5, 0.5) == pytest.approx(0.65)
    assert dff.register == ("CLK", "D") and dff.pins["D"].setup == 0.3 and library["gate"].clock_gate


def test_tables_are_bilinear_and_go_on_outside():
    table = Table([0, 1], [1, 3], [[0, 2], [10, 12]])
    assert [table(0, 1), table(0.5, 2), table(9, 3), table(0, 5), table(-1, 0)] == [0, 6, 12, 4, 0]


@pytest.mark.parametrize("text, message", [
    ("cell (a) {}", "no group `library`"), ("library (x) { time_unit : \"1ns\"; }", "states no voltage"),
    ("library (x) { voltage : 1; time_unit : \"1ps\"; capacitive_load_unit (1, pf); }", "must have the unit 1 ns"),
])
def test_other_text_is_refused(text, message):
    with pytest.raises(LibertyError, match=message):
        Library(text)


def test_unknown_cells_and_broken_groups_are_refused(library):
    with pytest.raises(LibertyError, match="no cell 'nand'"):
        library["nand"]
    with pytest.raises(LibertyError, match="no statement at character"):
        Library(LIBERTY.replace('cell ("dff") {', 'cell ("dff") { ?'))["dff"]


def test_functions_become_truth_tables():
    assert truth_table("!A", ["A"]) == 0b01
    assert truth_table("(!A) | (!B)", ["A", "B"]) == 0b0111
    assert truth_table("A*B + C'", ["A", "B", "C"]) == 0b10001111
    assert truth_table("A ^ B & 1", ["A", "B"]) == truth_table("(A&!B)|(!A B)", ["A", "B"]) == 0b0110
    for text in ("A &", "(A", "A $ B", "A)", "Z"):
        with pytest.raises(LibertyError, match="function"):
            truth_table(text, ["A", "B"])


def test_energy_by_hand(library):
    """An input through two inverters into a flip-flop, at 2 V: a pin of 0.5 pF costs 1 pJ per transition."""
    module = {"ports": {"clk": port("input", 1), "a": port("input", 2), "q": port("output", 5)},
              "cells": {"part.first": cell("inv", A=2, Y=3), "second": cell("inv", A=3, Y=4), "state": cell("dff", D=4, CLK=1, Q=5)}}
    netlist = Netlist(module, library)
    assert (netlist.area, netlist.leakage, netlist.parts, netlist.part_area.tolist()) == (7.0, 1.5, ["", "part"], [5.5, 1.5])
    a = [0, 1, 1, 0]
    activity = simulate(netlist, {"a": np.array(a)}, reset_cycles=2)
    assert activity.outputs["q"].tolist() == [0, 0, 1, 1]
    # Input: 1 pJ load + 0.1 pin. Rise of an inverter: 3 + 1 + 0.1; fall: 1 + 1 + 0.1. The output drives nothing: 3.
    assert np.allclose(activity.settled, [[0, 0], [1.1 + 4.1, 2.1], [3, 0], [1.1 + 2.1, 4.1]])
    assert np.allclose(activity.glitches, 0)
    assert np.allclose(activity.clock[:, 0], 2 * (1.0 + 0.5)) and not activity.clock[:, 1].any()
    # Rise at q: 0.1 + 0.05 * 0.1 of slew; into `second`: D falls 0.05 after its input rose.
    assert netlist.delay == pytest.approx(0.05 + (0.105 + 0.5) + 0.3)


def test_glitches_are_told_apart(library):
    """A chain of inverters against its own input: no steady transition at the end, but a short pulse."""
    text = LIBERTY.replace('cell ("inv")', f"""cell ("xnor") {{ area : 1;
        pin ("A") {{ {_INPUT.format("0")} }} pin ("B") {{ {_INPUT.format("0")} }}
        pin ("Y") {{ direction : output; function : "!(A ^ B)"; {_OUTPUT.format(related="A B", sense="non_unate", kind="combinational")} }} }}
      cell ("inv")""", 1)
    module = {"ports": {"a": port("input", 2), "y": port("output", 5)},
              "cells": {"first": cell("inv", A=2, Y=3), "second": cell("inv", A=3, Y=4), "last": cell("xnor", A=2, B=4, Y=5)}}
    activity = simulate(Netlist(module, Library(text)), {"a": np.array([0, 1, 0])})
    assert activity.outputs["y"].tolist() == [1, 1, 1]
    assert np.allclose(activity.glitches[:, 0], [0, 4, 4])        # down and up again: 1 + 3 pJ


def test_gated_registers_cost_clock_only_when_open(library):
    module = {"ports": {"clk": port("input", 1), "a": port("input", 2), "e": port("input", 6), "q": port("output", 5)},
              "cells": {"icg": cell("gate", CLK=1, EN=6, OUT=7), "state": cell("dff", D=2, CLK=7, Q=5)}}
    netlist = Netlist(module, library)
    assert (netlist.flipflops, netlist.gated) == (1, 1)
    activity = simulate(netlist, {"a": np.array([1, 1, 0, 0]), "e": np.array([0, 1, 0, 1])})
    assert activity.outputs["q"].tolist() == [0, 0, 1, 1]
    # Always: pin 2 × 1 pJ and 2 × 0.5. Open: output 3 + 1, the flip-flop's pin 2 × 1 pJ and 2 × 0.5.
    assert np.allclose(activity.clock[:, 0], [3, 10, 3, 10])


def test_memories_are_run_and_counted(library):
    memory = {"type": "$mem_v2", "parameters": dict(
        SIZE=f"{4:032b}", WIDTH=f"{2:032b}", ABITS=f"{2:032b}", OFFSET="0", RD_PORTS=f"{2:032b}", WR_PORTS=f"{1:032b}", RD_CLK_ENABLE="10",
        RD_TRANSPARENCY_MASK="00", RD_WIDE_CONTINUATION="00", WR_WIDE_CONTINUATION="0"), "connections": dict(
        RD_ADDR=[2, 3, 2, 3], RD_DATA=[10, 11, 12, 13], RD_EN=["1", 8], RD_SRST=["0", "0"], WR_ADDR=[2, 3], WR_DATA=[4, 5], WR_EN=[6, 6])}
    module = {"ports": {"clk": port("input", 1), "address": port("input", 2, 3), "data": port("input", 4, 5), "write": port("input", 6),
                        "read": port("input", 8), "now": port("output", 10, 11), "later": port("output", 12, 13)}, "cells": {"memory": memory}}
    netlist = Netlist(module, library)
    activity = simulate(netlist, {"address": np.array([1, 1, 2, 1, 1]), "data": np.array([3, 0, 0, 0, 0]),
                                  "write": np.array([1, 0, 0, 0, 0]), "read": np.array([0, 0, 0, 1, 0])})
    assert activity.outputs["now"].tolist() == [0, 3, 0, 3, 3]
    assert activity.outputs["later"].tolist() == [0, 0, 0, 0, 3]
    assert activity.writes[:, 0].tolist() == [1, 0, 0, 0, 0] and activity.reads.T.tolist() == [[1, 1, 1, 1, 0], [0, 0, 0, 1, 0]]


def test_what_cannot_be_simulated_is_refused(library):
    with pytest.raises(LibertyError, match=r"\$dff was left by the mapper"):
        Netlist({"ports": {}, "cells": {"x": {"type": "$dff", "connections": {}}}}, library)
    loop = {"ports": {"y": port("output", 2)}, "cells": {"x": cell("inv", A=2, Y=3), "y": cell("inv", A=3, Y=2)}}
    with pytest.raises(LibertyError, match="loop"):
        Netlist(loop, library)
    with pytest.raises(ValueError, match="no input 'b'; it has a"):
        simulate(Netlist({"ports": {"a": port("input", 2)}, "cells": {"x": cell("inv", A=2, Y=3)}}, library), {"b": np.zeros(2)})


def test_memory_energy_follows_the_published_points():
    scale = access_energy(1024, 64) / 10        # 8 KB
    assert access_energy(4096, 64) == pytest.approx(20 * scale) and 11 < scale < 12
    assert access_energy(1024, 32) == pytest.approx(5 * scale / np.sqrt(2))


def test_the_fit_finds_what_was_put_in():
    rng = np.random.default_rng(3)
    counts = [{"cycle": int(c), "match": int(m), "chunk": 7} for c, m in rng.integers(100, 1000, (40, 2))]
    clean = [2.0 * one["cycle"] + 5.0 * one["match"] for one in counts]
    found = measure_energy.fit(counts, clean, ["cycle", "match"])
    assert np.allclose([found["pj"]["cycle"], found["pj"]["match"], found["residual"]], [2, 5, 0])
    noisy = measure_energy.fit(counts, np.array(clean) * rng.normal(1, 0.05, 40), ["cycle", "match"])
    assert abs(noisy["pj"]["match"] - 5) < 4 * noisy["error"]["match"] < 1 and 0.03 < noisy["residual"] < 0.07
    assert measure_energy.fit(counts, [10.0 * one["match"] for one in counts], ["match", "chunk"])["pj"]["chunk"] == pytest.approx(0, abs=1e-6)


def test_the_recorded_run_gives_the_table(pytestconfig):
    recorded = json.loads((pytestconfig.rootpath / "docs" / "energy.json").read_text())
    measured = {c.name: (c.picojoules, c.error) for c in SETS["measured-sky130"] if c.picojoules}
    table = {name: value[0] for name, value in recorded["coefficients"].items()}
    assert {name: value for name, value in energy_table("measured-sky130").items() if value or "." in name} == table
    assert measured == {name: tuple(value) for name, value in recorded["coefficients"].items() if "." not in name}
    again = measure_energy.coefficients(recorded)
    assert set(again) == set(table) and all(np.allclose(again[name], recorded["coefficients"][name], atol=0.01) for name in table)
    assert measure_energy.markdown(recorded) in (pytestconfig.rootpath / "docs" / "energy.md").read_text()
    assert measure_energy.blocks_markdown(recorded) in (pytestconfig.rootpath / "docs" / "energy.md").read_text()
    for name, block in recorded["others"].items():
        assert block["differences"] == 0 and block["logic"]["residual"] < 0.05 and block["memory"]["residual"] < 0.15
        assert all(count > 2000 for count in block["events"].values()) and all(value > 0 for value in block["logic"]["pj"].values()), name
    for block in recorded["blocks"].values():
        assert block["differences"] == 0 and block["matches"] > 10_000 and block["logic"]["residual"] < 0.1
