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


# A state is reachable when the assertion that it never happens fails.
_REACH = """
module \\$cover (input A, input EN);
  \\$assert reached (.A(!A), .EN(EN));
endmodule
"""


class ProofFailed(AssertionError):
    """A property does not hold; ``cycle`` is the first cycle in which it can be violated."""

    def __init__(self, message, cycle):
        super().__init__(message)
        self.cycle = cycle


def prove(component, *, mode="pdr", depth=40, timeout=600):
    """Prove every ``Assert`` of a component, for all inputs that satisfy every ``Assume``, from the reset state on.

    With ``mode="cover"`` show instead that every ``Cover`` of it can happen: a proof about nothing would hold as well.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
        The circuit with its properties; all its inputs are free. It is not reset again.
    mode : {"pdr", "bmc", "cover"}
        ``pdr`` finds an inductive invariant and so proves all cycles; ``bmc`` and ``cover`` look at the first ``depth`` ones.
    depth : int
        Cycles for ``bmc`` and ``cover``.
    timeout : int
        Seconds.

    Raises
    ------
    ProofFailed
        When a property can be violated, or a ``Cover`` not be reached (then ``cycle`` is None).
    ToolError
        When nothing was decided in time, or a tool failed.
    """
    if mode not in ("pdr", "bmc", "cover"):
        raise ValueError(f"mode must be 'pdr', 'bmc' or 'cover', not {mode!r}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "reach.v").write_text(_REACH)
        select = ["chformal -assert -remove", "techmap -map reach.v"] if mode == "cover" else ["chformal -cover -remove"]
        Path(folder, "design.il").write_text(rtlil.convert(component, name="top", emit_src=False))
        run_yosys(["read_rtlil design.il", "prep -flatten -top top", "memory_map", "chformal -lower", *select, "chformal -early", "async2sync",
                   "opt -full", "techmap", "dffunmap", "setundef -zero", "aigmap", "opt_clean", "write_aiger -zinit design.aig"],
                  cwd=folder)
        sizes = Path(folder, "design.aig").read_bytes().split(b"\n", 1)[0].split()      # aig M I L O A, then B C J F unless all are 0
        properties = int(sizes[6]) if len(sizes) > 6 else 0
        decide = {"pdr": f"orpos; strash; dc2; pdr -T {timeout}", "bmc": f"orpos; strash; dc2; bmc3 -F {depth} -T {timeout}",
                  "cover": f"bmc3 -a -F {depth} -T {timeout}"}[mode]
        printed = _abc(folder, decide)
        if mode == "cover":
            reached = set(map(int, re.findall(r"Output +(\d+) +was asserted in frame", printed)))
            # With several of them ABC may break off after the first ones: each that is left is looked for by itself.
            for number in set(range(properties)) - reached:
                others = "; ".join(f"zeropo -N {other}" for other in range(properties) if other != number)
                if "was asserted in frame" in _abc(folder, f"strash; {others}; bmc3 -F {depth} -T {timeout}"):
                    reached.add(number)
    if not properties:
        raise ValueError(f"{type(component).__name__} has no {'Cover' if mode == 'cover' else 'Assert'}")
    if mode == "cover":
        if len(reached) < properties:
            raise ProofFailed(f"{type(component).__name__}: {properties - len(reached)} of {properties} covers were not reached"
                              f" in {depth} cycles", None)
        return
    if violated := re.search(r"was asserted in frame (\d+)", printed):
        cycle = int(violated[1])
        raise ProofFailed(f"a property of {type(component).__name__} can be violated in cycle {cycle}", cycle)
    if mode == "pdr":
        proved = "Property proved" in printed
    else:
        proved = f"No output asserted in {depth} frames" in printed
    if not proved:
        raise ToolError("nothing was decided; ABC printed last:\n" + printed[-1000:])


def _abc(folder, commands):
    """What ABC prints when it runs commands on the circuit in a folder."""
    return subprocess.run([Path(pyosys.__file__).with_name("yosys-abc"), "-c", f"read_aiger design.aig; fold; {commands}"],
                          cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
