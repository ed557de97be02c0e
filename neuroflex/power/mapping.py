"""Synthesis of a component into the cells of a Liberty file, memories left as memories."""

__all__ = ["map_to_cells"]

import json
import tempfile
from pathlib import Path

from amaranth.back import rtlil

from neuroflex.eda.yosys import run_yosys

_UNUSABLE = ("lpflow", "probe", "sdf", "sedf", "edf")     # isolation, probe and scan cells; enables become clock gates instead


def map_to_cells(component, name, library, *, register_bits=256, gate_at=4, delay_ns=5.0):
    """Map a component to standard cells with clock gates.

    Each submodule is mapped by itself and keeps its place in the names of its cells, so that energy can be told by part.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
    name : str
        Of the top module.
    library : neuroflex.power.liberty.Library
    register_bits : int
        Memories of at most so many bits become registers; larger ones stay ``$mem_v2`` cells.
    gate_at : int
        Flip-flops that share an enable get a clock gate from so many on; fewer get a multiplexer each.
    delay_ns : float
        Delay that the mapper sizes for.

    Returns
    -------
    dict
        The module as Yosys's ``write_json`` describes it.
    """
    unusable = [cell for cell in library.names if any(word in cell for word in _UNUSABLE)]
    refuse = " ".join(f"-dont_use {cell}" for cell in unusable)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "cells.lib").write_text(library.text)
        Path(folder, "in.il").write_text(rtlil.convert(component, name=name, emit_src=False))
        run_yosys(["read_rtlil in.il", f"hierarchy -top {name}", "proc", "opt_expr", "opt_clean", "opt -nosdff", "wreduce", "peepopt", "opt_clean",
                   "alumacc", "opt -nosdff", "memory -nomap", "opt_clean", "write_rtlil logic.il", "write_json logic.json"], cwd=folder)
        modules = json.loads(Path(folder, "logic.json").read_text())["modules"]
        small = [f"memory_map {module}/c:{cell}" for module, one in modules.items() for cell, memory in one["cells"].items()
                 if memory["type"] == "$mem_v2" and _bits(memory) <= register_bits]
        run_yosys(["read_rtlil logic.il", *small, "opt -full -nosdff", "techmap", "opt -nosdff", "attrmap -remove init",
                   "dfflegalize -cell $_DFF_P_ 01 -cell $_DFFE_PP_ 01", "opt_clean", f"clockgate -liberty cells.lib -min_net_size {gate_at}",
                   f"dfflibmap -liberty cells.lib {refuse}", "opt_clean", f"abc -liberty cells.lib -D {round(delay_ns * 1000)} {refuse}",
                   "flatten", "opt_clean -purge", "write_json out.json"], cwd=folder)
        return json.loads(Path(folder, "out.json").read_text())["modules"][name]


def _bits(memory):
    return int(memory["parameters"]["SIZE"], 2) * int(memory["parameters"]["WIDTH"], 2)
