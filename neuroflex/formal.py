"""Formal proofs on circuits: Yosys makes an and-inverter graph, ABC decides its properties.

Both come with the ``pyosys`` package, so proofs need no other tool.
"""
import re
import subprocess
import tempfile
from pathlib import Path

import pyosys
from amaranth.back import rtlil

from .eda.yosys import ToolError, run_yosys

__all__ = ["ProofFailed", "prove"]


class ProofFailed(AssertionError):
    """A property does not hold; ``cycle`` is the first cycle in which it can be violated."""

    def __init__(self, message, cycle):
        super().__init__(message)
        self.cycle = cycle


def prove(component, *, mode="pdr", depth=40, timeout=600):
    """Prove every ``Assert`` of a component, for all inputs that satisfy every ``Assume``, from the reset state on.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
        The circuit with its properties; all its inputs are free. It is not reset again.
    mode : {"pdr", "bmc"}
        ``pdr`` finds an inductive invariant and so proves all cycles; ``bmc`` looks at the first ``depth`` ones.
    depth : int
        Cycles for ``bmc``.
    timeout : int
        Seconds.

    Raises
    ------
    ProofFailed
        When a property can be violated.
    ToolError
        When nothing was decided in time, or a tool failed.
    """
    if mode not in ("pdr", "bmc"):
        raise ValueError(f"mode must be 'pdr' or 'bmc', not {mode!r}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "design.il").write_text(rtlil.convert(component, name="top", emit_src=False))
        run_yosys(["read_rtlil design.il", "prep -flatten -top top", "memory_map", "chformal -lower", "chformal -early", "async2sync",
                   "opt -full", "techmap", "dffunmap", "setundef -zero", "aigmap", "opt_clean", "write_aiger -zinit design.aig"],
                  cwd=folder)
        decide = f"pdr -T {timeout}" if mode == "pdr" else f"bmc3 -F {depth} -T {timeout}"
        done = subprocess.run([Path(pyosys.__file__).with_name("yosys-abc"), "-c",
                               f"read_aiger design.aig; fold; orpos; strash; dc2; {decide}"],
                              cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if violated := re.search(r"was asserted in frame (\d+)", done.stdout):
        cycle = int(violated[1])
        raise ProofFailed(f"a property of {type(component).__name__} can be violated in cycle {cycle}", cycle)
    if mode == "pdr":
        proved = "Property proved" in done.stdout
    else:
        proved = f"No output asserted in {depth} frames" in done.stdout
    if not proved:
        raise ToolError("nothing was decided; ABC printed last:\n" + done.stdout[-1000:])
