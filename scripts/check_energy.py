"""Hold this project's reading of a Liberty file against OpenSTA's on a mapped block: leakage, switching and internal power, longest path.

    scripts/check_energy.py --liberty sky130_fd_sc_hd__tt_025C_1v80.lib [BLOCK ...]

Blocks of the preset ``tiny`` that have no memories are mapped to standard cells (`neuroflex.power`), and OpenSTA (``sta`` on the PATH; Debian's package ``opensta``, version 2.0.17 of 2019) reads the same netlist.
That version takes no transitions of single nets, so all nets get the same activity, once 0 and once a transition per cycle: what differs is the data's power, the rest the clock's.
It also has conventions that later versions left, and that ours are translated to here: it adds a pin's rise and fall where later ones average them, adds the energies of an output's related pins where we
average them, and takes the outputs of clock gates for data, too, with twice the activity.
"""
import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from resources import BLOCKS

from neuroflex.config import PRESETS
from neuroflex.power import mapping
from neuroflex.power.liberty import Library
from neuroflex.power.netlist import Netlist

PERIOD = 20.0       # ns, longer than any path
NEAR = 0.1          # by which a block's whole power may differ


def verilog(module, name):
    """A mapped module as Verilog of cells and wires."""
    def net(bit):
        return f"1'b{bit}" if isinstance(bit, str) else f"n{bit}"

    ports = [(f"{port}_{i}", side["direction"], bit) for port, side in module["ports"].items() for i, bit in enumerate(side["bits"])]
    nets = {bit for cell in module["cells"].values() for bits in cell["connections"].values() for bit in bits} | {bit for *_, bit in ports}
    lines = [f"module {name} (" + ", ".join(port for port, _, _ in ports) + ");"]
    lines += [f"  {direction} {port};" for port, direction, _ in ports]
    lines += [f"  wire n{bit};" for bit in sorted(bit for bit in nets if not isinstance(bit, str))]
    lines += [f"  assign n{bit} = {port};" if direction == "input" else f"  assign {port} = {net(bit)};" for port, direction, bit in ports]
    for number, cell in enumerate(module["cells"].values()):
        lines.append(f"  {cell['type']} c{number} (" + ", ".join(f".{pin}({net(bits[0])})" for pin, bits in cell["connections"].items()) + ");")
    return "\n".join([*lines, "endmodule", ""])


def opensta(module, name, liberty, activity):
    """Power in nW (internal, switching, leakage) and longest path in ns, all nets changing so often per cycle."""
    text = Path(liberty).read_bytes()
    commands = ["read_liberty cells.lib", "read_verilog block.v", f"link_design {name}", f"create_clock -name clock -period {PERIOD} [get_ports clk_0]",
                "set data [list]", 'foreach port [all_inputs] { if {[get_property $port full_name] != "clk_0"} { lappend data $port } }',
                "set_input_delay 0 -clock clock $data", "set_output_delay 0 -clock clock [all_outputs]", "set_input_transition 0.05 [all_inputs]",
                f"set_power_activity -global -activity {activity} -duty 0.5", "report_power -digits 8", "report_checks -path_delay max -format summary -digits 6", "exit"]
    with tempfile.TemporaryDirectory() as work:
        Path(work, "cells.lib").write_bytes(gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text)
        Path(work, "block.v").write_text(verilog(module, name))
        Path(work, "check.tcl").write_text("\n".join(commands) + "\n")
        done = subprocess.run(["sta", "-no_splash", "-exit", "check.tcl"], cwd=work, capture_output=True, text=True, env=os.environ | {"HOME": work})
    total = re.search(r"^Total +(\S+) +(\S+) +(\S+) ", done.stdout, re.M)
    slack = re.search(r"(-?\d+\.\d+)\s*$", done.stdout[total.end():] if total else "")
    if not slack:
        sys.exit(f"OpenSTA gave no power and slack:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return *(float(one) * 1e9 for one in total.groups()), PERIOD - float(slack[1])


def ours(netlist):
    """The same from this project's tables, in the conventions of that version: nW of the clock and of a transition of every net per cycle."""
    library = netlist.library
    half, slews = 0.5 * library.voltage ** 2, netlist.slew
    clock = data = driven = gated = 0.0

    def mean(pin, net):
        return sum(netlist.internal(pin, float(slews[net]), 0.0, related=("",))) / 2

    for net, (cell, pin, nets) in netlist.drivers.items():
        one = cell.pins[pin]
        slew = np.mean([slews[nets[p.name]] for p in cell.pins.values() if p.direction == "input" and p.name in nets]) if not (cell.register or cell.clock_gate) else 0.05
        energy = len(one.power) * sum(netlist.internal(one, float(slew), netlist.load[net])) / 2
        if cell.clock_gate:
            clock, data, gated = clock + 2 * energy, data + 2 * energy, gated + 2 * half * netlist.load[net]
        else:
            data, driven = data + energy, driven + half * netlist.load[net]
    for net, sinks in enumerate(netlist.sinks):
        for cell, pin in sinks:
            of_clock = pin == (cell.register[0] if cell.register else None) or cell.pins[pin].role == "clock"
            energy = 2 * mean(cell.pins[pin], net)
            clock, data = clock + 2 * energy * of_clock, data + energy * (not of_clock)
    return {"leakage": netlist.leakage, "clock": clock / PERIOD * 1e6, "gated clocks": gated / PERIOD * 1e6, "internal": data / PERIOD * 1e6,
            "switching": (driven + gated) / PERIOD * 1e6, "longest path": netlist.delay}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--liberty", default=os.environ.get("NEUROFLEX_LIBERTY"), help="Liberty file, gzipped or not (default: NEUROFLEX_LIBERTY)")
    parser.add_argument("blocks", nargs="*", default=["QCFS", "PascIF", "SpikeGenerator"], help="without memories")
    options = parser.parse_args()
    if not shutil.which("sta"):
        sys.exit("check_energy: OpenSTA is missing; on Debian: apt install opensta")
    if not options.liberty or not Path(options.liberty).is_file():
        sys.exit("check_energy: give a Liberty file with --liberty or NEUROFLEX_LIBERTY")
    library, far = Library.load(options.liberty), 0.0
    for block in options.blocks:
        name = block.lower()
        module = mapping.map_to_cells(BLOCKS[block].make(PRESETS["tiny"]), name, library)
        netlist = Netlist(module, library)
        still, moving = (opensta(module, name, options.liberty, activity) for activity in (0.0, 1.0))
        theirs = {"leakage": still[2], "clock": still[0], "gated clocks": still[1], "internal": moving[0] - still[0], "switching": moving[1] - still[1], "longest path": still[3]}
        mine = ours(netlist)
        print(f"{block}, {sum(netlist.counts.values())} cells")
        for each in (mine, theirs):
            each["power without leakage"] = sum(each[key] for key in ("clock", "gated clocks", "internal", "switching"))
        for key, value in mine.items():
            print(f"  {key:21} ours {value:14,.3f}   OpenSTA {theirs[key]:14,.3f} {'ns' if key == 'longest path' else 'nW'}   ratio {value / theirs[key]:.4f}")
        far = max(far, abs(mine["power without leakage"] / theirs["power without leakage"] - 1))
    print(f"power without leakage: at most {far:.1%} apart")
    return far > NEAR


if __name__ == "__main__":
    sys.exit(main())
