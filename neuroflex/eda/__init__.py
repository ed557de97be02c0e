"""The electronic design automation tools, as plain functions on Verilog text.

Every tool comes from a Python package; only ``g++`` is the system's. Each
function takes text and returns text or figures; none keeps state.

======================  =====================================================
`to_verilog`            Amaranth component -> readable, deterministic Verilog
`lint`                  Verilator's warnings on that Verilog
`synth_ecp5`            cell counts after Yosys for Lattice ECP5
`synth_xilinx`          cell counts after Yosys for Xilinx 7 series
`place_and_route_ecp5`  clock of one block, placed and routed out of context
`PLACER`                options of its placer, those of the build for a board too
`path_points`           named signals along a path of nextpnr's report
`Verilator`             the simulator's executable, headers and version
======================  =====================================================
"""

from .place_and_route import PLACER, path_points, place_and_route_ecp5
from .synthesis import synth_ecp5, synth_xilinx
from .verilator import Verilator, lint
from .verilog import to_verilog
from .yosys import ToolError

__all__ = ["PLACER", "ToolError", "Verilator", "lint", "path_points", "place_and_route_ecp5", "synth_ecp5", "synth_xilinx", "to_verilog"]
