"""Cell counts of a block after Yosys, for the two FPGA families of the project."""

import json
import re
import tempfile
from pathlib import Path

from .yosys import flattened, run_yosys

__all__ = ["ecp5_counts", "synth_ecp5", "synth_xilinx", "xilinx_counts"]

# LUT4 sites that each cell takes. A distributed memory fills two slices and
# its write port occupies a third.
_ECP5 = {
    "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
    "ff": {"TRELLIS_FF": 1},
    "dsp": {"MULT18X18D": 1},
    "bram": {"DP16KD": 1, "PDPW16KD": 1},
}
# LUT6 sites; block memories in units of 36 Kbit.
_XILINX = {
    "lut": {**{f"LUT{n}": 1 for n in range(1, 7)}, "INV": 1, "SRL16E": 1, "SRLC32E": 1, "RAM32X1S": 1, "RAM64X1S": 1,
            "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32M": 4, "RAM64M": 4},
    "ff": {"FDRE": 1, "FDSE": 1, "FDCE": 1, "FDPE": 1},
    "dsp": {"DSP48E1": 1},
    "bram": {"RAMB36E1": 1, "RAMB18E1": 0.5},
}


def synth_ecp5(verilog, top):
    """Synthesise for Lattice ECP5.

    Parameters
    ----------
    verilog : str
        The text.
    top : str
        Name of the top module; everything below it is flattened.

    Returns
    -------
    dict
        ``lut`` (4-input look-up tables, with those of adders and distributed
        memories), ``ff``, ``dsp`` (18 x 18 multipliers), ``bram`` (18 Kbit
        blocks), ``cells`` (count of every cell type) and ``warnings`` (list of
        what Yosys warned of).

    Raises
    ------
    ToolError
        If Yosys fails.
    """
    return _synthesise(verilog, top, "synth_ecp5", _ECP5)


def synth_xilinx(verilog, top):
    """Synthesise for Xilinx 7 series (Zynq-7000 among them), without pads.

    Returns
    -------
    dict
        As `synth_ecp5`: ``lut`` counts 6-input look-up tables, ``dsp`` DSP48E1
        and ``bram`` blocks of 36 Kbit (halves count 0.5).
    """
    return _synthesise(verilog, top, "synth_xilinx -family xc7 -noiopad -noclkbuf", _XILINX)


def ecp5_counts(cells):
    """``lut``, ``ff``, ``dsp`` and ``bram`` as `synth_ecp5` counts them, from counts by cell type."""
    return _counts(cells, _ECP5)


def xilinx_counts(cells):
    """``lut``, ``ff``, ``dsp`` and ``bram`` as `synth_xilinx` counts them, from counts by cell type."""
    return _counts(cells, _XILINX)


def _counts(cells, weights):
    return {kind: sum(weight * cells.get(cell, 0) for cell, weight in table.items()) for kind, table in weights.items()}


def _synthesise(verilog, top, command, weights):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "design.v").write_text(verilog)
        printed = run_yosys(["read_verilog design.v", *flattened(top), f"{command} -top {top}", "tee -q -o stat.json stat -json"], cwd=folder)
        cells = json.loads(Path(folder, "stat.json").read_text())["design"]["num_cells_by_type"]
    return {**_counts(cells, weights), "cells": dict(sorted(cells.items())), "warnings": _warnings(printed)}


def _warnings(printed):
    """Each warning once, in the order of the log."""
    return list(dict.fromkeys(re.findall(r"^(?:design\.v:\S+ )?Warning: (.*)$", printed, re.MULTILINE)))
